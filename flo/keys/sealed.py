"""Sealed objects: encrypted data stored outside a folder, with a header that states their purpose.

    flo-object-1\\n | length of the header (4 bytes, big endian) | header (JSON) | sealed data

The header is not encrypted, so that an error can name the difference; it is not trusted. The
context that the reader *expects* is authenticated with the data, whatever the header states.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from flo.documents import canonical
from flo.documents.document import Document, parse
from flo.documents.framing import framed, split
from flo.errors import FloError, MessageError, TrustError
from flo.keys.keystore import SEALED_MORE, AesKeyStore, Context, KeyStore

_MAGIC, _HEADER_LIMIT = b"flo-object-1\n", 8192
_Text = Annotated[str, Field(max_length=256)]


class _Header(Document):
    """``key``: id of the sealing key. ``size``: bytes after the header."""

    schema_version: Literal[1] = 1
    context: Annotated[dict[_Text, _Text], Field(max_length=16)]
    key: _Text
    size: Annotated[int, Field(ge=0, lt=1 << 40)]


def seal(keystore: KeyStore, context: Context, data: canonical.Bytes) -> bytes:
    """Encrypt ``data`` for ``context``.

    ``context`` is public: purpose, study, run, round; never a patient.
    """
    body = keystore.seal(context, data)
    return _head(keystore, context, len(body)) + body


def pieces(keystore: AesKeyStore, context: Context, data: canonical.Bytes) -> Iterator[bytes]:
    """Yield the output of ``seal`` in pieces, for large data."""
    yield _head(keystore, context, len(data) + SEALED_MORE)
    yield from keystore.seal_pieces(context, data)


def _head(keystore: KeyStore, context: Context, size: int) -> bytes:
    header = _Header(context=context, key=keystore.key_id, size=size)
    return framed(header.to_bytes(), _MAGIC)


def unseal(keystore: KeyStore, context: Context, sealed: bytes, what: str) -> bytes:
    """Decrypt a sealed object.

    Raises:
        TrustError: it is not a sealed object, is truncated, was sealed for another context or by
            another key, or was changed. The message names ``what`` and the cause.
    """
    try:
        text, body = split(sealed, limit=_HEADER_LIMIT, what=what, magic=_MAGIC)
    except MessageError as error:
        raise TrustError(f"{what} is not an object sealed by FLO, or was truncated") from error
    try:
        header = parse(_Header, canonical.decode(text, limit=_HEADER_LIMIT, what=what), what)
    except FloError as error:
        raise TrustError(f"{what} was changed: its header cannot be read") from error
    if len(body) != header.size:
        raise TrustError(f"{what} was cut or extended: {len(body)} bytes, not {header.size}")
    _refuse_another_context(header.context, context, what)
    if header.key != keystore.key_id:
        raise TrustError(f"{what} was sealed by another key, {header.key}")
    try:
        return keystore.open(context, bytes(body))
    except TrustError as error:
        raise TrustError(f"{what} was changed: {error}", hint=error.hint) from error


def _refuse_another_context(said: Context, expected: Context, what: str) -> None:
    for name in sorted({*said, *expected}):
        if said.get(name) != expected.get(name):
            raise TrustError(
                f"{what} was sealed for {name} {said.get(name, 'nothing')}, "
                f"not {expected.get(name, 'nothing')}"
            )

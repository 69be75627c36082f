"""Tokens for the private listener: signed by the coordinator's key, short-lived.

A token names its holder and a role (``flo.server.http.roles``) and expires; a new coordinator key
invalidates all tokens. Only the audit entry of its issue is stored. Text form: the canonical
document in base64url, a dot, and the signature in hexadecimal.
"""

from __future__ import annotations

import base64
import binascii
import secrets
import time
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, ValidationError

from flo.documents import canonical
from flo.documents.document import Document
from flo.errors import MessageError, TrustError, UsageError
from flo.keys.identity import Signer, verify

LONGEST_SECONDS = 24 * 3600
_LONGEST_TEXT, _CLOCK_LEEWAY = 2048, 60

PersonRole = Literal["operator", "viewer", "auditor"]
# The last two are for jobs: one to open the job once, one for the job's own run.
Role = Literal["operator", "viewer", "auditor", "launch", "aggregator"]


class Token(Document):
    """Content of a token. ``issued`` and ``expires``: seconds since 1970 (UTC)."""

    schema_version: Literal[1] = 1
    id: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{16}$")]
    name: Annotated[str, StringConstraints(pattern=r"^[\w.@ -]{1,60}$")]
    role: Role
    issued: Annotated[int, Field(ge=0, lt=1 << 40)]
    expires: Annotated[int, Field(ge=0, lt=1 << 40)]


def issue(
    identity: Signer, name: str, role: Role, seconds: int, now: float | None = None
) -> tuple[str, Token]:
    """Issue a token; return its text and content.

    Raises:
        UsageError: the lifetime ``seconds`` is out of range, or ``name`` is not allowed.
    """
    if not 1 <= seconds <= LONGEST_SECONDS:
        raise UsageError(f"a token's lifetime is 1 to {LONGEST_SECONDS} seconds, not {seconds}")
    began = int(time.time() if now is None else now)
    try:
        token = Token(
            id=secrets.token_hex(8), name=name, role=role, issued=began, expires=began + seconds
        )
    except ValidationError as error:
        raise UsageError(
            f"{name!r} cannot be the name of a token's holder",
            hint="use up to 60 letters, digits, spaces and . _ @ -",
        ) from error
    document = token.to_bytes()
    signature = identity.sign("token", document)
    return f"{base64.urlsafe_b64encode(document).decode()}.{signature}", token


def read(text: str, public: bytes, now: float | None = None) -> Token:
    """Return a token. Raises TrustError unless ``public``'s key signed it and it is valid now."""
    encoded, dot, signature = text.partition(".")
    if not dot or len(text) > _LONGEST_TEXT:
        raise TrustError("this is not a token")
    try:
        document = base64.b64decode(encoded, altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        raise TrustError("this is not a token") from error
    verify(public, "token", document, signature)
    try:
        token = Token.model_validate(
            canonical.decode_canonical(document, limit=_LONGEST_TEXT, what="token")
        )
    except (ValidationError, MessageError) as error:
        raise TrustError("this is not a token of this version") from error
    moment = time.time() if now is None else now
    if moment >= token.expires or token.expires - token.issued > LONGEST_SECONDS:
        raise TrustError("this token has expired")
    if moment < token.issued - _CLOCK_LEEWAY:
        raise TrustError("this token is not valid yet: compare the clocks of both machines")
    return token

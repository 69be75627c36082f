"""Binary frame: magic number, if any, length of the header (4 bytes, big-endian), header, body.

Messages, sealed objects, backups and the pipe to the data process have it. The header is JSON; its
reader states how large it may be.
"""

from __future__ import annotations

from flo.documents.canonical import Bytes
from flo.errors import MessageError

_LENGTH_BYTES = 4


def framed(header: bytes, magic: bytes = b"") -> bytes:
    """Return the beginning of a frame, up to its body."""
    return magic + len(header).to_bytes(_LENGTH_BYTES, "big") + header


def split(data: Bytes, *, limit: int, what: str, magic: bytes = b"") -> tuple[bytes, memoryview]:
    """Split a frame into header and body, without a copy of the body.

    Raises:
        MessageError: another magic number, or a header that is empty, larger than ``limit`` bytes
        or not whole. The message names ``what``.
    """
    view = memoryview(data)
    if view[: len(magic)] != magic:
        raise MessageError(f"{what} does not begin with the right magic number")
    start = len(magic) + _LENGTH_BYTES
    size = length_in(view[len(magic) : start], limit, f"{what}: a header")
    if not 0 < size <= len(view) - start:
        raise MessageError(f"{what}: a header of {size} bytes is empty or incomplete")
    return bytes(view[start : start + size]), view[start + size :]


def length_in(prefix: Bytes, limit: int, part: str) -> int:
    """Return the length that a prefix announces. Raises MessageError above ``limit``."""
    size = int.from_bytes(prefix, "big")
    if size > limit:
        raise MessageError(f"{part} of {size} bytes, limit {limit}")
    return size

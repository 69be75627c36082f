"""A Flower message in one call of a hospital: paths, header, and how parts make one body.

Flower stores a message as three objects, and its own client pulls and pushes each object in a call
of its own: nine calls for a request and its reply, each with a signature.
"""

from __future__ import annotations

from collections.abc import Sequence

from flo.documents.canonical import Bytes
from flo.documents.framing import framed, split
from flo.errors import MessageError
from flo.protocol.messages import MAX_HEADER_BYTES, MAX_INLINE_BYTES

PULL_PATH, PUSH_PATH = "/v1/site/pull-message", "/v1/site/push-message"
MOST_OBJECTS = 3  # a message, its record dictionary, one record of bytes
NODE_HEADER = "x-flo-node"  # the agent's node; another one after a restart of the coordinator
MAX_REPLY = 2 * MAX_INLINE_BYTES  # of a part of a reply, whose largest is a record with all of it
MAX_REQUEST = MAX_HEADER_BYTES + 2 * MAX_INLINE_BYTES  # a request's header never travels apart


def joined(parts: Sequence[bytes]) -> bytes:
    """Return one body of non-empty parts: each with its length before it."""
    return b"".join(framed(part) for part in parts)


def parted(body: Bytes, limit: int, most: int = 1 + MOST_OBJECTS) -> list[bytes]:
    """Return the parts of a body, at most ``most``, each of at most ``limit`` bytes.

    Raises:
        MessageError: too many, too large, or not whole.
    """
    parts, rest = list[bytes](), memoryview(body)
    while rest:
        if len(parts) == most:
            raise MessageError(f"a message has more than {most - 1} objects")
        part, rest = split(rest, limit=limit, what="a message")
        parts.append(part)
    return parts

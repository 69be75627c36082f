"""What coordinator and sites say to each other during a run: a header and a body.

A message is 4 bytes of header length (big endian), a canonical JSON header, and a raw body. Both
directions have a schema and a size limit; whatever does not fit raises MessageError and changes
nothing. Flower carries these bytes and knows nothing of them.

* ``Request``: body = the model, ``float64`` little endian.
* ``Reply``: body = the release on its public grid, ``int64`` little endian. Every field that a
  site can send stands in ``Reply``; there is nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import Field, StringConstraints, ValidationError

from flo import canonical
from flo.errors import MessageError, TrustError
from flo.identity import fingerprint, verify
from flo.settings import Document, problems
from flo.study import Identifier

MAX_HEADER_BYTES = 1024 * 1024
MAX_ATTEMPTS = 16
LARGEST_WEIGHT = 1e6
MAX_MESSAGE_BYTES = 512 * 1024 * 1024

Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Signature = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{1,300}$")]
Purpose = Literal["survey", "training", "evaluation"]
HeaderT = TypeVar("HeaderT", bound=Document)


class Head(Document):
    """A site's signed claim "my ledger has this many rows and ends in this hash".

    ``public`` (DER, hexadecimal) makes it checkable by whoever knows the signer's fingerprint.
    """

    sequence: Annotated[int, Field(ge=1, le=1 << 53)]
    hash: Digest
    signature: Signature
    public: Annotated[str, StringConstraints(pattern=r"^([0-9a-f]{2}){1,200}$")]

    def check(self, signer: str) -> None:
        """Raises TrustError unless the key of fingerprint ``signer`` signed this claim."""
        public = bytes.fromhex(self.public)
        if fingerprint(public) != signer:
            raise TrustError("a ledger head is signed by another key than the study names")
        verify(public, "ledger-row", row_statement(self.sequence, self.hash), self.signature)


def row_statement(sequence: int, row_hash: str) -> bytes:
    """What a site signs for each row of its ledger."""
    return f"{sequence} {row_hash}".encode()


class RequestHeader(Document):
    """One attempt at one round, or the end of a run.

    ``cohort``: the hospitals named in this attempt, sorted. ``heads``: the highest ledger head
    that the coordinator has seen of each hospital, relayed so that partners can witness.
    """

    kind: Literal["release", "finish"] = "release"
    study: Digest
    run: Identifier
    purpose: Purpose
    round: Annotated[int, Field(ge=0, le=1_000_000)]
    attempt: Annotated[int, Field(ge=1, le=MAX_ATTEMPTS)]
    cohort: Annotated[tuple[Identifier, ...], Field(min_length=1, max_length=1000)]
    model: Digest
    heads: dict[Identifier, Head] = Field(default_factory=dict)


RefusalCode = Literal[
    "not-ready", "not-approved", "over-budget", "settled", "conflict", "malformed", "rolled-back"
]


class ReplyHeader(Document):
    """A release, the confirmation that a run is settled, or a refusal with one public code."""

    kind: Literal["release", "settled", "refused"]
    hospital: Identifier
    study: Digest
    run: Identifier
    purpose: Purpose
    round: Annotated[int, Field(ge=0)]
    attempt: Annotated[int, Field(ge=1)]
    model: Digest
    head: Head
    code: RefusalCode | None = None


@dataclass(frozen=True)
class Request:
    header: RequestHeader
    weights: npt.NDArray[np.float64]


@dataclass(frozen=True)
class Reply:
    header: ReplyHeader
    values: npt.NDArray[np.int64]


def model_digest(weights: npt.NDArray[np.float64]) -> str:
    """SHA-256 of the model's little-endian float64 bytes."""
    return canonical.digest(np.ascontiguousarray(weights, dtype="<f8").tobytes())


def encode_request(request: Request) -> bytes:
    return _encode(request.header, np.ascontiguousarray(request.weights, dtype="<f8"))


def decode_request(data: bytes) -> Request:
    """Raises MessageError unless the header is valid and the body is the model it names."""
    header, body = _decode(data, RequestHeader, "request")
    weights = np.frombuffer(body, dtype="<f8").astype(np.float64)
    if model_digest(weights) != header.model:
        raise MessageError("request: the body is not the model that the header names")
    if not (np.abs(weights) <= LARGEST_WEIGHT).all():
        raise MessageError(f"request: the model has weights beyond ±{LARGEST_WEIGHT:g}")
    if list(header.cohort) != sorted(set(header.cohort)):
        raise MessageError("request: the cohort is not sorted and distinct")
    return Request(header, weights)


def encode_reply(reply: Reply) -> bytes:
    return _encode(reply.header, np.ascontiguousarray(reply.values, dtype="<i8"))


def decode_reply(data: bytes) -> Reply:
    """Raises MessageError unless header and body fit their schema."""
    header, body = _decode(data, ReplyHeader, "reply")
    return Reply(header, np.frombuffer(body, dtype="<i8").astype(np.int64))


def _encode(header: Document, body: npt.NDArray[np.generic]) -> bytes:
    head = canonical.encode(header.model_dump(mode="json"))
    return len(head).to_bytes(4, "big") + head + body.tobytes()


def _decode(data: bytes, model: type[HeaderT], what: str) -> tuple[HeaderT, bytes]:
    if not 4 < len(data) <= MAX_MESSAGE_BYTES:
        raise MessageError(f"{what}: {len(data)} bytes, limit {MAX_MESSAGE_BYTES}")
    size = int.from_bytes(data[:4], "big")
    if size > min(MAX_HEADER_BYTES, len(data) - 4):
        raise MessageError(f"{what}: a header of {size} bytes does not fit")
    parsed = canonical.decode_canonical(data[4 : 4 + size], limit=MAX_HEADER_BYTES, what=what)
    try:
        header = model.model_validate(parsed)
    except ValidationError as error:
        raise MessageError(f"{what}:\n{problems(error)}") from error
    body = data[4 + size :]
    if len(body) % 8:
        raise MessageError(f"{what}: a body of {len(body)} bytes is not a vector of 64-bit numbers")
    return header, body

"""Messages between coordinator and sites during a run: a header and a body.

A message is 4 bytes of header length (big endian), a canonical JSON header, and a raw body. Both
directions have a schema and a size limit; an invalid message raises MessageError and changes no
state. Flower carries these bytes without interpreting them.

* ``Request``: body = the model, little-endian floats; empty unless a release is requested.
* ``Reply``: body = the release, little endian: masked, in its ring of 2^32 or 2^64, or unmasked on
  its public grid, as integers of 32 bits if all of them fit and else of 64. ``Reply`` has every
  field that a site can send; there are no others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import Field, ValidationError

from flo.documents import canonical
from flo.documents.document import Document, problems
from flo.documents.framing import framed, split
from flo.errors import MessageError
from flo.keys.claims import Digest, HeadAttestation, LedgerHead, ListSignature, RunKey
from flo.protocol.deals import Deal, DealtKey, Sealed, Share
from flo.study.parameters import Vector
from flo.study.terms import MOST_CONNECTED, Identifier, Purpose

MAX_HEADER_BYTES = 4 * 1024 * 1024
MAX_INLINE_BYTES = 1 << 16  # a larger body is sent outside of Flower's message
MAX_ATTEMPTS = 16
LARGEST_WEIGHT = 1e6
MAX_MESSAGE_BYTES = 512 * 1024 * 1024
RINGS: dict[int, np.dtype[Any]] = {32: np.dtype("<u4"), 64: np.dtype("<u8")}

# Fields that FLO 0.2 does not know, and refuses.
_LATER = {"deals", "sealed", "survivors", "signatures", "deal", "signature", "shares", "bits"}
Values = npt.NDArray[Any]  # int32 or int64 on the grid, or uint32 or uint64 in a ring
HeaderT = TypeVar("HeaderT", bound=Document)


class RequestHeader(Document):
    """A request to join a run, to make or open one attempt at one round, or to end a run.

    ``cohort``: the hospitals that are asked, sorted. The other maps are relayed between hospitals,
    each claim signed by one of them: ``heads``, the highest ledger head seen of each hospital;
    ``keys``, the latest run key of each; ``vouchers``, what a partner last saw of the asked
    hospital's ledger. ``bits``: size of each of the model's floats.

    Where sums survive dropouts (``flo.privacy.secure_sum.masking``): ``deals``, what each member
    dealt for this attempt; ``sealed``, the asked hospital's shares of each; ``survivors``, the list
    to sign, or to reveal shares under; ``signatures``, its certificate, by hospital.
    """

    kind: Literal["join", "release", "sign", "reveal", "finish"] = "release"
    study: Digest
    run: Identifier
    purpose: Purpose
    round: Annotated[int, Field(ge=0, le=1_000_000)]
    attempt: Annotated[int, Field(ge=1, le=MAX_ATTEMPTS)]
    cohort: Annotated[tuple[Identifier, ...], Field(min_length=1, max_length=MOST_CONNECTED)]
    model: Digest
    bits: Literal[32, 64] = 64
    heads: dict[Identifier, LedgerHead] = Field(default_factory=dict)
    keys: dict[Identifier, RunKey] = Field(default_factory=dict)
    vouchers: dict[Identifier, HeadAttestation] = Field(default_factory=dict)
    deals: dict[Identifier, DealtKey] = Field(default_factory=dict)
    sealed: dict[Identifier, Sealed] = Field(default_factory=dict)
    survivors: tuple[Identifier, ...] = ()
    signatures: dict[Identifier, ListSignature] = Field(default_factory=dict)

    def members(self) -> list[tuple[RunKey, LedgerHead, DealtKey | None]]:
        """Return run key, ledger head, and deal if there is one, of each hospital of the cohort.

        Raises:
            KeyError: a run key or a head is missing.
        """
        return [(self.keys[name], self.heads[name], self.deals.get(name)) for name in self.cohort]


RefusalCode = Literal[
    "not-ready",
    "not-approved",
    "over-budget",
    "settled",
    "conflict",
    "malformed",
    "rolled-back",
    "stale-key",
    "unconfirmed",
]


class ReplyHeader(Document):
    """A release, an answer without numbers, or a refusal with one public code.

    ``cohort``: digest of the cohort that a release is for. ``ring``: 32 or 64 if it is masked.
    ``bits``: 32 if it is not masked and its noisy numbers fit; it follows from them, so it is
    post-processing.
    ``key``: our current run key, when joining or if the request names another one.
    ``vouchers``: when joining, what we last saw of each partner's ledger. ``deal``: what we deal
    for the next attempt, when joining and with a release. ``signature``: under the list of
    survivors. ``shares``: of a certified list, of one secret of each hospital of the cohort.
    """

    kind: Literal["joined", "release", "signed", "revealed", "settled", "refused"]
    hospital: Identifier
    study: Digest
    run: Identifier
    purpose: Purpose
    round: Annotated[int, Field(ge=0)]
    attempt: Annotated[int, Field(ge=1)]
    model: Digest
    head: LedgerHead
    code: RefusalCode | None = None
    cohort: Digest | None = None
    ring: Literal[0, 32, 64] = 0
    bits: Literal[32] | None = None
    key: RunKey | None = None
    vouchers: dict[Identifier, HeadAttestation] = Field(default_factory=dict)
    deal: Deal | None = None
    signature: ListSignature | None = None
    shares: dict[Identifier, Share] = Field(default_factory=dict)


@dataclass(frozen=True)
class Request:
    """A request to a hospital. ``weights``: the model (p,), in the precision of the study.

    They are float32 or float64, and empty if no model is needed, as to join or for tables.
    """

    header: RequestHeader
    weights: Vector


@dataclass(frozen=True)
class Reply:
    """A hospital's reply, with all data that leave it. ``values``: (length,), noisy.

    int32 or int64 grid steps, or uint32 or uint64 in the ring that the header names; empty without
    a release.
    """

    header: ReplyHeader
    values: Values


def model_digest(weights: Vector) -> str:
    """Return the SHA-256 of the model's bytes: little-endian floats of its precision."""
    return canonical.digest(_little(weights))


def request_head(header: RequestHeader) -> bytes:
    """Return the first part of a request: length and header. The body follows."""
    return _head(header)


def request_body(weights: Vector) -> memoryview:
    """Return the second part of a request, which shares the model's memory."""
    return _little(weights)


def decode_request(data: canonical.Bytes) -> Request:
    """Decode a request, whose model shares the memory of ``data``.

    Raises:
        MessageError: the header is not valid, or the body is not the model that it names.
    """
    header, body = _decode(data, RequestHeader, "request")
    kind = np.dtype(f"<f{header.bits // 8}")
    if len(body) % kind.itemsize:
        raise MessageError(
            f"request: a body of {len(body)} bytes is not a vector of {header.bits}-bit floats"
        )
    weights = np.frombuffer(body, dtype=kind).astype(kind.newbyteorder("="), copy=False)
    if canonical.digest(body) != header.model:
        raise MessageError("request: the body is not the model that the header names")
    if len(weights) and not (-LARGEST_WEIGHT <= weights.min() <= weights.max() <= LARGEST_WEIGHT):
        raise MessageError(f"request: the model has weights beyond ±{LARGEST_WEIGHT:g}")
    if list(header.cohort) != sorted(set(header.cohort)):
        raise MessageError("request: the cohort is not sorted and distinct")
    return Request(header, weights)


def request_header_of(data: canonical.Bytes) -> RequestHeader:
    """Return the header alone, without checking the body. Raises MessageError."""
    return _decode(data, RequestHeader, "request")[0]


def encode_reply(reply: Reply) -> bytes:
    """Return length of the header (4 bytes, big-endian), header, and values, little-endian."""
    return b"".join((_head(reply.header), _little(reply.values)))


def decode_reply(data: canonical.Bytes) -> Reply:
    """Decode a reply, whose values share the memory of ``data``.

    Raises:
        MessageError: header or body does not fit its schema.
    """
    header, body = _decode(data, ReplyHeader, "reply")
    return Reply(header, values_from(body, header.ring, header.bits or 64))


def values_bytes(values: Values) -> memoryview:
    """Return numbers as sent and stored: little endian, without any framing."""
    return _little(values)


def values_from(body: canonical.Bytes, ring: int, bits: int) -> Values:
    """Return the numbers of a body; ``bits``: of each, if it is not in a ring.

    Raises MessageError if it is not a vector of them.
    """
    kind = RINGS[ring] if ring else np.dtype(f"<i{bits // 8}")
    if len(body) % kind.itemsize:
        raise MessageError(
            f"a body of {len(body)} bytes is not a vector of {kind.itemsize}-byte numbers"
        )
    return np.frombuffer(body, dtype=kind).astype(kind.newbyteorder("="), copy=False)


def divided(data: canonical.Bytes) -> tuple[bytes, memoryview]:
    """Split a message into length and header, and body. Raises MessageError if it has no header."""
    header, body = split(data, limit=MAX_HEADER_BYTES, what="a message")
    return framed(header), body


def _little(vector: npt.NDArray[Any]) -> memoryview:
    """Return the little-endian bytes, without a copy if the machine is little-endian."""
    return np.ascontiguousarray(vector, dtype=vector.dtype.newbyteorder("<")).data.cast("B")


def _head(header: Document) -> bytes:
    """Return length and header, without those fields of later versions that are empty."""
    document = header.model_dump(mode="json")
    for name in _LATER & document.keys():
        if not document[name]:
            del document[name]
    return framed(canonical.encode(document))


def _decode(data: canonical.Bytes, model: type[HeaderT], what: str) -> tuple[HeaderT, memoryview]:
    if not 4 < len(data) <= MAX_MESSAGE_BYTES:
        raise MessageError(f"{what}: {len(data)} bytes, limit {MAX_MESSAGE_BYTES}")
    text, body = split(data, limit=MAX_HEADER_BYTES, what=what)
    parsed = canonical.decode_canonical(text, limit=MAX_HEADER_BYTES, what=what)
    try:
        header = model.model_validate(parsed)
    except ValidationError as error:
        raise MessageError(f"{what}:\n{problems(error)}") from error
    return header, body

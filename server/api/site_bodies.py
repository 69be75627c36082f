"""Bodies of hospitals' calls, and their limits."""

from __future__ import annotations

from typing import Annotated, TypeVar

from pydantic import BaseModel, Field, StringConstraints, ValidationError

from flo.audit.chain import LogExtension, Receipt
from flo.documents import canonical
from flo.documents.document import Document, problems
from flo.errors import MessageError
from flo.keys.claims import Digest, LedgerHead, PublicKey
from flo.keys.roster import RosterStatement
from flo.study.monitor import MOST_PERIODS

MAX_REQUEST_CHARACTERS = 1 << 30  # the listener has applied each call's own limit
BodyT = TypeVar("BodyT", bound=BaseModel)


class NoBody(Document):
    """``{}``: the certificate is the only input."""


class EnrolBody(Document):
    """``coordinator``: public key in the invitation. ``request``: signing request, PEM."""

    coordinator: PublicKey | None = None
    request: Annotated[str, StringConstraints(max_length=8192)]


class HeadsBody(Document):
    """``head``: of the hospital's ledger; None to query only."""

    head: LedgerHead | None = None


class ReportBody(Document):
    """``extract``: signed extract of the hospital's ledger for this study, as canonical text."""

    study: Digest
    extract: str


class ModelBody(Document):
    """``study``: digest of the model's study."""

    study: Digest


class StatesBody(Document):
    """``known``: digest of the lists that the hospital has; see ``digest_of_all``."""

    known: Digest


class MonitorBody(Document):
    """``card``: of a published model. ``known``: digests of the monitor's periods, whose results
    the hospital has."""

    card: Digest
    known: Annotated[tuple[Digest, ...], Field(max_length=MOST_PERIODS)]


class GivenBody(Document):
    """``after``: digest of the last study in the previous reply; empty at first."""

    after: Annotated[str, StringConstraints(pattern=r"^([0-9a-f]{64})?$")]


class RosterBody(Document):
    """``statement``: whose keys the hospital's steward confirmed; None to query only.

    ``known``: digest of the roster and statements that the hospital has.
    """

    statement: RosterStatement | None = None
    known: Digest


class AuditBody(Document):
    """``growth``: of the hospital's log. ``receipt``: for the head in our previous reply."""

    growth: LogExtension | None = None
    receipt: Receipt | None = None


def parse_body(model: type[BodyT], body: bytes) -> BodyT:
    """Parse a call's body. Raises MessageError naming the fields that are wrong."""
    value = canonical.decode(body, limit=MAX_REQUEST_CHARACTERS, what="request")
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise MessageError(f"request:\n{problems(error, foreign=True)}") from error

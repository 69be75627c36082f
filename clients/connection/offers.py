"""Studies that the coordinator offers to this hospital, signed by a key that the site knows."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Annotated

from pydantic import StringConstraints

from flo.clients.connection.coordinator_api import CoordinatorApi
from flo.clients.home.coordinator_info import CoordinatorInfo
from flo.documents.document import Document, parse
from flo.errors import StudyError
from flo.keys.identity import verify
from flo.study.document import UNDER_WAY, Study
from flo.study.loading import from_canonical
from flo.study.reference import Known, which

log = logging.getLogger("flo.clients.connection.offers")


@dataclass(frozen=True)
class Offered:
    """A study on offer whose signature was checked."""

    study: Study
    signature: str


class KnownStudy(Document):
    """A study as the coordinator lists it."""

    study: str
    signature: str
    status: Annotated[str, StringConstraints(pattern=r"^[a-z-]{1,20}$")]


class _Listing(Document):
    studies: tuple[KnownStudy, ...]


def known_studies(api: CoordinatorApi) -> tuple[KnownStudy, ...]:
    """Return all studies that name this hospital, with their status.

    Raises:
        MessageError, UsageError: the list is malformed.
    """
    listing = {"studies": api.call("studies", {})}
    return parse(_Listing, listing, "the coordinator's list of studies").studies


def offered_studies(api: CoordinatorApi, coordinator: CoordinatorInfo) -> list[Offered]:
    """Return the studies on offer that this version of FLO can read.

    Studies signed by an earlier key of the coordinator are no longer on offer.

    Raises:
        TrustError: a study is not signed by any key of this coordinator.
    """
    offers = []
    for item in known_studies(api):
        if item.status not in UNDER_WAY:
            continue
        signer = coordinator.signer_of(item.study.encode(), item.signature)
        if signer != coordinator.public:
            continue
        try:
            offers.append(Offered(from_canonical(item.study.encode()), item.signature))
        except StudyError as error:
            log.warning(f"a study on offer was left out, because it cannot be read: {error}")
    return offers


def refuse_forged(offered: Offered, coordinator: CoordinatorInfo) -> None:
    """Raises TrustError unless the coordinator's current key signed the study."""
    public = bytes.fromhex(coordinator.public)
    verify(public, "study", offered.study.canonical_bytes, offered.signature)


def choose(offers: list[Offered], wanted: str | None) -> Offered:
    """Return the study that ``wanted`` names (see ``flo.study.reference``), or the only one on
    offer. Raises UsageError."""
    digest = which((Known.of(one.study) for one in offers), wanted, "study on offer")
    return next(one for one in offers if one.study.digest == digest)

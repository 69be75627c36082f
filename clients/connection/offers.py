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
from flo.study.document import UNDER_WAY, Study, from_canonical
from flo.study.reference import Known, which

log = logging.getLogger("flo.clients.connection.offers")


@dataclass(frozen=True)
class Offered:
    """A study as the coordinator offers it, its signature checked."""

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
    """Every study that names this hospital, with its status. Raises MessageError or UsageError."""
    listing = {"studies": api.call("studies", {})}
    return parse(_Listing, listing, "the coordinator's list of studies").studies


def offered_studies(api: CoordinatorApi, coordinator: CoordinatorInfo) -> list[Offered]:
    """Studies on offer that this version of FLO can read.

    What an earlier key of the coordinator signed is no offer any more.

    Raises:
        TrustError: a study is signed by no key of this coordinator.
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
            log.warning(f"a study on offer cannot be read here; others can: {error}")
    return offers


def refuse_forged(offered: Offered, coordinator: CoordinatorInfo) -> None:
    """Raises TrustError unless the coordinator's present key signed it."""
    public = bytes.fromhex(coordinator.public)
    verify(public, "study", offered.study.canonical_bytes, offered.signature)


def choose(offers: list[Offered], wanted: str | None) -> Offered:
    """The study that is meant (see ``flo.study.reference``), or the only one. Raises UsageError."""
    digest = which((Known.of(one.study) for one in offers), wanted, "study on offer")
    return next(one for one in offers if one.study.digest == digest)

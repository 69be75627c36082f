"""A site with one approved study that answers one request at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np

from flo.clients.agent.handler import Handler
from flo.clients.agent.run_keys import RunKeys
from flo.clients.approvals.approve import approve
from flo.clients.approvals.fingerprints import AddressBook
from flo.clients.connection.coordinator_api import CoordinatorApi
from flo.clients.connection.offers import Offered
from flo.clients.home.site_home import SiteHome
from flo.keys.identity import Identity
from flo.lab.canaries import request_for
from flo.privacy.ledger.ledger import Ledger
from flo.protocol.messages import (
    Reply,
    Request,
    RequestHeader,
    decode_reply,
    decode_request,
    model_digest,
)
from flo.study.document import Study
from flo.study.models import initial_weights, parameter_count
from flo.study.parameters import Vector
from tests import made_once
from tests.builders import (
    CountingReleaser,
    SilentApi,
    counting,
    make_site,
    offered,
    pretend_enrolled,
    small_study,
)
from tests.partners import claims, encode_request, partner

COORDINATOR = Identity.new()
PARTNERS = {name: partner(name) for name in ("south", "west")}
FOUR = ("east", "south", "west")  # the partners of a site in a cohort of four
Weights = Vector


@dataclass
class Site:
    """A site with one approved study, its handler, and a releaser that counts."""

    home: SiteHome
    study: Study
    ledger: Ledger
    releaser: CountingReleaser
    settled: list[str] = field(default_factory=list)
    answered: dict[Any, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.handler = self.restarted()

    def restarted(self) -> Handler:
        """A handler as after a restart of the agent: without the run keys of before."""
        return Handler(
            self.home,
            self.ledger,
            self.releaser,
            RunKeys(self.home.open_identity()),
            lambda study: self.settled.append(study.digest),
        )

    def restart(self) -> None:
        """The agent stops and starts again."""
        self.handler = self.restarted()

    def request(self, weights: Weights | None = None, **changes: Any) -> bytes:
        """A good request for round 1, with ``changes`` to its header; once answered, the same.

        Of ``heads``, ``keys`` and ``vouchers`` only those named are changed; None takes one out.
        """
        purpose = changes.get("purpose", self.study.purposes[0])
        if weights is None:
            weights = (
                np.zeros(0)
                if self.study.statistics
                else request_for(self.study, purpose, initial_weights(self.study))
            )
        everyone = tuple(sorted(hospital.id for hospital in self.study.hospitals))
        cohort, run = changes.get("cohort", everyone), changes.get("run", "run-1")
        header: dict[str, Any] = {
            "study": self.study.digest,
            "run": run,
            "purpose": purpose,
            "round": 1,
            "attempt": 1,
            "cohort": cohort,
            "model": model_digest(weights),
            "bits": 8 * weights.itemsize,
        }
        header |= self.answered.get(_attempt({**header, **changes})) or claims(
            self.handler, self.ledger, self.study, cohort, run
        )
        for relayed in ("heads", "keys", "vouchers"):
            merged = {**header.get(relayed, {}), **changes.get(relayed, {})}
            changes[relayed] = {name: claim for name, claim in merged.items() if claim is not None}
        made = RequestHeader.model_validate({**header, **changes})
        return encode_request(Request(made, weights))

    def ask(self, weights: Weights | None = None, **changes: Any) -> Reply:
        return self.say(self.request(weights, **changes))

    def say(self, request: bytes) -> Reply:
        answer = self.handler.answer(request)
        assert answer is not None
        reply = decode_reply(answer)
        if reply.header.kind == "release":
            header = decode_request(request).header
            relayed = {name: getattr(header, name) for name in ("heads", "keys", "vouchers")}
            self.answered.setdefault(_attempt(header.model_dump()), relayed)
        return reply

    def charged(self) -> tuple[float, float]:
        balance = self.ledger.balance()
        return balance.charged("main", "training"), balance.charged("main", "evaluation")

    def kinds(self) -> list[str]:
        return [str(row.public["kind"]) for row in self.ledger.rows()]

    def replies(self) -> list[Path]:
        return sorted((self.home.directory / "replies").iterdir())

    def refuses(self, code: str, weights: Weights | None = None, **changes: Any) -> Reply:
        """The request is refused by ``code``, sends no number and changes nothing."""
        before = self.charged(), self.kinds(), self.replies(), self.releaser.calls
        reply = self.ask(weights, **changes)
        assert (reply.header.kind, reply.header.code) == ("refused", code)
        assert reply.values.size == 0
        assert before == (self.charged(), self.kinds(), self.replies(), self.releaser.calls)
        return reply


def _attempt(header: dict[str, Any]) -> Any:
    return tuple(header[name] for name in ("run", "purpose", "round", "attempt", "cohort"))


def approved_site(
    folder: Path,
    *,
    survey: bool = False,
    partners: tuple[str, ...] = (),
    copied: bool = True,
    **mechanism: Any,
) -> Iterator[Site]:
    """``mechanism``: changes to that part of the study. ``partners``: others than south, west.

    ``copied=False``: made now, by the code as a test has changed it.
    """
    kind = (survey, partners or tuple(PARTNERS), tuple(sorted(mechanism.items())))
    make = partial(_approved, *kind)
    home = made_once.new_site(kind, folder, make) if copied else make(folder)
    study = _offered(home, *kind).study
    site = Site(home, study, home.open_ledger(), CountingReleaser(parameter_count(study)))
    yield site
    site.ledger.close()


Changes = tuple[tuple[str, Any], ...]


def _approved(survey: bool, partners: tuple[str, ...], mechanism: Changes, place: Path) -> SiteHome:
    home = make_site(place)
    pretend_enrolled(home, COORDINATOR)
    AddressBook.confirm(home, {name: partner(name).fingerprint for name in partners})
    offer = _offered(home, survey, partners, mechanism)
    approve(home, cast(CoordinatorApi, SilentApi()), offer, home.read_config().population(None))
    return home


def _offered(
    home: SiteHome, survey: bool, partners: tuple[str, ...], mechanism: Changes
) -> Offered:
    hospitals = [{"id": "north", "declared_size": 40}] + [
        {"id": name, "declared_size": 40, "fingerprint": partner(name).fingerprint}
        for name in partners
    ]
    study = small_study(hospitals=hospitals).with_mechanism(**dict(mechanism))
    if survey:
        study = counting(study, 0.3, ["ward"])
    return offered(study, [home], COORDINATOR)


_DISTRIBUTED = (("masking", "on"), ("noise", "distributed"))
_KINDS: list[tuple[bool, tuple[str, ...], Changes]] = [
    (False, tuple(PARTNERS), ()),
    (False, tuple(PARTNERS), _DISTRIBUTED),
    (False, tuple(PARTNERS), (("masking", "on"), ("noise", "local"))),
    (False, FOUR, _DISTRIBUTED),
]
for _kind in _KINDS:
    made_once.declare(_kind, partial(_approved, *_kind))

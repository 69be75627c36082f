"""Real sites, each with its own ledger and run keys, and a coordinator that a test can make lie."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np

from flo.clients.agent.handler import Handler, Releaser
from flo.clients.approvals.approve import approve
from flo.clients.approvals.fingerprints import AddressBook
from flo.clients.connection.coordinator_api import CoordinatorApi
from flo.clients.home.site_home import SiteHome
from flo.keys.claims import HeadAttestation, LedgerHead, RunKey
from flo.keys.identity import Identity
from flo.privacy.ledger.ledger import Ledger
from flo.protocol.deals import Deal
from flo.protocol.messages import Reply, Request, RequestHeader, Values, decode_reply, model_digest
from flo.study.document import Study
from flo.study.models import initial_weights
from tests.builders import SilentApi, make_site, offered, pretend_enrolled, small_study
from tests.partners import encode_request, handler_of

COORDINATOR = Identity.new()
ReleaserOf = Callable[[SiteHome, Study], Releaser]


@dataclass
class Member:
    """One real site."""

    home: SiteHome
    ledger: Ledger
    handler: Handler

    def charged(self) -> float:
        return self.ledger.balance().charged("main", "training")


@dataclass
class RealCompany:
    """All that a coordinator knows, to be relayed as it is or otherwise."""

    study: Study
    members: dict[str, Member]
    keys: dict[str, RunKey] = field(default_factory=dict)
    heads: dict[str, LedgerHead] = field(default_factory=dict)
    vouchers: dict[str, HeadAttestation] = field(default_factory=dict)
    said: dict[tuple[str, str], HeadAttestation] = field(default_factory=dict)  # by whom, of whom
    deals: dict[str, Deal] = field(default_factory=dict)  # each one's newest
    dealt: dict[tuple[str, int], Deal] = field(default_factory=dict)  # by whom, its number
    replies: list[bytes] = field(default_factory=list)

    @classmethod
    def of(
        cls,
        folder: Path,
        names: tuple[str, ...],
        releaser: ReleaserOf,
        *,
        liars: tuple[Identity, ...] = (),
        **changes: Any,
    ) -> Iterator[RealCompany]:
        """``liars``: hospitals without a site, liar-0 and so on. ``changes``: to the study."""
        homes = {name: make_site(folder / name, name) for name in names}
        hospitals = [{"id": name, "declared_size": 40} for name in names] + [
            {"id": f"liar-{number}", "declared_size": 40, "fingerprint": liar.fingerprint}
            for number, liar in enumerate(liars)
        ]
        mechanism = {"noise": "distributed", "masking": "on"} | changes.pop("mechanism", {})
        study = small_study(hospitals=hospitals, **changes).with_mechanism(**mechanism)
        offer = offered(study, list(homes.values()), COORDINATOR)
        members = {}
        for name, home in homes.items():
            pretend_enrolled(home, COORDINATOR)
            compared = {h.id: h.fingerprint for h in offer.study.hospitals if h.id != name}
            AddressBook.confirm(home, compared)
            approve(
                home, cast(CoordinatorApi, SilentApi()), offer, home.read_config().population(None)
            )
            ledger = home.open_ledger()
            handler = handler_of(home, ledger, releaser(home, offer.study))
            members[name] = Member(home, ledger, handler)
        company = cls(offer.study, members)
        company.join()
        yield company
        for member in members.values():
            member.ledger.close()

    def join(self, **turn: Any) -> None:
        """Ask everyone for its key, then everyone for vouchers for these keys.

        ``turn``: purpose, round and attempt of the next request, if not the first.
        """
        for kind in ("keys", "vouchers"):
            for name in self.members:
                header = self.say(
                    name, self.header(kind="join", heads={}, vouchers={}, **turn)
                ).header
                assert header.key is not None
                self.keys[name] = header.key
                if kind == "vouchers":
                    self.vouchers |= header.vouchers
                    self.said |= {(name, of): given for of, given in header.vouchers.items()}

    def header(self, *cohort: str, **changes: Any) -> RequestHeader:
        """An honest request for round 1 to these hospitals (all), with changes."""
        everyone = tuple(sorted(cohort or (hospital.id for hospital in self.study.hospitals)))
        asked = changes.get("kind", "release") == "release"
        named = everyone if asked else tuple(self.keys)
        weights = initial_weights(self.study) if asked else np.zeros(0)
        return RequestHeader.model_validate(
            {
                "study": self.study.digest,
                "run": "run-1",
                "purpose": "training",
                "round": 1,
                "attempt": 1,
                "cohort": everyone,
                "model": model_digest(weights),
                "keys": {name: self.keys[name] for name in named if name in self.keys},
                "heads": {name: self.heads[name] for name in everyone if name in self.heads},
                "vouchers": {n: self.vouchers[n] for n in everyone if n in self.vouchers},
                "deals": {n: self.deals[n].public for n in everyone if asked and n in self.deals},
                **changes,
            }
        )

    def say(self, name: str, header: RequestHeader) -> Reply:
        """One hospital's answer; its head is remembered, to be relayed."""
        weights = initial_weights(self.study) if header.kind == "release" else np.zeros(0)
        if header.kind == "release" and not header.sealed:
            header = header.model_copy(update={"sealed": self.sealed_for(name, header)})
        answer = self.members[name].handler.answer(encode_request(Request(header, weights)))
        assert answer is not None
        self.replies.append(answer)
        reply = decode_reply(answer)
        self.heads[name] = reply.header.head
        if reply.header.deal is not None:
            self.deals[name] = self.dealt[name, reply.header.deal.number] = reply.header.deal
        return reply

    def sealed_for(self, name: str, header: RequestHeader) -> dict[str, str]:
        """The shares that this hospital holds of each deal that the request names."""
        key, dealt = header.keys[name].key, header.deals
        named = {other: self.dealt[other, dealt[other].number] for other in dealt if other != name}
        return {other: deal.sealed[key] for other, deal in named.items()}

    def listed(self, header: RequestHeader, *survivors: str, **changes: Any) -> RequestHeader:
        """A request to sign a list of survivors of the attempt of ``header``, or as changed."""
        nothing = {"model": model_digest(np.zeros(0)), "keys": {}, "heads": {}, "deals": {}}
        asked = {"kind": "sign", "survivors": tuple(sorted(survivors)), "vouchers": {}}
        return header.model_copy(update=nothing | asked | changes)

    def ask(self, name: str, header: RequestHeader) -> Values:
        """One hospital's release."""
        reply = self.say(name, header)
        assert reply.header.kind == "release", reply.header.code
        return reply.values

    def ask_all(self, header: RequestHeader) -> dict[str, Values]:
        """The release of every real member of the cohort."""
        return {name: self.ask(name, header) for name in header.cohort if name in self.members}

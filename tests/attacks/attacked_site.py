"""A real site whose coordinator lies: a real agent process, and one study under way."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import tomli_w

from flo.clients.agent.handler import Handler
from flo.clients.approvals.approve import approve
from flo.clients.approvals.decline import withdraw
from flo.clients.approvals.fingerprints import AddressBook
from flo.clients.connection.enrolment import connect, enrol
from flo.clients.connection.offers import Offered
from flo.clients.home.site_home import SiteHome
from flo.protocol.messages import Request, RequestHeader, decode_reply, model_digest
from flo.storage.files import write_private
from flo.study.document import Study
from flo.study.models import initial_weights
from flo.study.parameters import Vector
from tests.attacks.lying_coordinator import HOSPITAL, LyingCoordinator
from tests.builders import make_site, offered, small_study
from tests.forked import Forked
from tests.partners import claims, encode_request

RUN = "run-1"


@dataclass
class Besieged:
    home: SiteHome
    liar: LyingCoordinator
    offer: Offered
    withdrawn: Offered
    agent: Forked
    _claims: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def by(cls, liar: LyingCoordinator, folder: Path) -> Besieged:
        """Enrolled, one study approved, another one approved and withdrawn."""
        home = make_site(folder, HOSPITAL)
        config = home.read_config().model_copy(update={"notify": ("true",)})
        document = config.model_dump(mode="json", exclude_none=True)
        write_private(home.config_path, tomli_w.dumps(document).encode())
        write_private(folder / "invitation.json", liar.invitation())
        enrol(home, folder / "invitation.json")
        offer, withdrawn = (_offer(liar, home, name) for name in ("besieged", "withdrawn"))
        with connect(home) as api:
            for wanted in (offer, withdrawn):
                approve(home, api, wanted, home.read_config().population(None))
            withdraw(home, api, withdrawn.study.digest, "no longer")
        with (folder / "agent.txt").open("wb") as screen:
            more = {"FLO_DEVICE": "cpu", "OMP_NUM_THREADS": "1"}
            run = ("flo.cli", "site", "run", "--home", str(home.directory))
            agent = Forked(*run, log=screen, **more)
        return cls(home, liar, offer, withdrawn, agent)

    def stop(self) -> None:
        self.agent.kill()
        self.agent.wait()

    @property
    def study(self) -> Study:
        return self.offer.study

    def start(self) -> None:
        """The first answers: a key for the run, and the release of round 1."""
        with closing(self.home.open_ledger()) as ledger:
            everyone = tuple(sorted(hospital.id for hospital in self.study.hospitals))
            wire = cast(Handler, _Wire(self))
            self._claims = claims(wire, ledger, self.study, everyone, RUN)
        assert self.asked() == "release"

    def request(self, weights: Vector | None = None, **changes: Any) -> bytes:
        """The request for round 1, which was answered, with changes to its header."""
        if weights is None:
            weights = initial_weights(self.study)
        header = {
            "study": self.study.digest,
            "run": RUN,
            "purpose": "training",
            "round": 1,
            "attempt": 1,
            "cohort": tuple(sorted(hospital.id for hospital in self.study.hospitals)),
            "model": model_digest(weights),
            "bits": 8 * weights.itemsize,
            **self._claims,
            **changes,
        }
        if header["round"] != 1:  # what was released since then must be covered
            with closing(self.home.open_ledger()) as ledger:
                heads = {**self._claims["heads"], HOSPITAL: ledger.head()}
            header["heads"] = changes.get("heads", heads)
        return encode_request(Request(RequestHeader.model_validate(header), weights))

    def asked(self, weights: Vector | None = None, **changes: Any) -> str:
        """How the agent answers: with a kind of reply, or with the code of a refusal."""
        return self.told(self.request(weights, **changes))

    def told(self, data: bytes, **how: Any) -> str:
        """The same for any bytes, carried as ``Fleet.ask`` says."""
        answer = self.liar.fleet.ask(data, **how)
        if answer is None:
            return "no answer"
        header = decode_reply(answer).header
        return str(header.code or header.kind)

    def serves(self) -> bool:
        """An honest request is answered with the very bits of before."""
        return self.agent.poll() is None and self.asked() == "release"


def _offer(liar: LyingCoordinator, home: SiteHome, name: str) -> Offered:
    """A study of less than half the site's budget, its partners' keys compared."""
    study = small_study(name=name, evaluation={"epsilon": 0.4, "retry_allowance": 0})
    offer = offered(study.with_mechanism(epsilon=0.4), [home], liar.identity)
    partners = {h.id: h.fingerprint for h in offer.study.hospitals if h.id != HOSPITAL}
    AddressBook.confirm(home, partners)
    liar.offers.append(offer)
    return offer


@dataclass
class _Wire:
    """A site's handler, over the wire."""

    site: Besieged

    def answer(self, data: bytes) -> bytes | None:
        return self.site.liar.fleet.ask(data)

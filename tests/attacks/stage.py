"""The victims: a real coordinator with its hospitals, and a real site whose coordinator lies."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flo.cli.coordinator.operator import Operator
from flo.clients.approvals.approve import approve
from flo.clients.approvals.decline import withdraw
from flo.clients.connection.cosigning import cosign
from flo.clients.connection.enrolment import connect, leave, renew_when_due
from flo.clients.connection.offers import Offered
from flo.clients.home.site_home import SiteHome
from flo.documents import canonical
from flo.server.http.tokens import Role, issue
from flo.server.maintenance.invitations import invite
from flo.study.document import Study
from flo.study.loading import from_canonical
from tests.attacks.attacked_site import Besieged
from tests.attacks.log_readers import Book, Screen, audit_book, log_book
from tests.attacks.lying_coordinator import LyingCoordinator
from tests.attacks.state import coordinator_state, site_state
from tests.builders import HOSPITALS, make_site, small_study
from tests.flo.published_models import COORDINATOR as LIAR
from tests.server.real_coordinator import Answer, RealCoordinator, new_home

COORDINATOR, SITE = "the coordinator's audit log", "the site's audit log"
AGENT, SCREEN = "the agent's log", "the screen, exit code"


# Each attack with an extract is to be read, and not told to wait after the last one.
_NO_WAIT = "import flo.server.listeners.extract_turns as turns; turns.WAIT_SECONDS = 0.0"


@dataclass
class Stage:
    """``homes``: north approved ``study``; south waits; gone was revoked, left has left.

    ``withdrawn``: the approval that west took back.
    """

    coordinator: RealCoordinator
    homes: dict[str, SiteHome]
    study: Study
    withdrawn: dict[str, str]
    left: ssl.SSLContext
    before_renewal: ssl.SSLContext
    invitation: bytes
    used_invitation: bytes
    liar: LyingCoordinator
    site: Besieged
    newcomer: SiteHome
    folder: Path
    screen: Screen = field(default_factory=Screen)

    # -- who attacks -----------------------------------------------------------------------------

    def client(self, name: str) -> ssl.SSLContext:
        """An enrolled hospital's TLS."""
        return self.coordinator.site(self.homes[name])

    def call(self, name: str, body: Any, client: ssl.SSLContext | None = None) -> str:
        """One call by ``client`` (north), ``body`` as bytes or as a document."""
        data = body if isinstance(body, bytes) else canonical.encode(body)
        path, who = f"/v1/site/{name}", client or self.client("north")
        return status(self.coordinator.outside("POST", path, who, body=data))

    def token(self, role: Role) -> dict[str, str]:
        text, _ = issue(self.coordinator.home.open_identity(), f"the {role}", role, 600)
        return {"authorization": f"Bearer {text}"}

    # -- what is checked afterwards --------------------------------------------------------------

    @property
    def books(self) -> dict[str, Book]:
        coordinator, site = self.coordinator.home.directory, self.site.home.directory
        return {
            COORDINATOR: audit_book(coordinator),
            SITE: audit_book(site),
            AGENT: log_book(site / "log" / "agent.jsonl"),
            SCREEN: self.screen,
        }

    def state(self) -> dict[str, object]:
        homes = {**self.homes, "besieged": self.site.home, "newcomer": self.newcomer}
        return {
            "coordinator": coordinator_state(self.coordinator.home.directory),
            **{name: site_state(home) for name, home in homes.items()},
        }

    def serves_the_honest(self) -> bool:
        """A hospital's call, the operator's, and a request to the site."""
        operator = self.coordinator.private(
            "GET", "/v1/flo/hospitals", headers=self.token("operator")
        )
        hospital = self.call("studies", {}, self.client("south"))
        return (status(operator), hospital) == ("200", "200") and self.site.serves()


def status(answer: Answer) -> str:
    return str(answer.status)


@contextlib.contextmanager
def set_up(folder: Path) -> Iterator[Stage]:
    """Everybody, in a few seconds: the agent starts while the hospitals enrol."""
    with contextlib.ExitStack() as stack:
        coordinator = RealCoordinator(new_home(folder / "coordinator"), _NO_WAIT)
        stack.callback(coordinator.stop)
        liar = LyingCoordinator(folder / "liar", LIAR)
        stack.callback(liar.stop)
        site = Besieged.by(liar, folder / "besieged")
        stack.callback(site.stop)
        coordinator.wait_until_ready()
        names = (*HOSPITALS, "gone", "left", "renewed")
        homes = {name: coordinator.enrol(folder / name, name) for name in names}
        used = (folder / "north" / "invitation.json").read_bytes()
        for name in ("north", "south"):
            with connect(homes[name]) as api, closing(homes[name].open_audit_log()) as log:
                cosign(api, log, homes[name].read_coordinator())
        offer = _offered(coordinator)
        _approve(homes["north"], offer)
        withdrawn = _approve(homes["west"], offer)
        with connect(homes["west"]) as api:
            withdraw(homes["west"], api, offer.study.digest, "Not any more.")
        before_renewal = coordinator.site(homes["renewed"])
        _renew(homes["renewed"])
        with coordinator.home.recording() as store:
            store.revoke("gone")
        left = coordinator.site(homes["left"])
        with connect(homes["left"]) as api:
            leave(homes["left"], api)
        site.start()
        newcomer = make_site(folder / "newcomer")
        yield Stage(
            coordinator=coordinator,
            homes=homes,
            study=offer.study,
            withdrawn=withdrawn,
            before_renewal=before_renewal,
            invitation=invite(coordinator.home, "guest"),
            used_invitation=used,
            liar=liar,
            site=site,
            newcomer=newcomer,
            folder=folder,
            left=left,
        )


def _offered(coordinator: RealCoordinator) -> Offered:
    """A study on offer to three hospitals."""
    with Operator(coordinator.home.directory) as operator:
        found = operator.call("POST", "studies", body=small_study().canonical_bytes)
    return Offered(from_canonical(found["study"].encode()), found["signature"])


def _approve(home: SiteHome, offer: Offered) -> dict[str, str]:
    """What the hospital told the coordinator."""
    with connect(home) as api:
        kept = approve(home, api, offer, home.read_config().population(None))
    return {"document": kept.decision, "signature": kept.decision_signature}


def _renew(home: SiteHome) -> None:
    """Renewed, and the new certificate shown."""
    with connect(home) as api:
        renew_when_due(home, api, days=10_000)
    with connect(home) as api:
        api.call("studies", {})

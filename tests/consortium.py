"""Sites and a coordinator's real store and calls, without a network, that a test can make lie."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from flo.audit.log import AuditLog
from flo.clients.approvals import roster
from flo.clients.connection.coordinator_api import CoordinatorApi
from flo.clients.home.site_home import SiteHome
from flo.documents import canonical
from flo.keys.identity import Identity
from flo.keys.roster import Roster, WitnessedRoster
from flo.keys.rotation import KeyRotation
from flo.server.api.site_api import SiteApi
from flo.server.audit.rate_limited import RateLimitedAudit
from flo.server.keys.authority import Authority, Peer
from flo.server.store.hospitals import Member
from flo.server.store.store import Store
from tests.builders import make_site, pretend_enrolled

COORDINATOR = Identity.new()
Answer = dict[str, Any]


@dataclass
class Line:
    """One site's calls. ``lie``: what becomes of the coordinator's answers to it."""

    api: SiteApi
    peer: Peer
    lie: Callable[[Answer], Answer] | None = None

    def call(self, name: str, body: Any, *, values: int = 0) -> Any:
        if self.lie is not None:  # such a coordinator takes any statement
            body = {"statement": None, "known": "0" * 64}
        answer = self.api.call(f"/v1/site/{name}", self.peer, canonical.encode(body))
        return answer if self.lie is None else {"roster": self.lie(answer["roster"])}


@dataclass
class Consortium:
    """Enrolled sites by name. The store is a real file, and so are the sites' folders."""

    folder: Path
    sites: dict[str, SiteHome] = field(default_factory=dict)
    lines: dict[str, Line] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.store = Store(self.folder / "coordinator.sqlite")
        self.api = SiteApi(
            self.store,
            cast(Authority, None),  # issues certificates, which these calls do not need
            COORDINATOR,
            cast(AuditLog, None),
            KeyRotation(steps=()),
            lambda member: None,
            RateLimitedAudit(self.store),
        )

    def join(self, name: str) -> SiteHome:
        site = make_site(self.folder / name, name)
        pretend_enrolled(site, COORDINATOR)
        self.enrol(name, site.open_identity())
        self.sites[name] = site
        self.lines[name] = Line(self.api, Peer(name, "site", "1", site.open_identity().public))
        return site

    def enrol(self, name: str, identity: Identity) -> None:
        """Enter a hospital in the coordinator's store, as its ``enrol`` call does."""
        self.store.add_invitation(f"for {name}", name)
        member = Member(name, identity.public, identity.fingerprint, name, False, None)
        assert self.store.enrol(f"for {name}", member)
        self.store._write("DELETE FROM invitations")

    def api_of(self, name: str) -> CoordinatorApi:
        return cast(CoordinatorApi, self.lines[name])

    @property
    def roster(self) -> Roster:
        return self.store.roster().roster

    def fetch(self, name: str) -> WitnessedRoster:
        return roster.fetch(self.sites[name], self.api_of(name))

    def says_yes(self, name: str, digest: str) -> bool:
        """Whether this hospital's steward says on the call that the roster holds its key."""
        return self.fetch(name).roster.digest == digest

    def call(self, *names: str, digest: str = "") -> None:
        """One call of these hospitals: each says yes or no, and each enters whom it heard."""
        spoken = digest or self.roster.digest
        heard = [name for name in names if self.says_yes(name, spoken)]
        for name in heard:
            self.confirm(name, *(other for other in heard if other != name), digest=spoken)

    def confirm(self, name: str, *heard: str, digest: str = "") -> None:
        spoken = digest or self.roster.digest
        roster.confirm(self.sites[name], self.api_of(name), spoken, heard)

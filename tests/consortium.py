"""Sites and a coordinator's real store and calls, without a network, that a test can make lie."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from flo.audit.log import AuditLog
from flo.clients.approvals import roster
from flo.clients.approvals.fingerprints import AddressBook
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
from flo.study.document import Study
from tests.builders import make_site, pretend_enrolled, small_study

COORDINATOR = Identity.new()
LATER = 1 << 50  # number of a statement
SEVEN = ("north", "south", "east", "west", "hill", "lake", "wood")
TIME = "2026-11-28T12:00:00.000+00:00"
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


def joined(consortium: Consortium, *names: str) -> Consortium:
    for name in names:
        consortium.join(name)
    return consortium


def study_of(consortium: Consortium, *names: str, b: int = 2) -> Study:
    """A study of these hospitals with distributed noise, as the coordinator's store names them."""
    hospitals = [{"id": name, "declared_size": 40} for name in names]
    study = small_study(hospitals=hospitals, schema_version=4).with_mechanism(
        noise="distributed", masking="on", colluders=b
    )
    return study.with_fingerprints(consortium.store.keys())


def known(site: SiteHome) -> dict[str, str]:
    return AddressBook.load(site).confirmed


def entries(site: SiteHome, kind: str) -> int:
    with closing(site.open_audit_log()) as log:
        return len(log.latest(1000, kind=kind)[0])


def of(consortium: Consortium, *names: str, **keys: Identity) -> Roster:
    """A roster of these hospitals; ``keys``: forged ones."""
    made = Roster()
    for name in names:
        key = keys[name].fingerprint if name in keys else consortium.store.keys()[name]
        made = Roster(entries=(*made.entries, made.joined(name, key, TIME)))
    return made


def shows(consortium: Consortium, name: str, shown: Roster) -> None:
    """From now on the coordinator shows this roster to this site."""

    def lie(answer: Answer) -> Answer:
        return answer | {"roster": shown.model_dump(mode="json")}

    consortium.lines[name].lie = lie


def with_newcomer(consortium: Consortium) -> None:
    """Seven hospitals, and a new one that three of them confirmed; north has fetched the roster."""
    joined(consortium, *SEVEN)
    consortium.call(*SEVEN)
    consortium.join("new")
    for name in ("south", "east", "west"):
        consortium.confirm(name, "new")
    consortium.fetch("north")

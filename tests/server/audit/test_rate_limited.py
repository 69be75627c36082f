"""Whoever is refused is on record: what they asked and why, never what they sent, and not for ever.

The coordinators are real; one of them lives in minutes of two seconds, so that a flood is counted
while a test can wait for it.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from flo.audit.chain import verify
from flo.clients.home.site_home import SiteHome
from flo.documents import canonical
from flo.server.audit.rate_limited import MOST_A_MINUTE, MOST_CONNECTIONS_A_MINUTE, RateLimitedAudit
from flo.server.home.coordinator_home import CoordinatorHome
from flo.server.http.tokens import issue
from flo.server.maintenance.invitations import invite
from flo.server.store.store import Store
from tests.server.real_coordinator import Answer, RealCoordinator, ask, new_home, serving

FLOOD = 600
Entry = dict[str, Any]


# -- counting --------------------------------------------------------------------------------------


class Stage:
    """Refusals over a real store, and the hand of the clock."""

    def __init__(self, store: Store) -> None:
        self.store, self.seconds = store, 0.0
        self.refusals = RateLimitedAudit(store, lambda: self.seconds)

    def note(self, times: int) -> None:
        for _ in range(times):
            self.refusals.record("denied", path="/x", why="no token")

    def entered(self) -> list[tuple[str, Any]]:
        """(kind, count) of each entry; no count but for those that were counted."""
        found: list[tuple[str, Any]] = []
        while waiting := self.store.events_after(len(found)):
            found += [(kind, facts.get("count")) for _, _, kind, _, facts in waiting]
        return found


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with closing(Store(tmp_path / "coordinator.sqlite")) as store:
        yield Stage(store)


ONE = ("denied", None)


def test_what_is_too_much_for_a_minute_is_counted_in_one_entry(stage: Stage) -> None:
    stage.note(MOST_A_MINUTE + 1000)
    stage.refusals.flush()  # the minute is not over
    assert stage.entered() == [ONE] * MOST_A_MINUTE
    stage.seconds = 60
    stage.refusals.flush()
    stage.refusals.flush()
    assert stage.entered() == [ONE] * MOST_A_MINUTE + [("refused-more", 1000)]


def test_what_was_only_counted_is_entered_at_the_end(stage: Stage) -> None:
    stage.note(MOST_A_MINUTE + 7)
    stage.refusals.flush(now=True)
    stage.refusals.flush(now=True)
    assert stage.entered() == [ONE] * MOST_A_MINUTE + [("refused-more", 7)]


def test_the_count_is_entered_before_the_next_minutes_refusals(stage: Stage) -> None:
    stage.note(MOST_A_MINUTE + 3)
    stage.seconds = 61
    stage.note(MOST_A_MINUTE + 5)
    stage.seconds = 300
    stage.note(1)
    many = [ONE] * MOST_A_MINUTE
    counts = [("refused-more", 3), ("refused-more", 5)]
    assert stage.entered() == [*many, counts[0], *many, counts[1], ONE]


def test_a_flood_of_one_kind_hides_no_refusal_of_another(stage: Stage) -> None:
    stage.note(MOST_A_MINUTE + 5)
    for _ in range(MOST_CONNECTIONS_A_MINUTE + 7):
        stage.refusals.record("refused-connection", why="unknown ca")
    stage.refusals.record("refused-call", why="it does not fit")
    stage.seconds = 60
    stage.refusals.flush()
    assert stage.entered()[MOST_A_MINUTE:] == [
        *[("refused-connection", None)] * MOST_CONNECTIONS_A_MINUTE,
        ("refused-call", None),
        ("refused-more", 5),
        ("refused-more", 7),
    ]


def test_a_quiet_minute_enters_nothing(stage: Stage) -> None:
    stage.note(MOST_A_MINUTE)
    for minute in range(5):
        stage.seconds = 60.0 * minute
        stage.refusals.flush()
    assert stage.entered() == [ONE] * MOST_A_MINUTE


def test_a_long_fact_is_cut(stage: Stage) -> None:
    stage.refusals.record("denied", path="x" * 121, why="y" * 120)
    ((_, _, _, study, facts),) = stage.store.events_after(0)
    assert (study, facts) == (None, {"path": "x" * 120, "why": "y" * 120})


# -- over sockets ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def coordinator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealCoordinator]:
    """This module's own, whose minute nobody else fills."""
    with serving(tmp_path_factory.mktemp("refusals") / "home") as real:
        yield real


@pytest.fixture(scope="module")
def north(coordinator: RealCoordinator, tmp_path_factory: pytest.TempPathFactory) -> SiteHome:
    return coordinator.enrol(tmp_path_factory.mktemp("north"), "north")


def bearer(home: CoordinatorHome, role: Any = "operator") -> dict[str, str]:
    return {"authorization": f"Bearer {issue(home.open_identity(), 'Ada', role, 600)[0]}"}


def export(coordinator: RealCoordinator) -> bytes:
    headers = bearer(coordinator.home)
    answer = coordinator.private("GET", "/v1/flo/audit", headers=headers)
    assert answer.status == 200
    verify([answer.body])
    return answer.body


def entries(coordinator: RealCoordinator) -> list[Entry]:
    found: list[Entry] = canonical.decode(export(coordinator), limit=1 << 24, what="log")["entries"]
    return found


def entered_by(coordinator: RealCoordinator, request: Callable[[], Answer]) -> tuple[int, Entry]:
    """The status of one request, and the one entry that it made."""
    before = len(entries(coordinator))
    status = request().status
    (entry,) = [e for e in entries(coordinator)[before:] if e["kind"] != "audit-log-exported"]
    return status, {"kind": entry["kind"], **entry["facts"]}


STUDIES = "/v1/flo/studies"


@pytest.mark.processes
@pytest.mark.parametrize(
    ("method", "path", "role", "status", "why"),
    [
        ("GET", STUDIES, None, 401, "no token"),
        ("GET", "/no/such/path", None, 401, "no token"),
        ("POST", STUDIES, "viewer", 403, "Ada: the role viewer may not launch a study"),
        ("GET", "/no/such/path", "operator", 403, "Ada: no such action"),
        ("POST", "/v1/control/start-run", "operator", 401, "not a process of this coordinator"),
        ("POST", "/v1/runtime/pull-object", None, 401, "not a process of this coordinator"),
    ],
)
def test_a_denied_person_is_on_record(
    coordinator: RealCoordinator, method: str, path: str, role: str | None, status: int, why: str
) -> None:
    headers = bearer(coordinator.home, role) if role else {}
    assert entered_by(
        coordinator, lambda: coordinator.private(method, path, headers=headers)
    ) == (status, {"kind": "denied", "path": path, "why": why})  # fmt: skip


@pytest.mark.processes
@pytest.mark.parametrize(
    ("method", "path", "status", "why"),
    [
        ("POST", "/v1/control/start-run", 404, "this path is not open to hospitals"),
        ("GET", "/v1/site/studies", 404, "this path is not open to hospitals"),
        ("POST", "/v1/fleet/pull-messages", 403, "north: the node key is not the certificate's"),
    ],
)
def test_a_hospitals_refused_request_is_on_record(
    coordinator: RealCoordinator, north: SiteHome, method: str, path: str, status: int, why: str
) -> None:
    answered, entry = entered_by(
        coordinator, lambda: coordinator.outside(method, path, coordinator.site(north))
    )
    assert (answered, entry["kind"], entry["path"]) == (status, "refused-request", path)
    assert entry["why"].startswith(why)


@pytest.mark.processes
@pytest.mark.parametrize("who", ["issued", "invited"])
def test_a_certificate_that_opens_nothing_is_on_record(
    coordinator: RealCoordinator, who: str
) -> None:
    context = {
        "issued": lambda: coordinator.issued("guest"),
        "invited": lambda: coordinator.invited(invite(coordinator.home, "guest")),
    }[who]()
    status, entry = entered_by(
        coordinator, lambda: coordinator.outside("POST", "/v1/site/heads", context)
    )
    assert (status, entry["kind"], entry["path"]) == (403, "refused-request", "/v1/site/heads")


@pytest.mark.processes
def test_a_refused_call_names_the_hospital(coordinator: RealCoordinator, north: SiteHome) -> None:
    call = ("POST", "/v1/site/models", coordinator.site(north))
    body = canonical.encode({"study": "ab" * 32})
    status, entry = entered_by(coordinator, lambda: coordinator.outside(*call, body=body))
    assert status == 400
    assert entry == {
        "kind": "refused-call",
        "path": "/v1/site/models",
        "hospital": "north",
        "why": "study abababababab is not known",
    }


@pytest.mark.processes
def test_a_long_path_is_cut(coordinator: RealCoordinator, north: SiteHome) -> None:
    path = "/v1/" + "x" * 5000
    _, entry = entered_by(coordinator, lambda: coordinator.private("GET", path))
    assert entry["path"] == path[:80]
    _, entry = entered_by(
        coordinator, lambda: coordinator.outside("POST", path, coordinator.site(north))
    )
    assert entry["path"] == path[:80]


@pytest.mark.processes
@pytest.mark.parametrize("path", ["/%00%0a%1b[2J", "/%ff%fe", "/%e2%80%ae", "/%ed%a0%80"])
def test_a_path_of_odd_bytes_is_entered_and_the_log_still_verifies(
    coordinator: RealCoordinator, path: str
) -> None:
    status, entry = entered_by(coordinator, lambda: coordinator.private("GET", path))
    assert (status, entry["kind"]) == (401, "denied")


MARK = "c0ffee-marker-of-this-test"


@pytest.mark.processes
def test_nothing_that_was_sent_is_in_an_entry(
    coordinator: RealCoordinator, north: SiteHome
) -> None:
    folder, site = coordinator.home.directory, coordinator.site(north)
    headers = bearer(coordinator.home, "viewer")
    cut = {"authorization": headers["authorization"][:-2]}
    mark = {"authorization": f"Bearer {MARK}", "x-flwr-account": MARK, "cookie": MARK}
    body = canonical.encode({"head": MARK, "study": MARK, "document": MARK, "request": MARK})
    for given in (headers, cut, mark):
        for method, path in (("POST", STUDIES), ("GET", f"/v1/flo/x?token={MARK}")):
            answer = coordinator.private(method, path, body=body, headers=given)
            assert answer.status in (401, 403)
    for call in ("heads", "models", "approvals", "reports", "renew", "audit"):
        for sent in (body, MARK.encode(), b'{"' + MARK.encode()):
            answer = coordinator.outside("POST", f"/v1/site/{call}", site, body=sent, headers=mark)
            assert answer.status in (400, 403, 429)
    log = export(coordinator)
    assert log.count(b'"refused-call"') >= 16  # two extracts were not read
    secrets = {
        "mark": MARK.encode(),
        "token": headers["authorization"][-60:-4].encode(),
        "superexec": (folder / "superexec.secret").read_bytes().hex().encode(),
        "node key": north.open_identity().pem().splitlines()[1],
    }
    for name, secret in secrets.items():
        assert secret not in log, name
        for file in [*folder.glob("*.sqlite*"), *folder.glob("*.log"), *folder.glob("log/*")]:
            assert secret not in file.read_bytes(), (name, file)


# -- a flood ---------------------------------------------------------------------------------------

SHORT_MINUTES = """
import sys, time
from flo.cli import main
from flo.server.audit.rate_limited import RateLimitedAudit
RateLimitedAudit.__init__.__defaults__ = (lambda: 30 * time.monotonic(),)
sys.argv[1:1] = ["coordinator", "serve", "--home"]
main()
"""


class HastyCoordinator(RealCoordinator):
    """The same coordinator, whose minutes last two seconds."""

    def __init__(self, home: CoordinatorHome) -> None:
        self.home = home
        self.port, self.private_port = home.read_config().port, home.read_config().private_port
        self._log = (home.directory / "serve.log").open("ab")
        self._process = subprocess.Popen(
            [sys.executable, "-c", SHORT_MINUTES, str(home.directory)],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
        )


@pytest.mark.processes
def test_a_flood_is_limited_and_counted_while_others_are_served(tmp_path: Path) -> None:
    coordinator = HastyCoordinator(new_home(tmp_path / "home"))
    try:
        coordinator.wait_until_ready()
        headers, served = bearer(coordinator.home), set()
        with coordinator.connection(
            coordinator.private_port, coordinator.anonymous()
        ) as connection:
            for number in range(FLOOD):
                assert ask(connection, "GET", f"/flood/{number}").status == 401
                if number % 100 == 0:
                    served.add(ask(connection, "GET", STUDIES, headers=headers).status)
        assert served == {200}
        entered = counted = 0
        end = time.monotonic() + 20
        while entered + counted < FLOOD and time.monotonic() < end:
            time.sleep(0.1)
            found = entries(coordinator)
            entered = sum(e["kind"] == "denied" for e in found)
            counted = sum(e["facts"]["count"] for e in found if e["kind"] == "refused-more")
        assert entered + counted == FLOOD
        assert entered >= MOST_A_MINUTE
        assert counted > 0
    finally:
        coordinator.stop()

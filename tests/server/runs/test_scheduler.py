"""What becomes of a run: the coordinator's rules, with Flower's part played by a list."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import pytest

from flo.errors import NetworkError
from flo.keys.identity import Identity
from flo.server.flower.superlink import SuperLink
from flo.server.home.coordinator_home import CoordinatorConfig, CoordinatorHome
from flo.server.runs import scheduler
from flo.server.runs.jobs import Jobs
from flo.server.runs.scheduler import Runs
from flo.server.store.hospitals import Member
from flo.server.store.store import Store
from flo.study.document import Study
from tests.builders import HOSPITALS, small_study


class Link:
    """``finished``: runs whose ServerApp is gone; ``online``: nodes that are connected."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self.finished: set[int] = set()
        self.online: set[int] = set()
        self.down = False

    def start_run(self, url: str, ca: bytes, run: str, app: str) -> int:
        if self.down:
            raise NetworkError("no SuperLink")
        self.started.append(run)
        return len(self.started)

    def has_finished(self, flower_run: int) -> bool:
        return flower_run in self.finished

    def is_online(self, node: int) -> bool:
        return node in self.online


class Clock:
    now = 100.0

    def monotonic(self) -> float:
        return self.now


class Scene:
    def __init__(self, home: CoordinatorHome, store: Store, monkeypatch: pytest.MonkeyPatch):
        self.home, self.store, self.link, self.clock = home, store, Link(), Clock()
        monkeypatch.setattr(scheduler, "time", self.clock)
        self.runs = self.restarted()

    def restarted(self) -> Runs:
        link = cast(SuperLink, self.link)
        self.runs = Runs(self.home, self.store, link, Jobs(self.home, self.store, link, None))
        return self.runs

    def offers(self, study: Study, *, approve: tuple[str, ...] = HOSPITALS) -> str:
        self.store.add_study(study, "00")
        for name in approve:
            assert self.store.add_approval(study.digest, name, b"{}", "00", 1)
        return study.digest

    def status(self, digest: str) -> str:
        offer = self.store.offer(digest)
        assert offer is not None
        return offer.status

    def pauses(self, digest: str) -> None:
        """Its ServerApp says that too few are there."""
        record = self.store.last_run(digest)
        assert record is not None
        self.store.pause_run(record.id, self.store.take_run(record.id))
        self.link.finished.add(len(self.link.started))
        self.runs.watch()

    def after(self, seconds: float) -> int:
        """How often a run was launched until then, watched ten times a second."""
        for _ in range(round(seconds * 10)):
            self.clock.now += 0.1
            self.runs.watch()
        return len(self.link.started)

    def kinds(self, digest: str) -> list[str]:
        return [event["kind"] for event in self.store.events(digest)]


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    home = CoordinatorHome.create(tmp_path / "home", CoordinatorConfig())
    with closing(home.open_store()) as store:
        for node, name in enumerate(HOSPITALS, start=1):
            key = Identity.new()
            store.add_invitation(name, name)
            store.enrol(name, Member(name, key.public, key.fingerprint, name, False, None))
            store.set_node(key.public, node)
        yield Scene(home, store, monkeypatch)


STUDY = small_study()


def test_a_run_starts_once_all_have_approved(scene: Scene) -> None:
    digest = scene.offers(STUDY, approve=HOSPITALS[:2])
    assert scene.after(1) == 0
    scene.store.add_approval(digest, HOSPITALS[2], b"{}", "00", 1)
    assert scene.after(1) == 1
    assert scene.status(digest) == "running"


def test_a_run_whose_serverapp_died_is_launched_again(scene: Scene) -> None:
    digest = scene.offers(STUDY)
    scene.after(1)
    scene.link.finished.add(1)
    assert scene.after(1) == 2
    assert "relaunched" in scene.kinds(digest)


def test_a_run_that_could_not_be_launched_is_launched_later(scene: Scene) -> None:
    digest = scene.offers(STUDY)
    scene.link.down = True
    assert scene.after(1) == 0
    assert scene.status(digest) == "running"
    scene.link.down = False
    assert scene.after(1) == 1


def test_a_run_whose_serverapp_keeps_failing_waits_longer_and_longer(scene: Scene) -> None:
    digest = scene.offers(STUDY)
    scene.link.online = {1, 2, 3}
    scene.link.has_finished = lambda flower_run: True  # type: ignore[method-assign]
    few = scene.after(2)
    assert scene.kinds(digest).count("paused") >= 1
    later = scene.after(600) - few
    assert 5 <= later <= 60  # not ten a second, and never again none
    assert scene.status(digest) in ("running", "paused")


def test_a_run_whose_serverapp_keeps_failing_ends_when_it_is_stopped(scene: Scene) -> None:
    digest = scene.offers(STUDY)
    scene.link.online = {1, 2, 3}
    scene.link.has_finished = lambda flower_run: True  # type: ignore[method-assign]
    scene.after(5)
    assert scene.store.request_stop(digest)
    scene.after(400)
    assert scene.status(digest) == "ended"


def test_a_paused_run_waits_for_its_floor_and_goes_on(scene: Scene) -> None:
    digest = scene.offers(STUDY)
    scene.after(1)
    scene.link.online = {1}
    scene.pauses(digest)
    assert scene.status(digest) == "paused"
    assert scene.after(30) == 1
    scene.link.online = {1, 3}
    assert scene.after(2) == 2
    assert scene.status(digest) == "running"
    assert scene.kinds(digest)[-1] == "resumed"


@pytest.mark.slow
def test_a_run_that_pauses_at_once_again_is_tried_less_and_less_often(scene: Scene) -> None:
    digest = scene.offers(STUDY)
    scene.after(1)
    scene.link.online = {1, 2, 3}
    times = []
    for _ in range(12):
        scene.pauses(digest)
        launched, began = len(scene.link.started), scene.clock.now
        while len(scene.link.started) == launched:
            scene.after(0.1)
        times.append(scene.clock.now - began)
    assert times[0] < 0.2
    assert times[1:] == pytest.approx(sorted(times[1:]), abs=0.5)
    assert times[-1] == pytest.approx(300, abs=1)


@pytest.mark.slow
def test_a_run_that_went_on_for_a_while_is_resumed_at_once(scene: Scene) -> None:
    digest = scene.offers(STUDY)
    scene.after(1)
    scene.link.online = {1, 2, 3}
    for _ in range(5):
        scene.pauses(digest)
        scene.after(100)
    scene.after(200)
    scene.pauses(digest)
    before = len(scene.link.started)
    assert scene.after(3) == before + 1


@pytest.mark.parametrize("why", ["expired", "declined"])
def test_a_paused_run_that_can_never_go_on_is_stopped(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    digest = scene.offers(STUDY)
    scene.after(1)
    scene.pauses(digest)
    if why == "expired":
        from datetime import UTC, datetime

        class Later(datetime):
            @classmethod
            def now(cls, tz: Any = None) -> Later:
                return cls(2100, 1, 1, tzinfo=UTC)

        monkeypatch.setattr(scheduler, "datetime", Later)
    else:
        for name in HOSPITALS[:2]:
            scene.store.drop_approval(digest, name, 2)
    assert scene.after(2) == 2  # launched to end it, though nobody is there
    record = scene.store.last_run(digest)
    assert record is not None
    assert scene.store.stop_requested(record.id)
    (stop,) = [e["facts"] for e in scene.store.events(digest) if e["kind"] == "stop-requested"]
    assert stop["by"] == "the coordinator"


@pytest.mark.parametrize("status", ["done", "ended", "stopped", "paused"])
def test_what_a_run_came_to_while_the_coordinator_died_is_the_studys_status(
    scene: Scene, status: str
) -> None:
    digest = scene.offers(STUDY)
    scene.after(1)
    record = scene.store.last_run(digest)
    assert record is not None
    launch = scene.store.take_run(record.id)
    if status == "paused":
        scene.store.pause_run(record.id, launch)
    else:
        scene.store.end_run(record.id, launch, status, {"rounds": 3})
    assert scene.status(digest) == "running"
    scene.restarted().recover()
    assert scene.status(digest) == status


def test_a_run_under_way_goes_on_after_a_restart(scene: Scene) -> None:
    digest = scene.offers(STUDY)
    scene.after(1)
    scene.restarted().recover()
    assert len(scene.link.started) == 2
    assert scene.kinds(digest)[-1] == "resumed"

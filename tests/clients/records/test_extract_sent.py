"""An extract that could not be sent is sent later; one that is refused for good is kept here."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from flo.clients.connection.coordinator_api import CoordinatorApi
from flo.clients.home.emergency_stop import be_ready, halt
from flo.clients.home.site_home import SiteHome
from flo.clients.records.extract import extract_path, keep, send_kept
from flo.errors import FloError, MessageError, NetworkError, RefusedError, TrustError
from tests.builders import make_site

STUDY, OTHER = "ab" * 32, "cd" * 32


class Coordinator:
    """Answers ``reports`` with what it is told, in order, then takes everything."""

    def __init__(self, *answers: FloError) -> None:
        self._answers = list(answers)
        self.taken: list[tuple[str, str]] = []

    def call(self, name: str, body: Any) -> Any:
        assert name == "reports"
        if self._answers:
            raise self._answers.pop(0)
        self.taken.append((body["study"], body["extract"]))
        return {}


@pytest.fixture
def home(tmp_path: Path) -> SiteHome:
    return make_site(tmp_path)


def send(home: SiteHome, coordinator: Coordinator) -> None:
    send_kept(home, cast(CoordinatorApi, coordinator))


def test_what_was_kept_is_sent_once(home: SiteHome) -> None:
    coordinator = Coordinator()
    keep(home, STUDY, b"one")
    keep(home, OTHER, b"other")
    for _ in range(2):
        send(home, coordinator)
    assert coordinator.taken == [(STUDY, "one"), (OTHER, "other")]


@pytest.mark.parametrize("error", [NetworkError("gone"), RefusedError("not your turn")])
def test_what_fails_for_now_is_sent_later_as_it_is_then(home: SiteHome, error: FloError) -> None:
    coordinator = Coordinator(error)
    keep(home, STUDY, b"one")
    with pytest.raises(type(error)):
        send(home, coordinator)
    keep(home, STUDY, b"newer")
    send(home, coordinator)
    assert coordinator.taken == [(STUDY, "newer")]


@pytest.mark.parametrize("error", [MessageError("it does not hold"), TrustError("another key")])
def test_what_is_refused_for_good_is_kept_and_stops_no_other(
    home: SiteHome, error: FloError
) -> None:
    coordinator = Coordinator(error)
    keep(home, STUDY, b"one")
    keep(home, OTHER, b"other")
    for _ in range(2):
        send(home, coordinator)
    assert coordinator.taken == [(OTHER, "other")]
    assert extract_path(home, STUDY).read_bytes() == b"one"


def test_one_that_was_cut_off_before_it_was_written_stops_no_other(home: SiteHome) -> None:
    coordinator = Coordinator()
    keep(home, STUDY, b"one")
    extract_path(home, STUDY).unlink()
    keep(home, OTHER, b"other")
    send(home, coordinator)
    assert coordinator.taken == [(OTHER, "other")]


def test_nothing_is_sent_while_everything_is_stopped(home: SiteHome) -> None:
    coordinator = Coordinator()
    keep(home, STUDY, b"one")
    be_ready(home)
    halt(home)
    with pytest.raises(RefusedError):
        send(home, coordinator)
    assert coordinator.taken == []

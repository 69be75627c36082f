"""An agent signs by the coordinator's clock, and says when its own differs."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import httpx
import pytest

from flo.clients.connection import coordinator_clock
from flo.clients.connection.coordinator_clock import CoordinatorClock

TRUE = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)


class Own:
    """This machine's clock, which can be set."""

    def __init__(self) -> None:
        self.time = TRUE

    def __call__(self) -> datetime:
        return self.time


def reply(date: datetime | str | None) -> httpx.Response:
    if isinstance(date, datetime):
        date = format_datetime(date, usegmt=True)
    return httpx.Response(200, headers={} if date is None else {"date": date})


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What adjtimex(2) says: 0 for a clock that follows a time server, 5 for one that does not."""
    state = [0]
    monkeypatch.setattr(coordinator_clock, "kernel_clock_state", lambda: state[0])
    return state


def test_before_the_first_reply_the_clock_is_our_own() -> None:
    assert CoordinatorClock(Own()).now() == TRUE


@pytest.mark.parametrize("ahead", [2, -2, 60, -60, 3600, -3600, 86_400, -86_400])
def test_after_a_reply_it_is_theirs_and_stays_theirs_when_either_is_set(ahead: int) -> None:
    own = Own()
    clock = CoordinatorClock(own)
    own.time = TRUE + timedelta(seconds=ahead)
    clock.hear(reply(TRUE))
    assert clock.now() == TRUE
    own.time += timedelta(seconds=10)
    assert clock.now() == TRUE + timedelta(seconds=10)
    own.time = TRUE - timedelta(seconds=3 * ahead)
    clock.hear(reply(TRUE + timedelta(seconds=11)))
    assert clock.now() == TRUE + timedelta(seconds=11)


@pytest.mark.parametrize(
    "nonsense", [None, "", "yesterday", "Fri, 27 Nov 99999 17:00:00 GMT", "\x00", "9" * 5000]
)
def test_a_date_that_cannot_be_read_changes_nothing(nonsense: str | None) -> None:
    clock = CoordinatorClock(Own())
    clock.hear(reply(TRUE - timedelta(hours=1)))
    clock.hear(reply(nonsense))
    assert clock.now() == TRUE - timedelta(hours=1)


@pytest.mark.parametrize("year", [1, 1990, 2100, 9999])
def test_a_date_that_no_clock_shows_is_not_believed(year: int) -> None:
    clock = CoordinatorClock(Own())
    clock.hear(reply(TRUE.replace(year=year, month=12, day=31, hour=23, minute=59, second=59)))
    assert clock.now() == TRUE


def test_it_says_once_by_how_much_and_who_is_probably_off(
    kernel: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    own = Own()
    clock = CoordinatorClock(own)
    own.time = TRUE + timedelta(seconds=73)
    for _ in range(3):
        clock.hear(reply(TRUE))
    (said,) = caplog.messages
    assert "73 s ahead of the coordinator's" in said
    assert "ours follows a time server: notify the coordinator" in said
    caplog.clear()
    kernel[0] = 5
    own.time = TRUE - timedelta(seconds=90)
    clock.hear(reply(TRUE))
    assert "90 s behind the coordinator's, and ours follows no time server" in caplog.text
    assert "timedatectl" in caplog.text
    caplog.clear()
    own.time = TRUE + timedelta(seconds=1)
    clock.hear(reply(TRUE))
    assert caplog.messages == ["this machine's clock agrees with the coordinator's again"]


def test_a_second_of_difference_is_not_worth_telling(
    kernel: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    own = Own()
    clock = CoordinatorClock(own)
    own.time = TRUE + timedelta(seconds=4)
    clock.hear(reply(TRUE))
    assert caplog.messages == []

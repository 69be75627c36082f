"""The agent asks for decisions on models for as long as it runs, whatever goes wrong."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any, NoReturn

import pytest

from flo.clients.agent import agent
from flo.clients.agent.agent import Agent
from flo.clients.prediction import version_news
from flo.errors import NetworkError, RefusedError
from tests.builders import make_site, pretend_enrolled
from tests.flo.published_models import COORDINATOR

FAILURES: list[Exception] = [
    *(NetworkError("away"), RefusedError("no such call"), version_news.RefusedListError("a lie")),
    *(sqlite3.OperationalError("database is locked"), OSError(28, "no space"), KeyError("a bug")),
]


def test_no_failure_ends_it_and_the_next_answer_is_heard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = make_site(tmp_path / "north")
    pretend_enrolled(home, COORDINATOR)
    working, asked, waits = Agent(home, "cpu"), list[int](), list[float]()

    class Connected:
        def __enter__(self) -> Connected:
            return self

        def __exit__(self, *_: object) -> None:
            return None

    def ask(*_: Any) -> None:
        asked.append(1)
        if len(asked) <= len(FAILURES):
            raise FAILURES[len(asked) - 1]

    def wait(seconds: float) -> bool:
        waits.append(seconds)
        return len(asked) > len(FAILURES)

    def locked(*_: Any, **__: Any) -> NoReturn:
        raise sqlite3.OperationalError("database is locked")

    monkeypatch.setattr(agent, "connect", lambda _: Connected())
    monkeypatch.setattr(version_news, "ask", ask)
    monkeypatch.setattr(working._stopping, "wait", wait)
    monkeypatch.setattr(working, "_log_once", locked)  # also its audit log is locked
    working._follow_withdrawals()
    assert len(asked) == len(FAILURES) + 1
    assert waits[0] == 0.0, "it asks when it starts"
    assert max(waits) == 600.0, "a coordinator that does not know the call is asked seldom"

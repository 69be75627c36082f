"""The red button: from the moment it was pressed nothing is computed, charged or sent."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from flo.clients.home.emergency_stop import halt, halted, resume
from flo.errors import RefusedError
from tests.clients.approved_site import Site, approved_site
from tests.commands import flo


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    yield from approved_site(tmp_path)


def entered(site: Site) -> list[str]:
    with closing(site.home.open_audit_log()) as log:
        return [entry.kind for entry in log.entries() if entry.kind.startswith("all-")]


def test_a_stopped_site_answers_no_round_and_charges_nothing(site: Site) -> None:
    halt(site.home)
    site.refuses("not-ready")


def test_a_stopped_site_joins_no_run(site: Site) -> None:
    halt(site.home)
    assert site.ask(kind="join").header.code == "not-ready"


def test_what_was_answered_before_is_not_sent_again_either(site: Site) -> None:
    sent = site.ask()
    halt(site.home)
    site.refuses("not-ready")
    resume(site.home)
    assert site.ask().values.tolist() == sent.values.tolist()


def test_it_holds_after_a_restart(site: Site) -> None:
    halt(site.home)
    site.restart()
    site.refuses("not-ready")


def test_a_study_that_ended_is_settled_all_the_same(site: Site) -> None:
    halt(site.home)
    assert site.ask(kind="finish").header.kind == "settled"


def pressing(site: Site, then: Callable[..., Any]) -> Callable[..., Any]:
    """The same call, during which somebody presses the button."""

    def pressed(*arguments: Any, **named: Any) -> Any:
        found = then(*arguments, **named)
        halt(site.home)
        return found

    return pressed


def test_pressed_while_a_release_is_computed_it_is_neither_charged_nor_sent(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(site.releaser, "release", pressing(site, site.releaser.release))
    before = site.charged(), site.kinds(), site.replies()
    reply = site.ask()
    assert (reply.header.code, reply.values.size) == ("not-ready", 0)
    assert before == (site.charged(), site.kinds(), site.replies())


def test_pressed_after_the_charge_what_was_charged_stays_here(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(site.handler, "_release", pressing(site, site.handler._release))
    reply = site.ask()
    assert (reply.header.code, reply.values.size) == ("not-ready", 0)
    assert site.kinds()[-1] == "release"


def test_pressed_while_a_run_is_joined_no_key_leaves(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(site.releaser, "warm_up", pressing(site, site.releaser.warm_up))
    reply = site.ask(kind="join")
    assert (reply.header.code, reply.header.key) == ("not-ready", None)


def test_it_stops_at_once_though_frozen_patients_are_being_exchanged(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flo.clients.home.site_home._PATIENCE_SECONDS", 0.0)
    with site.home.snapshot_lock():
        _, said = halt(site.home)
        assert "may be in the ledger" in said
    site.refuses("not-ready")


def test_it_stops_though_nothing_can_be_entered(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(type(site.home), "record", full)
    _, said = halt(site.home)
    assert "could not be entered in the audit log" in said
    monkeypatch.undo()
    site.refuses("not-ready")


@pytest.mark.parametrize("content", [b"", b"\xff\x00", b"{}", b'{"schema_version":9}'])
def test_the_file_stops_everything_whatever_stands_in_it(site: Site, content: bytes) -> None:
    (site.home.directory / "halted.json").write_bytes(content)
    assert halted(site.home) is not None
    site.refuses("not-ready")


def test_pressing_it_twice_is_pressing_it_once(site: Site) -> None:
    assert halt(site.home)[0] == halt(site.home)[0]
    assert entered(site) == ["all-stopped"]


def test_going_on_is_entered_and_costs_nothing(site: Site) -> None:
    halt(site.home)
    resume(site.home)
    assert site.ask().header.kind == "release"
    assert entered(site) == ["all-stopped", "all-resumed"]


def test_there_is_nothing_to_let_go_on_where_nothing_is_stopped(site: Site) -> None:
    with pytest.raises(RefusedError, match="emergency stop is not on"):
        resume(site.home)
    assert entered(site) == []


def test_it_can_be_pressed_from_a_terminal(site: Site) -> None:
    stopped = flo("site", "stop", "--home", site.home.directory)
    assert "everything is stopped" in stopped.stdout
    site.refuses("not-ready")
    again = flo("site", "resume", "--home", site.home.directory)
    assert "resumed: the agent answers" in again.stdout
    assert site.ask().header.kind == "release"

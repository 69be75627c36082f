"""The file of a model's monitors: whole after any end, sealed, and without whom opted out."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flo.clients.home.site_home import SiteHome
from flo.clients.patients.opt_outs import hashed_id, opt_out
from flo.clients.records import watched_answers
from flo.clients.records.outcome_reports import report
from flo.clients.records.watched_answers import WatchedAnswers, day_of
from flo.clients.watching.alarm import Alarm, Key
from flo.clients.watching.counts import ANSWERED, ASKED, SCORED
from flo.clients.watching.kept import Arrived, KeptWatch, Watched
from flo.clients.watching.watch import AGAIN_DAYS
from flo.errors import TrustError, UsageError
from tests.builders import make_site
from tests.flo.published_models import made

DAY, NOW = 86_400.0, 1_800_000_000.0
WATCHED = Watched.of(made("logistic").open())


@pytest.fixture
def site(tmp_path: Path) -> SiteHome:
    return make_site(tmp_path / "north")


@pytest.fixture
def kept(site: SiteHome) -> Iterator[KeptWatch]:
    with closing(KeptWatch(site, WATCHED)) as opened:
        yield opened


def arrived(number: int, patient: str | None = None, **more: Any) -> Arrived:
    """An answer about a patient of its own, if no other is named."""
    patient = f"{number:064x}" if patient is None else patient
    cells = np.array([20, 1], dtype=np.uint16)
    usual = Arrived(f"{number:036}", "ehr", 0.01, patient, "", cells, (), 0.25)
    return usual._replace(**more)


def counted(watch: KeptWatch) -> list[int]:
    found: list[int] = watch.watch.hospital.since(0)[[ANSWERED, ASKED, SCORED]].tolist()
    return found


def test_a_batch_is_there_after_the_process_was_killed(site: SiteHome, kept: KeptWatch) -> None:
    kept.take([arrived(1), arrived(2, ward="ward 3")], 30, NOW)
    kept.take([arrived(3)], 30, NOW + 5)
    with closing(KeptWatch(site, WATCHED)) as again:  # while the first is open, as after a kill
        assert counted(again) == [3, 3, 3]
        assert list(again.watch.wards) == ["ward 3"]
        again.take([arrived(4)], 30, NOW + DAY)
        assert counted(again) == [4, 4, 4]


def test_a_batch_that_cannot_be_written_is_not_counted(
    site: SiteHome, kept: KeptWatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept.take([arrived(1)], 30, NOW)

    def full(self: WatchedAnswers, *given: Any) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(WatchedAnswers, "write_day", full)
    with pytest.raises(sqlite3.OperationalError):
        kept.take([arrived(2)], 30, NOW)
    monkeypatch.undo()
    kept.take([arrived(3)], 30, NOW)
    assert counted(kept) == [2, 2, 2]
    with closing(KeptWatch(site, WATCHED)) as again:
        assert counted(again) == [2, 2, 2]


def test_a_patient_counts_once_in_four_weeks(kept: KeptWatch) -> None:
    for number in range(3):
        kept.take([arrived(number, "a" * 64)], 30, NOW + number * DAY)
    assert counted(kept) == [3, 1, 1]
    kept.take([arrived(4, "a" * 64)], 30, NOW + AGAIN_DAYS * DAY)
    assert counted(kept) == [4, 2, 2]
    kept.take([arrived(5, ""), arrived(6, "")], 30, NOW + AGAIN_DAYS * DAY)
    assert counted(kept) == [6, 2, 2], "of a request that names nobody, nobody knows who it was"


def test_a_record_that_did_not_fit_does_not_hide_the_patients_values(kept: KeptWatch) -> None:
    wrong = {"cells": None, "broken": ((0, None),), "risk": None}
    kept.take([arrived(1, "a" * 64, **wrong)], 30, NOW)
    kept.take([arrived(2, "a" * 64)], 30, NOW)
    kept.take([arrived(3, "a" * 64, **wrong)], 30, NOW)
    assert counted(kept) == [3, 1, 1], "refused or not by the first record"
    refused = kept.watch.layout.column("age").refused
    assert kept.watch.hospital.since(0)[refused] == 1


def test_outcomes_that_are_reported_are_counted_when_they_are_due(
    site: SiteHome, kept: KeptWatch
) -> None:
    kept.take([arrived(number) for number in range(10)], 3, NOW)
    outcomes = {f"{number:036}": number == 0 for number in range(10)}
    told = report(site, (), outcomes | {"9" * 36: True}, NOW + DAY)
    assert (told.new, told.elsewhere) == (10, ("9" * 36,))
    kept.take([], 3, NOW + 2 * DAY)
    assert kept.watch.outcomes.since(0, "all patients").known == 0
    kept.take([], 3, NOW + 4 * DAY)
    found = kept.watch.outcomes.since(0, "all patients")
    assert (found.known, found.had, found.stated) == (10, 1, 2.5)


def test_rows_are_deleted_once_they_were_counted(site: SiteHome, kept: KeptWatch) -> None:
    kept.take([arrived(1, "a" * 64)], 3, NOW)
    report(site, (), {arrived(1).id: True}, NOW)
    kept.take([], 3, NOW + 4 * DAY)
    kept.take([], 3, NOW + 30 * DAY)
    with closing(WatchedAnswers(site, WATCHED.id)) as rows:
        assert rows.of_day(day_of(NOW)) == []
    path = watched_answers.path_of(site, WATCHED.id)
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT count(*) FROM outcomes").fetchone() == (0,)


def test_a_record_system_reports_on_its_own_answers_only(site: SiteHome, kept: KeptWatch) -> None:
    kept.take([arrived(1)], 3, NOW)
    assert report(site, (), {arrived(1).id: True}, NOW, "another").elsewhere == (arrived(1).id,)
    assert report(site, (), {arrived(1).id: True}, NOW, "ehr").new == 1
    assert report(site, (), {arrived(1).id: False}, NOW, "ehr").contradicting == (arrived(1).id,)


def test_an_opt_out_deletes_the_patients_rows_and_counts_them_no_more(
    site: SiteHome, kept: KeptWatch
) -> None:
    who = hashed_id(site, "p1")
    kept.take([arrived(1, who), arrived(2, hashed_id(site, "p2"))], 30, NOW)
    opt_out(site, "p1")
    with closing(WatchedAnswers(site, WATCHED.id)) as rows:
        assert [one.id for one in rows.of_day(day_of(NOW))] == [arrived(2).id]
    kept.take([arrived(3, who)], 30, NOW + 100 * DAY, frozenset({who}))
    assert counted(kept) == [2, 2, 2], "counts that were made before stay"
    data = watched_answers.path_of(site, WATCHED.id).read_bytes()
    assert who.encode() not in data


def test_nothing_that_was_counted_is_readable_in_the_file(site: SiteHome, kept: KeptWatch) -> None:
    kept.take([arrived(1, "a" * 64, ward="psychiatry")], 30, NOW)
    report(site, (), {arrived(1).id: True}, NOW)
    path = watched_answers.path_of(site, WATCHED.id)
    files = [path, path.with_name(f"{path.name}-wal")]
    data = b"".join(one.read_bytes() for one in files if one.exists())
    for secret in (b"0.25", b"true", b"ehr", arrived(1).id.encode(), b"psychiatry", b"hospital"):
        assert secret not in data
    assert path.stat().st_mode & 0o077 == 0


def test_a_file_that_was_changed_is_refused(site: SiteHome, kept: KeptWatch) -> None:
    kept.take([arrived(1)], 30, NOW)
    with closing(sqlite3.connect(watched_answers.path_of(site, WATCHED.id))) as db:
        db.execute("UPDATE state SET sealed = (SELECT sealed FROM days), revision = revision + 1")
        db.commit()
    with pytest.raises(TrustError, match="was changed, or is of another site"):
        kept.take([arrived(2)], 30, NOW)


def test_two_versions_have_two_files_and_a_finished_model_its_own() -> None:
    other = made("gated", run="run-2").open()
    several = {
        WATCHED.id,
        Watched.of(other).id,
        Watched.of(other, "2026-11-30").id,
        Watched.of(other, "2026-12-01").id,
    }
    assert len(several) == 4, "a model that is finished again begins anew"


def test_monitors_that_are_erased_while_a_server_runs_begin_anew(
    site: SiteHome, kept: KeptWatch
) -> None:
    kept.take([arrived(1)], 30, NOW)
    watched_answers.erase(site, WATCHED.id)
    with pytest.raises(UsageError, match="was erased"):
        kept.take([arrived(2)], 30, NOW)
    with closing(KeptWatch(site, WATCHED)) as again:
        again.take([arrived(3)], 30, NOW)
        assert counted(again) == [1, 1, 1]


@pytest.mark.parametrize("days", [-1, 500])
def test_a_wrong_clock_counts_nothing(kept: KeptWatch, days: int) -> None:
    kept.take([arrived(1)], 30, NOW)
    with pytest.raises(UsageError, match="and was") as refused:
        kept.take([arrived(2)], 30, NOW + days * DAY)
    assert "correct the clock" in refused.value.hint
    kept.take([arrived(3)], 30, NOW)
    assert counted(kept) == [2, 2, 2]


def test_an_alarm_is_pending_until_something_was_done_about_it(kept: KeptWatch) -> None:
    kept.take([arrived(1)], 30, NOW)
    alarm = Alarm(1, Key("column", "age"), day_of(NOW), day_of(NOW), time=NOW)
    kept.watch.alarms.append(alarm)
    assert [one.number for one in kept.take([], 30, NOW)] == [1]
    assert [one.number for one in kept.take([], 30, NOW)] == [1]
    kept.answered([1])
    assert kept.take([], 30, NOW) == []
    kept.settle_before(NOW)
    assert len(kept.watch.alarms) == 1
    kept.settle_before(NOW + 1)
    assert kept.watch.alarms == []


def test_an_alarm_whose_end_cannot_be_entered_stays(
    kept: KeptWatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept.take([arrived(1)], 30, NOW)
    kept.watch.alarms.append(Alarm(1, Key("column", "age"), 1, 1))
    kept.answered([1])

    def full(*given: Any, **more: Any) -> None:
        raise UsageError("the audit log cannot be used: the disk is full")

    monkeypatch.setattr(SiteHome, "record", full)
    with pytest.raises(UsageError):
        kept.settle(1, "mended", as_usual=False)
    monkeypatch.undo()
    assert kept.settle(1, "mended", as_usual=False).number == 1

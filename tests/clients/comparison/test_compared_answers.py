"""The rows of a comparison: sealed, of this site only, and gone after an opt-out."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from flo.clients.home.site_home import SiteHome
from flo.clients.patients.opt_outs import hashed_id, opt_out
from flo.clients.records import compared_answers
from flo.clients.records.answer_rows import Reported
from flo.clients.records.compared_answers import ComparedAnswer, ComparedAnswers
from flo.clients.records.outcome_reports import report
from flo.errors import TrustError
from tests.builders import make_site

ID = "0" * 32


@pytest.fixture
def site(tmp_path: Path) -> SiteHome:
    return make_site(tmp_path / "north")


@pytest.fixture
def rows(site: SiteHome) -> Iterator[ComparedAnswers]:
    with closing(ComparedAnswers(site, ID)) as opened:
        yield opened


def answer(number: int, patient: str = "f" * 64) -> ComparedAnswer:
    risks = {1: 0.25, 9: None if number == 3 else 0.5}
    return ComparedAnswer(f"{number:036}", patient, "ehr", 1000.0 + number, 9, risks)


def test_rows_come_back_with_their_outcomes_the_earliest_first(rows: ComparedAnswers) -> None:
    rows.add([answer(3), answer(1), answer(2)])
    told = Reported.of(rows.report({answer(2).id: True, "9" * 36: False}, 5000.0))
    assert (told.new, told.known, told.contradicting, told.elsewhere) == (1, 0, (), ("9" * 36,))
    known = replace(answer(2), outcome=True, reported=5000.0)
    assert list(rows.rows()) == [answer(1), known, answer(3)]


def test_what_was_reported_first_stays(rows: ComparedAnswers) -> None:
    rows.add([answer(1)])
    rows.report({answer(1).id: True}, 1.0)
    assert rows.report({answer(1).id: True}, 2.0) == {answer(1).id: "known"}
    assert rows.report({answer(1).id: False}, 3.0) == {answer(1).id: "contradicting"}
    assert [one.outcome for one in rows.rows()] == [True]


def test_no_risk_and_no_outcome_is_readable_in_the_file(
    site: SiteHome, rows: ComparedAnswers
) -> None:
    rows.add([answer(1)])
    rows.report({answer(1).id: True}, 1.0)
    path = compared_answers.path_of(site, ID)
    files = [path, path.with_name(f"{path.name}-wal")]
    data = b"".join(one.read_bytes() for one in files if one.exists())
    assert answer(1).patient.encode() in data
    for secret in (b"0.25", b"0.5", b"true", b"1001.0", b"ehr", answer(1).id.encode()):
        assert secret not in data
    assert path.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("column", ["sealed", "patient", "name", "short"])
def test_a_row_that_was_changed_is_refused(
    site: SiteHome, rows: ComparedAnswers, column: str
) -> None:
    rows.add([answer(1), answer(2, "e" * 64)])
    change = {
        "sealed": "UPDATE answers SET sealed = (SELECT max(sealed) FROM answers)",
        "patient": "UPDATE answers SET patient = 'someone'",
        "name": "UPDATE answers SET name = name || 'x'",
        "short": "UPDATE answers SET sealed = x'010203'",
    }
    with closing(sqlite3.connect(compared_answers.path_of(site, ID))) as db:
        db.execute(change[column])
        db.commit()
    with pytest.raises(TrustError, match="was changed, or is of another site"):
        list(rows.rows())


def test_an_opt_out_deletes_the_patients_rows_and_outcomes(
    site: SiteHome, rows: ComparedAnswers
) -> None:
    rows.add([answer(1, hashed_id(site, "p1")), answer(2, hashed_id(site, "p2"))])
    rows.report({answer(1).id: True, answer(2).id: False}, 1.0)
    opt_out(site, "p1")
    assert [one.id for one in rows.rows()] == [answer(2).id]
    assert rows.report({answer(1).id: True}, 2.0) == {answer(1).id: "elsewhere"}
    rows.add([answer(3, hashed_id(site, "p1"))])
    kept = rows.rows(without=[hashed_id(site, "p1")])
    assert [one.id for one in kept] == [answer(2).id], "later answers of the patient go, too"


def test_outcomes_find_the_comparison_that_has_the_answer(site: SiteHome) -> None:
    for number in (1, 2):
        with closing(ComparedAnswers(site, f"{number:032}")) as one:
            one.add([answer(number)])
    several = [f"{number:032}" for number in (1, 2, 3)]
    outcomes = {answer(number).id: True for number in (1, 2, 3)}
    found = report(site, several, outcomes, 1.0)
    assert (found.new, found.elsewhere) == (2, (answer(3).id,))
    assert report(site, several, {answer(2).id: False}, 1.0).contradicting == (answer(2).id,)
    assert len(compared_answers.comparisons(site)) == 2, "none is made by a report"


def test_a_comparison_keeps_so_many_answers_and_no_more(
    rows: ComparedAnswers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compared_answers, "MOST_ANSWERS", 3)
    rows.add([answer(1), answer(2)])
    rows.add([answer(4), answer(5)])
    rows.add([answer(6)])
    assert len(list(rows.rows())) == 3


def test_a_caller_reports_on_answers_of_its_own_only(rows: ComparedAnswers) -> None:
    """And learns nothing about others: neither that an answer is there, nor its outcome."""
    rows.add([answer(1)])
    rows.report({answer(1).id: True}, 1.0, "ehr")
    for outcome in (True, False):
        found = Reported.of(rows.report({answer(1).id: outcome}, 2.0, "another"))
        assert (found.new, found.known, found.contradicting) == (0, 0, ())
        assert found.elsewhere == (answer(1).id,)


def test_what_was_called_worse_stays_so(site: SiteHome, rows: ComparedAnswers) -> None:
    rows.call_worse(["a" * 64])
    rows.call_worse(["a" * 64, "b" * 64])
    with closing(ComparedAnswers(site, ID)) as again:
        assert again.worse() == {"a" * 64, "b" * 64}


def test_an_opt_out_leaves_no_trace_beside_the_file(site: SiteHome, rows: ComparedAnswers) -> None:
    hashed = hashed_id(site, "p1")
    rows.add([answer(1, hashed)])
    opt_out(site, "p1")
    for file in (site.directory / "answers").glob("compared-*"):
        assert hashed.encode() not in file.read_bytes(), file.name


def test_a_damaged_comparison_does_not_keep_a_patient_in_studies(site: SiteHome) -> None:
    """It is deleted: nobody can say whose rows it has."""
    ComparedAnswers(site, ID).close()
    path = compared_answers.path_of(site, ID)
    path.write_bytes(b"damaged" * 4096)
    opt_out(site, "p1")
    assert not path.exists()
    with closing(site.open_audit_log()) as log:
        assert log.last("opt-out") is not None

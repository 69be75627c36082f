"""A ledger's table of patients and its rows: what was edited or breaks a rule is refused."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from flo.errors import DataError, TrustError
from flo.keys.identity import Identity
from flo.privacy.accounting.life_budget import SUB_LEDGERS
from flo.privacy.accounting.plan import Plan
from flo.privacy.ledger.admission import Approved
from flo.privacy.ledger.balance import Balance
from flo.privacy.ledger.generations import LaterPatients
from flo.privacy.ledger.ledger import Ledger
from flo.study.document import Study
from tests.partners import signed
from tests.privacy.ledger.life_histories import KEY
from tests.privacy.ledger.test_generations import (
    FIRST_YEAR,
    SECOND_YEAR,
    restored,
    study_of,
    who,
)
from tests.privacy.ledgers import new_ledger, register
from tests.privacy.ledgers import study_of as older_study


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with new_ledger(tmp_path / "ledger.sqlite", KEY) as made:
        yield made


EDITS = {
    "a patient was removed": ["DELETE FROM generations WHERE hash = 'p1'"],
    "a patient was added": ["INSERT INTO generations VALUES (2, 'p99', 'main', 2)"],
    "a patient was moved": ["UPDATE generations SET generation = 0 WHERE hash = 'p1'"],
    "a patient was exchanged": ["UPDATE generations SET hash = 'p99' WHERE hash = 'p1'"],
    "a patient is of another population": ["UPDATE generations SET population = 'other'"],
    "a patient is of a row that gave nobody a generation": [
        "INSERT INTO generations VALUES (1, 'p99', 'main', 2)"
    ],
    "a patient is of a row to come": ["INSERT INTO generations VALUES (99, 'p99', 'main', 2)"],
    "two patients became one": [
        "DELETE FROM generations WHERE hash IN ('p1', 'p5')",
        "INSERT INTO generations VALUES (2, 'p1 2' || char(10) || 'p5', 'main', 2)",
    ],
    "a patient became a part of the salt": [
        "UPDATE salts SET salt = salt || hex('p1 2' || char(10)) WHERE row = 2",
        "DELETE FROM generations WHERE hash = 'p1'",
        "DELETE FROM patients WHERE hash = 'p1'",
    ],
    "a salt was removed": ["DELETE FROM salts WHERE row = 3"],
    "a salt is no salt": ["UPDATE salts SET salt = 'x' WHERE row = 2"],
    "the last row's patients were removed": ["DELETE FROM salts WHERE row = 4"],
    "all were removed": ["DELETE FROM generations", "DELETE FROM patients"],
    "whom an older study froze was removed": [
        "DELETE FROM generations WHERE row = 4",
        "DELETE FROM patients",
    ],
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_a_ledger_whose_table_was_edited_does_not_open(tmp_path: Path, edit: list[str]) -> None:
    path = tmp_path / "ledger.sqlite"
    with new_ledger(path, KEY) as ledger:
        ledger.reserve(study_of(0.3, "first"), "main", FIRST_YEAR)
        ledger.reserve(study_of(0.3, "nobody-new"), "main", FIRST_YEAR)
        ledger.reserve(older_study(0.1, "older"), "main", {"p21"})
    Ledger(path, KEY).close()
    with closing(sqlite3.connect(path)) as database, database:
        for statement in edit:
            database.execute(statement)
    with pytest.raises(TrustError, match="the table of patients' generations was edited"):
        Ledger(path, KEY)


def test_an_index_that_lacks_a_patient_gives_them_no_new_life(tmp_path: Path) -> None:
    """The digests cover the table; what is looked up must be read from it, not from an index."""
    path = tmp_path / "ledger.sqlite"
    with new_ledger(path, KEY) as ledger:
        ledger.reserve(study_of(0.9, "first"), "main", FIRST_YEAR)

    def edited(*statements: tuple[str, tuple[Any, ...]]) -> None:
        with closing(sqlite3.connect(path)) as database, database:
            database.execute("PRAGMA writable_schema = ON")
            for statement, values in statements:
                database.execute(statement, values)

    with closing(sqlite3.connect(path)) as database:
        patient = database.execute("SELECT * FROM generations WHERE hash = 'p5'").fetchone()
        *_, index = database.execute(
            "SELECT * FROM sqlite_schema WHERE tbl_name = 'generations' ORDER BY rootpage"
        )
        named = "SELECT sql FROM sqlite_schema WHERE name = 'generations'"
        (table,) = database.execute(named).fetchone()
    renamed = "UPDATE sqlite_schema SET sql = ? WHERE name = 'generations'"
    edited(
        ("DELETE FROM generations WHERE hash = 'p5'", ()),
        ("DELETE FROM patients WHERE hash = 'p5'", ()),
        ("DELETE FROM sqlite_schema WHERE rootpage = ?", (index[3],)),
        (renamed, (table.replace(", UNIQUE (population, hash)", ""),)),
        ("PRAGMA schema_version = 1000", ()),
    )
    edited(
        ("INSERT INTO generations VALUES (?, ?, ?, ?)", patient),
        (renamed, (table,)),
        ("INSERT INTO sqlite_schema VALUES (?, ?, ?, ?, ?)", index),
        ("PRAGMA schema_version = 1001", ()),
    )
    with closing(sqlite3.connect(path)) as database:
        found = "SELECT hash FROM generations WHERE population = 'main' AND hash = 'p5'"
        assert database.execute(found).fetchall() == [], "the index lacks the patient"
    with closing(Ledger(path, KEY)) as ledger:
        assert ledger.known_patients("main") == FIRST_YEAR
        two = ledger.reserve(study_of(0.9, "second"), "main", FIRST_YEAR)
        assert who(ledger, two, FIRST_YEAR) == set()


def test_an_older_study_that_was_cut_off_takes_nobody_who_came_since(ledger: Ledger) -> None:
    older = older_study(0.5, "older")
    one = ledger.reserve(older, "main", FIRST_YEAR)
    assert ledger.reserve(older, "main", FIRST_YEAR | SECOND_YEAR) == one
    assert who(ledger, one, FIRST_YEAR | SECOND_YEAR) == FIRST_YEAR
    assert ledger.known_patients("main") == FIRST_YEAR


def test_removed_hashes_beside_the_table_give_nobody_a_new_life(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    with new_ledger(path, KEY) as ledger:
        ledger.reserve(study_of(0.9, "first"), "main", FIRST_YEAR)
        register(ledger, "clinic")
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("DELETE FROM patients")
    with closing(Ledger(path, KEY)) as ledger:
        two = ledger.reserve(study_of(0.9, "second"), "main", FIRST_YEAR)
        assert who(ledger, two, FIRST_YEAR) == set()
        with pytest.raises(DataError, match="also in another population"):
            ledger.reserve(study_of(0.9, "third"), "clinic", FIRST_YEAR)


def test_an_older_version_refuses_a_ledger_with_generations(tmp_path: Path) -> None:
    """It would take an approval that was cut off up again with patients who came since."""
    path = tmp_path / "ledger.sqlite"

    def schema() -> str:
        with closing(sqlite3.connect(path)) as database:
            (found,) = database.execute("SELECT value FROM meta WHERE name = 'schema'").fetchone()
        return str(found)

    with new_ledger(path, KEY) as ledger:
        ledger.reserve(older_study(0.1, "older"), "main", FIRST_YEAR)
        ledger.check_reservation(study_of(0.1, "newer"), "main", FIRST_YEAR)
        assert schema() == "1"
        ledger.reserve(study_of(0.1, "newer"), "main", FIRST_YEAR)
        assert schema() == "2"
    Ledger(path, KEY).close()


def change(**fields: Any) -> Callable[[dict[str, Any]], None]:
    return lambda public: public.update(fields)


BROKEN: dict[str, Callable[[dict[str, Any]], None]] = {
    "a generation that is not there": change(generations={"training": [7], "evaluation": []}),
    "one twice": change(generations={"training": [2, 2], "evaluation": []}),
    "one without room": change(generations={"training": [2], "evaluation": []}),
    "no number": change(generations={"training": ["2"], "evaluation": []}),
    "yes as a number": change(generations={"training": [True], "evaluation": []}),
    "no list": change(generations={"training": {"2": 1}, "evaluation": []}),
    "one side only": change(generations={"training": []}),
    "no digest": change(born=41),
    "a short digest": change(born="00"),
    "lost, in a ledger that lost nothing": change(lost=True),
    "not the whole life": lambda public: public["parts"]["training"].update(releases=10_000),
}


@pytest.mark.parametrize("breaks", BROKEN.values(), ids=BROKEN)
def test_a_row_that_breaks_a_rule_is_refused(
    ledger: Ledger, breaks: Callable[[dict[str, Any]], None]
) -> None:
    """By the ledger itself and by an auditor, who sums the same rows."""
    ledger.reserve(study_of(0.9, "first"), "main", FIRST_YEAR)
    ledger.reserve(study_of(0.9, "second"), "main", FIRST_YEAR)
    *before, last = ledger.rows()
    balance = Balance()
    for row in before:
        balance.add(row)
    public = json.loads(json.dumps(last.public))
    breaks(public)
    with pytest.raises(TrustError, match="breaks a rule"):
        balance.add(last.chained(before[-1].hash, last.sequence, public, {}, "00"))


def add(ledger: Ledger, public: dict[str, Any]) -> None:
    """Add a row with this public part to the ledger's sum."""
    *_, last = ledger.rows()
    public = {"time": "", "population": "main", **public}
    ledger.balance().add(last.chained(last.hash, last.sequence + 1, public, {}, "00"))


def parts_of(study: Study) -> dict[str, Any]:
    return {
        name: {"mechanism": part.mechanism.as_document(), "releases": part.releases}
        for name, part in Plan.of(study).purposes.items()
    }


def test_an_approval_counts_as_lost_in_a_recovery_only(ledger: Ledger) -> None:
    """Elsewhere studies beyond the budget could pass for lost ones, which are limited to it."""
    restored(ledger)
    ledger.reserve(study_of(0.3, "first"), "main", FIRST_YEAR)
    row = {"kind": "reserve", "parts": parts_of(study_of(0.9, "lost")), "lost": True}
    with pytest.raises(TrustError, match="only a recovery counts lost approvals"):
        add(ledger, row)


def test_lost_rows_are_not_explained_by_an_approval_that_nobody_pays_for(ledger: Ledger) -> None:
    ledger.reserve(study_of(0.3, "first"), "main", FIRST_YEAR)
    far = signed(KEY, ledger.head().sequence + 400).model_dump(mode="json")
    with ledger._transaction():
        ledger._append({"kind": "restored", "head": far, "exhausted": []}, {})
        nobody: dict[str, list[int]] = {name: [] for name in SUB_LEDGERS}
        row = {"kind": "reserve", "parts": parts_of(study_of(0.9, "cover"))}
        row |= {"generations": nobody, "born": "0" * 64}
        with pytest.raises(TrustError, match="no generation may be opened"):
            add(ledger, row)
        ledger._append({"kind": "restored", "head": None, "exhausted": ["main"]}, {})


def test_a_second_recovery_after_one_that_took_everything_works(ledger: Ledger) -> None:
    study = study_of(0.3, "first")
    ledger.reserve(study, "main", FIRST_YEAR)
    approved = [Approved(study, "main", worst_case=False)]
    hidden = signed(KEY, ledger.head().sequence + 400)
    assert ledger.restore(approved, hidden).exhausted == ("main",)
    one_more = signed(KEY, ledger.head().sequence + 1)
    assert ledger.restore(approved, one_more).lost == 1
    later = LaterPatients(str(ledger.recovery()), frozenset(SECOND_YEAR))
    two = ledger.reserve(study_of(0.9, "second"), "main", FIRST_YEAR | SECOND_YEAR, later=later)
    assert who(ledger, two, FIRST_YEAR | SECOND_YEAR) == SECOND_YEAR
    ledger.settle(two, "ended")


def test_a_lost_approval_names_no_generations(ledger: Ledger) -> None:
    """It could leave one out."""
    ledger.reserve(study_of(0.3, "first"), "main", FIRST_YEAR)
    restored(ledger)
    *_, last = ledger.rows()
    balance, plan = ledger.balance(), Plan.of(study_of(0.9, "lost"))
    parts = {
        name: {"mechanism": part.mechanism.as_document(), "releases": part.releases}
        for name, part in plan.purposes.items()
    }
    public = {"kind": "reserve", "population": "main", "parts": parts, "time": "", "lost": True}
    public |= {"generations": {name: [] for name in SUB_LEDGERS}, "born": "0" * 64}
    row = last.chained(last.hash, last.sequence + 1, public, {}, "00")
    with pytest.raises(TrustError, match="charged to all generations"):
        balance.add(row)


def test_two_populations_have_generations_of_their_own(tmp_path: Path) -> None:
    with new_ledger(tmp_path / "ledger.sqlite", Identity.new()) as ledger:
        register(ledger, "clinic")
        one = ledger.reserve(study_of(0.9, "first"), "main", {"p1"})
        two = ledger.reserve(study_of(0.9, "second"), "clinic", {"p2"})
        assert ledger.balance().generations("main") == (one,)
        assert ledger.balance().generations("clinic") == (two,)

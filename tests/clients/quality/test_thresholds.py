"""Both sides of each threshold of swapped columns and wrong units."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from flo.clients.quality.plausibility import plausibility_findings
from flo.clients.quality.table import Table
from flo.clients.quality.units import wrong_unit
from flo.study.columns import NumberColumn
from flo.study.schema import Schema


def kinds(bounds: dict[str, tuple[float, float, str]], **cells: list[float]) -> set[str]:
    columns = [
        {"kind": "number", "name": name, "unit": unit, "minimum": low, "maximum": high}
        for name, (low, high, unit) in bounds.items()
    ]
    schema = Schema.model_validate({"record": "r", "label": "ill", "columns": columns})
    size = len(next(iter(cells.values())))
    frame = pd.DataFrame({name: np.array(values, dtype=float) for name, values in cells.items()})
    frame["ill"] = pd.Categorical([str(n % 2) for n in range(size)])
    found = plausibility_findings(Table([f"p{n}x" for n in range(size)], frame), schema, "id")
    return {finding.kind for finding in found}


SWAPPED = [  # of 100 records: outside a's bounds and inside b's; inside both; b's outside a's
    (21, 0, True),
    (20, 0, False),
    (21, 5, True),
    (21, 6, False),
]


@pytest.mark.parametrize(("outside", "astray", "told"), SWAPPED)
@pytest.mark.parametrize("between", [0, 5])
def test_swapped_numbers(outside: int, astray: int, told: bool, between: int) -> None:
    """One in five is outside its own bounds, and 95 % fit the other's, however far they stand."""
    others = {f"c{n}": (0.0, 1.0, "m") for n in range(between)}
    bounds = {"a": (0.0, 100.0, "m"), **others, "b": (50.0, 200.0, "m")}
    cells = {name: [0.5] * 100 for name in others}
    cells["a"] = [150.0] * outside + [80.0] * (100 - outside)
    cells["b"] = [70.0] * (100 - astray) + [150.0] * astray
    assert ("swapped columns" in kinds(bounds, **cells)) is told


CHOL = {"chol": (80.0, 600.0, "mg/dL")}


def chol(mmol: int, odd: int, right: int) -> list[float]:
    """So many in mmol/L, so many of no unit that is known, and the others right."""
    few = [4.5 + n % 9 / 10 for n in range(mmol)]
    return [*few, *[9e9] * odd, *[180.0 + n % 50 for n in range(right)]]


OUTSIDE = [  # 2 % and more lie outside, 95 % of these come in, 20 values, 5 of them different
    (chol(2, 0, 98), True),
    (chol(1, 0, 98), False),
    (chol(19, 1, 80), True),
    (chol(18, 1, 81), False),
    (chol(20, 0, 0), True),
    (chol(19, 0, 0), False),
    ([5.0, 5.1, 5.2, 5.3, 5.4] * 4, True),
    ([5.0, 5.1, 5.2, 5.3] * 5, False),
]


@pytest.mark.parametrize(("cells", "told"), OUTSIDE)
def test_another_unit_outside_the_bounds(cells: list[float], told: bool) -> None:
    assert ("unit" in kinds(CHOL, chol=cells)) is told


@pytest.mark.parametrize(
    ("most", "high", "told"), [(24, 0, True), (26, 0, False), (24, 4, True), (24, 6, False)]
)
def test_another_unit_within_the_bounds(most: float, high: int, told: bool) -> None:
    """95 of 100 glucoses lie in the lowest 5 % of 500 mg/dL, as they do in mmol/L."""
    cells = [*np.linspace(4, 20, 80), *[most] * (20 - high), *[300.0] * high]
    assert ("unit" in kinds({"glucose": (0.0, 500.0, "mg/dL")}, glucose=cells)) is told


ANALYTES = {
    "creatinine": (0.2, 20.0, "mg/dL", 88.42, "µmol/L, while the study uses mg/dL of creatinine"),
    "Bili_total": (0.1, 30.0, "mg/dL", 17.1, "µmol/L, while the study uses mg/dL of bilirubin"),
    "ldl": (40.0, 600.0, "mg/dL", 1 / 38.67, "mmol/L, while the study uses mg/dL of cholesterol"),
    "BUN": (5.0, 300.0, "mg/dL", 1 / 2.801, "mmol/L, while the study uses mg/dL of urea nitrogen"),
}


@pytest.mark.parametrize("name", ANALYTES)
def test_a_unit_is_named_for_the_analyte_of_the_column_and_for_no_other(name: str) -> None:
    low, high, unit, factor, words = ANALYTES[name]
    values = np.geomspace(low * 1.1, high * 0.9, 100) * factor
    for called, told in ((name, True), ("protein", False), ("marker 3", False)):
        column = NumberColumn(kind="number", name=called, unit=unit, minimum=low, maximum=high)
        found = wrong_unit(column, values)
        assert bool(found) is told
        assert all(words in one.rule for one in found)


def test_a_pressure_in_another_unit_is_told_whatever_the_column_is_called() -> None:
    column = NumberColumn(kind="number", name="x", unit="mm Hg", minimum=60, maximum=260)
    (one,) = wrong_unit(column, np.linspace(10, 25, 100))
    assert "kPa, while the study uses mm Hg" in one.rule

"""A column that tells the label: at which area, among how few, and in whatever order of rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from flo.clients.quality.plausibility import plausibility_findings
from flo.clients.quality.table import Table
from flo.study.schema import Schema

NUMBER = {"kind": "number", "name": "v", "unit": "1", "minimum": 0, "maximum": 10_000}
CODE = {"kind": "category", "name": "v", "codes": ["a", "b", "c", "d"]}


def leaks(column: dict[str, Any], cells: Any, ill: Any, ids: list[str] | None = None) -> bool:
    schema = Schema.model_validate(
        {"record": "r", "label": "ill", "records_per_patient": "many", "columns": [column]}
    )
    label = pd.Categorical([str(int(one)) for one in ill])
    values = pd.Categorical(cells) if column is CODE else np.asarray(cells, dtype=float)
    names = ids or [f"p{n}x" for n in range(len(label))]
    found = plausibility_findings(
        Table(names, pd.DataFrame({"v": values, "ill": label})), schema, "id"
    )
    return "label leak" in {finding.kind for finding in found}


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize(("area", "leak"), [(0.955, True), (0.945, False)])
def test_from_an_area_of_95_percent_on(area: float, leak: bool, turned: bool) -> None:
    """Each of 100 ill ranks above the same share of 1000 others, the areas are exact."""
    cells = [*range(1000), *[1000 * area - 0.5] * 100]
    ill = [0] * 1000 + [1] * 100
    assert leaks(NUMBER, [-cell for cell in cells] if turned else cells, ill) is leak


FEW = [(10, 400, True), (9, 400, False), (11, 11, True), (10, 10, False), (19, 381, True)]


@pytest.mark.parametrize(("ill", "well", "told"), FEW)
@pytest.mark.parametrize("column", [NUMBER, CODE])
def test_among_so_few_that_chance_could_do_it_nothing_is_said(
    column: dict[str, Any], ill: int, well: int, told: bool
) -> None:
    label = [1] * ill + [0] * well
    numbers = [4000 + n if one else n for n, one in enumerate(label)]
    cells = numbers if column is NUMBER else ["ab"[one] for one in label]
    assert leaks(column, cells, label) is told


def test_few_patients_with_many_records_are_few() -> None:
    label = [1] * 60 + [0] * 60
    ids = [f"p{one}{n % 3}" for n, one in enumerate(label)]
    assert not leaks(NUMBER, label, label, ids)


def test_a_column_that_is_known_of_few_tells_nothing() -> None:
    label = np.arange(400) % 2
    known = np.where(np.arange(400) < 12, label, np.nan)
    assert not leaks(NUMBER, known, label)


@pytest.mark.parametrize("period", [2, 4, 6])
def test_a_code_that_is_the_label_is_seen_in_whatever_order_the_rows_stand(period: int) -> None:
    """Case and control in turns, and of either the first and the second kind in turns."""
    rows = np.arange(240)
    label, kind = rows % 2, rows // 2 % (period // 2)
    codes = np.where(kind == 0, np.where(label, "a", "b"), np.where(label, "c", "d"))
    assert leaks(CODE, codes, label)


def test_codes_that_occur_once_tell_nothing() -> None:
    assert not leaks(CODE, [f"c{n}" for n in range(200)], np.arange(200) % 2)

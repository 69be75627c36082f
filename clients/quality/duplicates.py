"""One patient as several: records alike in every cell under other ids.

Where a record tells much, two alike are one patient. Where it tells little some are alike by chance
and only how often records occur can tell copies. Let f_k be how many different records occur k
times. Of independent patients, whatever they are like, k! f_k is expected to be a moment
E[λ^k e^-λ], so that by Cauchy and Schwarz k f_k² ≤ (k + 1) f_(k-1) f_(k+1): a file given twice has
many pairs, and hardly a record that occurs once or three times. A crowd of copies of one record
cannot be told like this from a record that many patients have, nor can a few copies.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd

from flo.arrays import Floats, Mask
from flo.clients.quality.findings import DataFinding, Level, rows
from flo.clients.quality.table import Table
from flo.study.schema import Schema

DOUBLES = "duplicated patients"
_SHARE = 0.01  # of the records
# Bits that a record's cells tell on average, for equal ones to be more than chance: 20, and so
# many that fewer than one record in a thousand has its like by chance.
_BITS, _CHANCE = 20, 0.001
_MOST_TIMES = 10  # k; records that occur more often are few and tell nothing
_DEVIATIONS = 3.0  # of log f_k² / (f_(k-1) f_(k+1)); at 51 real sites the largest is 1.9
_FEWEST = 20  # records, and different ones that occur at most so often, to tell anything


def find_duplicates(table: Table, schema: Schema) -> list[DataFinding]:
    """Records that are alike in every cell under another id, where that is no coincidence.

    Where there are images, in every pixel, whatever stands beside them.
    """
    if table.images:
        pixels = np.concatenate(list(table.images.values()), axis=1)
        records = np.array([hash(row.tobytes()) for row in pixels])
        return _identical(records, table.ids)
    names = [column.name for column in schema.columns]
    records = pd.util.hash_pandas_object(
        table.columns[[*names, schema.label]], index=False, categorize=True
    ).to_numpy()
    # Each record once, however often it was copied: what copies share tells nothing.
    once = ~pd.Series(records).duplicated().to_numpy()
    bits = sum(_information_bits(table.columns[name][once]) for name in names)
    enough = max(_BITS, np.log2(once.sum() / _CHANCE))
    if bits < enough:
        return _too_often(records, table.ids)
    shared = np.flatnonzero(pd.Series(records).duplicated(keep=False).to_numpy())
    poor = _surprisal(table.columns[names], once, shared) < enough
    # What tells too little, such as all laboratory values missing, many patients have by chance.
    records = records.copy()
    records[shared[poor]] = np.arange(poor.sum()) + len(records)
    return _identical(records, table.ids)


def _surprisal(columns: pd.DataFrame, once: Mask, places: npt.NDArray[np.int64]) -> Floats:
    """How much each of some records tells, in bits: what is missing in it taken together, and each
    cell that is there by how rare it is. Shape (places,)."""
    there = columns.notna()
    pattern = pd.util.hash_pandas_object(there, index=False).to_numpy()
    found = _rarity(pd.Series(pattern), once, places)
    for name in columns:
        known = there[name].to_numpy()
        found += np.where(known[places], _rarity(columns[name], once & known, places), 0.0)
    return found


def _rarity(cells: pd.Series, among: Mask, places: npt.NDArray[np.int64]) -> Floats:
    """-log2 of how often a record's cell is found ``among`` records, at some places."""
    share = cells[among].value_counts(normalize=True)
    shares = cells.iloc[places].map(share).astype(float).fillna(1.0).to_numpy()
    return np.asarray(-np.log2(shares))


def _identical(records: npt.NDArray[np.integer], ids: list[str]) -> list[DataFinding]:
    again, _ = _repeat_counts(records, ids)
    level: Level = "to accept" if again.mean() >= _SHARE else "note"
    rule = "records are alike in every cell under another patient id"
    return rows("", rule, again, level=level, kind=DOUBLES)


def _too_often(records: npt.NDArray[np.integer], ids: list[str]) -> list[DataFinding]:
    again, times = _repeat_counts(records, ids)
    count = np.bincount(times[~again & (times > 0)], minlength=_MOST_TIMES + 2).astype(float)
    if again.any() and len(ids) >= _FEWEST and count[1 : _MOST_TIMES + 1].sum() < _FEWEST:
        rule = "duplicates were not looked for: a record tells too little, and many are alike"
        return [DataFinding("", rule, level="note", kind=DOUBLES)]
    often = np.arange(2, _MOST_TIMES + 1)
    less, here, more = count[often - 1], count[often], count[often + 1]
    of_chance = np.sqrt((often + 1) / often * less * more)
    excess = np.log((here + 1) ** 2 / ((less + 1) * (more + 1)) * often / (often + 1))
    deviations = excess / np.sqrt(4 / (here + 1) + 1 / (less + 1) + 1 / (more + 1))
    too_many = (here - of_chance) * (often - 1) >= _SHARE * len(ids)
    worst = int(np.argmax(np.where(too_many, deviations, -np.inf)))
    if not too_many[worst] or deviations[worst] < _DEVIATIONS:
        return []
    rule = (
        f"more records than chance explains are alike in every cell under {often[worst]} patient "
        "ids"
    )
    copies = again & (times == often[worst])
    return rows("", rule, copies, level="to accept", kind=DOUBLES)


def _repeat_counts(
    records: npt.NDArray[np.integer], ids: list[str]
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.int64]]:
    """Per record: whether it was another patient's before; and how many patients have it.

    A patient's own record that comes again counts 0 times, and is not again another's.
    """
    shared = np.flatnonzero(pd.Series(records).duplicated(keep=False).to_numpy())
    again, times = np.zeros(len(ids), dtype=bool), np.ones(len(ids), dtype=np.int64)
    pairs = pd.DataFrame({"record": records[shared], "id": [ids[place] for place in shared]})
    own = pairs.duplicated().to_numpy()
    others = pairs["record"][~own]
    times[shared[own]] = 0
    times[shared[~own]] = others.groupby(others).transform("size").to_numpy()
    again[shared[~own]] = others.duplicated().to_numpy()
    return again, times


def _information_bits(cells: pd.Series) -> float:
    """How much a cell of this column tells, as -log2 of how often two of them are equal."""
    share = cells.value_counts(normalize=True, dropna=False).to_numpy()
    return float(-np.log2(np.sum(share**2)))

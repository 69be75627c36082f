"""Detect one patient under several ids: records with equal cells and different ids.

If records carry much information, two equal ones are one patient. If they carry little, some are
equal by chance, and only the numbers of repetitions can reveal copies. Let f_k be the number of
different records that occur k times. For independent patients of any distribution, k! f_k is
expected to be a moment E[λ^k e^-λ], so that by Cauchy and Schwarz
k f_k² ≤ (k + 1) f_(k-1) f_(k+1). A file that was appended to itself violates this: it has many
pairs, and hardly a record that occurs once or three times. This test cannot distinguish many copies
of one record from a record that many patients have, and it cannot detect a few copies.
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
# Average information of a record in bits that rules out chance for equal records: 20, and enough
# that fewer than one record in a thousand equals another one by chance.
_BITS, _CHANCE = 20, 0.001
_MOST_TIMES = 10  # largest k; records that occur more often are too few for the test
_DEVIATIONS = 3.0  # of log f_k² / (f_(k-1) f_(k+1)); at 51 real sites the largest is 1.9
_FEWEST = 20  # minimum of records, and of different ones that occur at most _MOST_TIMES times


def find_duplicates(table: Table, schema: Schema) -> list[DataFinding]:
    """Find records that equal another id's record in every cell, where chance is unlikely.

    If there are images, only their pixels are compared.
    """
    if table.images:
        pixels = np.concatenate(list(table.images.values()), axis=1)
        records = np.array([hash(row.tobytes()) for row in pixels])
        return _identical(records, table.ids)
    names = [column.name for column in schema.columns]
    records = pd.util.hash_pandas_object(
        table.columns[[*names, schema.label]], index=False, categorize=True
    ).to_numpy()
    if not pd.Series(records).duplicated().any():
        return []
    # Count each record once: copies add no information.
    once = ~pd.Series(records).duplicated().to_numpy()
    bits = sum(_information_bits(table.columns[name][once]) for name in names)
    enough = max(_BITS, np.log2(once.sum() / _CHANCE))
    if bits < enough:
        return _too_often(records, table.ids)
    shared = np.flatnonzero(pd.Series(records).duplicated(keep=False).to_numpy())
    poor = _surprisal(table.columns[names], once, shared) < enough
    # Exclude records with too little information (such as all laboratory values missing): many
    # patients share them by chance.
    records = records.copy()
    records[shared[poor]] = np.arange(poor.sum()) + len(records)
    return _identical(records, table.ids)


def _surprisal(columns: pd.DataFrame, once: Mask, places: npt.NDArray[np.int64]) -> Floats:
    """Return the information in some records, in bits; shape (places,).

    It is the rarity of a record's pattern of missing cells plus the rarity of each known cell.
    """
    there = columns.notna()
    pattern = pd.util.hash_pandas_object(there, index=False).to_numpy()
    found = _rarity(pd.Series(pattern), once, places)
    for name in columns:
        known = there[name].to_numpy()
        found += np.where(known[places], _rarity(columns[name], once & known, places), 0.0)
    return found


def _rarity(cells: pd.Series, among: Mask, places: npt.NDArray[np.int64]) -> Floats:
    """Return -log2 of the share of records in ``among`` with the same cell, for each place."""
    share = cells[among].value_counts(normalize=True)
    shares = cells.iloc[places].map(share).astype(float).fillna(1.0).to_numpy()
    return np.asarray(-np.log2(shares))


def _identical(records: npt.NDArray[np.integer], ids: list[str]) -> list[DataFinding]:
    again, _ = _repeat_counts(records, ids)
    level: Level = "to accept" if again.mean() >= _SHARE else "note"
    rule = "records equal a record of another patient id in every cell"
    return rows("", rule, again, level=level, kind=DOUBLES)


def _too_often(records: npt.NDArray[np.integer], ids: list[str]) -> list[DataFinding]:
    again, times = _repeat_counts(records, ids)
    count = np.bincount(times[~again & (times > 0)], minlength=_MOST_TIMES + 2).astype(float)
    if again.any() and len(ids) >= _FEWEST and count[1 : _MOST_TIMES + 1].sum() < _FEWEST:
        rule = "duplicates could not be detected: records hold too little to tell patients apart"
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
        f"more records than chance explains are equal in every cell under {often[worst]} patient "
        "ids"
    )
    copies = again & (times == often[worst])
    return rows("", rule, copies, level="to accept", kind=DOUBLES)


def _repeat_counts(
    records: npt.NDArray[np.integer], ids: list[str]
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.int64]]:
    """Return per record whether an earlier patient has it, and how many patients have it.

    A patient's own repeated record counts 0 times, and is not marked as an earlier patient's.
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
    """Return the information in a cell: -log2 of the probability that two cells are equal."""
    share = cells.value_counts(normalize=True, dropna=False).to_numpy()
    return float(-np.log2(np.sum(share**2)))

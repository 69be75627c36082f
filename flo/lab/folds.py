"""Splits of hospitals' patients into those to train on and those to test on, and tests on them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from flo.arrays import Floats
from flo.clients.prediction.local_fit import kind_of
from flo.clients.quality.check import EncodedTable
from flo.clients.records.snapshot import Snapshot
from flo.privacy.patients.split import position
from flo.scores.metrics import Scores
from flo.study.document import Study


@dataclass
class Fold:
    """One train/test split: a snapshot per hospital.

    ``tested``: the patient number of each held-out record, in the order of the snapshots, the same
    in every fold; if None, patients are numbered within this fold. ``aside``: by hospital, the ids
    of held-out patients, where they are known.
    """

    snapshots: dict[str, Snapshot]
    tested: npt.NDArray[np.int64] | None = None
    aside: dict[str, set[str]] = field(default_factory=dict)


def folds(hospitals: dict[str, EncodedTable], count: int, seed: int) -> Iterator[Fold]:
    """Yield ``count`` splits by keyed hash of the patient id; the key depends on ``seed`` only.

    Fold k holds out the patients whose position lies in [k/count, (k+1)/count).
    """
    key = hashlib.sha256(f"flo simulate {seed}".encode()).digest()
    everyone = dict.fromkeys((h, name) for h, c in hospitals.items() for name in c.patient_ids)
    numbers = {known: number for number, known in enumerate(everyone)}
    for k in range(count):
        aside = {
            hospital: within(checked, key, k / count, (k + 1) / count)
            for hospital, checked in hospitals.items()
        }
        tested = [
            numbers[hospital, name]
            for hospital, checked in hospitals.items()
            for name in checked.patient_ids
            if name in aside[hospital]
        ]
        yield Fold(
            {h: Snapshot.divided(checked, aside[h]) for h, checked in hospitals.items()},
            np.array(tested, dtype=np.int64),
            aside,
        )


def within(checked: EncodedTable, key: bytes, low: float, high: float) -> set[str]:
    """Return the patients whose position lies in [low, high)."""
    return {name for name in set(checked.patient_ids) if low <= position(key, name) < high}


def tested(fold: Fold, score: Callable[[Floats], Floats]) -> Scores:
    """Score the held-out patients of all hospitals; one known to two hospitals counts twice."""
    held = [snapshot.held_out for snapshot in fold.snapshots.values()]
    return scores_of(fold, score(np.concatenate([patients.inputs for patients in held])))


def scored(study: Study, fold: Fold, score: Callable[[Floats], Floats]) -> Scores:
    """Score them by labels of the study's outcome."""
    test, kind = tested(fold, score), kind_of(study.data.outcome)
    return replace(test, codes=study.data.label_codes, kind=kind)


def scores_of(fold: Fold, scores: Floats) -> Scores:
    """Return the scores (records,) or (records, classes) of the held-out records.

    They are in the order of the snapshots.
    """
    held = [snapshot.held_out for snapshot in fold.snapshots.values()]
    tested = fold.tested
    if tested is None:
        before = np.cumsum([0, *(patients.count for patients in held)])
        tested = np.concatenate([p.patient + n for p, n in zip(held, before, strict=False)])
    sizes = [len(patients.labels) for patients in held]
    return Scores(
        scores,
        np.concatenate([patients.labels for patients in held]),
        tested,
        np.repeat(np.arange(len(held)), sizes),
    )

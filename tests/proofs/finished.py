"""Models of other outcomes than yes or no, finished at home, beside published and alone.

Models that FLO trained, five folds, two seeds; every hospital's fit sees its own training patients
only, and is judged on the others. Hospitals are those of the other proofs of these sets: drawn at
random, so that they have least to gain, except SUPPORT2's (*function*, *support2*).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from flo.clients.prediction.finish import finished_margins, fit_at_home
from flo.clients.prediction.margins import reached
from flo.lab.folds import folds
from flo.lab.simulation import run_once, simulate
from tests.proofs import class_sets, quantity_sets, times_sets
from tests.proofs.class_sets import Sorted
from tests.proofs.quantity_sets import Measured
from tests.proofs.rows import Row
from tests.proofs.times_sets import Followed

_SEEDS = 2
_LEAST_OF_ONE = -0.005  # AUC or concordance that finishing may lose to alone, on one set
_MEANS = (0.94, 1.06)
_TENTH_TO_NINETIETH = 0.8  # of patients, who are eight of ten or more


MAKERS: dict[str, Callable[[], Followed | Measured | Sorted]] = {
    **{**times_sets.SETS, **quantity_sets.SETS},
    **{**class_sets.CHOSEN_ON, **class_sets.GENERAL},
}


def rows(quick: bool) -> Iterator[Row]:
    """What hospitals gain over what they have alone, and whether finished risks are right."""
    began, gains = time.monotonic(), list[float]()
    for name in ("tumours",) if quick else MAKERS:
        data = MAKERS[name]()
        seeds = 1 if quick else _SEEDS
        found = simulate(data.study, data.hospitals, seeds=seeds, compare=True, fast=True)
        told, seconds = found.document, time.monotonic() - began
        gain = told["auc_within_finished"] - told["auc_within_alone"]
        gains.append(gain)
        runs = 5 * seeds * len(told["sites"])
        least = 2 * _LEAST_OF_ONE if quick else _LEAST_OF_ONE
        yield Row(f"{name}: finished above alone, {found.measure}", gain, runs, seconds, least)
        above = told["auc_within_finished"] - told["auc_within"]
        yield Row(f"{name}: finished above published", above, runs, seconds, least)
        ratios = _ratios(told)
        for which, ratio in (("least", min(ratios)), ("most", max(ratios))):
            row = f"{name}: {which} predicted / observed, finished"
            yield Row(row, ratio, runs, seconds, *_MEANS)
        if isinstance(data, Measured):
            share, row = _within(data), f"{name}: patients from p10 to p90, finished"
            yield Row(row, share, 5, seconds, _TENTH_TO_NINETIETH)
    if not quick:
        seconds, mean = time.monotonic() - began, float(np.mean(gains))
        yield Row("all sets: finished above alone", mean, len(gains), seconds, 0.001)


def _ratios(told: dict[str, Any]) -> list[float]:
    """Predicted divided by observed, of each horizon or class, or of the values."""
    stated = told.get("horizons") or told.get("classes") or [told["values"]]
    return [one["predicted_finished"] / one["observed"] for one in stated]


def _within(data: Measured) -> float:
    """The share of held-out patients between p10 and p90 of their hospital's finished model."""
    inside = list[bool]()
    for fold in folds(data.hospitals, 5, 0):
        state, _ = run_once(data.study, fold, fast=True)
        for one in fold.snapshots.values():
            last = fit_at_home(data.study, state.model, one.training).finished
            held = one.held_out
            margins = finished_margins(data.study, state.model, last, held.inputs)
            low, high = data.quantity.tails(reached(margins))
            exact = data.quantity.valued(held.labels)
            inside += ((low <= exact) & (exact <= high)).tolist()
    return float(np.mean(inside))

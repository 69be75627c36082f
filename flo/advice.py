"""What ``flo study check`` recommends: the cheapest way to train a study that fits its budget.

Each algorithm is tried at the study's ε, and at half of it if that went well, on made-up patients:
as many as are declared, within the study's bounds and codebooks. The ill and the others are drawn
with probability ∝ e^(±t·s), s a random weighing of the inputs of deviation 1, so that the log odds
of being ill are 2·t·s. The same trainer and rounds as in life run on them, noise included. A way
*fits* if it loses at most ``MOST_LOST`` of AUC against an ordinary regression on the same patients,
without privacy. Of those that fit, less ε is cheaper, then fewer rounds.

Nothing of any patient is in it, so it says how noise compares with the size of a study, and nothing
of how well its columns predict.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from flo.clients.snapshot import Snapshot
from flo.features import input_names
from flo.models import log_odds
from flo.privacy.evaluation import made_up_inputs
from flo.privacy.life import LifeBudget
from flo.privacy.patients import Patients
from flo.privacy.plan import Plan
from flo.privacy.sheet import ASSUMED_HOLD_OUT
from flo.simulation import Fold, exact_auc, pooled_auc, run_once
from flo.study import MOST_SQUARED_INPUTS, Study

Floats = npt.NDArray[np.float64]
Progress = Callable[[str], None]

MOST_LOST = 0.02
_TRUTHS, _APART = 2, 0.75  # made-up laws; t of each, an AUC of about .85
_MOST_PATIENTS = 50_000  # of more, noise is smaller still
_USUAL: dict[
    str, dict[str, Any]
] = {  # settings of each algorithm where the study names the other one
    "fedavgm": {"steps": 30, "learning_rate": 0.5, "momentum": 0.9, "clip": 0.25},
    "least-squares": {
        **{"steps": 1, "learning_rate": 0.0, "momentum": 0.0, "clip": 0.5},
        **{"sampling": 1.0, "aggregation": "sum"},
    },
}


@dataclass(frozen=True)
class Way:
    """How a study could be trained, and what came of it. ``share``: of a life of ε = .9."""

    study: Study
    share: float
    auc: float
    lost: float

    @property
    def fits(self) -> bool:
        return self.lost <= MOST_LOST

    @property
    def settings(self) -> dict[str, Any]:
        """What [mechanism] says of it."""
        mechanism = self.study.mechanism
        names = ["algorithm", "epsilon", "clip", "steps"]
        if mechanism.algorithm == "fedavgm":
            names += ["learning_rate", "momentum"]
        return {name: getattr(mechanism, name) for name in names}

    @property
    def price(self) -> tuple[float, int]:
        return self.study.mechanism.epsilon, self.study.mechanism.steps


def ways(study: Study, progress: Progress = lambda text: None) -> list[Way]:
    """Cheapest first; empty where only one algorithm trains the model, and for surveys."""
    if study.survey or study.model.kind != "logistic":
        return []
    folds = [_made_up(study, truth) for truth in range(_TRUTHS)]
    without = statistics.fmean(pooled_auc(fold) for fold in folds)

    def tried(variant: Study) -> Way:
        asked = variant.mechanism
        progress(f"{asked.algorithm} at ε = {asked.epsilon:g} on made-up patients")
        auc = statistics.fmean(_auc(variant, fold) for fold in folds)
        share = Plan.of(variant).shares(LifeBudget.born(0.9, asked.delta))["training"]
        return Way(variant, share, auc, without - auc)

    found = []
    for variant in _variants(study):
        found.append(tried(variant))
        if found[-1].fits:
            found.append(tried(variant.with_mechanism(epsilon=variant.mechanism.epsilon / 2)))
    return sorted(found, key=lambda way: way.price)


def recommended(found: list[Way]) -> Way:
    """The cheapest that fits; if none does, the one that loses least."""
    fitting = [way for way in found if way.fits]
    return fitting[0] if fitting else min(found, key=lambda way: way.lost)


def _variants(study: Study) -> list[Study]:
    """The study as it stands, and with the other algorithm where that can be."""
    (other,) = set(_USUAL) - {study.mechanism.algorithm}
    if other == "least-squares" and len(input_names(study.data)) > MOST_SQUARED_INPUTS:
        return [study]
    return [study, study.with_mechanism(algorithm=other, **_USUAL[other])]


def _auc(study: Study, fold: Fold) -> float:
    state, _ = run_once(study, fold, fast=True)
    held = [snapshot.held_out for snapshot in fold.snapshots.values()]
    inputs = np.concatenate([patients.inputs for patients in held])
    labels = np.concatenate([patients.labels for patients in held])
    return exact_auc(log_odds(study, state.model, inputs), labels)


def _made_up(study: Study, truth: int) -> Fold:
    """Made-up patients for each hospital; the ill differ by the made-up law of this number."""
    numbers = np.random.default_rng(truth)
    inputs = made_up_inputs(study.data)
    score = inputs @ numbers.normal(size=inputs.shape[1])
    score = (score - score.mean()) / max(score.std(), 1e-12)
    tilts = [np.exp(sign * _APART * score) for sign in (-1, 1)]
    part = min(1.0, _MOST_PATIENTS / sum(hospital.declared_size for hospital in study.hospitals))

    def some(size: float) -> Patients:
        count = max(round(size), 2)
        labels = np.arange(count) % 2
        chosen = np.zeros(count, dtype=np.int64)
        for label, tilt in enumerate(tilts):
            of_them = labels == label
            chosen[of_them] = numbers.choice(len(inputs), of_them.sum(), p=tilt / tilt.sum())
        return Patients(inputs[chosen], labels.astype(np.float64), np.arange(count), count)

    snapshots = {}
    for hospital in study.hospitals:
        size = part * hospital.declared_size
        snapshots[hospital.id] = Snapshot(
            some(size * (1 - ASSUMED_HOLD_OUT)), some(size * ASSUMED_HOLD_OUT)
        )
    return Fold(snapshots)

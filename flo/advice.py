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

import hashlib
import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri

from flo.clients.snapshot import Snapshot
from flo.errors import StudyError
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
_APART = 0.75  # t, an AUC of about .85
_FEWEST, _MOST = 2, 8  # made-up laws: more for small studies, whose noise differs more
_MANY_PATIENTS = 20_000
_MOST_PATIENTS = 50_000  # of more, noise is smaller still
_HELD_OUT = 4000  # made-up patients that an AUC is taken of
_GOLDEN, _TINY = (math.sqrt(5) - 1) / 2, 1e-12
_USUAL: dict[
    str, dict[str, Any]
] = {  # settings of each algorithm where the study names the other one
    "fedavgm": {"steps": 30, "learning_rate": 0.5, "momentum": 0.9, "clip": 0.25},
    "least-squares": {
        **{"steps": 1, "learning_rate": 0.0, "momentum": 0.0, "clip": 0.5},
        "sampling": 1.0,
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
        names = ["algorithm", "epsilon", "clip", "steps", "retry_allowance"]
        if mechanism.algorithm == "fedavgm":
            names += ["learning_rate", "momentum"]
        return {name: getattr(mechanism, name) for name in names}

    @property
    def price(self) -> tuple[float, int]:
        return self.study.mechanism.epsilon, self.study.mechanism.steps


def ways(study: Study, progress: Progress = lambda text: None) -> list[Way]:
    """Cheapest first; empty for surveys, other models than logistic, and studies of FLO 0.1."""
    if study.survey or study.model.kind != "logistic" or study.schema_version == 1:
        return []
    everyone = sum(hospital.declared_size for hospital in study.hospitals)
    laws = min(max(_MANY_PATIENTS // everyone, _FEWEST), _MOST)
    folds = [_made_up(study, law) for law in range(laws)]
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
        if found[-1].fits and (halved := _halved(variant)) is not None:
            found.append(tried(halved))
    return sorted(found, key=lambda way: way.price)


def recommended(found: list[Way]) -> Way:
    """The cheapest that fits; if none does, the one that loses least."""
    fitting = [way for way in found if way.fits]
    return fitting[0] if fitting else min(found, key=lambda way: way.lost)


def _halved(study: Study) -> Study | None:
    """At half the ε; None where that is less than noise can show."""
    try:
        halved = study.with_mechanism(epsilon=study.mechanism.epsilon / 2)
        Plan.of(halved)
    except StudyError:
        return None
    return halved


def _variants(study: Study) -> list[Study]:
    """The study as it stands, and with the other algorithm where that can be.

    Who names a robust aggregation expects liars, and is not sent to the one round that they bend.
    """
    (other,) = set(_USUAL) - {study.mechanism.algorithm}
    if other == "least-squares" and (
        len(input_names(study.data)) > MOST_SQUARED_INPUTS or study.mechanism.aggregation != "sum"
    ):
        return [study]
    changes = {**_USUAL[other], "algorithm": other}
    if other == "least-squares":  # where each retry costs as much as the round
        changes["retry_allowance"] = min(1, study.mechanism.retry_allowance)
    return [study, study.with_mechanism(**changes)]


def _auc(study: Study, fold: Fold) -> float:
    state, _ = run_once(study, fold, fast=True)
    held = [snapshot.held_out for snapshot in fold.snapshots.values()]
    inputs = np.concatenate([patients.inputs for patients in held])
    labels = np.concatenate([patients.labels for patients in held])
    return exact_auc(log_odds(study, state.model, inputs), labels)


def _made_up(study: Study, law: int) -> Fold:
    """Made-up patients for each hospital; the ill differ by the made-up law of this number."""
    inputs = made_up_inputs(study.data)
    score = inputs @ _weights(inputs.shape[1], law)
    score = (score - score.mean()) / max(score.std(), _TINY)
    tilted = [np.cumsum(np.exp(sign * _APART * score)) for sign in (-1, 1)]
    part = min(1.0, _MOST_PATIENTS / sum(hospital.declared_size for hospital in study.hospitals))

    def some(size: float, number: int) -> Patients:
        """So many of the tilted crowd, spread over it evenly by a sequence of this number."""
        count = max(round(size), 2)
        labels = np.arange(count) % 2
        places = (np.arange(1, count + 1) * _GOLDEN + number * math.sqrt(2)) % 1
        chosen = np.zeros(count, dtype=np.int64)
        for label, crowd in enumerate(tilted):
            of_them = labels == label
            chosen[of_them] = np.searchsorted(crowd, places[of_them] * crowd[-1])
        return Patients(inputs[chosen], labels.astype(np.float64), np.arange(count), count)

    return Fold(
        {
            hospital.id: Snapshot(
                some(part * hospital.declared_size * (1 - ASSUMED_HOLD_OUT), 2 * number),
                some(_HELD_OUT / len(study.hospitals), 2 * number + 1),
            )
            for number, hospital in enumerate(study.hospitals)
        }
    )


def _weights(inputs: int, law: int) -> Floats:
    """Normal weights of a law, (inputs,): the same everywhere, from SHAKE-256."""
    stream = hashlib.shake_256(f"made-up law {law}".encode())
    words = np.frombuffer(stream.digest(8 * inputs), dtype="<u8")
    return np.asarray(ndtri((words + 0.5) / 2.0**64), dtype=np.float64)

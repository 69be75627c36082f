"""Recommendations of ``flo study check``: the cheapest way to train a study well enough.

Each algorithm is tried on made-up patients at the study's ε, and at half of it if that fits: as
many patients as declared, within the study's bounds and codebooks. Patients with and without the
label are drawn with probability ∝ e^(±t·s), s a weighted sum of the inputs with deviation 1, so
that the log odds of the label are 2·t·s. Trainer, rounds and noise are those of a real run. A way
*fits* if its AUC is within ``MAX_AUC_LOSS`` of an ordinary regression on the same patients without
privacy, two standard errors included, and its share of a life budget of the study's own ε is at
most ``MAX_BUDGET_RATIO``. Among those that fit, the smaller share is cheaper, then fewer rounds.

No patient data is used. The advice therefore says how noise, clipping and schedule compare with the
size of a study, and not how well its columns predict.
"""

from __future__ import annotations

import hashlib
import math
import statistics
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import ndtri

from flo.arrays import Floats
from flo.clients.records.snapshot import Snapshot
from flo.errors import StudyError
from flo.lab.simulation import Fold, Progress, pooled, run_once
from flo.privacy.accounting.life_budget import LifetimeBudget
from flo.privacy.accounting.plan import Plan
from flo.privacy.patients.patients import Patients
from flo.privacy.report.sheet import ASSUMED_HOLD_OUT
from flo.privacy.report.wording import MAX_BUDGET_RATIO
from flo.scores.metrics import exact_auc
from flo.study.document import MOST_SQUARED_INPUTS, Study, from_document
from flo.study.features import input_names
from flo.study.models import log_odds
from flo.study.schema import ImageColumn
from flo.study.synthetic import made_up_inputs
from flo.study.terms import round_size

MAX_AUC_LOSS = 0.02
TOLERABLE_AUC_LOSS = 0.1  # AUC; a study that may lose more is advised against
_APART = 0.75  # t, an AUC of about .85
_FEWEST, _MOST = 3, 8  # made-up laws: more for small studies, whose results vary more
_MANY_PATIENTS, _MOST_PATIENTS = 30_000, 50_000
_MOST_EXCHANGES = 5000  # hospitals × rounds; a longer study is not tried
_HELD_OUT = 4000  # made-up patients per AUC
_GOLDEN, _TINY = (math.sqrt(5) - 1) / 2, 1e-12
_USUAL: dict[str, dict[str, Any]] = {  # settings to try when the study names the other one
    "fedavgm": {"steps": 40, "learning_rate": 4.0, "momentum": 0.7, "clip": 1.0},
    "least-squares": {
        **{"steps": 1, "learning_rate": 0.0, "momentum": 0.0, "clip": 0.5},
        "sampling": 1.0,
    },
}


@dataclass(frozen=True)
class Candidate:
    """One way to train a study, and its result on made-up patients.

    ``share``: of a life budget of the study's own ε. ``lost``: AUC below the regression without
    privacy, with its standard ``error``.
    """

    study: Study
    share: float
    auc: float
    lost: float
    error: float

    @property
    def fits(self) -> bool:
        """Whether it can be advised: it loses little AUC, at an acceptable share of the budget."""
        return self.at_most_lost <= MAX_AUC_LOSS and self.share <= MAX_BUDGET_RATIO

    @property
    def at_most_lost(self) -> float:
        """AUC loss plus two standard errors: uncertainty counts against the study."""
        return self.lost + 2 * self.error

    @property
    def price(self) -> tuple[float, int]:
        """Sort key, smaller is cheaper: share of the budget to 0.1 %, then steps."""
        return round(self.share, 3), self.study.mechanism.steps

    def changes(self, study: Study) -> dict[str, Any]:
        """Return the settings of ``study``'s [mechanism] to change, with their new values."""
        now = study.mechanism.model_dump(mode="json")
        wanted = self.study.mechanism.model_dump(mode="json")
        return {name: value for name, value in wanted.items() if value != now[name]}


def unsupported_reason(study: Study) -> str | None:
    """Return why a study is not tried on made-up patients; None if it is."""
    if study.survey:
        return "a survey trains no model"
    if study.schema_version == 1:
        return "schema_version 1 is supported for reading only"
    if any(isinstance(column, ImageColumn) for column in study.data.columns):
        return "made-up images do not resemble real ones"
    if study.model.kind != "logistic":
        return f"a model of kind {study.model.kind} takes too long to try"
    if len(study.hospitals) * study.mechanism.steps > _MOST_EXCHANGES:
        return f"hospitals × rounds are more than {_MOST_EXCHANGES}"
    return None


def candidates(study: Study, progress: Progress = lambda text: None) -> list[Candidate]:
    """Return the ways tried, cheapest first; empty if ``unsupported_reason`` gives a reason."""
    if unsupported_reason(study):
        return []
    small = _of_at_most(study, _MOST_PATIENTS)
    everyone = sum(hospital.declared_size for hospital in small.hospitals)
    laws = min(max(_MANY_PATIENTS // everyone, _FEWEST), _MOST)
    folds = [_made_up(small, law) for law in range(laws)]
    without = [pooled(fold).auc for fold in folds]
    life = LifetimeBudget.create(study.mechanism.epsilon, study.mechanism.delta)

    def tried(variant: Study) -> Candidate:
        asked = variant.mechanism
        progress(f"{asked.algorithm} at ε = {asked.epsilon:g} on made-up patients")
        aucs = [_auc(variant, fold) for fold in folds]
        lost = [best - auc for best, auc in zip(without, aucs, strict=True)]
        return Candidate(
            variant,
            Plan.of(variant).shares(life)["training"],
            statistics.fmean(aucs),
            statistics.fmean(lost),
            statistics.stdev(lost) / math.sqrt(len(lost)),
        )

    found = []
    for variant in _variants(small):
        found.append(tried(variant))
        if found[-1].fits and (halved := _halved(variant)) is not None:
            found.append(tried(halved))
    return sorted(found, key=lambda way: way.price)


def logistic_surrogate(study: Study) -> Study:
    """Return the study with a logistic model instead of its network, which would be noisier."""
    document = study.model_dump(mode="json")
    document["model"] = {"kind": "logistic"}
    document["mechanism"] |= {**_USUAL["fedavgm"], "algorithm": "fedavgm", "augmentation": "none"}
    return from_document(document)


def recommended(found: list[Candidate]) -> Candidate:
    """Return the cheapest way that fits; if none does, the one that loses least."""
    fitting = [way for way in found if way.fits]
    return fitting[0] if fitting else min(found, key=lambda way: way.lost)


def advised_against(found: list[Candidate]) -> bool:
    """Return whether ``at_most_lost`` of every way is above ``TOLERABLE_AUC_LOSS``."""
    return bool(found) and min(way.at_most_lost for way in found) > TOLERABLE_AUC_LOSS


def _of_at_most(study: Study, patients: int) -> Study:
    """Return the study, or a copy with smaller hospitals: with more patients noise matters less."""
    part = patients / sum(hospital.declared_size for hospital in study.hospitals)
    if part >= 1:
        return study
    document = study.model_dump(mode="json")
    for hospital in document["hospitals"]:
        hospital["declared_size"] = max(10, round_size(int(part * hospital["declared_size"])))
    return from_document(document)


def _halved(study: Study) -> Study | None:
    """Return the study at half its ε; None if no noise level achieves that."""
    try:
        halved = study.with_mechanism(epsilon=study.mechanism.epsilon / 2)
        Plan.of(halved)
    except StudyError:
        return None
    return halved


def _variants(study: Study) -> list[Study]:
    """Return the study unchanged, and with the other algorithm where that is possible.

    With a robust aggregation hospitals may be dishonest, and could distort the one sum of least
    squares, so that is not tried.
    """
    (other,) = set(_USUAL) - {study.mechanism.algorithm}
    if other == "least-squares" and (
        len(input_names(study.data)) > MOST_SQUARED_INPUTS or study.mechanism.aggregation != "sum"
    ):
        return [study]
    changes = {**_USUAL[other], "algorithm": other}
    if other == "least-squares":  # where each retry costs as much as the round
        changes |= {"augmentation": "none"}
        changes["retry_allowance"] = min(1, study.mechanism.retry_allowance)
    return [study, study.with_mechanism(**changes)]


def _auc(study: Study, fold: Fold) -> float:
    state, _ = run_once(study, fold, fast=True)
    held = [snapshot.held_out for snapshot in fold.snapshots.values()]
    inputs = np.concatenate([patients.inputs for patients in held])
    labels = np.concatenate([patients.labels for patients in held])
    return exact_auc(log_odds(study, state.model, inputs), labels)


def _made_up(study: Study, law: int) -> Fold:
    """Make up patients for each hospital; law number ``law`` relates their inputs to the label."""
    inputs = made_up_inputs(study.data)
    score = inputs @ _weights(inputs.shape[1], law)
    score = (score - score.mean()) / max(score.std(), _TINY)
    tilted = [np.cumsum(np.exp(sign * _APART * score)) for sign in (-1, 1)]

    def some(size: float, number: int) -> Patients:
        """Choose ``size`` patients (2 or more), labels alternating, by sequence ``number``."""
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
                some(hospital.declared_size * (1 - ASSUMED_HOLD_OUT), 2 * number),
                some(_HELD_OUT / len(study.hospitals), 2 * number + 1),
            )
            for number, hospital in enumerate(study.hospitals)
        }
    )


def _weights(inputs: int, law: int) -> Floats:
    """Return normal weights of a law, (inputs,), from SHAKE-256: the same on every machine."""
    stream = hashlib.shake_256(f"made-up law {law}".encode())
    words = np.frombuffer(stream.digest(8 * inputs), dtype="<u8")
    return np.asarray(ndtri((words + 0.5) / 2.0**64), dtype=np.float64)

"""Predictions of ``flo study check``: how much AUC a study loses to its noise and its settings.

A study is trained as it is, and as ``flo study new`` would draft it, on made-up patients: as many
as declared, within the study's bounds and codebooks. In a *world*, patients with and without the
label are drawn with probability ∝ e^(±t·s), s a weighted sum of the inputs with deviation 1, so
that the log odds of the label are 2·t·s and a constant. Worlds differ in the label's prevalence and
in t. Trainer, rounds and noise are those of a real run. The *loss* is the AUC of an ordinary
regression on the same patients without privacy, minus that of the study's model.

A way of training is advised if it surely keeps within a limit in its worst world, and advised
against if it loses three times the limit on average. Made-up patients say how noise, clipping and
schedule compare with the size of a study, and not how well its columns predict: in between they
cannot tell. No patient data is used.
"""

from __future__ import annotations

import hashlib
import math
import statistics
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import ndtri, stdtrit

from flo.arrays import Floats
from flo.clients.records.snapshot import Snapshot
from flo.lab.comparison import pooled
from flo.lab.folds import Fold
from flo.lab.simulation import Progress, run_once
from flo.privacy.accounting.life_budget import LifetimeBudget
from flo.privacy.accounting.plan import Plan
from flo.privacy.patients.patients import Patients
from flo.privacy.report.sheet import ASSUMED_HOLD_OUT
from flo.privacy.report.wording import MAX_BUDGET_RATIO
from flo.scores.metrics import exact_auc
from flo.study import usual
from flo.study.document import MOST_SQUARED_INPUTS, Study, from_document
from flo.study.features import input_names
from flo.study.models import log_odds, parameter_count
from flo.study.parameters import Vector
from flo.study.schema import ImageColumn
from flo.study.synthetic import made_up_inputs
from flo.study.terms import round_size

MAX_AUC_LOSS, MAX_AUC_LOSS_OF_FEW = 0.02, 0.03  # with 1,000 patients to train on; with fewer
_FEW = 1000
_FORBIDDEN = 3.0  # limits; made-up inputs are less alike than real ones, and lose more
_AS_GOOD = 0.005  # AUC: settings are changed for more than this
_WORLDS = ((0.5, 0.75), (0.2, 0.75), (0.1, 0.75), (0.2, 0.35))  # prevalence, t
_FEWEST, _MOST = 5, 8  # made-up laws per world
_MANY_PATIENTS, _MOST_PATIENTS = 30_000, 20_000
_MOST_PARAMETERS = 20_000  # a larger network takes minutes to try
_MOST_EXCHANGES = 5000  # hospitals × rounds; a longer study is not tried
_HELD_OUT = 8000  # made-up patients per AUC
_GOLDEN, _TINY = (math.sqrt(5) - 1) / 2, 1e-12


@dataclass(frozen=True)
class Trial:
    """Mean AUC without privacy in a world, and how much less the study's is, ± standard error.

    ``laws``: how many laws of that world were tried.
    """

    prevalence: float
    without: float
    lost: float
    error: float
    laws: int

    @property
    def at_most_lost(self) -> float:
        """Upper end of the loss's 95 % interval, by Student's t of the laws that were tried."""
        return self.lost + float(stdtrit(max(1, self.laws - 1), 0.975)) * self.error


@dataclass(frozen=True)
class Candidate:
    """A way to train a study, and its trials. ``share``: of a life budget of the study's own ε."""

    study: Study
    share: float
    trials: tuple[Trial, ...]

    @property
    def worst(self) -> Trial:
        """The world in which it may lose most."""
        return max(self.trials, key=lambda trial: trial.at_most_lost)

    @property
    def lost(self) -> float:
        """The mean loss over all worlds."""
        return statistics.fmean(trial.lost for trial in self.trials)

    @property
    def limit(self) -> float:
        """How much AUC it may lose."""
        planned = (1 - ASSUMED_HOLD_OUT) * sum(h.planned for h in self.study.hospitals)
        return MAX_AUC_LOSS if planned >= _FEW else MAX_AUC_LOSS_OF_FEW

    @property
    def advised(self) -> bool | None:
        """Whether to run it; None where made-up patients cannot tell."""
        if self.share > MAX_BUDGET_RATIO or self.lost > _FORBIDDEN * self.limit:
            return False
        return True if self.worst.at_most_lost <= self.limit else None

    def changes(self, study: Study) -> dict[str, Any]:
        """Return the settings of ``study``'s [mechanism] to change, with their new values."""
        now = study.mechanism.model_dump(mode="json")
        wanted = self.study.mechanism.model_dump(mode="json")
        return {name: value for name, value in wanted.items() if value != now[name]}


def unsupported_reason(study: Study) -> str | None:
    """Return why a study is not tried on made-up patients; None if it is."""
    if not study.trains:
        return "it trains no model"
    if study.data.outcome is not None:
        return "only outcomes of yes or no are made up"
    if study.schema_version == 1:
        return "schema_version 1 is supported for reading only"
    if any(isinstance(column, ImageColumn) for column in study.data.columns):
        return "made-up images do not resemble real ones"
    if study.model.kind not in ("logistic", "mlp"):
        return f"a model of kind {study.model.kind} takes too long to try"
    if parameter_count(study) > _MOST_PARAMETERS:
        return f"{parameter_count(study)} parameters are more than {_MOST_PARAMETERS}"
    if len(study.hospitals) * study.mechanism.steps > _MOST_EXCHANGES:
        return f"hospitals × rounds are more than {_MOST_EXCHANGES}"
    return None


def candidates(study: Study, progress: Progress = lambda text: None) -> list[Candidate]:
    """Return the study as it is and as it would be drafted, in this order, once if they are equal.

    Empty if ``unsupported_reason`` gives a reason.
    """
    if unsupported_reason(study):
        return []
    small = of_at_most(study, _MOST_PATIENTS)
    laws = laws_for(small)
    ways = [study, *([drafted] if (drafted := _drafted(study)) not in (study, None) else [])]
    trials = dict[str, list[Trial]]()
    for prevalence, strength in _WORLDS:
        folds = [made_up(small, law, prevalence, strength) for law in laws]
        without = [pooled(small, fold).auc for fold in folds]
        for way in ways:
            tried = way.mechanism
            progress(
                f"{tried.algorithm}, {tried.steps} rounds: made-up patients, {prevalence:.0%} "
                "with the label"
            )
            found = [_auc(small.with_mechanism(**tried.model_dump()), fold) for fold in folds]
            lost = [best - auc for best, auc in zip(without, found, strict=True)]
            trials.setdefault(way.digest, []).append(
                Trial(
                    prevalence,
                    statistics.fmean(without),
                    statistics.fmean(lost),
                    statistics.stdev(lost) / math.sqrt(len(lost)),
                    len(lost),
                )
            )
    life = LifetimeBudget.create(study.mechanism.epsilon, study.mechanism.delta)
    return [
        Candidate(way, Plan.of(way).shares(life)["training"], tuple(trials[way.digest]))
        for way in ways
    ]


def laws_for(study: Study) -> range:
    """Return the laws to try: more for small studies, whose results vary more."""
    everyone = sum(hospital.planned for hospital in study.hospitals)
    return range(min(max(_MANY_PATIENTS // everyone, _FEWEST), _MOST))


def logistic_surrogate(study: Study) -> Study:
    """Return the study with a logistic model instead of its network, trained as drafted."""
    document = study.model_dump(mode="json")
    document["model"] = {"kind": "logistic"}
    document["mechanism"] |= {**usual.WIDE, "algorithm": "fedavgm", "augmentation": "none"}
    surrogate = from_document(document)
    return _drafted(surrogate) or surrogate


def recommended(found: list[Candidate]) -> Candidate:
    """Return the study as it is, or the drafted settings if it loses clearly more."""
    affordable = [way for way in found if way.share <= MAX_BUDGET_RATIO] or found
    own, best = affordable[0], min(affordable, key=lambda way: way.worst.lost)
    return best if own.worst.lost > best.worst.lost + _AS_GOOD else own


def _drafted(study: Study) -> Study | None:
    """Return the study with the settings of ``flo study new``; None if they do not fit it.

    With a robust aggregation hospitals may be dishonest, and second moments are one sum.
    """
    if len(input_names(study.data)) > MOST_SQUARED_INPUTS or study.mechanism.aggregation != "sum":
        return None
    everyone = sum(hospital.planned for hospital in study.hospitals)
    settings = usual.whitened(everyone, study.mechanism.epsilon)
    return study.with_mechanism(**settings, sampling=1.0, augmentation="none")


def of_at_most(study: Study, patients: int) -> Study:
    """Return the study, or a copy with smaller hospitals: with more patients noise matters less."""
    part = patients / sum(hospital.planned for hospital in study.hospitals)
    if part >= 1:
        return study
    document = study.model_dump(mode="json")
    for hospital in document["hospitals"]:
        planned = hospital.pop("expected") or hospital["declared_size"]
        hospital["declared_size"] = max(10, round_size(int(part * planned)))
    return from_document(document)


def _auc(study: Study, fold: Fold) -> float:
    state, _ = run_once(study, fold, fast=True)
    return auc_of(study, state.model, fold)


def auc_of(study: Study, weights: Vector, fold: Fold) -> float:
    """Return a model's AUC on a fold's held-out patients."""
    held = [snapshot.held_out for snapshot in fold.snapshots.values()]
    inputs = np.concatenate([patients.inputs for patients in held])
    labels = np.concatenate([patients.labels for patients in held])
    return exact_auc(log_odds(study, weights, inputs), labels)


def made_up(study: Study, law: int, prevalence: float, strength: float, draw: int = 0) -> Fold:
    """Make up patients for each hospital; law number ``law`` relates their inputs to the label.

    ``draw``: of other patients under the same law.
    """
    inputs = made_up_inputs(study.data)
    score = inputs @ _weights(inputs.shape[1], law)
    score = (score - score.mean()) / max(score.std(), _TINY)
    tilted = [np.cumsum(np.exp(sign * strength * score)) for sign in (-1, 1)]

    def some(size: float, number: int) -> Patients:
        """Choose ``size`` patients (2 or more), some with the label, by sequence ``number``."""
        count = max(round(size), 2)
        order = (np.arange(count) * math.sqrt(3) + number * _GOLDEN) % 1
        labels = (order.argsort().argsort() < max(1, round(prevalence * count))).astype(np.int64)
        places = (np.arange(1, count + 1) * _GOLDEN + number * math.sqrt(2)) % 1
        chosen = np.zeros(count, dtype=np.int64)
        for label, crowd in enumerate(tilted):
            of_them = labels == label
            chosen[of_them] = np.searchsorted(crowd, places[of_them] * crowd[-1])
        return Patients(inputs[chosen], labels.astype(np.float64), np.arange(count), count)

    return Fold(
        {
            hospital.id: Snapshot(
                some(hospital.planned * (1 - ASSUMED_HOLD_OUT), 2 * number),
                some(_HELD_OUT / len(study.hospitals), 2 * number + 1),
            )
            for number, hospital in enumerate(study.hospitals, draw * len(study.hospitals))
        }
    )


def _weights(inputs: int, law: int) -> Floats:
    """Return weights of a law, (inputs,), from SHAKE-256: the same on every machine.

    Cubes of normal numbers: as in real data, a few inputs matter most.
    """
    stream = hashlib.shake_256(f"made-up law {law}".encode())
    words = np.frombuffer(stream.digest(8 * inputs), dtype="<u8")
    return np.asarray(ndtri((words + 0.5) / 2.0**64) ** 3, dtype=np.float64)

"""Predictions of ``flo study check``: how much AUC a study loses to its noise and its settings.

A study is trained as it is, and as ``flo study new`` would draft it, on made-up patients
(``flo.lab.made_up``). Trainer, rounds and noise are those of a real run. The *loss* is the AUC, or
macro AUC or concordance, of an ordinary regression on the same patients without privacy, minus that
of the study's model.

A way of training is advised if it surely keeps within a limit in its worst world, and advised
against if it loses three times the limit on average. Made-up patients say how noise, clipping and
schedule compare with the size of a study, and not how well its columns predict: in between they
cannot tell. No patient data is used.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from typing import Any

from scipy.special import stdtrit

from flo.lab.comparison import pooled, scores_by
from flo.lab.folds import Fold, scored
from flo.lab.made_up import laws_for, made_up, of_at_most, share_of, worlds
from flo.lab.simulation import Progress, run_once
from flo.privacy.accounting.life_budget import LifetimeBudget
from flo.privacy.accounting.plan import Plan
from flo.privacy.report.sheet import ASSUMED_HOLD_OUT
from flo.privacy.report.wording import MAX_BUDGET_RATIO
from flo.study import usual
from flo.study.columns import EncodedColumn
from flo.study.document import MOST_SQUARED_INPUTS, Study, from_document
from flo.study.features import input_names
from flo.study.models import parameter_count
from flo.study.parameters import Vector

MAX_AUC_LOSS, MAX_AUC_LOSS_OF_FEW = 0.02, 0.03  # with 1,000 patients to train on; with fewer
_FEW = 1000
_FORBIDDEN = 3.0  # limits; made-up inputs are less alike than real ones, and lose more
_AS_GOOD = 0.005  # AUC: settings are changed for more than this
_MOST_PATIENTS = 20_000
_MOST_PARAMETERS = 20_000  # a larger network takes minutes to try
_MOST_EXCHANGES = 5000  # hospitals × rounds; a longer study is not tried


@dataclass(frozen=True)
class Trial:
    """Mean AUC without privacy in a world, and how much less the study's is, ± standard error.

    ``share``: of the world. ``laws``: how many laws of it were tried.
    """

    share: float
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
    if study.schema_version == 1:
        return "schema_version 1 is supported for reading only"
    if any(isinstance(column, EncodedColumn) for column in study.data.columns):
        return "made-up images and notes do not resemble real ones"
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
    for world in worlds(study.data.outcome):
        folds = [made_up(small, law, world) for law in laws]
        without = [pooled(small, fold).auc for fold in folds]
        for way in ways:
            tried = way.mechanism
            progress(
                f"{tried.algorithm}, {tried.steps} rounds: made-up patients, {world.share:.0%} "
                f"{share_of(study.data.outcome)}"
            )
            found = [_auc(small.with_mechanism(**tried.model_dump()), fold) for fold in folds]
            lost = [best - auc for best, auc in zip(without, found, strict=True)]
            trials.setdefault(way.digest, []).append(
                Trial(
                    world.share,
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
    settings = usual.whitened(everyone, study.mechanism.epsilon, study.data.outcome)
    return study.with_mechanism(**settings, sampling=1.0, augmentation="none")


def _auc(study: Study, fold: Fold) -> float:
    state, _ = run_once(study, fold, fast=True)
    return auc_of(study, state.model, fold)


def auc_of(study: Study, weights: Vector, fold: Fold) -> float:
    """Return a model's AUC, macro AUC or concordance on a fold's held-out patients."""
    return scored(study, fold, scores_by(study, weights)).auc

"""Evaluation: one noisy release from held-out patients, and an AUC with a confidence interval.

A record's log odds s are mapped to a public position in [0, 1] that does not depend on patients.
Half of it is Φ((s - m)/(2d)), with mean m and deviation d of the scores of made-up patients, and
half is the predicted risk 1/(1 + e^-s). The first half adapts to a model whose log odds are very
small or large, the second to patients unlike the made-up ones. Made-up images do not resemble real
ones, so with images the position is the risk alone. Each class is then described by sums of waves
(``flo.privacy.releases.score_waves``). A patient's records share a total weight of 1, and every
wave vector has norm 1, so one patient moves the release by at most 1 in L2.

Times to an event have a class for each code of ``flo.study.time_to_event``, quantities one for each
level of ``flo.study.quantity``: a record between two levels is shared between them by weights of
sum 1, so that its vector is no longer. The estimate is then of the concordance
(``flo.privacy.releases.concordance``) instead of the AUC.

Several classes have a score each (``flo.study.classes``), whose positives and negatives are
counted: a record of class c at the weight 1 among the positives of score c, and at the weight
1/√(K - 1) among the negatives of the K - 1 others. The one vector has the norm 1 and the others
together have the norm 1, so that a patient's has at most √2, whatever K is. The estimate is of the
mean of the K AUCs, each of one class against all others.

Subgroups. If the study names k category columns, all patients are counted once for each column, by
code. A patient weighs 1 in each of the k groupings, so the norm is √k, of classes √(2k). The
overall AUC comes from the mean of the groupings' totals.

Studies of schema 1 and 2 count in score bins instead (``flo.privacy.releases.score_bins``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from scipy.special import expit, ndtr

from flo.arrays import Floats, Integers, Mask
from flo.privacy.patients.patients import Patients
from flo.privacy.releases import concordance, score_bins, score_waves
from flo.privacy.releases.histograms import record_weights
from flo.privacy.releases.score_waves import Estimate
from flo.study import models
from flo.study.columns import EncodedColumn
from flo.study.document import Study
from flo.study.features import cell_of, cells
from flo.study.parameters import Vector

MOST_ON_A_CARD = 10_000  # numbers of a release that a model's card states
_LARGEST = 1e100
_AT_ONCE = 1 << 14  # records
_FARTHEST, _TABULATED = 40.0, 4001  # log odds, whose risk is 0 or 1; points of a table


def groupings(study: Study) -> dict[str, list[str]]:
    """Return subgroup column -> its codes; a single group of all patients without subgroups."""
    named = study.evaluation.subgroups
    return {n: cells(study.data.category(n), 0) for n in named} or {"": ["everyone"]}


def length(study: Study) -> int:
    """Return the length of a release: all classes, for every code of every grouping."""
    groups = sum(len(codes) for codes in groupings(study).values())
    return groups * study.data.outputs * _sides(study) * _of_a_class(study)


def squared_norm(study: Study) -> int:
    """Return the square of the largest norm that a patient's contribution can have."""
    return len(groupings(study)) * (1 if study.data.classes is None else 2)


def fits_a_card(study: Study) -> bool:
    """Return whether a card states the release: not of score bins, and not of very many codes."""
    return not study.evaluation.bins and length(study) <= MOST_ON_A_CARD


def sums(study: Study, weights: Vector, held_out: Patients) -> Floats:
    """Return the exact sums over a site's held-out patients, shape (length,)."""
    vectors, grouped, sides = _vectors(study, weights), groupings(study), _sides(study)
    weight = record_weights(held_out.patient, held_out.count)
    totals = {
        name: np.zeros((len(codes) * len(vectors) * sides, _of_a_class(study)))
        for name, codes in grouped.items()
    }
    for start in range(0, len(held_out.labels), _AT_ONCE):
        some = slice(start, start + _AT_ONCE)
        inputs, labels = held_out.inputs[some], held_out.labels[some]
        scores = models.scores(study, weights, inputs)
        usable = np.isfinite(scores).all(1) & _is_label(study, labels)
        scores, labels = np.where(usable[:, None], scores, 0.0), np.where(usable, labels, 0.0)
        counted = np.where(usable, weight[some], 0.0)[:, None]
        for output, vectors_of in enumerate(vectors):
            adds, shares = vectors_of(scores[:, output]) * counted, _shares(study, labels, output)
            for name, total in totals.items():
                code = cell_of(study.data, name, inputs, 0) if name else np.zeros(len(labels), int)
                known = (code >= 0)[:, None]
                for side, share in shares:
                    row = np.where(code >= 0, (code * len(vectors) + output) * sides + side, 0)
                    for place, column in enumerate((adds * known * share[:, None]).T):
                        total[:, place] += np.bincount(row, weights=column, minlength=len(total))
    return np.concatenate([total.ravel() for total in totals.values()])


def _sides(study: Study) -> int:
    """Return how many sums of a score there are: negatives and positives of yes or no and of one
    class, otherwise one for each code."""
    return study.data.label_codes if study.data.classes is None else 2


def _is_label(study: Study, labels: Floats) -> Mask:
    """Return which labels (n,) are one of the study's classes, or between two of a quantity."""
    last = study.data.label_codes - 1
    whole = study.data.quantity is not None or labels % 1 == 0
    return np.asarray((labels >= 0) & (labels <= last) & whole)


def _shares(study: Study, labels: Floats, output: int) -> list[tuple[Integers, Floats]]:
    """Return sides (n,), each with the shares (n,) of the records with these labels (n,)."""
    if study.data.classes is not None:
        own = labels == output
        return [(own.astype(np.int64), np.where(own, 1.0, _of_negatives(study)))]
    below = np.floor(labels).astype(np.int64)
    if study.data.quantity is None:
        return [(below, np.ones(len(labels)))]
    above = np.minimum(below + 1, study.data.label_codes - 1)
    return [(below, 1 - (labels - below)), (above, labels - below)]


def _of_negatives(study: Study) -> float:
    """Return for how much a record counts among the negatives of another class than its own."""
    return float((study.data.outputs - 1) ** -0.5)


def read(study: Study, noisy: Floats, variance: float) -> tuple[Estimate, dict[str, Estimate]]:
    """Return the overall estimate, and one for each ``column=code`` of the subgroups.

    ``noisy`` (length,) is a release or a sum of releases, with ``variance`` in every number.
    """
    groups, grouped = _by_group(study, noisy), groupings(study)
    names = [f"{column}={code}" for column, codes in grouped.items() if column for code in codes]
    subgroups = {
        name: _estimate(study, sums, variance)
        for name, sums in zip(names, groups, strict=False)  # there are no names without subgroups
    }
    return _estimate(study, *_over_groups(study, groups, variance)), subgroups


def at_horizons(study: Study, noisy: Floats, variance: float) -> tuple[Estimate, ...]:
    """Return the AUC at each horizon of a study of the time to an event; none of others."""
    classes, spread = of_everyone(study, noisy, variance)
    horizons = range(1, study.data.times.periods + 1) if study.data.times else ()
    return tuple(concordance.at_horizon(classes, horizon, spread) for horizon in horizons)


def of_everyone(study: Study, noisy: Floats, variance: float) -> tuple[Floats, float]:
    """Return the sums (classes, _) over all patients, and the variance of each number.

    Negatives and positives, or a class for each code of an outcome, by a model of one output. Each
    grouping counts every patient once, so the sums are the mean over the groupings.
    """
    sums, spread = _over_groups(study, _by_group(study, noisy), variance)
    return sums[0], spread


def of_each_class(study: Study, noisy: Floats, variance: float) -> list[tuple[Floats, Floats]]:
    """Return, for each of several classes, the negatives and positives of its score, (2, LENGTH),
    over all patients, and the variance of each number of either, (2,)."""
    return _of_classes(study, *_over_groups(study, _by_group(study, noisy), variance))


def by_class(study: Study, noisy: Floats, variance: float) -> tuple[Estimate, ...]:
    """Return the AUC of each of several classes against all others; none of other outcomes."""
    if study.data.classes is None:
        return ()
    return tuple(score_waves.auc(*one) for one in of_each_class(study, noisy, variance))


def expected_half_width_of_classes(study: Study, patients: float, variance: float) -> float:
    """Return the expected half width of the macro AUC's interval before a run.

    As ``score_waves.expected_half_width``, for classes that ever fewer patients have: K parts, then
    K - 1, down to 1. ``variance``: of the noise in each number over all ``patients``.
    """
    count = study.data.outputs
    shares = np.arange(count, 0.0, -1.0) / (count * (count + 1) / 2)
    of_sides = variance / _weights(study) ** 2
    each = [score_waves.expected_variances(patients, share, of_sides) for share in shares]
    noise, sampling = np.transpose(each)
    whole = noise.sum() / count**2 + np.sqrt(sampling).mean() ** 2
    return float(min(0.5, score_waves.Z * whole**0.5))


def variance_of_everyone(study: Study, variance: float) -> float:
    """Return the variance of a sum over all patients, of sums by group with this ``variance``."""
    codes = [len(codes) for codes in groupings(study).values()]
    return variance * sum(codes) / len(codes) ** 2


def _by_group(study: Study, noisy: Floats) -> Floats:
    """Return the sums as (groups, outputs, sides, _)."""
    return noisy.reshape(-1, study.data.outputs, _sides(study), _of_a_class(study))


def _over_groups(study: Study, groups: Floats, variance: float) -> tuple[Floats, float]:
    return groups.sum(0) / len(groupings(study)), variance_of_everyone(study, variance)


def _of_classes(study: Study, sums: Floats, variance: float) -> list[tuple[Floats, Floats]]:
    """Return the sums (outputs, 2, LENGTH) of whole patients, and their variances."""
    scale = _weights(study)
    return [(both / scale[:, None], variance / scale**2) for both in sums]


def _weights(study: Study) -> Floats:
    """Return for how much a patient counts among negatives and positives of one class, (2,)."""
    return np.array([_of_negatives(study), 1.0])


def _estimate(study: Study, sums: Floats, variance: float) -> Estimate:
    if study.data.classes is not None:
        return _mean([score_waves.auc(*one) for one in _of_classes(study, sums, variance)])
    (classes,) = sums
    if study.evaluation.bins:
        return score_bins.auc(classes.ravel(), variance)
    if study.data.times is not None:
        return concordance.between_periods(classes, variance)
    if study.data.quantity is not None:
        return concordance.between_levels(classes, variance)
    return score_waves.auc(classes, variance)


def _mean(each: Sequence[Estimate]) -> Estimate:
    """Return the mean of AUCs from sums with independent noise.

    The patients are the same, so that sampling may move all AUCs together: its deviation of the
    mean is at most the mean of the deviations, which is taken. Where nothing bounds an AUC, on
    either side, its estimate may be wrong by its whole interval and in the same direction as
    others, as too few patients are told from noise: such widths are added as they are.
    """
    below = np.array([max(one.auc - one.low - one.bias, 0.0) for one in each])
    above = np.array([max(one.high - one.auc - one.bias, 0.0) for one in each])
    noise = np.array([one.noise_share for one in each])
    known = np.array([one.low > 0 and one.high < 1 for one in each])
    centre, bias = (float(np.mean([getattr(one, n) for one in each])) for n in ("auc", "bias"))

    def half(widths: Floats) -> tuple[float, float]:
        """Return what one side is long, and the part of its square that noise adds."""
        of_noise = float((widths**2 * noise)[known].sum()) / len(each) ** 2
        of_sampling = float((widths * np.sqrt(1 - noise))[known].sum() / len(each)) ** 2
        unknown = float(widths[~known].sum()) / len(each)
        length = (of_noise + of_sampling) ** 0.5 + unknown
        return length, of_noise + unknown**2

    (low, noise_below), (high, noise_above) = half(below), half(above)
    whole = low**2 + high**2
    return Estimate(
        centre,
        max(0.0, centre - low - bias),
        min(1.0, centre + high + bias),
        each[0].level,
        min(1.0, (noise_below + noise_above) / whole) if whole > 0 else 0.0,
        bias,
    )


def _of_a_class(study: Study) -> int:
    """Return how many numbers describe one class."""
    return study.evaluation.bins or score_waves.LENGTH


@dataclass(frozen=True)
class Positions:
    """Public map of a model's log odds to [0, 1], by the scores of made-up patients.

    ``middle``, ``deviation``: their mean log odds and standard deviation; 0 and None with images.
    """

    middle: float
    deviation: float | None

    @classmethod
    def of_model(cls, study: Study, weights: Vector) -> Positions:
        """Return the positions of the study's model of one output with these weights."""
        (found,) = cls.of_outputs(study, weights)
        return found

    @classmethod
    def of_outputs(cls, study: Study, weights: Vector) -> list[Positions]:
        """Return the positions of each output of the study's model with these weights."""
        if any(isinstance(column, EncodedColumn) for column in study.data.columns):
            return [cls(0.0, None)] * study.data.outputs
        made_up = np.nan_to_num(models.made_up_scores(study, weights))
        made_up = np.clip(made_up, -_LARGEST, _LARGEST)  # keeps the mean finite for any weights
        return [
            cls(float(one.mean()), float(max(one.std(), 1 / _LARGEST)))
            for one in np.ascontiguousarray(made_up.T)
        ]

    def of(self, scores: Floats) -> Floats:
        """Return the positions (n,) of finite log odds (n,)."""
        if self.deviation is None:
            return np.asarray(expit(scores))
        apart = np.clip(scores, -2 * _LARGEST, 2 * _LARGEST) - self.middle
        return np.asarray((ndtr(apart / (2 * self.deviation)) + expit(scores)) / 2)

    def log_odds(self, positions: Floats) -> Floats:
        """Return the log odds at positions (n,) in (0, 1), interpolated between tabulated ones."""
        known = np.linspace(-_FARTHEST, _FARTHEST, _TABULATED)
        if self.deviation is not None:
            known = np.concatenate([known, self.middle + self.deviation * known / 2])
        known = np.unique(known)
        return np.interp(positions, self.of(known), known)


def _vectors(study: Study, weights: Vector) -> list[Callable[[Floats], Floats]]:
    """Return for each output the map from finite log odds (n,) to records' vectors of norm 1."""
    if bins := study.evaluation.bins:
        edges = score_bins.public_edges(study, weights, bins)
        return [lambda scores: score_bins.vectors(scores, edges)]
    return [partial(_waves_at, one) for one in Positions.of_outputs(study, weights)]


def _waves_at(positions: Positions, scores: Floats) -> Floats:
    return score_waves.vectors(positions.of(scores))

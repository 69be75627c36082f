"""Coefficients from the noisy rounds of a regression, with a covariance that counts the noise.

Round t released a score s_t and an information H_t at β_t. If the score is linear in β between the
β_t, each r_t(β) = s_t + H_t·(β_t - β) is the score at β, and the estimate β̂ is where their mean
is 0: β̂ = H̄⁻¹·mean(s_t + H_t·β_t). Noise of standard deviation σ in s_t and τ in H_t gives r_t(β̂)
the covariance V_t = σ²I + τ²/2·(‖δ‖²I + δδᵀ), δ = β_t - β̂, so with m rounds the covariance of β̂ is
φ·H̄⁻¹ (sampling) + H̄⁻¹·(Σ V_t/m²)·H̄⁻¹ (noise) + φ·τ²/m·H̄⁻¹(tr(H̄⁻¹)I + H̄⁻¹)H̄⁻¹, by which the first
term is too small, to second order, because H̄ is noisy. Where the r_t(β̂) differ by more than noise,
the noise term counts as many times more (Birge 1932). φ is 1 (logistic), the residual variance
(linear), or the dispersion Σ(y - m)²/Σm (Poisson; quasi-likelihood, Wedderburn 1974).

1. Round 1 asks at 0. From its sums follow score and information at the intercept that fits alone,
   which is where scoring starts: from 0 a rare outcome would take many rounds.
2. Each later round asks where the last two rounds together say, or the last one alone where the
   two differ by more than noise: then the earlier one is too far away.
3. Rounds of the same hospitals have the same patients, so their r_t(β̂) differ by noise only, if the
   score is linear. Of the hospitals that were together most often, the last two rounds are used,
   and earlier ones as long as a χ² test does not see them differ. If it sees that even the last two
   differ, or that they say to move on by more than noise does, scoring has not arrived: nothing is
   known.
4. Noise in H̄ is inverted. Nothing is known unless the smallest eigenvalue of H̄, and of that of the
   last two rounds, is twice the largest one that noise alone would have in H̄, τ·√(2d/m); thrice if
   it is linear, where the noise of H̄ meets all of β.

A linear regression has the same sums in each round, and all of the same hospitals are used.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.special import chdtrc

from flo.arrays import Floats
from flo.privacy.releases.regressions import RegressionBlock, Sums, layout, read_sums
from flo.study.document import Study
from flo.study.models import request_length
from flo.study.parameters import Vector
from flo.study.statistics import Regression

_LEAST_SIGNAL = {"logistic": 2.0, "linear": 3.0, "poisson": 2.0}
_SURELY_APART, _MAYBE_APART = 0.01, 0.05
_LARGEST_STEP, _SURE_STEP, _LARGEST_FIRST = 2.0, 6.0, 3.0
_NO_MATTER, _LEAST_FALL = 0.01, 0.25
_LEAST_MEAN = 0.002  # of an outcome, for the first step
_ROUNDS_TOGETHER = 2

Why = Literal["", "noise", "not-arrived", "cut-short", "left"]


@dataclass(frozen=True)
class Released:
    """What one round released: the noisy sum, (length,), at the coefficients ``asked``, the
    variance of its noise, and whose patients are in it.
    """

    sums: Floats
    asked: Floats
    variance: float
    hospitals: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Estimated:
    """Coefficients, (d,), and their covariance, (d, d), of x and y as the release scales them.

    ``patients``: how many had all values, noisy; ``of``: a mean of so many rounds. ``unknown``:
    empty, or why nothing is known. ``weakest``: the direction of the smallest information, (d,), of
    norm 1.
    """

    coefficients: Floats
    covariance: Floats
    patients: float
    of: int
    unknown: Why
    weakest: Floats


@dataclass(frozen=True)
class _Round:
    sums: Sums
    asked: Floats
    hospitals: frozenset[str]

    def at(self, beta: Floats) -> Floats:
        """Return the score at β, as this round says."""
        return self.sums.score + self.sums.information @ (self.asked - beta)

    def noise_at(self, beta: Floats) -> Floats:
        """Return the covariance of the noise of ``at``."""
        apart = self.asked - beta
        squared, one = float(apart @ apart), np.eye(len(apart))
        of_information = self.sums.information_noise**2 / 2
        return self.sums.noise**2 * one + of_information * (squared * one + np.outer(apart, apart))


def least_signal(part: Regression) -> float:
    """Return how far the smallest eigenvalue of the information must be above its noise."""
    return _LEAST_SIGNAL[part.family]


def next_coefficients(study: Study, rounds: Sequence[Released]) -> Floats:
    """Return what the next round asks about, (coefficients,); zeros before any round."""
    found = np.zeros(request_length(study, "regression"))
    for block in layout(study) if rounds else ():
        if block.part.family != "linear":
            found[block.coefficients] = _next(block, _read(block, rounds))
    return found


def estimate(block: RegressionBlock, rounds: Sequence[Released]) -> Estimated:
    """Return the coefficients of a regression after all rounds, or those that there were."""
    read = _together(block, _read(block, rounds))
    used, unknown = _used(block, read, len(rounds))
    found, information, loud = _pooled(used)
    values, vectors = np.linalg.eigh(information)
    _, latest, _ = _pooled(used[-_ROUNDS_TOGETHER:])  # information falls, while odds grow for ever
    clear = min(values[0], np.linalg.eigvalsh(latest)[0]) > least_signal(block.part) * loud
    if unknown in ("", "not-arrived") and not clear:
        unknown = "noise"
    inverse = _inverse(information, loud)
    of_noise = sum(one.noise_at(found) for one in used) / len(used) ** 2
    if len(used) > 1 and block.part.family != "linear":
        differing, freedom = _apart(block, used)
        of_noise = of_noise * max(1.0, differing / freedom)
    in_inverse = (
        loud**2
        / (2 * block.size)
        * inverse
        @ ((np.trace(inverse) * np.eye(block.size) + inverse) @ inverse)
    )
    dispersion = _dispersion(block, used, read, found, information)
    covariance = dispersion * (inverse + in_inverse) + inverse @ of_noise @ inverse
    patients = float(np.mean([one.sums.patients for one in read]))
    return Estimated(found, covariance, patients, len(read), unknown, vectors[:, 0])


def _read(block: RegressionBlock, rounds: Sequence[Released]) -> list[_Round]:
    return [
        _Round(
            read_sums(block, one.sums, one.variance), one.asked[block.coefficients], one.hospitals
        )
        for one in rounds
    ]


def _together(block: RegressionBlock, rounds: list[_Round]) -> list[_Round]:
    """Return the rounds of the hospitals that were together most often; of the latest, if tied."""
    counted = rounds if block.part.family == "linear" else rounds[1:] or rounds
    often = Counter(one.hospitals for one in reversed(counted))
    (together, _), *_ = often.most_common()
    return [one for one in counted if one.hospitals == together]


def _next(block: RegressionBlock, rounds: list[_Round]) -> Floats:
    if len(rounds) == 1:
        return _first(block, rounds[0])
    last, latest = rounds[-1], rounds[1:][-_ROUNDS_TOGETHER:]
    if len({one.hospitals for one in latest}) > 1 or (
        len(latest) > 1 and _p_apart(block, latest) < _MAYBE_APART
    ):
        latest = [last]
    wanted, information, loud = _pooled(latest)
    sure = float(np.linalg.eigvalsh(information)[0]) > least_signal(block.part) * loud
    return last.asked + _at_most(wanted - last.asked, _SURE_STEP if sure else _LARGEST_STEP)


def _first(block: RegressionBlock, one: _Round) -> Floats:
    """Return a Fisher step from the intercept that fits alone, by the sums at 0."""
    sums, found = one.sums, np.zeros(block.size)
    if block.part.family == "logistic":  # at 0 all p are 1/2, and the information is Σxxᵀ/4
        unit, expected = 4.0, 0.5
    else:  # all m are 1, and it is Σxxᵀ
        unit, expected = 1.0, 1.0
    squares = unit * sums.information
    mean = expected + sums.score[0] / max(sums.patients, 1.0)
    mean = min(max(mean, _LEAST_MEAN), 1 - _LEAST_MEAN)
    if block.part.family == "logistic":
        found[0], informed = math.log(mean / (1 - mean)), mean * (1 - mean)
    else:
        found[0], informed = math.log(mean), mean
    score = sums.score + (expected - mean) * squares[:, 0]
    loud = informed * unit * sums.information_noise * math.sqrt(2 * block.size)
    return found + _at_most(_inverse(informed * squares, loud) @ score, _LARGEST_FIRST)


def _used(block: RegressionBlock, rounds: list[_Round], of: int) -> tuple[list[_Round], Why]:
    """Return the last rounds between whose coefficients the score is linear, at least two.

    ``of``: how many rounds there were, of any hospitals.
    """
    if block.part.family == "linear":
        return rounds, ""
    if len(rounds) < _ROUNDS_TOGETHER:
        return rounds, "left" if of > _ROUNDS_TOGETHER else "cut-short"
    used = rounds[-_ROUNDS_TOGETHER:]
    surely = min(_p_apart(block, used), _p_moved(block, used), _p_falling(rounds[-3:]))
    unknown: Why = "not-arrived" if surely < _SURELY_APART else ""
    for earlier in reversed(rounds[:-_ROUNDS_TOGETHER]):
        if unknown or _p_apart(block, [earlier, *used]) < _MAYBE_APART:
            break
        used = [earlier, *used]
    return used, unknown


def _p_apart(block: RegressionBlock, rounds: list[_Round]) -> float:
    """Return the p-value of rounds whose scores at their estimate differ by noise only."""
    return _chi2_beyond(*_apart(block, rounds))


def _apart(block: RegressionBlock, rounds: list[_Round]) -> tuple[float, int]:
    """Return by how much the scores differ, a χ² if by noise only, and its degrees of freedom.

    Differences of a hundredth of the score's standard error by chance are no matter.
    """
    found, information, _ = _pooled(rounds)
    no_matter = _NO_MATTER**2 * _dispersion(block, rounds, rounds, found, information) * information
    scores = [one.at(found) for one in rounds]
    mean = np.mean(scores, axis=0)
    apart = 0.0
    for one, score in zip(rounds, scores, strict=True):
        covariance = one.noise_at(found) + no_matter
        apart += float((score - mean) @ np.linalg.solve(covariance, score - mean))
    return apart, (len(rounds) - 1) * len(found)


def _p_moved(block: RegressionBlock, rounds: list[_Round]) -> float:
    """Return the p-value that scoring stays where it is, but for noise.

    The last round alone says where to go; a round before it, scoring was at an estimate of no more
    noise.
    """
    before, last = rounds[-2:]
    wanted, information, loud = _pooled([last])
    inverse = _inverse(information, loud)
    no_matter = _NO_MATTER**2 * _dispersion(block, [last], rounds, wanted, information) * inverse
    covariance = 2 * inverse @ last.noise_at(wanted) @ inverse + no_matter
    step = wanted - before.asked
    return _chi2_beyond(float(step @ np.linalg.solve(covariance, step)), len(step))


def _p_falling(rounds: list[_Round]) -> float:
    """Return the p-value that the information does not fall where scoring moves; 1 if by little.

    Where a code tells the outcome of all its patients, odds grow and information falls for ever.
    """
    first, last = rounds[0], rounds[-1]
    wanted, _, _ = _pooled([last])
    step = wanted - first.asked
    step = step / max(float(np.linalg.norm(step)), 1e-300)
    before, now = (float(step @ one.sums.information @ step) for one in (first, last))
    if now > (1 - _LEAST_FALL) * before:
        return 1.0
    noise = math.hypot(first.sums.information_noise, last.sums.information_noise)
    return math.erfc((before - now) / noise / math.sqrt(2)) / 2


def _chi2_beyond(value: float, freedom: int) -> float:
    """Return the probability that a χ² exceeds the value."""
    return float(chdtrc(freedom, value))


def _pooled(rounds: list[_Round]) -> tuple[Floats, Floats, float]:
    """Return where the mean score is 0, H̄, and the largest eigenvalue of its noise alone."""
    information = np.mean([one.sums.information for one in rounds], axis=0)
    target = np.mean([one.at(np.zeros_like(one.asked)) for one in rounds], axis=0)
    variance = sum(one.sums.information_noise**2 for one in rounds) / len(rounds) ** 2
    loud = math.sqrt(variance * 2 * len(target))
    return _inverse(information, loud) @ target, information, loud


def _dispersion(
    block: RegressionBlock,
    used: list[_Round],
    rounds: list[_Round],
    found: Floats,
    information: Floats,
) -> float:
    """Return φ."""
    if block.part.family == "logistic":
        return 1.0
    squares = float(np.mean([one.sums.squares for one in used]))
    if block.part.family == "poisson":
        return max(squares, 0.0) / max(float(information[0, 0]), 1.0)
    patients = float(np.mean([one.sums.patients for one in rounds]))
    target = np.mean([one.sums.score for one in used], axis=0)
    residual = squares - 2 * float(found @ target) + float(found @ information @ found)
    return max(residual, 0.0) / max(patients - block.size, 1.0)


def _inverse(information: Floats, least: float) -> Floats:
    """Return H⁻¹, of eigenvalues of at least ``least``."""
    values, vectors = np.linalg.eigh(information)
    return np.asarray((vectors / np.maximum(values, max(least, 1e-300))) @ vectors.T)


def _at_most(step: Floats, limit: float) -> Floats:
    size = float(np.linalg.norm(step))
    return step * min(1.0, limit / max(size, 1e-300))


def rounds_of(
    sums: Vector, asked: Vector, variances: Sequence[float], hospitals: Sequence[Sequence[str]]
) -> list[Released]:
    """Return the rounds whose sums, and coefficients, lie one after another.

    ``variances``, ``hospitals``: of each round.
    """
    if not variances:
        return []
    each = np.split(np.asarray(sums, dtype=np.float64), len(variances))
    at = np.split(np.asarray(asked, dtype=np.float64), len(variances))
    whose = [frozenset(one) for one in hospitals]
    return [Released(*one) for one in zip(each, at, variances, whose, strict=True)]

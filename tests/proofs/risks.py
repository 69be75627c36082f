"""The risks that a card states are those that an exact fit on the same patients would state.

Models, releases and draws are those of ``tests.proofs.truth``: each release is of patients drawn
with replacement from all held-out patients. The truth is a Platt fit without noise to all held-out
patients. "Others" are the half of the held-out patients that one release does not evaluate.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

from flo.arrays import Floats
from flo.privacy.accounting.plan import Plan, combined_variance
from flo.privacy.releases import calibration
from flo.privacy.releases.calibration import Calibration
from flo.study import models
from flo.study.document import Study
from flo.study.parameters import Vector
from tests.proofs.hospitals import CHOSEN_ON, GENERAL, Consortium
from tests.proofs.rows import Row, chance
from tests.proofs.truth import contributions, released, trained

_MODELS, _DRAWS = 60, 5
_QUICK = {"support2": 8}
_MANY, _SOME = 1800, 1000  # evaluated patients, for the promises below
_BRIER, _BRIER_OF_FEW = 0.003, 0.008
# With images whose scores differ little, hardly anything can be learnt from 290 patients.
_BRIER_OF = {"lidc, wavelets": 0.03}
# Of 3,900 patients 180 have the label, and six hospitals add noise of their own: the card stays
# near the scores, which say .4 of the risk (docs/limits.md).
_OTHERS_OF = {"nass": 0.7}
_COVERED = (0.86, 0.94)  # over all sets
_COVERED_LEAST = 0.84  # of each
_PERCENTILES = np.linspace(0, 100, 80)


def rows(quick: bool) -> Iterator[Row]:
    """Predicted / observed, Brier score beside an exact Platt fit, and coverage of the band."""
    sets, covered = CHOSEN_ON | GENERAL, list[float]()
    for name in _QUICK if quick else sets:
        began = time.monotonic()
        found = _Found(sets[name](), _QUICK[name] if quick else _MODELS)
        runs, seconds = len(found.ratios), time.monotonic() - began
        if found.evaluated >= _SOME:
            ratio = float(np.mean(found.ratios))
            yield Row(f"{name}: card, predicted / observed", ratio, runs, seconds, 0.9, 1.1)
        if found.evaluated >= 2 * _SOME:
            ratio, least = float(np.mean(found.of_others)), _OTHERS_OF.get(name, 0.9)
            yield Row(f"{name}: card, of others", ratio, len(found.of_others), seconds, least, 1.1)
        worse = float(np.mean(found.worse))
        most = _BRIER_OF.get(name, _BRIER if found.evaluated >= _MANY else _BRIER_OF_FEW)
        yield Row(f"{name}: Brier score above an exact fit", worse, runs, seconds, most=most)
        held = float(np.mean(found.covered))
        # Percentiles of one release are covered together, so a release is one run.
        least = _COVERED_LEAST - chance(_COVERED_LEAST, runs)
        yield Row(f"{name}: 90 % band holds the exact risk", held, runs, seconds, least)
        covered.append(held)
    if not quick:
        name = "all sets: 90 % band holds the exact risk"
        yield Row(name, float(np.mean(covered)), len(covered), 0.0, *_COVERED)


class _Found:
    """Of every release of every model. ``evaluated``: patients of a release."""

    def __init__(self, consortium: Consortium, count: int) -> None:
        self.ratios, self.worse, self.covered = list[float](), list[float](), list[float]()
        self.of_others = list[float]()
        study = consortium.study
        part = Plan.of(study).purpose("evaluation")
        variance = combined_variance(study, part, len(study.hospitals))
        for number in range(count):
            held_out, model = trained(consortium, number)
            self.evaluated = held_out.count
            scores, labels = models.log_odds(study, model, held_out.inputs), held_out.labels
            weight = 1 / np.bincount(held_out.patient)[held_out.patient]
            told = contributions(study, model, held_out, scores, weight)
            true = _Platt(scores, labels, weight)
            places = np.percentile(scores, _PERCENTILES)
            generator = np.random.default_rng(number)

            for _ in range(_DRAWS):
                drawn = generator.integers(0, held_out.count, held_out.count)
                times = np.bincount(drawn, minlength=held_out.count)
                card = _card(study, model, times @ told, variance)
                risk, _, _ = card.of(scores)
                exact = _Platt(scores, labels, weight * times[held_out.patient])
                self.ratios.append(float(weight @ risk / (weight @ labels)))
                self.worse.append(
                    _brier(risk, labels, weight) - _brier(exact(scores), labels, weight)
                )
                _, low, high = card.of(places)
                self.covered.append(float(np.mean((low <= true(places)) & (true(places) <= high))))
            half = generator.permutation(held_out.count) % 2
            others = weight * (1 - half)[held_out.patient]
            risk, _, _ = _card(study, model, half @ told, variance).of(scores)
            self.of_others.append(float(others @ risk / (others @ labels)))


def _card(study: Study, model: Vector, sums: Floats, variance: float) -> Calibration:
    """Return the calibration of a noisy release of these exact sums."""
    made = calibration.fit(study, model, released(study, sums), variance)
    assert made is not None
    return made


class _Platt:
    """Risks of an exact fit of intercept and slope to weighted log odds (n,) and labels (n,)."""

    def __init__(self, scores: Floats, labels: Floats, weight: Floats) -> None:
        self._middle, self._spread = scores.mean(), max(float(scores.std()), 1e-9)
        apart = (scores - self._middle) / self._spread

        def loss(given: Floats) -> tuple[float, Floats]:
            z = given[0] + given[1] * apart
            error = weight * (expit(z) - labels)
            value = float(weight @ (np.logaddexp(0, z) - labels * z))
            return value, np.array([error.sum(), error @ apart])

        self._fit = minimize(loss, np.array([0.0, 1.0]), jac=True).x

    def __call__(self, scores: Floats) -> Floats:
        apart = (scores - self._middle) / self._spread
        return np.asarray(expit(self._fit[0] + self._fit[1] * apart))


def _brier(risk: Floats, labels: Floats, weight: Floats) -> float:
    return float(weight @ (risk - labels) ** 2 / weight.sum())

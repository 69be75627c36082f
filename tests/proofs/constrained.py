"""Constrained training against thresholds by group, at equal ε: docs/decisions/0040.

    python -m tests.proofs.constrained fars|health|nass PATIENTS

Constrained training, in the manner of RaCO-DP (arXiv 2505.22703): each round of training on
whitened inputs also releases, in the same noisy sum, how many patients with the outcome each group
has, and how many of them are flagged (a steep sigmoid). A multiplier of each group grows by
``strength`` times its sensitivity's distance from that of all, and moves the gradient. It was not
kept; this shows why.
"""

from __future__ import annotations

import hashlib
import math
import sys
from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from flo.arrays import Floats
from flo.clients.records.snapshot import Snapshot
from flo.lab.folds import within
from flo.privacy.accounting.plan import Plan, combined_variance
from flo.privacy.patients.patients import Patients
from flo.privacy.releases import group_rates, second_moments, whitening
from flo.privacy.releases.evaluation import Positions
from flo.study.document import Study
from flo.study.features import Codes, cell_of
from flo.study.parameters import Vector
from tests.proofs.fairness import World, _consortium, _trained
from tests.proofs.truth import HELD_OUT

_STRENGTHS, _STEPS, _SEEDS, _DRAWS = (0.02, 0.05, 0.1, 0.2, 0.5), (15, 30), 3, 10
_SHARE, _STEEP, _FEWEST = 0.3, 4.0, 50.0  # of the norm for counts; slope of the sigmoid; patients


@dataclass(frozen=True)
class Training:
    """All training patients together, with what the hospitals would release of them.

    ``variances``: of noise in moments, and in each coordinate of a round.
    """

    study: Study
    rows: Floats
    labels: Floats
    moments: Floats
    patients: float
    variances: tuple[float, float]

    @classmethod
    def of(cls, study: Study, snapshots: dict[str, Snapshot]) -> Training:
        parts = [one.training for one in snapshots.values()]
        inputs = np.concatenate([one.inputs for one in parts])
        plan, ids = Plan.of(study), [one.id for one in study.hospitals]
        moments, training = (
            combined_variance(study, plan.purpose(what), len(ids))
            for what in ("moments", "training")
        )
        return cls(
            study,
            np.hstack([inputs, np.ones((len(inputs), 1))]),
            np.concatenate([one.labels for one in parts]).astype(np.float64),
            np.sum([second_moments.clipped_sum(study, one) for one in parts], axis=0),
            whitening.planned_patients(study, ids),
            (moments, training),
        )

    def model(
        self, seed: int, column: str = "", strength: float = 0.0, steps: int = 0, at: float = 0.0
    ) -> Vector:
        """Train, with patients flagged from log odds ``at`` on; the same ε for any settings."""
        terms, generator = self.study.mechanism, np.random.default_rng(seed)
        steps = steps or terms.steps
        noise = math.sqrt(self.variances[0]) * generator.normal(size=len(self.moments))
        whitener = whitening.matrix_of(
            self.study, self.moments + noise, self.variances[0], self.patients
        )
        rows = self.rows @ whitener
        clip = terms.clip * math.sqrt(rows.shape[1])
        lengths = np.linalg.norm(rows, axis=1)
        deviation = math.sqrt(self.variances[1] * steps / terms.steps)
        groups = _Groups(self, column, deviation / clip / _SHARE, generator) if strength else None
        if groups:
            deviation *= math.sqrt(1 + _SHARE**2)
        weights = velocity = tail = np.zeros(rows.shape[1])
        for step in range(1, steps + 1):
            scores = rows @ weights
            slopes = expit(scores) - self.labels
            if groups:
                slopes = slopes + groups.push(scores - at, strength)
            factors = np.minimum(1, clip / np.maximum(np.abs(slopes) * lengths, 1e-300))
            noisy = (slopes * factors) @ rows + deviation * generator.normal(size=rows.shape[1])
            velocity = terms.momentum * velocity + noisy / self.patients
            weights = weights - terms.learning_rate * velocity
            if step > steps // 2:
                tail = tail + weights
        return np.asarray(whitener @ (tail / (steps - steps // 2)))


class _Groups:
    """Multipliers of the groups of a column, from noisy counts of norm √2 a patient."""

    def __init__(
        self, training: Training, column: str, deviation: float, generator: np.random.Generator
    ) -> None:
        self._codes: Codes = cell_of(training.study.data, column, training.rows[:, :-1], 0)
        self._ill = (training.labels == 1) & (self._codes >= 0)
        self._count = int(self._codes.max()) + 1
        self._deviation = math.sqrt(2 * (1 + _SHARE**2)) * deviation
        self._generator, self._multipliers = generator, np.zeros(self._count)

    def push(self, above: Floats, strength: float) -> Floats:
        """Move the multipliers; return what they add to each patient's slope."""
        flagged, codes = expit(_STEEP * above), self._codes[self._ill]
        found = self._noisy(np.bincount(codes, flagged[self._ill], self._count))
        many = np.maximum(self._noisy(np.bincount(codes, minlength=self._count)), _FEWEST)
        self._multipliers += strength * (found / many - found.sum() / many.sum())
        shares = many / len(above)
        each = np.zeros(len(above))
        each[self._ill] = (self._multipliers / shares)[codes]
        each[self._ill] -= self._multipliers.sum() / shares.sum()
        return np.asarray(each * _STEEP * flagged * (1 - flagged))

    def _noisy(self, counts: Floats | Codes) -> Floats:
        return counts + self._deviation * self._generator.normal(size=self._count)


def main(name: str, patients: int) -> None:
    consortium = _consortium(name)
    key = hashlib.sha256(b"fair" if name == "fars" else b"proof 0").digest()
    snapshots = {}
    for site, one in consortium.hospitals.items():
        some = within(one, key, 0, 0.7 if name == "fars" else HELD_OUT)
        aside = set(one.patient_ids) - some if name == "fars" else some
        snapshots[site] = Snapshot.divided(one, aside)
    held, _ = _trained(name, consortium, 0)
    training = Training.of(consortium.study, snapshots)
    for column in consortium.study.evaluation.subgroups:
        for half in (0, 1):
            _compare(training, held, column, half, patients)


def _compare(training: Training, held: Patients, column: str, half: int, patients: int) -> None:
    study = training.study
    models = [training.model(seed) for seed in range(_SEEDS)]
    worlds = [World.of(study, held, model, half=half) for model in models]
    before = [world.judged(column, None) for world in worlds]
    title = f"{column}, {'half flagged' if half else 'most right'}"
    _say(f"{title}: gap {np.mean([gap for gap, _ in before]):.3f}")
    found = []
    for world, was in zip(worlds, before, strict=True):
        for draw in range(_DRAWS):
            chosen = group_rates.thresholds(study, *world.released(patients, draw), world.place)
            found.append(_change(was, world.judged(column, chosen.get(column))))
    _say(f"  thresholds by group: {_mean(found)}")
    places = [
        float(Positions.of_model(study, model).log_odds(np.array([world.place]))[0])
        for model, world in zip(models, worlds, strict=True)
    ]
    for steps in _STEPS:
        for strength in _STRENGTHS:
            found = []
            for seed, (was, at) in enumerate(zip(before, places, strict=True)):
                model = training.model(seed, column, strength, steps, at)
                world = World.of(study, held, model, half=half)
                found.append(_change(was, world.judged(column, None)))
            _say(f"  constrained, {steps} rounds, strength {strength}: {_mean(found)}")


def _change(was: tuple[float, float], now: tuple[float, float]) -> tuple[float, float]:
    return 100 * (now[0] / was[0] - 1), 100 * (now[1] - was[1])


def _mean(found: list[tuple[float, float]]) -> str:
    gap, right = np.mean(found, axis=0)
    return f"gap {gap:+.0f} %, classified rightly {right:+.2f} points"


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))

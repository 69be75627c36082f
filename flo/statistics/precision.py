"""How wide a regression's intervals will be beside those without privacy, foreseen from patients
that one may see: public ones, one's own, or the synthetic rows of a catalogue.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from flo.arrays import Floats
from flo.privacy.accounting.plan import Plan, combined_variance
from flo.privacy.patients.patients import Patients
from flo.privacy.releases.fisher_scoring import least_signal
from flo.privacy.releases.regressions import RegressionBlock, design, noise_of
from flo.statistics.regression import to_units
from flo.study.document import Study
from flo.study.statistics import ROUNDS

WIDE = 3.0  # times as wide as without privacy: warn
_STEPS, _LARGEST_STEP = 50, 2.0


@dataclass(frozen=True)
class Precision:
    """``widths``: of each coefficient's interval beside that without privacy, by name.

    ``signal``: the smallest eigenvalue of the information beside the noise's largest one;
    ``needed``: how large it must be.
    """

    widths: dict[str, float]
    signal: float
    needed: float

    @property
    def shown(self) -> bool:
        """Whether the noise will be small enough to show the regression."""
        return self.signal > self.needed

    @property
    def widest(self) -> float:
        """The largest of the widths."""
        return max(self.widths.values())


def foresee(study: Study, block: RegressionBlock, like: Patients) -> Precision:
    """Return the precision of a regression if the study's patients are like these.

    Raises ValueError: fewer of them than coefficients have all values.
    """
    x, y, there = design(study, block.part, like)
    if there.sum() <= block.size:
        raise ValueError(f"{int(there.sum())} patients have all values of {block.part.name}")
    everyone = sum(hospital.planned for hospital in study.hospitals)
    beta, information, dispersion = _fitted(block.part.family, x[there], y[there])
    information *= everyone / like.count
    part = Plan.of(study).purpose("regression")
    noise, of_information = noise_of(block, combined_variance(study, part, len(study.hospitals)))
    linear = block.part.family == "linear"
    rounds = ROUNDS if linear else ROUNDS - 1
    added = noise**2 * np.eye(block.size)
    if linear:  # it asks at 0 always, so the noise of the information counts
        squared = float(beta @ beta) * np.eye(block.size) + np.outer(beta, beta)
        added += of_information**2 / 2 * squared
    inverse, change = np.linalg.inv(information), to_units(block, study.data)
    sampling = np.diag(change @ (dispersion * inverse) @ change.T)
    of_noise = np.diag(change @ inverse @ (added / rounds) @ inverse @ change.T)
    widths = np.sqrt(1 + of_noise / sampling)
    loud = of_information * math.sqrt(2 * block.size / rounds)
    signal = float(np.linalg.eigvalsh(information)[0]) / loud
    named = dict(zip(block.names, widths.tolist(), strict=True))
    return Precision(named, signal, least_signal(block.part))


def _fitted(family: str, x: Floats, y: Floats) -> tuple[Floats, Floats, float]:
    """Return coefficients, information and dispersion without noise; of few patients, about."""
    beta, informed = np.zeros(x.shape[1]), np.ones(len(y))
    expected = np.zeros(len(y))
    for _ in range(_STEPS):
        if family == "logistic":
            expected = 1 / (1 + np.exp(-np.clip(x @ beta, -700, 700)))
            informed = expected * (1 - expected)
        elif family == "poisson":
            expected = informed = np.exp(np.minimum(x @ beta, 0.0))
        else:
            expected = x @ beta
        information = (x * informed[:, None]).T @ x + 1e-6 * np.eye(len(beta))
        step = np.linalg.solve(information, x.T @ (y - expected))
        size = float(np.linalg.norm(step))
        beta = beta + step * min(1.0, _LARGEST_STEP / max(size, 1e-300))
    squares = float((y - expected) @ (y - expected))
    of = {"logistic": 1.0, "linear": squares / len(y), "poisson": squares / informed.sum()}
    return beta, np.asarray(information), float(of[family])

"""Does a candidate differ from the current model by more than the noise that is known of both?

Both score the made-up patients (``flo.study.synthetic``) of their columns together. Each difference
of log odds is divided by its standard deviation, by the covariances on the cards
(``flo.privacy.releases.model_noise``). The mean square of these ratios is a weighted sum of squares
of normal numbers, with the mean 1 if only the noise differs; its quantile is that of a chi-squared
with as many degrees of freedom as it has in its first two moments (Satterthwaite 1946). The limit
is ``_ROOM`` times the root of the quantile at ``_CHANCE``: the stated noise is itself an estimate,
and patients change (``make proofs``, group ``gate``: false alarms among sound candidates).

A larger ratio says that something else has changed: units, codes, labels, the way in which data are
recorded, patients, or the study. It does not say whether the candidate is worse; a gate does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.linalg import block_diag
from scipy.special import chdtri

from flo.arrays import Floats
from flo.errors import StudyError
from flo.published import golden
from flo.published.model_card import PublishedModel
from flo.study.gate_draft import all_columns
from flo.study.synthetic import encoded, made_up_cells
from flo.study.yes_or_no import require_yes_or_no

_CHANCE, _ROOM = 0.999, 1.3
_LARGEST = 5
_LEAST = 1e-12  # variance of a case: arithmetic alone moves it by more


@dataclass(frozen=True)
class Difference:
    """Of one golden case: candidate less current, in log odds, and its known deviation."""

    case: str
    value: float
    deviation: float


@dataclass(frozen=True)
class Drift:
    """``ratio``: root mean square of the differences, in deviations; ``limit``: of noise alone.

    ``noise``: the median deviation, in log odds. ``largest``: those of the most deviations.
    """

    ratio: float
    limit: float
    noise: float
    cases: int
    largest: tuple[Difference, ...]

    @property
    def is_beyond_noise(self) -> bool:
        """Whether more than noise differs."""
        return not self.ratio <= self.limit


def drift(candidate: PublishedModel, current: PublishedModel) -> Drift:
    """Compare two models on made-up patients.

    Raises:
        UsageError: a card states no noise. StudyError: other outcomes, or a column of two meanings.
    """
    for model in (candidate, current):
        require_yes_or_no(model.study, "a comparison of models")
    if candidate.study.data.label != current.study.data.label:
        raise StudyError(
            f"one model predicts {candidate.study.data.label!r}, the other "
            f"{current.study.data.label!r}",
            hint="compare models of the same outcome",
        )
    columns = all_columns(candidate.study, current.study)
    schema = candidate.study.data.model_copy(update={"columns": tuple(columns)})
    models = candidate, current
    difference, deviation, freedom = _difference(models, made_up_cells(schema))
    at_edges, noise, _ = _difference(models, golden.cells(schema))
    largest = np.argsort(-np.abs(at_edges / noise))[:_LARGEST]
    names = golden.names(schema)
    return Drift(
        math.sqrt(float(np.mean((difference / deviation) ** 2))),
        _ROOM * math.sqrt(float(chdtri(freedom, 1 - _CHANCE)) / freedom),
        float(np.median(deviation)),
        len(difference),
        tuple(Difference(names[i], float(at_edges[i]), float(noise[i])) for i in largest),
    )


def _difference(
    models: tuple[PublishedModel, PublishedModel], cells: golden.Cells
) -> tuple[Floats, Floats, float]:
    """Return candidate less current, (n,) log odds, the deviations by noise, and their freedom.

    Differences have the covariance Y·Σ·Yᵀ, Y both models' inputs side by side. The squares of the
    correlations add up to tr((Σ·ZᵀZ)²), Z = Y by deviations.
    """
    scores, rows, noises = [], [], []
    for model in models:
        noise = model.noise
        if noise is None:
            raise model.no_noise("a difference cannot be told from chance; a release gate can tell")
        inputs = encoded(model.study.data, cells)
        scores.append(model.log_odds(inputs))
        rows.append(np.hstack([inputs, np.ones((len(inputs), 1))]))
        noises.append(noise)
    y, sigma = np.hstack(rows), block_diag(*noises)
    deviation = np.sqrt(np.maximum(((y @ sigma) * y).sum(axis=1), _LEAST))
    z = y / deviation[:, None]
    squares = float(np.sum((sigma @ (z.T @ z)) * (sigma @ (z.T @ z)).T))
    return scores[0] - scores[1], deviation, len(y) ** 2 / max(squares, 1.0)

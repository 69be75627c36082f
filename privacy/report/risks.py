"""Calibrated risks in words, and as a plot: on cards, screens and pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.special import expit, logit

from flo.arrays import Floats
from flo.pages import plots
from flo.privacy.releases.calibration import Calibration
from flo.scoring.curve import is_too_wide

RANK_ONLY = "rank only"
_ROWS = 7
_LEAST_SAID = 0.0005  # below it, a tenth of a percent would round to 0
_SCORES = (0.0001, 0.001, 0.01, 0.05, 0.2, 0.5, 0.8, 0.95, 0.99, 0.999, 0.9999)  # ticks


def percent(risk: float) -> str:
    """Return a risk as a percentage to a tenth; no risk is said to be 0 or 100 %."""
    if risk < _LEAST_SAID:
        return "<0.1 %"
    return ">99.9 %" if risk > 1 - _LEAST_SAID else f"{100 * risk:.1f} %"


def in_words(low: float, high: float) -> str:
    """Return a band in words, such as "14 to 27 %"; ``RANK_ONLY`` if it is too wide to be stated.

    The ends are rounded outwards to whole percents, below 10 % to tenths.
    """
    if is_too_wide(low, high):
        return RANK_ONLY
    scale = 1000.0 if high < 0.1 else 100.0
    ends = np.floor(low * scale + 1e-9), np.ceil(high * scale - 1e-9)
    return f"{100 * ends[0] / scale:g} to {100 * ends[1] / scale:g} %"


def rows(calibration: Calibration) -> list[tuple[float, str]]:
    """Return scores of the model, 0 to 1, spread over where patients may be, and their risks."""
    chosen = log_odds_of_rows(calibration)
    _, low, high = calibration.of(chosen)
    return [
        (float(score), in_words(float(below), float(above)))
        for score, below, above in zip(expit(chosen), low, high, strict=True)
    ]


def log_odds_of_rows(calibration: Calibration) -> Floats:
    """Return rising log odds of a table's rows, spread over where patients may be."""
    count = len(calibration.log_odds)
    places = np.linspace(0, count - 1, _ROWS + 2).astype(int)[1:-1]
    chosen: Floats = np.array(calibration.log_odds)[places]
    return chosen


def plot(calibration: Calibration) -> plots.Plane:
    """Return risk and band against the score, on a scale of log odds."""
    high, low = band_ends(calibration)
    lines = {high: calibration.high, "risk": calibration.risk, low: calibration.low}
    return against_scores(calibration, lines, least_top=0.1)


def band_ends(calibration: Calibration) -> tuple[str, str]:
    """Return the names of the upper and the lower end of the band."""
    tail = 50 * (1 - calibration.level)  # %
    return f"{100 - tail:g} %", f"{tail:g} %"


def against_scores(
    calibration: Calibration,
    lines: Mapping[str, Sequence[float] | Floats],
    *,
    least_top: float,
    base: float = 0.0,
) -> plots.Plane:
    """Return lines, a value for each of the calibration's points, against the score."""
    at, first = np.array(calibration.log_odds), calibration.log_odds[0]
    ticks = [(float(logit(score) - first), f"{score:g}") for score in _SCORES]
    return plots.plane(
        [(name, list(zip(at - first, line, strict=True))) for name, line in lines.items()],
        most_across=float(at[-1] - first),
        least_top=least_top,
        across=[tick for tick in ticks if 0 <= tick[0] <= at[-1] - first],
        base=base,
    )

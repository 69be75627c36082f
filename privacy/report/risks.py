"""Calibrated risks in words, and as a plot: on cards, screens and pages."""

from __future__ import annotations

import numpy as np
from scipy.special import expit, logit

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
    count = len(calibration.log_odds)
    chosen = np.array(calibration.log_odds)[np.linspace(0, count - 1, _ROWS + 2).astype(int)[1:-1]]
    _, low, high = calibration.of(chosen)
    return [
        (float(score), in_words(float(below), float(above)))
        for score, below, above in zip(expit(chosen), low, high, strict=True)
    ]


def plot(calibration: Calibration) -> plots.Plane:
    """Return risk and band against the score, on a scale of log odds."""
    at, first = np.array(calibration.log_odds), calibration.log_odds[0]
    tail = 50 * (1 - calibration.level)  # %
    ends = f"{100 - tail:g} %", f"{tail:g} %"
    curves = {ends[0]: calibration.high, "risk": calibration.risk, ends[1]: calibration.low}
    ticks = [(float(logit(score) - first), f"{score:g}") for score in _SCORES]
    return plots.plane(
        [(name, list(zip(at - first, curve, strict=True))) for name, curve in curves.items()],
        most_across=float(at[-1] - first),
        least_top=0.1,
        across=[tick for tick in ticks if 0 <= tick[0] <= at[-1] - first],
    )

"""The risk of a log odds, by the curve of a calibration (``flo.privacy.releases.calibration``)."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence

TOO_WIDE = 0.3  # width of a band beyond which a risk is not stated, only the rank


def is_too_wide(low: float, high: float) -> bool:
    """Return whether a band is too wide for its risk to be stated, so that only the rank is."""
    return not high - low <= TOO_WIDE + 1e-9


def sigmoid(log_odds: float) -> float:
    """Return the probability of a log odds, in [0, 1]."""
    if log_odds >= 0:
        return 1 / (1 + math.exp(-log_odds))
    small = math.exp(log_odds) if log_odds > -745 else 0.0
    return small / (1 + small)


def logit(risk: float) -> float:
    """Return the log odds of a probability; infinite for 0 and 1."""
    if risk in (0.0, 1.0):
        return math.inf if risk else -math.inf
    return math.log(risk / (1 - risk))


class Curve:
    """A calibration's curve and band. ``log_odds`` rise; the others are risks there, in (0, 1)."""

    def __init__(
        self,
        log_odds: Sequence[float],
        risk: Sequence[float],
        low: Sequence[float],
        high: Sequence[float],
    ) -> None:
        self._at = list(log_odds)
        self._curves = [[logit(one) for one in curve] for curve in (risk, low, high)]

    def of(self, log_odds: float) -> tuple[float, float, float]:
        """Return (risk, low, high), each in (0, 1).

        The log odds of each curve are interpolated; beyond its ends it states those of the end.
        """
        risk, low, high = (sigmoid(self._between(log_odds, curve)) for curve in self._curves)
        return risk, low, high

    def _between(self, log_odds: float, curve: list[float]) -> float:
        at = self._at
        if log_odds <= at[0] or log_odds >= at[-1]:
            return curve[0] if log_odds <= at[0] else curve[-1]
        place = bisect_right(at, log_odds) - 1
        slope = (curve[place + 1] - curve[place]) / (at[place + 1] - at[place])
        return slope * (log_odds - at[place]) + curve[place]

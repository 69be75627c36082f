"""What a score means, as a model's card states it: curves with bands, in words and as plots."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from flo.pages.plots import Plane
from flo.privacy.releases.calibration import Calibration
from flo.privacy.releases.quantities import Foreseen
from flo.privacy.report import risks
from flo.published.model_card import ModelCard
from flo.study.document import Study
from flo.study.quantity import Quantity

_BY_YES_OR_NO = "the risk is a logistic curve of the score"
_BY_CLASS = "the risk of the class is a logistic curve of its score"
_BY_TIMES = (
    "hazards of periods are logistic curves of the score; other causes that end the follow-up are "
    "taken to be no event"
)
_BY_QUANTITY = "the shares of steps between levels are logistic curves of the score"
TOO_WIDE = "Where the band is wider than 30 %, only the rank of a score is known."
TOO_WIDE_OF_QUANTITY = (
    "At least eight of ten patients with a score lie between p10 and p90. "
    "Where the band is wider than what eight of ten patients differ by, only the rank of a score "
    "is known."
)


@dataclass(frozen=True)
class StatedCurve:
    """``up``: what the plot shows, such as ``risk of death by 30 days``. ``rows``: scores, 0 to 1,
    with what they mean in words. ``assumed``: under which it is right on average. ``level``: of the
    band, 0 to 1."""

    up: str
    plot: Plane
    rows: list[tuple[float, str]]
    assumed: str
    level: float
    too_wide: str = TOO_WIDE

    @property
    def title(self) -> str:
        """A heading."""
        return self.up[0].upper() + self.up[1:]


def stated(study: Study, card: ModelCard) -> list[StatedCurve]:
    """Return the card's curves: one, or one for each horizon or class; none if it has none."""
    if study.data.classes is not None and card.by_class:
        return [
            _of_risk(curve, f"risk of {study.data.label} = {name}", _BY_CLASS)
            for name, curve in zip(study.data.classes.classes, card.by_class, strict=True)
        ]
    last, times, quantity = card.calibration, study.data.times, study.data.quantity
    if last is None:
        return []
    if quantity is not None:
        return [_of_quantity(study, quantity, Foreseen(last, card.steps))]
    if times is None:
        return [_of_risk(last, "risk", _BY_YES_OR_NO)]
    return [
        _of_risk(curve, f"risk of {study.data.label} by {horizon:g} {times.unit}", _BY_TIMES)
        for horizon, curve in zip(times.horizons, (*card.earlier_horizons, last), strict=True)
    ]


def _of_risk(curve: Calibration, up: str, assumed: str) -> StatedCurve:
    return StatedCurve(up, risks.plot(curve), risks.rows(curve), assumed, curve.level)


def _of_quantity(study: Study, quantity: Quantity, found: Foreseen) -> StatedCurve:
    curve = found.expected
    high, low = risks.band_ends(curve)
    values = found.values(quantity, np.array(curve.log_odds), rounded=False)
    lines = {
        **{"expected": values.expected, high: values.high, low: values.low},
        **{"p90": values.ninetieth, "p10": values.tenth},
    }
    base = min(quantity.levels[0], 0.0)
    return StatedCurve(
        f"expected {quantity.unit} ({study.data.label})",
        risks.against_scores(curve, lines, least_top=quantity.levels[1], base=base),
        _rows(quantity, found),
        _BY_QUANTITY,
        curve.level,
        TOO_WIDE_OF_QUANTITY,
    )


def _rows(quantity: Quantity, found: Foreseen) -> list[tuple[float, str]]:
    chosen = risks.log_odds_of_rows(found.expected)
    words = found.values(quantity, chosen).in_words(quantity.unit)
    return [(float(score), said) for score, said in zip(expit(chosen), words, strict=True)]

"""A published model as a request carries it: its weights, and its curve from log odds to risk.

A site computes its patients' risks from the request alone, so that what is compared or watched is
what clinicians see, and a coordinator that asks for another model gets no more than a model's sums.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.special import expit, logit

from flo.arrays import Floats
from flo.privacy.releases.calibration import Calibration
from flo.study import models
from flo.study.document import Study
from flo.study.features import input_names
from flo.study.gate import CURVE_POINTS
from flo.study.parameters import Vector

Risks = Callable[[Floats], Floats]

_FARTHEST = 40.0  # log odds, whose risk is 0 or 1
_LARGEST = 1e6  # log odds of a curve


def scorer(weights: Vector, calibration: Calibration | None) -> Vector:
    """Return a model as a request carries it: its weights, then a curve of risk by log odds.

    The curve has ``CURVE_POINTS`` points, log odds first, and then the log odds of the risks. A
    model without a calibration means the risks of its log odds.
    """
    if calibration is None:
        known = stated = np.linspace(-_FARTHEST, _FARTHEST, CURVE_POINTS)
    else:
        points = np.linspace(0, len(calibration.log_odds) - 1, CURVE_POINTS)
        places = np.arange(len(calibration.log_odds))
        known = np.interp(points, places, calibration.log_odds)
        stated = np.interp(points, places, logit(calibration.risk))
    curve = np.clip(np.concatenate([known, stated]), -_LARGEST, _LARGEST)
    return np.concatenate([weights.astype(np.float64), curve])


def risks_of(study: Study, form: Study, asked: Vector) -> Risks:
    """Return the function from the study's inputs (n, d) to risks (n,) of a model.

    ``form``: the study in the model's form. ``asked``: its ``scorer``. Whatever numbers it has, a
    patient's risk depends on that patient's inputs only, and is in [0, 1] or not a number.
    """
    weights = asked[: -2 * CURVE_POINTS]
    curve = np.asarray(asked[-2 * CURVE_POINTS :], dtype=np.float64)
    places_of = {name: place for place, name in enumerate(input_names(study.data))}
    places = [places_of[name] for name in input_names(form.data)]
    all_in_order = places == list(range(len(places_of)))
    # In an array that does not rise, a search finds other places for other patients beside it.
    known, stated = np.sort(curve[:CURVE_POINTS]), curve[CURVE_POINTS:]

    def risks(inputs: Floats) -> Floats:
        chosen = inputs if all_in_order else np.ascontiguousarray(inputs[:, places])
        return np.asarray(expit(_between(models.log_odds(form, weights, chosen), known, stated)))

    return risks


def _between(scores: Floats, known: Floats, stated: Floats) -> Floats:
    """Interpolate each score by itself; ``np.interp`` rounds by how many scores there are."""
    right = np.clip(np.searchsorted(known, scores), 1, len(known) - 1)
    width = known[right] - known[right - 1]
    share = (scores - known[right - 1]) / np.where(width > 0, width, 1.0)
    low, high = stated[right - 1], stated[right]
    return np.asarray(low + np.clip(share, 0.0, 1.0) * (high - low))

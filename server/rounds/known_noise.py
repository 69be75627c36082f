"""How much noise is in the model of a finished training, where the run's state tells it.

All sums behind the model must be of the same hospitals: how much noise they add is public then.
"""

from __future__ import annotations

import logging

import numpy as np

from flo.privacy.accounting.plan import Plan, combined_variance
from flo.privacy.releases import model_noise, whitening
from flo.privacy.releases.model_noise import LARGEST_VARIANCE, ModelNoise, TrainedOn
from flo.server.rounds.state import RunState
from flo.study.document import Study

log = logging.getLogger("flo.server.rounds.known_noise")


def known_noise(study: Study, state: RunState) -> ModelNoise | None:
    """Return the noise of the state's model; None if it is not known.

    A model is published whatever happens here: its patients have paid for it.
    """
    by, released = state.released_by, np.asarray(state.released, dtype=np.float64)
    trained = state.phase in ("evaluation", "gate", "done")  # and not cut short
    if not trained or not by or not len(released) or model_noise.unknown_reason(study):
        return None
    plan, patients = Plan.of(study), whitening.planned_patients(study, by)
    in_training = combined_variance(study, plan.purpose("training"), len(by))
    try:
        if study.mechanism.algorithm == "least-squares":
            found = model_noise.of_least_squares(study, released, in_training, patients)
        else:
            in_moments = combined_variance(study, plan.purpose("moments"), len(by))
            on = TrainedOn(released, patients, in_moments, in_training)
            whitened = model_noise.of_whitened(study, state.model, on)
            if whitened is None:
                return None
            found = whitened
        triangle = model_noise.packed(found.covariance)
        if np.abs(triangle).max() <= LARGEST_VARIANCE and model_noise.fits(
            study, triangle.tolist(), found.average.tolist(), found.deviation
        ):
            return found
    except Exception:  # any: numbers that no study had before
        log.exception("the noise of the model cannot be computed")
    return None

"""How much noise is in the model of a finished training, where the run's state tells it.

All sums behind the model must be of the same hospitals: how much noise they add is public then.
"""

from __future__ import annotations

import logging

import numpy as np

from flo.privacy.accounting.plan import Plan, combined_variance
from flo.privacy.releases import model_noise, whitening
from flo.privacy.releases.model_noise import ModelNoise, TrainedOn
from flo.server.rounds.state import RunState
from flo.study.document import Study

log = logging.getLogger("flo.server.rounds.known_noise")


def known_noise(study: Study, state: RunState) -> ModelNoise | None:
    """Return the noise of the state's model; None if it is not known."""
    by, released = state.released_by, np.asarray(state.released, dtype=np.float64)
    if not by or not len(released) or not model_noise.is_known(study):
        return None
    plan = Plan.of(study)
    in_training = combined_variance(study, plan.purpose("training"), len(by))
    try:
        if study.mechanism.algorithm == "least-squares":
            return model_noise.of_least_squares(study, released, in_training)
        in_moments = combined_variance(study, plan.purpose("moments"), len(by))
        on = TrainedOn(whitening.planned_patients(study, by), in_moments, in_training)
        size = len(state.model)
        return model_noise.of_whitened(study, state.model, released.reshape(size, size), on)
    except np.linalg.LinAlgError:  # the model is published all the same, without its noise
        log.exception("the noise of the model cannot be computed")
        return None

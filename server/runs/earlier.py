"""Models published before that a run needs, beside its saved states: put there before it starts.

They are the model that its study continues, and those that its gate compares or its monitor
watches.

Like a state's large vectors it is sealed with the study's key. A process that executes the run,
here or elsewhere, needs neither the coordinator's models nor the keys that signed them.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from flo.keys.keystore import AesKeyStore
from flo.server.home.coordinator_home import CoordinatorHome
from flo.server.keys.study_keys import study_key
from flo.server.rounds.checkpoint_vectors import KeptVectors
from flo.server.rounds.continuing import EarlierModel
from flo.server.store.store import Store
from flo.server.studies.own_models import OwnModels, compared_models, earlier_model
from flo.storage.artifacts import ArtifactStore
from flo.study.document import Study
from flo.study.gate import CURVE_POINTS
from flo.study.models import compared, parameter_count, precision, request_length
from flo.study.parameters import Vector

Name = Literal["earlier", "compared"]


def names(study: Study) -> list[Name]:
    """Return which of them a study needs."""
    found: list[Name] = ["earlier"] if study.continues else []
    return [*found, "compared"] if study.published_models else found


def key_of(run: str, prefix: str, name: Name) -> str:
    """Return a key among a run's artifacts. ``prefix``: orders it before all states there."""
    return f"runs/{run}/{prefix}-{name}.sealed"


def keep(
    home: CoordinatorHome,
    store: Store,
    study: Study,
    run: str,
    artifacts: ArtifactStore,
    prefix: str,
) -> None:
    """Put the models that a study needs into its run's artifacts, unless they are there already.

    Raises:
        StudyError, TrustError: one was erased or changed since the study was signed.
        RefusedError: the study was shredded.
    """
    found = store.run(run)
    begun, there = found is not None and found.state is not None, artifacts.keys(f"runs/{run}/")
    missing = [name for name in names(study) if key_of(run, prefix, name) not in there]
    if begun or not missing:
        return
    salt = store.salt(study.digest)
    keystore = AesKeyStore(study_key(home.open_checkpoint_key(), salt, study.digest))
    context = {"purpose": "checkpoint", "study": study.digest, "run": run}
    for name in missing:
        vector = _vector(home, study, name)
        KeptVectors(artifacts, keystore, context).keep(name, vector, 0, key_of(run, prefix, name))


def _vector(home: CoordinatorHome, study: Study, name: Name) -> Vector:
    if name == "compared":
        return compared_models(study, OwnModels(home))
    earlier = earlier_model(study, OwnModels(home))
    assert earlier is not None
    return np.asarray(earlier.weights, dtype=precision(study))


def load_earlier(study: Study, vectors: KeptVectors, run: str, prefix: str) -> EarlierModel | None:
    """Return the model that a study continues, if any. Raises as ``KeptVectors.load`` does."""
    if study.continues is None:
        return None
    key = key_of(run, prefix, "earlier")
    weights = vectors.load("earlier", key, precision(study), parameter_count(study))
    return EarlierModel(weights, sum(ancestor.worth for ancestor in study.lineage))


def load_compared(study: Study, vectors: KeptVectors, run: str, prefix: str) -> Vector:
    """Return what ``compared_models`` gives; nothing if no model is named. Raises as above."""
    if "compared" not in names(study):
        return np.zeros(0)
    size = request_length(study, "monitor" if study.monitor else "gate")
    if study.trains:
        size = parameter_count(compared(study)[1]) + 2 * CURVE_POINTS
    key = key_of(run, prefix, "compared")
    return vectors.load("compared", key, np.dtype(np.float64), size)

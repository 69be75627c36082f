"""The model that a run continues, beside its saved states: put there before the run first starts.

Like a state's large vectors it is sealed with the study's key. A process that executes the run,
here or elsewhere, needs neither the coordinator's models nor the keys that signed them.
"""

from __future__ import annotations

from flo.keys.keystore import AesKeyStore
from flo.server.home.coordinator_home import CoordinatorHome
from flo.server.keys.study_keys import study_key
from flo.server.rounds.checkpoint_vectors import KeptVectors
from flo.server.rounds.continuing import EarlierModel
from flo.server.store.store import Store
from flo.server.studies.own_models import OwnModels, earlier_model
from flo.storage.artifacts import ArtifactStore
from flo.study.document import Study
from flo.study.models import parameter_count, precision

_NAME = "earlier"


def key_of(run: str, prefix: str) -> str:
    """Return its key among a run's artifacts. ``prefix``: orders it before all states there."""
    return f"runs/{run}/{prefix}-{_NAME}.sealed"


def keep(
    home: CoordinatorHome, store: Store, study: Study, run: str, artifacts: ArtifactStore, key: str
) -> None:
    """Put the model that a study continues into its run's artifacts, unless it is there already.

    Raises:
        StudyError, TrustError: it was erased or changed since the study was signed.
        RefusedError: the study was shredded.
    """
    found = store.run(run)
    begun = found is not None and found.state is not None
    if begun or key in artifacts.keys(f"runs/{run}/"):
        return
    earlier = earlier_model(study, OwnModels(home))
    if earlier is None:
        return
    salt = store.salt(study.digest)
    keystore = AesKeyStore(study_key(home.open_checkpoint_key(), salt, study.digest))
    context = {"purpose": "checkpoint", "study": study.digest, "run": run}
    weights = earlier.weights.astype(precision(study))
    KeptVectors(artifacts, keystore, context).keep(_NAME, weights, 0, key)


def load(study: Study, vectors: KeptVectors, key: str) -> EarlierModel | None:
    """Return the model that a study continues, if any. Raises as ``KeptVectors.load`` does."""
    if study.continues is None:
        return None
    weights = vectors.load(_NAME, key, precision(study), parameter_count(study))
    return EarlierModel(weights, sum(ancestor.worth for ancestor in study.lineage))

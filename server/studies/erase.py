"""Erase a study's states and models: first its salt, so that no sealed copy can be opened again.

The study's key, derived from the salt (``flo.server.keys.study_keys``), seals saved states, and
models in remote storage: this also erases copies out of reach, in old versions or on a lost disk.
Models and statistics in the
coordinator's folder are not sealed; they are deleted. Launch documents contain
no key. Not erased: the signed study, approvals, extracts, the model card and report, the audit log,
models that hospitals have downloaded, models that later studies made from it, and the salt in
earlier backups of the coordinator.
"""

from __future__ import annotations

from flo.errors import StudyError
from flo.server.home.coordinator_home import CoordinatorHome
from flo.server.store.store import Offer, Store
from flo.server.studies.model_decisions import states_of
from flo.server.studies.publish import result_path, tensors_path
from flo.storage.artifacts import ArtifactStore
from flo.study.document import UNDER_WAY


def shred(
    home: CoordinatorHome, store: Store, offer: Offer, person: str, artifacts: ArtifactStore | None
) -> int:
    """Erase a study; return how many files and objects were removed. Repeat after an interruption.

    ``artifacts``: remote store of the study's states and models, if any.

    Raises:
        StudyError: the study is under way, or one that continues its model is, or its model is
        current. NetworkError: the
        store does not answer; the salt is erased already.
    """
    study = offer.study
    if offer.status in UNDER_WAY:
        raise StudyError(
            f"study {study.name} is {offer.status}: only a study that is over can be erased",
            hint=f"stop it first: flo study stop {study.name}",
        )
    for other in store.offers():
        if other.status in UNDER_WAY and study.digest in {one.study for one in other.study.lineage}:
            raise StudyError(
                f"study {other.study.name}, version {other.study.version}, is {other.status} and "
                "continues this study's model",
                hint=f"stop it first: flo study stop {other.study.name}:{other.study.version}",
            )
    for other in store.offers():
        asked = {(one.name, one.version) for one in other.study.asked_models}
        if other.status in UNDER_WAY and (study.name, study.version) in asked:
            raise StudyError(
                f"study {other.study.name}, version {other.study.version}, is {other.status} and "
                "compares or watches this study's model",
                hint=f"stop it first: flo study stop {other.study.name}:{other.study.version}",
            )
    current = states_of(store, study.name).current
    if current is not None and current.study == study.digest:
        raise StudyError(
            f"the model of {study.name}, version {study.version}, is current: hospitals use it",
            hint=f"withdraw it first: flo model withdraw {study.name}:{study.version} --why REASON",
        )
    store.erase_salt(study.digest)
    store.add_event(study.digest, "shredded", by=person)
    removed = 0
    for record in store.runs():
        if record.study != study.digest:
            continue
        for path in (
            tensors_path(home, study, record.id),
            result_path(home, study, record.id),
        ):
            if path.exists():
                path.unlink()
                removed += 1
        store.forget_result(record.id)
        removed += _remove(home.states(), f"runs/{record.id}/")
    if artifacts is not None:
        removed += _remove(artifacts, "")
    return removed


def _remove(artifacts: ArtifactStore, prefix: str) -> int:
    keys = artifacts.keys(prefix)
    for key in keys:
        artifacts.remove(key)
    return len(keys)

"""Erase what is kept of a study: its salt first, so that every sealed copy opens no more.

Saved states and models are sealed by the study's key, which follows from the salt
(``flo.server.keys.study_keys``): copies that nobody can reach, in old versions or on a lost disk,
are erased with it. Launch documents hold no key. What stays: the signed study, approvals, extracts,
the model card and report, the audit log; and what hospitals have fetched, which is theirs.
"""

from __future__ import annotations

from flo.errors import StudyError
from flo.server.home.coordinator_home import CoordinatorHome
from flo.server.store.store import Offer, Store
from flo.server.studies.publish import tensors_path
from flo.storage.artifacts import ArtifactStore
from flo.study.document import UNDER_WAY


def shred(
    home: CoordinatorHome,
    store: Store,
    offer: Offer,
    person: str,
    artifacts: ArtifactStore | None,
) -> int:
    """How many files and objects were removed. May be called again after it was cut off.

    ``artifacts``: where else things of the study are kept.

    Raises:
        StudyError: it is under way. NetworkError: the store does not answer; the salt is gone.
    """
    study = offer.study
    if offer.status in UNDER_WAY:
        raise StudyError(
            f"study {study.name} is {offer.status}", hint=f"first: flo study stop {study.name}"
        )
    store.erase_salt(study.digest)
    store.add_event(study.digest, "shredded", by=person)
    removed = 0
    for record in store.runs():
        path = tensors_path(home, study, record.id)
        if record.study != study.digest:
            continue
        if path.exists():
            path.unlink()
            removed += 1
        removed += _remove(home.states(), f"runs/{record.id}/")
    if artifacts is not None:
        removed += _remove(artifacts, "")
    return removed


def _remove(artifacts: ArtifactStore, prefix: str) -> int:
    keys = artifacts.keys(prefix)
    for key in keys:
        artifacts.remove(key)
    return len(keys)

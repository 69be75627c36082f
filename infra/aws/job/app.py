"""The ServerApp of a job: the same rounds as at the coordinator, with states and model in S3.

Loaded by name from the app descriptor (``flo.infra.aws.job.app:app``).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from flo.errors import RefusedError, TrustError
from flo.infra.aws.artifacts import JobArtifacts, study_artifacts
from flo.infra.aws.job_contract import ACCESS_VARIABLE, KEYS_VARIABLE, ContainerPaths
from flo.keys import sealed
from flo.keys.keystore import AesKeyStore
from flo.published.model_card import MAX_MODEL_BYTES
from flo.server.flower.grid import server_app
from flo.server.rounds.state import RunState
from flo.server.runs.execute import execute_run
from flo.server.runs.job_access import PATIENCE_SECONDS, JobAccess, JobKeys
from flo.server.runs.remote_client import RemoteRunClient
from flo.server.runs.remote_store import RemoteRunStore
from flo.server.studies.publish import tensors_name, tensors_of
from flo.study.document import Study


def _main(grid: Any, run: str) -> None:
    place = ContainerPaths.of_this_process()
    asked = place.read_hyperparameters()
    access = JobAccess.from_bytes(Path(os.environ[ACCESS_VARIABLE]).read_bytes())
    keys = JobKeys.from_bytes(Path(os.environ[KEYS_VARIABLE]).read_bytes())
    if run != access.run:
        raise TrustError(f"this job is for run {access.run}, and the coordinator sent run {run}")
    keystore = AesKeyStore(bytes.fromhex(keys.study_key))
    durable = study_artifacts(asked.region, asked.bucket, asked.artifacts_key, access.study)
    artifacts = JobArtifacts(durable, place.checkpoints, run)
    link = RemoteRunClient(access.url, access.ca, keys.token, run, patience=PATIENCE_SECONDS)
    kept = RemoteRunStore(link, run, access.study, artifacts, keystore)

    def publish(state: RunState) -> str:
        return _publish(kept.study, run, state, artifacts, keystore, place)

    execute_run(kept.study, run, grid, kept, publish, here=False)
    link.close()


def _publish(
    study: Study,
    run: str,
    state: RunState,
    artifacts: JobArtifacts,
    keystore: AesKeyStore,
    place: ContainerPaths,
) -> str:
    """Store the sealed tensors in S3 and in the job's model folder; return their name."""
    name, tensors = tensors_name(study, run), tensors_of(study, run, state)
    key, context = f"models/{name}.sealed", {"purpose": "model", "study": study.digest, "run": run}
    kept = sealed.seal(keystore, context, tensors)
    try:
        artifacts.put(key, kept)
    except RefusedError:  # stored by an earlier job of this run, which ended before it reported
        kept = artifacts.get(key, MAX_MODEL_BYTES)
        if sealed.unseal(keystore, context, kept, key) != tensors:
            raise
    place.model.mkdir(parents=True, exist_ok=True)
    (place.model / f"{name}.sealed").write_bytes(kept)
    return name


app = server_app(_main)

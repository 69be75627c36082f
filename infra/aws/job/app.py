"""The ServerApp of a job: the same rounds as at the coordinator, its states and model in S3.

Loaded by name from the app descriptor (``flo.infra.aws.job.app:app``).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from flo import sealed
from flo.errors import RefusedError, TrustError
from flo.infra.aws.job.contract import ACCESS_VARIABLE, KEYS_VARIABLE, Place
from flo.infra.aws.job.kept import JobArtifacts, study_artifacts
from flo.keystore import AesKeyStore
from flo.model_card import MAX_MODEL_BYTES
from flo.server.carry_out import carry_out
from flo.server.grid import server_app
from flo.server.job_access import PATIENCE_SECONDS, JobAccess, JobKeys
from flo.server.publish import tensors_name, tensors_of
from flo.server.remote_run import RemoteRun
from flo.server.rounds import RunState
from flo.server.run_link import RunLink
from flo.study import Study


def _main(grid: Any, run: str) -> None:
    place = Place.of_this_process()
    asked = place.read_hyperparameters()
    access = JobAccess.from_bytes(Path(os.environ[ACCESS_VARIABLE]).read_bytes())
    keys = JobKeys.from_bytes(Path(os.environ[KEYS_VARIABLE]).read_bytes())
    if run != access.run:
        raise TrustError("the coordinator hands out another run than this job is for")
    keystore = AesKeyStore(bytes.fromhex(keys.study_key))
    durable = study_artifacts(asked.region, asked.bucket, asked.artifacts_key, access.study)
    artifacts = JobArtifacts(durable, place.checkpoints, run)
    link = RunLink(access.url, access.ca, keys.token, run, patience=PATIENCE_SECONDS)
    kept = RemoteRun(link, run, access.study, artifacts, keystore)

    def publish(state: RunState) -> str:
        return _publish(kept.study, run, state, artifacts, keystore, place)

    carry_out(kept.study, run, grid, kept, publish, here=False)
    link.close()


def _publish(
    study: Study,
    run: str,
    state: RunState,
    artifacts: JobArtifacts,
    keystore: AesKeyStore,
    place: Place,
) -> str:
    """Keep the sealed tensors in S3 and in the job's model folder; returns their name."""
    name, tensors = tensors_name(study, run), tensors_of(study, run, state)
    key, context = (
        f"models/{name}.sealed",
        {
            "purpose": "model",
            "study": study.digest,
            "run": run,
        },
    )
    kept = sealed.seal(keystore, context, tensors)
    try:
        artifacts.put(key, kept)
    except RefusedError:  # by this run's job before this one, which died before it could say so
        kept = artifacts.get(key, MAX_MODEL_BYTES)
        if sealed.unseal(keystore, context, kept, key) != tensors:
            raise
    place.model.mkdir(parents=True, exist_ok=True)
    (place.model / f"{name}.sealed").write_bytes(kept)
    return name


app = server_app(_main)

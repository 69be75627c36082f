"""A job's artifact store: the study's part of the bucket, and ``/opt/ml/checkpoints`` before it.

SageMaker copies that folder to the bucket when it gets around to it, and back when a job is
restarted. A round must not wait for luck, so each state is also put in the bucket at once, under
the very key that SageMaker would use; what lies in the folder saves reading it from there.
"""

from __future__ import annotations

from pathlib import Path

from flo.documents.canonical import Bytes
from flo.errors import TrustError, UsageError
from flo.infra.aws.clients import client
from flo.infra.aws.s3 import S3Artifacts
from flo.server.home.aws_config import AwsConfig
from flo.storage.artifacts import ArtifactStore, checked
from flo.storage.files import write_private

_KEEP = 2


def study_artifacts(region: str, bucket: str, key: str, study: str) -> S3Artifacts:
    """Where everything of one study is kept; whoever erases the study empties it."""
    return S3Artifacts(client("s3", region), bucket, key, prefix_of(study))


def prefix_of(study: str) -> str:
    """What all keys of a study begin with in the bucket; ``study`` is its digest."""
    return f"studies/{study}/"


def checkpoint_uri(config: AwsConfig, study: str, run: str) -> str:
    """What SageMaker keeps ``/opt/ml/checkpoints`` in step with."""
    return f"s3://{config.bucket}/{prefix_of(study)}runs/{run}/"


class JobArtifacts:
    """``folder``: where the states of this one run lie, too."""

    def __init__(self, durable: ArtifactStore, folder: Path, run: str) -> None:
        self._durable, self._folder, self._prefix = durable, folder, f"runs/{run}/"
        folder.mkdir(parents=True, exist_ok=True)

    def put(self, key: str, data: Bytes) -> None:
        """Durable in the bucket first; of this run's states the last two stay in the folder."""
        self._durable.put(key, data)
        local = self._local(key)
        if local is not None:
            write_private(local, bytes(data))
            for older in sorted(self._folder.glob("*.sealed"))[:-_KEEP]:
                older.unlink()

    def get(self, key: str, limit: int) -> bytes:
        """From the folder if it is there, else from the bucket."""
        local = self._local(key)
        if local is None or not local.is_file():
            return self._durable.get(key, limit)
        if local.stat().st_size > limit:
            raise TrustError(f"{local} has more than {limit} bytes")
        return local.read_bytes()

    def keys(self, prefix: str) -> list[str]:
        """As the bucket has them."""
        return self._durable.keys(prefix)

    def remove(self, key: str) -> None:
        """From the bucket and from the folder."""
        self._durable.remove(key)
        local = self._local(key)
        if local is not None:
            local.unlink(missing_ok=True)

    def _local(self, key: str) -> Path | None:
        if not checked(key).startswith(self._prefix):
            return None
        name = key.removeprefix(self._prefix)
        if "/" in name:
            raise UsageError(f"{key} is no state of a run")
        return self._folder / name

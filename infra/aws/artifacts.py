"""A job's artifact store: the study's part of the bucket, with ``/opt/ml/checkpoints`` as a cache.

SageMaker copies that folder to the bucket with a delay, and back when a job restarts. A round must
not depend on that delay, so each state is also written to the bucket at once, under the key that
SageMaker would use. States in the folder need not be read from the bucket.
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
    """Return the store of all artifacts of one study; erasing the study empties it."""
    return S3Artifacts(client("s3", region), bucket, key, prefix_of(study))


def prefix_of(study: str) -> str:
    """Return the common prefix of a study's keys in the bucket; ``study`` is its digest."""
    return f"studies/{study}/"


def checkpoint_uri(config: AwsConfig, study: str, run: str) -> str:
    """Return the URI that SageMaker synchronises with ``/opt/ml/checkpoints``."""
    return f"s3://{config.bucket}/{prefix_of(study)}runs/{run}/"


class JobArtifacts:
    """Artifacts of a job. ``folder``: a second copy of the latest states of this one run."""

    def __init__(self, durable: ArtifactStore, folder: Path, run: str) -> None:
        self._durable, self._folder, self._prefix = durable, folder, f"runs/{run}/"
        folder.mkdir(parents=True, exist_ok=True)

    def put(self, key: str, data: Bytes) -> None:
        """Write to the bucket first; the folder holds the last two states of this run."""
        self._durable.put(key, data)
        local = self._local(key)
        if local is not None:
            write_private(local, bytes(data))
            for older in sorted(self._folder.glob("*.sealed"))[:-_KEEP]:
                older.unlink()

    def get(self, key: str, limit: int) -> bytes:
        """Read from the folder if the object is there, else from the bucket."""
        local = self._local(key)
        if local is None or not local.is_file():
            return self._durable.get(key, limit)
        if local.stat().st_size > limit:
            raise TrustError(f"{local} has more than {limit} bytes")
        return local.read_bytes()

    def keys(self, prefix: str) -> list[str]:
        """List the bucket's keys."""
        return self._durable.keys(prefix)

    def remove(self, key: str) -> None:
        """Remove from the bucket and from the folder."""
        self._durable.remove(key)
        local = self._local(key)
        if local is not None:
            local.unlink(missing_ok=True)

    def _local(self, key: str) -> Path | None:
        if not checked(key).startswith(self._prefix):
            return None
        name = key.removeprefix(self._prefix)
        if "/" in name:
            raise UsageError(f"{key} is not the key of a run's state")
        return self._folder / name

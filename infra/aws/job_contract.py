"""The parts of SageMaker's container contract for training that FLO uses: rules and paths.

Source: the SageMaker developer guide, "How Amazon SageMaker provides training information". Exit 0
is success; of ``output/failure`` the first 1,024 characters are shown; SIGTERM comes 120 seconds
before SIGKILL. ``FLO_ML_ROOT`` moves all paths for the local runner.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import StringConstraints

from flo.documents import canonical
from flo.documents.aws_names import Bucket, Region
from flo.documents.document import Document, parse
from flo.errors import UsageError
from flo.keys.keystore import KmsKey

ROOT_VARIABLE = "FLO_ML_ROOT"
APP = "flo.infra.aws.job.app:app"  # the ServerApp that SuperExec starts
ACCESS_VARIABLE = "FLO_JOB_ACCESS"  # path of the job's access, in memory
KEYS_VARIABLE = "FLO_JOB_KEYS"  # path of its keys
CHANNEL, LAUNCH_FILE = "launch", "launch.sealed"
GRACE_SECONDS = 120
REASON_CHARACTERS = 1024
_LIMIT = 1 << 20


class HyperParameters(Document):
    """A job's public parameters: no secret, no name of a person or a study."""

    schema_version: Literal["1"] = "1"
    run: Annotated[str, StringConstraints(pattern=r"^run-[0-9a-f]{1,16}-[0-9a-f]{6}$")]
    study: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    region: Region
    bucket: Bucket
    artifacts_key: KmsKey
    launch_key: KmsKey


@dataclass(frozen=True)
class ContainerPaths:
    """The files of one job below ``root``."""

    root: Path

    @classmethod
    def of_this_process(cls) -> ContainerPaths:
        """Return the paths below ``FLO_ML_ROOT``, or ``/opt/ml`` by default."""
        return cls(Path(os.environ.get(ROOT_VARIABLE, "/opt/ml")))

    @property
    def hyperparameters(self) -> Path:
        """File to which SageMaker writes the job's public parameters."""
        return self.root / "input" / "config" / "hyperparameters.json"

    @property
    def launch(self) -> Path:
        """File to which SageMaker copies the sealed launch document."""
        return self.root / "input" / "data" / CHANNEL / LAUNCH_FILE

    @property
    def checkpoints(self) -> Path:
        """Folder that SageMaker synchronises with the bucket."""
        return self.root / "checkpoints"

    @property
    def model(self) -> Path:
        """Folder that SageMaker packs and uploads once the job succeeded."""
        return self.root / "model"

    @property
    def failure(self) -> Path:
        """File whose first characters SageMaker shows for a failed job."""
        return self.root / "output" / "failure"

    def read_hyperparameters(self) -> HyperParameters:
        """Read the parameters. Raises UsageError if they are absent or not FLO's."""
        try:
            data = self.hyperparameters.read_bytes()
        except OSError as error:
            raise UsageError(f"no hyperparameters at {self.hyperparameters}") from error
        document = canonical.decode(data, limit=_LIMIT, what="hyperparameters")
        return parse(HyperParameters, document, "hyperparameters")

    def write_failure(self, why: str) -> None:
        """Write why the job failed, at most 1024 characters, for all who may see the job."""
        self.failure.parent.mkdir(parents=True, exist_ok=True)
        self.failure.write_text(why[:REASON_CHARACTERS], encoding="utf-8")


def launch_context(study: str, run: str) -> dict[str, str]:
    """Return the sealing context of a launch document: it opens for this study and run only."""
    return {"purpose": "launch", "study": study, "run": run}

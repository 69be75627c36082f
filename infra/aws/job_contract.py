"""SageMaker's container contract for training, as far as it is needed: rules and places.

Source: the SageMaker developer guide, "How Amazon SageMaker provides training information". Exit 0
is success; of ``output/failure`` the first 1,024 characters are shown; SIGTERM comes 120 seconds
before SIGKILL. ``FLO_ML_ROOT`` moves the whole for the local runner.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import StringConstraints

from flo.documents import canonical
from flo.documents.document import Document, parse
from flo.errors import UsageError
from flo.keys.keystore import KmsKey
from flo.server.home.aws_config import Bucket, Region

ROOT_VARIABLE = "FLO_ML_ROOT"
APP = "flo.infra.aws.job.app:app"  # the ServerApp that SuperExec starts
ACCESS_VARIABLE = "FLO_JOB_ACCESS"  # where it reads the job's access, in memory
KEYS_VARIABLE = "FLO_JOB_KEYS"  # and its keys
CHANNEL, LAUNCH_FILE = "launch", "launch.sealed"
GRACE_SECONDS = 120
REASON_CHARACTERS = 1024
_LIMIT = 1 << 20


class HyperParameters(Document):
    """What a job may be told in the open: no secret, no name of a person or a study."""

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
        """``/opt/ml``, or what ``FLO_ML_ROOT`` says."""
        return cls(Path(os.environ.get(ROOT_VARIABLE, "/opt/ml")))

    @property
    def hyperparameters(self) -> Path:
        """Where SageMaker writes what the job may be told in the open."""
        return self.root / "input" / "config" / "hyperparameters.json"

    @property
    def launch(self) -> Path:
        """Where SageMaker puts the sealed launch document."""
        return self.root / "input" / "data" / CHANNEL / LAUNCH_FILE

    @property
    def checkpoints(self) -> Path:
        """The folder that SageMaker keeps in step with the bucket."""
        return self.root / "checkpoints"

    @property
    def model(self) -> Path:
        """The folder that SageMaker packs and uploads once the job succeeded."""
        return self.root / "model"

    @property
    def failure(self) -> Path:
        """The file whose beginning SageMaker shows of a job that failed."""
        return self.root / "output" / "failure"

    def read_hyperparameters(self) -> HyperParameters:
        """Raises UsageError if there are none, or they are not ours."""
        try:
            data = self.hyperparameters.read_bytes()
        except OSError as error:
            raise UsageError(f"no hyperparameters at {self.hyperparameters}") from error
        document = canonical.decode(data, limit=_LIMIT, what="hyperparameters")
        return parse(HyperParameters, document, "hyperparameters")

    def write_failure(self, why: str) -> None:
        """Say in at most 1024 characters why the job failed; whoever may see the job reads it."""
        self.failure.parent.mkdir(parents=True, exist_ok=True)
        self.failure.write_text(why[:REASON_CHARACTERS], encoding="utf-8")


def launch_context(study: str, run: str) -> dict[str, str]:
    """For what a launch document is sealed: it opens for this study and run only."""
    return {"purpose": "launch", "study": study, "run": run}

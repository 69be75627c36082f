"""A training job without SageMaker: ``python -m flo.infra.aws.job.runner JOB FOLDER``.

It reads the recorded request (``DescribeTrainingJob``) and executes it unchanged, with the
container contract: input channels and checkpoints from S3, the entry point of the request, SIGTERM
and 120 seconds later SIGKILL, the model to S3 when the exit code is 0, else the failure's reason.
With an emulator it completes a launch from start to end; with a real account it tries a job by
hand.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from flo.errors import UsageError
from flo.infra.aws.clients import client, translate_errors
from flo.infra.aws.job_contract import (
    GRACE_SECONDS,
    REASON_CHARACTERS,
    ROOT_VARIABLE,
    ContainerPaths,
)

_LOOK_SECONDS = 0.1


@dataclass(frozen=True)
class Outcome:
    """Status and reason, as SageMaker would show them."""

    status: Literal["Completed", "Failed", "Stopped"]
    reason: str = ""


class LocalJob:
    """One job in a folder. Call ``start`` once, then ``wait``; ``stop`` from any thread."""

    def __init__(self, request: dict[str, Any], folder: Path, s3: Any) -> None:
        self._request, self._place, self._s3 = request, ContainerPaths(folder), s3
        self._killed_at: float | None = None  # deadline of a stopped job
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Write the input files and start the entry point as the leader of a new process group."""
        place, request = self._place, self._request
        place.hyperparameters.parent.mkdir(parents=True, exist_ok=True)
        place.hyperparameters.write_text(json.dumps(request["HyperParameters"]), encoding="utf-8")
        for channel in request["InputDataConfig"]:
            folder = place.root / "input" / "data" / channel["ChannelName"]
            self._fetch(channel["DataSource"]["S3DataSource"]["S3Uri"], folder)
        self._fetch(request["CheckpointConfig"]["S3Uri"], place.checkpoints)
        for needed in (place.model, place.failure.parent):
            needed.mkdir(parents=True, exist_ok=True)
        python, *rest = request["AlgorithmSpecification"]["ContainerEntrypoint"]
        if python != "python":
            raise UsageError(f"the entry point must start with 'python', not with {python!r}")
        with (place.root / "output" / "console.log").open("ab") as said:
            self.process = subprocess.Popen(
                [sys.executable, *rest],
                env={**os.environ, ROOT_VARIABLE: str(place.root)},
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                start_new_session=True,
            )

    def stop(self) -> None:
        """Send SIGTERM to the entry point, as ``StopTrainingJob`` does."""
        self._killed_at = time.monotonic() + GRACE_SECONDS
        self._started().terminate()

    def wait(self) -> Outcome:
        """Wait until it ends; kill a stopped one after the grace period."""
        process = self._started()
        while process.poll() is None:
            if self._killed_at is not None and time.monotonic() > self._killed_at:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
            time.sleep(_LOOK_SECONDS)
        if self._killed_at is not None:
            return Outcome("Stopped", self._reason())
        if process.returncode == 0:
            self._upload_model()
            return Outcome("Completed")
        return Outcome("Failed", self._reason() or f"exit code {process.returncode}")

    def _started(self) -> subprocess.Popen[bytes]:
        if self.process is None:
            raise UsageError("this job was not started")
        return self.process

    def _reason(self) -> str:
        with contextlib.suppress(FileNotFoundError):
            return self._place.failure.read_text(encoding="utf-8")[:REASON_CHARACTERS]
        return ""

    def _fetch(self, uri: str, folder: Path) -> None:
        bucket, _, prefix = uri.removeprefix("s3://").partition("/")
        folder.mkdir(parents=True, exist_ok=True)
        pages = self._s3.get_paginator("list_objects_v2")
        with translate_errors(f"fetching {uri}"):
            for page in pages.paginate(Bucket=bucket, Prefix=prefix):
                for item in page.get("Contents", []):
                    path = folder / item["Key"].removeprefix(prefix)
                    path.parent.mkdir(parents=True, exist_ok=True)
                    body = self._s3.get_object(Bucket=bucket, Key=item["Key"])["Body"]
                    path.write_bytes(body.read())

    def _upload_model(self) -> None:
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w:gz") as tar:
            for path in sorted(self._place.model.iterdir()):
                tar.add(path, arcname=path.name)
        output = self._request["OutputDataConfig"]
        bucket, _, prefix = output["S3OutputPath"].removeprefix("s3://").partition("/")
        key = f"{prefix}/{self._request['TrainingJobName']}/output/model.tar.gz"
        with translate_errors(f"writing s3://{bucket}/{key}"):
            self._s3.put_object(
                Bucket=bucket,
                Key=key,
                Body=packed.getvalue(),
                ServerSideEncryption="aws:kms",
                SSEKMSKeyId=output["KmsKeyId"],
            )


def recorded(job: str) -> dict[str, Any]:
    """Return the request of a job, as it was recorded."""
    with translate_errors(f"reading job {job}"):
        found: dict[str, Any] = client("sagemaker").describe_training_job(TrainingJobName=job)
    return found


def main() -> int:
    """Run one recorded job to its end; 0 if it completed, 1 if it failed or was stopped."""
    job, folder = sys.argv[1], Path(sys.argv[2])
    local = LocalJob(recorded(job), folder, client("s3"))
    local.start()
    signal.signal(signal.SIGTERM, lambda *_: local.stop())
    outcome = local.wait()
    sys.stdout.write(f"{job}: {outcome.status} {outcome.reason}\n")
    return 0 if outcome.status == "Completed" else 1


if __name__ == "__main__":
    sys.exit(main())

"""SageMaker training jobs: the request for a job, and a job's state.

``training_job`` builds the request, a plain document; it contains digests and keys, never a
hospital, a study's title or a person.
"""

from __future__ import annotations

import contextlib
import re
from typing import Any

from flo.errors import FloError, UsageError
from flo.infra.aws.artifacts import checkpoint_uri, prefix_of, study_artifacts
from flo.infra.aws.clients import client, code_of, translate_errors
from flo.infra.aws.job_contract import APP, CHANNEL, LAUNCH_FILE, HyperParameters, launch_context
from flo.infra.aws.kms import keystore
from flo.infra.aws.s3 import S3Artifacts
from flo.keys import sealed
from flo.server.home.aws_config import AwsConfig
from flo.server.http.tokens import LONGEST_SECONDS
from flo.server.runs.job_access import JobAccess
from flo.server.runs.jobs import JobState
from flo.storage.artifacts import ArtifactStore

ENTRYPOINT = ["python", "-m", "flo.infra.aws.job.entry"]
_OVER = {"Completed": "it ended", "Failed": "it failed", "Stopped": "it was stopped"}
_UNKNOWN = ("ValidationException", "ResourceNotFound")
_RESTARTS_OF_SAGEMAKER = 3
# When it refuses a job, or when it gives up on one that it accepted.
_NOT_TAKEN = re.compile(r"assume ?(the )?role", re.IGNORECASE)


def training_job(config: AwsConfig, access: JobAccess) -> dict[str, Any]:
    """Return the ``CreateTrainingJob`` request for this job."""
    study = f"s3://{config.bucket}/{prefix_of(access.study)}"
    asked = HyperParameters(
        run=access.run,
        study=access.study,
        region=config.region,
        bucket=config.bucket,
        artifacts_key=config.artifacts_key,
        launch_key=config.launch_key,
    )
    return {
        "TrainingJobName": access.job,
        "RoleArn": config.role_of(access.study),
        "AlgorithmSpecification": {
            "TrainingImage": config.image,
            "TrainingInputMode": "File",
            "ContainerEntrypoint": ENTRYPOINT,
        },
        "HyperParameters": asked.model_dump(),
        "InputDataConfig": [
            {
                "ChannelName": CHANNEL,
                "DataSource": {
                    "S3DataSource": {
                        "S3DataType": "S3Prefix",
                        "S3Uri": f"{study}jobs/{access.job}/input/",
                        "S3DataDistributionType": "FullyReplicated",
                    }
                },
            }
        ],
        "OutputDataConfig": {"S3OutputPath": f"{study}jobs", "KmsKeyId": config.artifacts_key},
        "ResourceConfig": {
            "InstanceType": config.instance,
            "InstanceCount": 1,
            "VolumeSizeInGB": config.volume_gb,
            "VolumeKmsKeyId": config.artifacts_key,
        },
        "VpcConfig": {
            "Subnets": list(config.subnets),
            "SecurityGroupIds": list(config.security_groups),
        },
        "StoppingCondition": {"MaxRuntimeInSeconds": config.hours * 3600},
        "RetryStrategy": {"MaximumRetryAttempts": _RESTARTS_OF_SAGEMAKER},
        "CheckpointConfig": {
            "S3Uri": checkpoint_uri(config, access.study, access.run),
            "LocalPath": "/opt/ml/checkpoints",
        },
        "EnableNetworkIsolation": False,  # it connects to the coordinator, inside the VPC
        "EnableInterContainerTrafficEncryption": True,
        "Tags": [
            {"Key": "flo:study", "Value": access.study},
            {"Key": "flo:run", "Value": access.run},
        ],
    }


class SageMakerJobs:
    """``Aggregators`` of a coordinator whose configuration has an ``[aws]`` section."""

    app = APP

    def __init__(self, config: AwsConfig) -> None:
        self._config = config
        # One hour more: a job waits for its machine before its own hours begin.
        self.token_seconds = min(config.hours + 1, LONGEST_SECONDS // 3600) * 3600

    def begin(self, access: JobAccess) -> None:
        """Seal the job's access for it, then ask SageMaker to begin the job.

        Raises:
            UsageError: the study has no role yet, or SageMaker refuses. FloError: anything else.
        """
        launch_key = keystore(self._config.launch_key)
        context = launch_context(access.study, access.run)
        kept = sealed.seal(launch_key, context, access.to_bytes())
        artifacts, key = self.artifacts(access.study), f"jobs/{access.job}/input/{LAUNCH_FILE}"
        artifacts.put(key, kept)
        try:
            with translate_errors(f"beginning job {access.job}"):
                client("sagemaker", self._config.region).create_training_job(
                    **training_job(self._config, access)
                )
        except UsageError as error:
            # Of a job that is there already, an earlier try arrived: it needs its document.
            if "ResourceInUse" not in str(error):
                with contextlib.suppress(FloError):  # report why it was not begun
                    artifacts.remove(key)
            raise UsageError(self._with_way_out(str(error), access.study)) from error

    def _with_way_out(self, why: str, study: str) -> str:
        """Add the command that makes a role, if SageMaker says that it cannot take it."""
        if not _NOT_TAKEN.search(why):
            return why
        return f"{why.rstrip('.')}. If it has no role: {self._config.role_command(study)}"

    def state(self, job: str) -> JobState:
        """Return a job's state. An unknown job is over; a reason is cut to 300 characters."""
        from botocore.exceptions import ClientError

        sagemaker = client("sagemaker", self._config.region, hurried=True)
        with translate_errors(f"reading the state of job {job}"):
            try:
                found = sagemaker.describe_training_job(TrainingJobName=job)
            except ClientError as error:
                if code_of(error) not in _UNKNOWN:
                    raise
                return JobState(over=True, why="SageMaker knows no such job")
        status = str(found["TrainingJobStatus"])
        if status not in _OVER:
            return JobState(over=False)
        why = str(found.get("FailureReason", ""))[:300]
        if why:
            why = self._with_way_out(why, found["RoleArn"].rpartition("/")[2])
        return JobState(over=True, why=f"{_OVER[status]}: {why}" if why else _OVER[status])

    def artifacts(self, study: str) -> ArtifactStore:
        """Return the study's part of the configured bucket."""
        config = self._config
        return study_artifacts(config.region, config.bucket, config.artifacts_key, study)


def audit_store(config: AwsConfig) -> ArtifactStore | None:
    """Return the store for copies of the audit log; None if it is not configured."""
    if config.audit_bucket is None or config.audit_key is None:
        return None
    days = 365 * config.audit_years + config.audit_years // 4 + 1
    s3 = client("s3", config.region)
    return S3Artifacts(s3, config.audit_bucket, config.audit_key, lock_days=days)

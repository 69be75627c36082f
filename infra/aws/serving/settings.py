"""``aws.toml`` of a site's folder: the hospital's own AWS account, where its models may answer.

It names no secret; credentials come from the environment or the machine's role.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from flo.documents.document import Document, read_settings, spelt
from flo.errors import RefusedError, UsageError
from flo.infra.aws.clients import client, translate_errors
from flo.keys.keystore import KmsKey
from flo.server.home.aws_config import Bucket, Region

FILE = "aws.toml"
Role = Annotated[
    str,
    spelt(
        "arn:aws[a-z-]*:iam::[0-9]{12}:role/[A-Za-z0-9_+=,.@/-]{1,128}",
        "the ARN of an IAM role, such as arn:aws:iam::123456789012:role/flo-function",
    ),
]
Alarm = Annotated[str, StringConstraints(pattern=r"^\S.{0,253}\S$")]
_Id = Annotated[str, StringConstraints(pattern=r"^[a-z]+-[0-9a-z]{1,32}$")]


class FunctionSettings(Document):
    """``role``: of the Lambda function. ``memory_mb``: more memory is also more processor.

    ``subnets``, ``security_groups``: a network without a way out; none of both, and the function
    could reach the internet, which FLO's code never does.
    """

    role: Role
    memory_mb: Annotated[int, Field(ge=128, le=10_240)] = 1024
    subnets: Annotated[tuple[_Id, ...], Field(max_length=16)] = ()
    security_groups: Annotated[tuple[_Id, ...], Field(max_length=5)] = ()


class EndpointSettings(Document):
    """``role``: of the SageMaker endpoint. ``image``: the serving image, preferably by digest.

    ``serverless_mb``: memory of an endpoint without machines of its own; then ``instance`` and
    ``instances`` do not count, and SageMaker allows neither a network nor a canary. ``alarms``:
    names of CloudWatch alarms; one that goes off while a new version takes over brings the old one
    back. ``bake_seconds``: for how long a tenth of the requests goes to the new version first.
    """

    role: Role
    image: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_./:@-]{1,255}$")]
    instance: Annotated[str, StringConstraints(pattern=r"^ml\.[a-z0-9-]+\.[a-z0-9]+$")] = (
        "ml.m5.large"
    )
    instances: Annotated[int, Field(ge=1, le=50)] = 1
    serverless_mb: Literal[1024, 2048, 3072, 4096, 5120, 6144] | None = None
    concurrency: Annotated[int, Field(ge=1, le=200)] = 10
    subnets: Annotated[tuple[_Id, ...], Field(max_length=16)] = ()
    security_groups: Annotated[tuple[_Id, ...], Field(max_length=5)] = ()
    alarms: Annotated[tuple[Alarm, ...], Field(max_length=10)] = ()
    bake_seconds: Annotated[int, Field(ge=60, le=3600)] = 300


class HospitalAws(Document):
    """``account``: the hospital's own; credentials of another are refused. ``bucket``: for code and
    models, encrypted under ``key``, which also encrypts the disks of endpoints."""

    schema_version: Literal[1] = 1
    account: Annotated[str, spelt("[0-9]{12}", "the 12 digits of an AWS account")]
    region: Region
    bucket: Bucket
    key: KmsKey
    function: FunctionSettings | None = None
    endpoint: EndpointSettings | None = None


def read_hospital_aws(folder: Path) -> HospitalAws:
    """Read ``aws.toml`` of a site's folder. Raises UsageError naming what is wrong."""
    path = folder / FILE
    if not path.exists():
        raise UsageError(
            f"{path} does not exist: it names this hospital's own AWS account",
            hint="docs/cloud-doors.md shows one; `infra/aws/serving/hospital.yaml` makes what it "
            "names",
        )
    return read_settings(HospitalAws, path)


def refuse_other_account(settings: HospitalAws) -> None:
    """Raise RefusedError if the credentials are of another account than the hospital's."""
    with translate_errors("asking whose credentials these are"):
        found = str(client("sts", settings.region).get_caller_identity()["Account"])
    if found != settings.account:
        raise RefusedError(
            f"the credentials are of account {found}, and {FILE} names {settings.account}",
            hint="patients' records go to the hospital's own account only: use its credentials",
        )

"""``[aws]`` of ``coordinator.toml``: the coordinator's AWS resources, as ``flo aws deploy`` prints.

It contains no secret; credentials come from the machine's IAM role.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StringConstraints, model_validator

from flo.documents.document import Document, spelt
from flo.keys.keystore import KmsKey

Region = Annotated[str, spelt("[a-z]{2}(-[a-z]+)+-[0-9]", "an AWS region, such as eu-central-1")]
Bucket = Annotated[
    str,
    spelt(
        "[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]",
        "the name of an S3 bucket: 3 to 63 lower-case letters, digits, dots and hyphens",
    ),
]
_Role = Annotated[
    str,
    spelt(
        "arn:aws[a-z-]*:iam::[0-9]{12}:role/[A-Za-z0-9_+=,.@/-]{1,128}",
        "the ARN of an IAM role, such as arn:aws:iam::123456789012:role/flo-job",
    ),
]
_Image = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_./:@-]{1,255}$")]
_Id = Annotated[str, StringConstraints(pattern=r"^[a-z]+-[0-9a-z]{1,32}$")]


class AwsConfig(Document):
    """``role``: of a job. ``image``: the aggregator's container image, preferably by digest.
    ``serving_image``: the image with which a registered model can answer.

    ``audit_bucket``: receives copies of the audit log, encrypted under ``audit_key`` and under
    Object Lock for ``audit_years``.
    """

    region: Region
    bucket: Bucket
    artifacts_key: KmsKey
    launch_key: KmsKey
    role: _Role
    image: _Image
    serving_image: _Image | None = None
    instance: Annotated[str, StringConstraints(pattern=r"^ml\.[a-z0-9-]+\.[a-z0-9]+$")] = (
        "ml.m5.large"
    )
    volume_gb: Annotated[int, Field(ge=1, le=1024)] = 30
    subnets: Annotated[tuple[_Id, ...], Field(min_length=1, max_length=16)]
    security_groups: Annotated[tuple[_Id, ...], Field(min_length=1, max_length=5)]
    hours: Annotated[int, Field(ge=1, le=24)] = 12
    audit_bucket: Bucket | None = None
    audit_key: KmsKey | None = None
    audit_years: Annotated[int, Field(ge=6, le=30)] = 6

    @model_validator(mode="after")
    def _audit_copies_have_a_key(self) -> AwsConfig:
        if (self.audit_bucket is None) != (self.audit_key is None):
            raise ValueError("set both audit_bucket and audit_key, or neither")
        return self

"""``[aws]`` of ``coordinator.toml``: the coordinator's AWS resources, as ``flo aws deploy`` prints.

It contains no secret; credentials come from the machine's IAM role.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from flo.documents.aws_names import Bucket, Id, Image, Instance, Region, RolePath, StackPlace
from flo.documents.document import Document
from flo.keys.keystore import KmsKey


class AwsConfig(Document):
    """``study_roles``: the ARN of the path of the studies' roles. ``image``: the aggregator's
    container image, preferably by digest. ``serving_image``: the image with which a registered
    model can answer. ``audit_bucket``: receives copies of the audit log, encrypted under
    ``audit_key`` and under Object Lock for ``audit_years``.
    """

    region: Region
    bucket: Bucket
    artifacts_key: KmsKey
    launch_key: KmsKey
    study_roles: RolePath
    image: Image
    serving_image: Image | None = None
    instance: Instance = "ml.m5.large"
    volume_gb: Annotated[int, Field(ge=1, le=1024)] = 30
    subnets: Annotated[tuple[Id, ...], Field(min_length=1, max_length=16)]
    security_groups: Annotated[tuple[Id, ...], Field(min_length=1, max_length=5)]
    hours: Annotated[int, Field(ge=1, le=24)] = 12
    audit_bucket: Bucket | None = None
    audit_key: KmsKey | None = None
    audit_years: Annotated[int, Field(ge=6, le=30)] = 6

    def role_of(self, study: str) -> str:
        """Return the ARN of the role of a study's jobs; ``study`` is its digest."""
        return self.study_roles + study

    def role_command(self, study: str) -> str:
        """Return the command that makes this role."""
        return f"flo aws role {study} --name {self.place.name} --region {self.region}"

    @property
    def place(self) -> StackPlace:
        """The stack, which the path of the roles names."""
        return StackPlace(
            name=self.study_roles.split("/")[-2], region=self.region, study_roles=self.study_roles
        )

    @model_validator(mode="after")
    def _audit_copies_have_a_key(self) -> AwsConfig:
        if (self.audit_bucket is None) != (self.audit_key is None):
            raise ValueError("set both audit_bucket and audit_key, or neither")
        return self

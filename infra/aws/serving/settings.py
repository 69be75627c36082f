"""``aws/MODEL.toml`` of a site's folder: the hospital's own AWS account, where a model may answer.

It names no secret; credentials come from the environment or the machine's role.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self, get_args

from pydantic import Field, StringConstraints, model_validator

from flo.documents.aws_names import Account, Bucket, Id, Image, Instance, Region, Role
from flo.documents.document import Document, read_settings
from flo.documents.time_zones import ZoneName
from flo.errors import UsageError
from flo.infra.aws.serving.contract import AT_ONCE, MOST_AT_ONCE
from flo.keys.keystore import KmsKey
from flo.study.terms import Identifier

FOLDER = "aws"
Alarm = Annotated[str, StringConstraints(pattern=r"^\S.{0,253}\S$")]


class _InNetwork(Document):
    subnets: Annotated[tuple[Id, ...], Field(max_length=16)] = ()
    security_groups: Annotated[tuple[Id, ...], Field(max_length=5)] = ()

    @model_validator(mode="after")
    def _both_or_neither(self) -> Self:
        if bool(self.subnets) != bool(self.security_groups):
            raise ValueError("set both subnets and security_groups, or neither")
        return self


class FunctionSettings(_InNetwork):
    """``role``: of the Lambda function. ``memory_mb``: more memory is also more processor.

    ``subnets``, ``security_groups``: of a network without a way out. Without them the function has
    internet access; FLO's code does not use it.
    """

    role: Role
    memory_mb: Annotated[int, Field(ge=128, le=10_240)] = 1024


Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
Machines = Annotated[int, Field(ge=1, le=1000)]


class ScalingSettings(Document):
    """How many machines an endpoint has, as ``flo aws advise`` writes it.

    ``least``, ``most``: machines. ``requests_a_minute``: of one machine, which Application Auto
    Scaling aims at; without it, the calendar alone counts. ``calendar``: least machines of each
    hour of a day, 24 numbers for each of the seven days, in the time zone ``zone``.
    """

    least: Machines = 1
    most: Machines
    requests_a_minute: Annotated[float, Field(gt=0, le=1e8)] | None = None
    zone: ZoneName = "UTC"
    calendar: dict[Day, Annotated[tuple[Machines, ...], Field(min_length=24, max_length=24)]] = (
        Field(default_factory=dict)
    )

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.least > self.most:
            raise ValueError(f"most is {self.most}, below least, which is {self.least}")
        if self.calendar and len(self.calendar) != len(get_args(Day)):
            raise ValueError(f"calendar has {len(self.calendar)} days, not all seven")
        counts = [count for hours in self.calendar.values() for count in hours]
        if counts and not self.least <= min(counts) <= max(counts) <= self.most:
            raise ValueError("calendar has a number of machines that is not from least to most")
        if self.requests_a_minute is None and not self.calendar:
            raise ValueError("set requests_a_minute, or calendar, or both")
        return self


class EndpointSettings(_InNetwork):
    """``role``: of the SageMaker endpoint. ``image``: the serving image, preferably by digest.

    ``instances``: machines at first, and always without ``scaling``. ``at_once``: requests that a
    machine has open; it answers the next one 503, so that none waits too long.

    ``serverless_mb``: memory of an endpoint without machines of its own; ``instance``,
    ``instances``, ``subnets``, ``alarms`` and ``bake_seconds`` do not count then. SageMaker allows
    it neither network isolation nor a canary. ``alarms``: names of CloudWatch alarms; one that goes
    off while a new version takes over brings the old one back. ``bake_seconds``: how long alarms
    are watched before all requests go to the new version, and again before the old one ends.
    """

    role: Role
    image: Image
    instance: Instance = "ml.m5.large"
    instances: Machines = 1
    serverless_mb: Literal[1024, 2048, 3072, 4096, 5120, 6144] | None = None
    concurrency: Annotated[int, Field(ge=1, le=200)] = 10
    alarms: Annotated[tuple[Alarm, ...], Field(max_length=10)] = ()
    bake_seconds: Annotated[int, Field(ge=60, le=600)] = 300
    at_once: Annotated[int, Field(ge=1, le=MOST_AT_ONCE)] = AT_ONCE
    scaling: ScalingSettings | None = None

    @model_validator(mode="after")
    def _serverless_has_no_machines(self) -> Self:
        if self.serverless_mb is not None and (self.subnets or self.scaling):
            raise ValueError("a serverless endpoint has neither subnets nor scaling")
        return self


class HospitalAws(Document):
    """``account``: the hospital's own; credentials of another are refused. ``bucket``: for code and
    models, encrypted under ``key``, which also encrypts the disks of endpoints."""

    schema_version: Literal[1] = 1
    account: Account
    region: Region
    bucket: Bucket
    key: KmsKey
    function: FunctionSettings | None = None
    endpoint: EndpointSettings | None = None


def read_hospital_aws(folder: Path, model: Identifier) -> HospitalAws:
    """Read ``aws/MODEL.toml`` of a site's folder. Raises UsageError naming what is wrong."""
    path = folder / FOLDER / f"{model}.toml"
    if not path.exists():
        raise UsageError(
            f"{path} does not exist: it names this hospital's own AWS account, where {model} may "
            "answer",
            hint="docs/cloud-doors.md shows one, and how to make what it names",
        )
    return read_settings(HospitalAws, path)

"""A hospital with an AWS account of its own, and two versions of a model with golden cases."""

from __future__ import annotations

import secrets
from contextlib import closing
from pathlib import Path
from typing import Any

from flo.clients.cloud import deployable
from flo.clients.cloud.deployable import Deployable
from flo.clients.home.site_home import SiteHome
from flo.infra.aws.serving.settings import EndpointSettings, FunctionSettings, HospitalAws
from tests.builders import make_site, pretend_enrolled
from tests.clients.prediction.told import TWO, V9, Told, approved, version_of
from tests.flo.published_models import COORDINATOR, made
from tests.infra.aws.emulated import REGION, Aws

WHY = "our committee said yes"
TEN = made("gated again", run="run-3")
V10 = version_of(TEN)
ASKED = {"record": {"age": 50, "ward": "a"}}
ACCOUNT = "123456789012"


def a_site(folder: Path) -> SiteHome:
    home = make_site(folder / "north")
    pretend_enrolled(home, COORDINATOR)
    return home


def told_of_both() -> Told:
    """Versions 9 and 10 of ``tiny``."""
    coordinator = Told(TWO, TEN)
    coordinator.show(approved(V9, V10))
    return coordinator


def account_of(aws: Aws, **endpoint: Any) -> HospitalAws:
    """The hospital's account. ``endpoint``: settings of its endpoint."""
    role = aws.client("iam").create_role(
        RoleName=f"flo-{secrets.token_hex(4)}", AssumeRolePolicyDocument="{}"
    )["Role"]["Arn"]
    image = f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com/flo-serving@sha256:" + "0" * 64
    return HospitalAws(
        account=ACCOUNT,
        region=REGION,
        bucket=aws.new_bucket(f"flo-{secrets.token_hex(6)}"),
        key=aws.new_key(),
        function=FunctionSettings(role=role),
        endpoint=EndpointSettings(role=role, image=image, **endpoint),
    )


def in_use(site: SiteHome) -> Deployable:
    return deployable.in_use(site, "tiny")


def audited(site: SiteHome) -> list[tuple[Any, ...]]:
    return [one for one in _entries(site) if one[0] != "begun"]


def begun(site: SiteHome) -> list[tuple[Any, ...]]:
    return [one for one in _entries(site) if one[0] == "begun"]


def _entries(site: SiteHome) -> list[tuple[Any, ...]]:
    with closing(site.open_audit_log()) as log:
        return [
            (one.facts["what"], one.facts["version"], one.facts["share"])
            for one in log.entries()
            if one.kind == "deployed"
        ]

"""A coordinator with an AWS account: keys, bucket, role, as ``flo aws deploy`` would print them."""

from __future__ import annotations

import secrets
from pathlib import Path

from flo.server.home.aws_config import AwsConfig
from flo.server.home.coordinator_home import CoordinatorConfig, CoordinatorHome
from tests.infra.aws.emulated import REGION, Aws
from tests.ports import free_ports


def account(aws: Aws) -> AwsConfig:
    return AwsConfig(
        region=REGION,
        bucket=aws.new_bucket(f"flo-{secrets.token_hex(6)}"),
        artifacts_key=aws.new_key(),
        launch_key=aws.new_key(),
        role="arn:aws:iam::123456789012:role/flo-aggregator",
        image="123456789012.dkr.ecr.eu-central-1.amazonaws.com/flo-aggregator@sha256:" + "0" * 64,
        serving_image="123456789012.dkr.ecr.eu-central-1.amazonaws.com/flo-serving:0.2.0",
        subnets=("subnet-0a1b2c3d",),
        security_groups=("sg-0a1b2c3d",),
    )


def home_with(config: AwsConfig, folder: Path) -> CoordinatorHome:
    port, private_port = free_ports(2)
    return CoordinatorHome.create(
        folder, CoordinatorConfig(port=port, private_port=private_port, aws=config)
    )

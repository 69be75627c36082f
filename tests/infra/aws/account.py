"""A coordinator with an AWS account: keys, bucket, roles, as ``flo aws deploy`` prints them."""

from __future__ import annotations

import json
import secrets
from pathlib import Path

from flo.infra.aws.study_roles import StudyRoles
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
        study_roles="arn:aws:iam::123456789012:role/flo/eu-central-1/flo/",
        image="123456789012.dkr.ecr.eu-central-1.amazonaws.com/flo-aggregator@sha256:" + "0" * 64,
        serving_image="123456789012.dkr.ecr.eu-central-1.amazonaws.com/flo-serving:0.2.0",
        subnets=("subnet-0a1b2c3d",),
        security_groups=("sg-0a1b2c3d",),
    )


def roles_of(aws: Aws, config: AwsConfig) -> StudyRoles:
    """The roles of the account's studies, with a policy of their stack."""
    iam, path = aws.client("iam"), config.study_roles.partition(":role")[2]
    found = iam.list_policies(Scope="Local", PathPrefix=path)["Policies"]
    for policy in found:
        if policy["PolicyName"] == "StudyPolicy":
            return StudyRoles(config.study_roles, policy["Arn"])
    statement = {"Effect": "Allow", "Action": "s3:GetObject", "Resource": "*"}
    document = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    made = iam.create_policy(PolicyName="StudyPolicy", Path=path, PolicyDocument=document)
    return StudyRoles(config.study_roles, made["Policy"]["Arn"])


def home_with(config: AwsConfig, folder: Path) -> CoordinatorHome:
    port, private_port = free_ports(2)
    return CoordinatorHome.create(
        folder, CoordinatorConfig(port=port, private_port=private_port, aws=config)
    )

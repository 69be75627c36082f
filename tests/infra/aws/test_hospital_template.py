"""What a hospital's account gets: who may deploy, who may ask, and a workflow without a key."""

from __future__ import annotations

import re
import secrets
from typing import Any

import pytest
import yaml

from flo.infra.aws.serving.settings import EndpointSettings, FunctionSettings, HospitalAws
from tests.infra.aws.emulated import REGION, Aws
from tests.infra.aws.iam import ACCOUNT, Request, Template
from tests.infra.aws.test_template import _named, _plain
from tests.paths import ROOT

pytestmark = pytest.mark.slow

FOLDER = ROOT / "infra" / "aws" / "serving"
TEMPLATE, WORKFLOW = FOLDER / "hospital.yaml", FOLDER / "deploy-workflow.yaml"
ROLES = ("FunctionRole", "EndpointRole", "DeployerRole")
THROUGH_S3 = {"kms:ViaService": f"s3.{REGION}.amazonaws.com"}
TLS = {"aws:SecureTransport": "true"}
OURS = {**TLS, "s3:x-amz-server-side-encryption-aws-kms-key-id": "arn:ModelsKey"}


@pytest.fixture(scope="module")
def loaded() -> dict[str, Any]:
    from cfnlint.decode.cfn_yaml import load

    found: dict[str, Any] = _plain(load(str(TEMPLATE)))
    return found


def test_the_linter_finds_nothing() -> None:
    from cfnlint.api import lint_file

    assert [str(match) for match in lint_file(TEMPLATE)] == []


def arn(service: str, rest: str) -> str:
    return f"arn:aws:{service}:{REGION}:{ACCOUNT}:{rest}"


FUNCTION, ENDPOINT = arn("lambda", "function:flo-Model"), arn("sagemaker", "endpoint/flo-Model")
MODEL = arn("sagemaker", "model/flo-m-0123456789ab-Model")
CHECK = arn("sagemaker", "endpoint/check-flo-Model")
ARCHIVE = "arn:ModelsBucket/models/Model/ab.tar.gz"
SCALING = "application-autoscaling"
ASKED, OWN = "aws:RequestTag/flo:model", "aws:ResourceTag/flo:model"
SCALED = arn("application-autoscaling", "scalable-target/0123")
MACHINES = {
    "application-autoscaling:service-namespace": "sagemaker",
    "application-autoscaling:scalable-dimension": "sagemaker:variant:DesiredInstanceCount",
    ASKED: "flo-Model",
}
TABLES = {
    "application-autoscaling:service-namespace": "dynamodb",
    "application-autoscaling:scalable-dimension": "dynamodb:table:ReadCapacityUnits",
    ASKED: "flo-Model",
}
OF_SCALING = arn("cloudwatch", "alarm:TargetTracking-endpoint/flo-Model/variant/live-AlarmHigh")
TO_LAMBDA = {"iam:PassedToService": "lambda.amazonaws.com"}
TO_SAGEMAKER = {"iam:PassedToService": "sagemaker.amazonaws.com"}

# What is asked -> the roles that may. Every other role must be denied.
MATRIX: list[tuple[Request, set[str]]] = [
    (Request("s3:PutObject", ARCHIVE, OURS), {"DeployerRole"}),
    (Request("s3:PutObject", ARCHIVE, {**OURS, "aws:SecureTransport": "false"}), set()),
    (
        Request(
            "s3:PutObject",
            ARCHIVE,
            {**TLS, "s3:x-amz-server-side-encryption-aws-kms-key-id": "arn:other"},
        ),
        set(),
    ),
    (Request("s3:GetObject", ARCHIVE, TLS), {"DeployerRole", "EndpointRole"}),
    (Request("s3:PutObject", "arn:ModelsBucket/models/Other/ab.tar.gz", OURS), set()),
    (Request("s3:DeleteObject", ARCHIVE, TLS), set()),
    (Request("kms:Decrypt", "arn:ModelsKey", THROUGH_S3), {"DeployerRole", "EndpointRole"}),
    (Request("kms:Decrypt", "arn:ModelsKey", {}), set()),
    (Request("kms:ScheduleKeyDeletion", "arn:ModelsKey", {}), set()),
    *(
        (Request(f"lambda:{action}", FUNCTION, {}), {"DeployerRole"})
        for action in ("CreateFunction", "PublishVersion", "UpdateAlias", "DeleteFunction")
    ),
    (Request("lambda:InvokeFunction", f"{FUNCTION}:7", {}), {"DeployerRole"}),
    (Request("lambda:UpdateAlias", FUNCTION.replace("Model", "Other"), {}), set()),
    (Request("lambda:AddPermission", FUNCTION, {}), set()),
    (Request(f"{SCALING}:RegisterScalableTarget", SCALED, MACHINES), {"DeployerRole"}),
    (Request(f"{SCALING}:RegisterScalableTarget", SCALED, {**MACHINES, ASKED: "flo-Other"}), set()),
    (Request(f"{SCALING}:RegisterScalableTarget", SCALED, TABLES), set()),
    (Request(f"{SCALING}:TagResource", SCALED, {ASKED: "flo-Model"}), {"DeployerRole"}),
    (
        Request(f"{SCALING}:TagResource", SCALED, {ASKED: "flo-Model", OWN: "flo-Other"}),
        set(),
    ),
    *(
        (Request(f"{SCALING}:{action}", SCALED, {OWN: f"flo-{model}"}), roles)
        for action in ("DeregisterScalableTarget", "PutScalingPolicy", "PutScheduledAction")
        for model, roles in (("Model", {"DeployerRole"}), ("Other", set[str]()))
    ),
    (Request(f"{SCALING}:DeleteScalingPolicy", SCALED, {OWN: "flo-Model"}), set()),
    (Request("cloudwatch:PutMetricAlarm", OF_SCALING, {}), {"DeployerRole"}),
    (Request("cloudwatch:DeleteAlarms", OF_SCALING, {}), {"DeployerRole"}),
    (Request("cloudwatch:DeleteAlarms", OF_SCALING.replace("Model", "Other"), {}), set()),
    (Request("cloudwatch:DeleteAlarms", arn("cloudwatch", "alarm:flo-Model-slow"), {}), set()),
    (Request("lambda:CreateFunctionUrlConfig", FUNCTION, {}), set()),
    (Request("sagemaker:CreateModel", MODEL, {}), {"DeployerRole"}),
    (Request("sagemaker:UpdateEndpoint", ENDPOINT, {}), {"DeployerRole"}),
    (Request("sagemaker:DeleteModel", MODEL, {}), set()),
    (Request("sagemaker:CreateModel", MODEL.replace("-Model", "-b-Model"), {}), set()),
    (Request("sagemaker:UpdateEndpoint", f"{ENDPOINT}-b", {}), set()),  # of a model named Model-b
    (Request("sagemaker:InvokeEndpoint", CHECK, {}), {"DeployerRole"}),
    (Request("sagemaker:InvokeEndpoint", ENDPOINT, {}), set()),  # who deploys asks for no patient
    (Request("iam:PassRole", "arn:FunctionRole", TO_LAMBDA), {"DeployerRole"}),
    (Request("iam:PassRole", "arn:EndpointRole", TO_SAGEMAKER), {"DeployerRole"}),
    (Request("iam:PassRole", "arn:EndpointRole", TO_LAMBDA), set()),
    (Request("iam:PassRole", "arn:DeployerRole", TO_LAMBDA), set()),
    (Request("iam:CreateUser", "arn:anyone", {}), set()),
    (Request("sts:AssumeRole", "arn:DeployerRole", {}), set()),
]


@pytest.mark.parametrize(("asked", "allowed"), MATRIX, ids=_named)
def test_each_role_may_what_it_needs_and_nothing_else(
    loaded: dict[str, Any], asked: Request, allowed: set[str]
) -> None:
    template = Template(loaded)
    assert {role for role in ROLES if template.allows(role, asked)} == allowed


def test_the_account_manages_the_key_and_does_not_use_it(loaded: dict[str, Any]) -> None:
    template = Template(loaded)
    assert template.administrator_may("ModelsKey", "kms:ScheduleKeyDeletion")
    for action in ("Decrypt", "Encrypt", "GenerateDataKey", "CreateGrant"):
        assert not template.administrator_may("ModelsKey", f"kms:{action}"), action


def test_record_systems_may_ask_what_is_live_and_nothing_else(loaded: dict[str, Any]) -> None:
    policy = loaded["Resources"]["CallerPolicy"]["Properties"]["PolicyDocument"]["Statement"]
    asked = {(one["Action"], one["Resource"]["Fn::Sub"].rpartition(":")[2]) for one in policy}
    assert asked == {
        ("lambda:InvokeFunction", "live"),
        ("sagemaker:InvokeEndpoint", "endpoint/flo-${Model}"),
    }


def test_an_account_is_made_and_its_outputs_are_the_settings(
    aws: Aws, loaded: dict[str, Any]
) -> None:
    formation, name = aws.client("cloudformation"), f"flo-{secrets.token_hex(4)}"
    formation.create_stack(
        StackName=name,
        TemplateBody=TEMPLATE.read_text(),
        Parameters=[
            {"ParameterKey": "Model", "ParameterValue": "heart"},
            {"ParameterKey": "AlarmAddress", "ParameterValue": "ops@hospital.example"},
        ],
        Capabilities=["CAPABILITY_IAM"],
    )
    (stack,) = formation.describe_stacks(StackName=name)["Stacks"]
    assert stack["StackStatus"] == "CREATE_COMPLETE"
    found = {one["OutputKey"]: one["OutputValue"] for one in stack["Outputs"]}
    settings = HospitalAws(
        account=found["Account"],
        region=found["Region"],
        bucket=found["Bucket"].lower(),
        key=found["KeyArn"],
        function=FunctionSettings(role=found["FunctionRoleArn"]),
        endpoint=EndpointSettings(
            role=found["EndpointRoleArn"],
            image=f"{found['Repository']}:0.2.0",
            alarms=tuple(found["AlarmNames"].split(",")),
        ),
    )
    assert settings.endpoint is not None
    assert settings.endpoint.alarms == ("flo-heart-errors", "flo-heart-slow")
    named = {
        one["Properties"]["AlarmName"]["Fn::Sub"].replace("${Model}", "heart")
        for one in loaded["Resources"].values()
        if one["Type"] == "AWS::CloudWatch::Alarm"
    }
    assert set(settings.endpoint.alarms) <= named, "moto makes no alarms of a template"
    formation.delete_stack(StackName=name)


def test_the_workflow_has_no_key_no_foreign_code_and_no_injection(loaded: dict[str, Any]) -> None:
    text = WORKFLOW.read_text()
    (job,) = yaml.safe_load(text)["jobs"].values()
    assert yaml.safe_load(text)["permissions"] == {"id-token": "write"}
    assert job["environment"] == "production"
    assert "self-hosted" in job["runs-on"]
    assert not any("uses" in step for step in job["steps"])
    assert "secrets." not in text
    for step in job["steps"]:
        assert "${{" not in step["run"], "inputs reach the shell as variables only"
    (statement,) = [
        one["Fn::If"][1]
        for one in loaded["Resources"]["DeployerRole"]["Properties"]["AssumeRolePolicyDocument"][
            "Statement"
        ]
        if "Fn::If" in one
    ]
    assert set(statement["Condition"]["StringEquals"]) == {
        "token.actions.githubusercontent.com:aud",
        "token.actions.githubusercontent.com:sub",
    }
    subject = loaded["Parameters"]["OidcSubject"]["AllowedPattern"]
    assert re.fullmatch(subject, "repo:hospital/models:environment:production")
    for wide in ("repo:hospital/*:environment:production", "repo:hospital/models:*", "*"):
        assert not re.fullmatch(subject, wide)

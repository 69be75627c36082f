"""``flo aws ...`` against an emulated CloudFormation, as a person types it."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from flo.errors import FloError, NetworkError
from flo.infra.aws import stack
from flo.infra.aws.stack import TEMPLATE, Stack, settings
from flo.server.home.aws_config import AwsConfig
from tests.commands import flo_process
from tests.infra.aws.emulated import REGION, Aws

MORE = ("--image", "ami-12c6146b", "--region", REGION)
S3_LIST = f"com.amazonaws.{REGION}.s3"


@pytest.fixture
def options(aws: Aws) -> list[str]:
    """What every command is given, in an empty account; S3's own prefix list is made, which moto
    lacks."""
    aws.empty()
    ec2 = aws.client("ec2")
    known = {item["PrefixListName"] for item in ec2.describe_managed_prefix_lists()["PrefixLists"]}
    if S3_LIST not in known:
        ec2.create_managed_prefix_list(PrefixListName=S3_LIST, MaxEntries=10, AddressFamily="IPv4")
    made = ec2.create_managed_prefix_list(
        PrefixListName="hospitals", MaxEntries=10, AddressFamily="IPv4"
    )["PrefixList"]["PrefixListId"]
    return ["--networks", made, "--alarms", "ops@example.org", *MORE]


@pytest.mark.slow
def test_plan_shows_every_resource_and_a_cost_and_makes_nothing(
    aws: Aws, options: list[str]
) -> None:
    done = flo_process("aws", "plan", *options, "--name", "planned")
    assert done.returncode == 0, done.stderr
    for resource in ("LaunchKey", "AuditBucket", "Coordinator", "HospitalListener"):
        assert resource in done.stdout
    assert "nothing was changed" in done.stdout
    assert "private endpoints" in done.stdout
    assert Stack("planned", REGION).status() is None


@pytest.mark.slow
def test_an_account_is_made_and_looked_at(aws: Aws, options: list[str]) -> None:
    done = flo_process("aws", "deploy", *options, "--name", "whole", "--yes", seconds=180)
    assert done.returncode == 0, done.stderr + done.stdout
    assert "create complete" in done.stdout
    shown = flo_process("aws", "status", "--region", REGION, "--name", "whole")
    assert shown.returncode == 0, shown.stderr
    toml = shown.stdout.partition("[aws]")[2].partition("create its folder")[0]
    found = tomllib.loads("[aws]" + toml)["aws"]
    found["image"] = found["image"].replace("...", "0" * 64)
    for name in ("artifacts_key", "launch_key", "audit_key", "study_roles", "bucket"):
        assert name in found
    assert (
        AwsConfig.model_validate(found)
        .role_of("12" * 32)
        .endswith("role/flo/eu-central-1/whole/" + "12" * 32)
    )
    assert set(settings(Stack("whole", REGION).outputs())) | {"image"} <= set(
        AwsConfig.model_fields
    )
    again = flo_process("aws", "deploy", *options, "--name", "whole", "--yes", seconds=180)
    assert again.returncode == 0, again.stderr


@pytest.mark.slow
def test_a_protected_machine_keeps_its_stack_until_the_protection_is_lifted(
    aws: Aws, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a stack of one machine: moto cannot take a network down. Roles of studies go with it."""
    small = tmp_path / "small.yaml"
    small.write_text(SMALL)
    monkeypatch.setattr(stack, "TEMPLATE", small)
    Stack("small", REGION).deploy({}, lambda event: None)
    machine, ec2 = Stack("small", REGION).outputs()["Machine"], aws.client("ec2")
    roles = Stack("small", REGION).study_roles()
    roles.make("12" * 32)
    destroy = ("aws", "destroy", "--region", REGION, "--name", "small", "--yes")
    ec2.modify_instance_attribute(InstanceId=machine, DisableApiTermination={"Value": True})
    refused = flo_process(*destroy)
    assert refused.returncode == 3
    assert "protected against termination" in refused.stderr
    assert Stack("small", REGION).status() == "CREATE_COMPLETE"
    assert flo_process(*destroy[:-1]).returncode == 3
    assert [role.study for role in roles.all()] == ["12" * 32]
    ec2.modify_instance_attribute(InstanceId=machine, DisableApiTermination={"Value": False})
    gone = flo_process(*destroy)
    assert gone.returncode == 0, gone.stderr
    assert "remain and cost money" in gone.stdout
    assert roles.all() == []


SMALL = """
Resources:
  Coordinator:
    Type: AWS::EC2::Instance
    Properties: {ImageId: ami-12c6146b, InstanceType: t3.medium}
  StudyPolicy:
    Type: AWS::IAM::ManagedPolicy
    Properties:
      Path: /flo/eu-central-1/small/
      PolicyDocument:
        Version: "2012-10-17"
        Statement: [{Effect: Allow, Action: s3:GetObject, Resource: "*"}]
Outputs:
  Machine: {Value: !Ref Coordinator}
  StudyRoles: {Value: !Sub "arn:aws:iam::${AWS::AccountId}:role/flo/eu-central-1/small/"}
  StudyPolicyArn: {Value: !Ref StudyPolicy}
"""


@pytest.mark.slow
def test_a_stack_that_fails_names_what_failed(
    aws: Aws, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = tmp_path / "small.yaml"
    small.write_text(SMALL)
    monkeypatch.setattr(stack, "TEMPLATE", small)

    def roll_back(event: stack.StackEvent) -> None:
        """What moto does not: it answers 500 where a resource cannot be made."""
        from moto.backends import get_backend
        from moto.core import DEFAULT_ACCOUNT_ID

        made = get_backend("cloudformation")[DEFAULT_ACCOUNT_ID][REGION]
        made.get_stack("wrong").status = "ROLLBACK_COMPLETE"

    with pytest.raises(FloError, match="wrong is ROLLBACK_COMPLETE"):
        Stack("wrong", REGION).deploy({}, roll_back)


@pytest.mark.slow
def test_an_answer_that_is_not_awss_is_no_bug_of_ours(
    aws: Aws, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("Resources: {X: {Type: AWS::S3::Bucket, Properties: {BucketName: NO}}}")
    monkeypatch.setattr(stack, "TEMPLATE", wrong)
    with pytest.raises(NetworkError, match="the answer does not come from AWS"):
        Stack("nonsense", REGION).deploy({}, lambda event: None)


@pytest.mark.slow
def test_a_stack_that_is_not_there_is_named(aws: Aws) -> None:
    for command in ("status", "destroy"):
        more = ["--yes"] if command == "destroy" else []
        done = flo_process("aws", command, "--region", REGION, "--name", "nowhere", *more)
        assert done.returncode == 2
        assert "no stack nowhere in eu-central-1" in done.stderr


@pytest.mark.processes
def test_without_a_yes_nothing_is_deployed() -> None:
    options = ["--networks", "pl-0123456789", "--alarms", "a@b.c", *MORE]
    done = flo_process("aws", "deploy", *options)
    assert done.returncode == 3
    assert "nothing was changed" in done.stderr


def test_the_template_fits_into_one_request() -> None:
    assert len(TEMPLATE.read_bytes()) <= 51_200  # beyond that CloudFormation wants it in a bucket

"""The template keeps its promises: lint, every rule with a template that breaks it, every role."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from flo.infra.aws.study_roles import role_request
from tests.infra.aws.iam import ACCOUNT, Request, Template, trusts, with_mappings
from tests.paths import ROOT

pytestmark = pytest.mark.slow

FOLDER = ROOT / "infra" / "aws"
TEMPLATE, RULES = FOLDER / "flo.yaml", (FOLDER / "promises.guard").read_text()


@pytest.fixture(scope="module")
def loaded() -> dict[str, Any]:
    from cfnlint.decode.cfn_yaml import load

    found: dict[str, Any] = _plain(load(str(TEMPLATE)))
    resolved: dict[str, Any] = with_mappings(found, found["Mappings"])
    return resolved


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(name): _plain(found) for name, found in value.items()}
    if isinstance(value, list):
        return [_plain(found) for found in value]
    return str(value) if isinstance(value, str) else value


def test_the_linter_finds_nothing() -> None:
    from cfnlint.api import lint_file

    assert [str(match) for match in lint_file(TEMPLATE)] == []


def test_it_uses_no_alias_which_cloudformation_does_not_read() -> None:
    text = re.sub(r"#.*|\"[^\"]*\"", "", TEMPLATE.read_text())
    assert not re.search(r"[ \[:]&[a-z_]+|- \*[a-z]|: \*[a-z]", text)


# -- promises --------------------------------------------------------------------------------------


def broken(template: dict[str, Any]) -> set[str]:
    """Names of the rules that this template breaks, or that find nothing in it to look at.

    Each runs alone: this wheel cuts long reports at their beginning, and only one of a broken rule,
    which quotes the template, is long.
    """
    from cfn_guard_rs.cfn_guard_rs import run_checks_rs

    head, *rules = re.split(r"^(?=rule )", RULES, flags=re.MULTILINE)
    text = json.dumps(template)
    return {
        rule.split()[1]
        for rule in rules
        if '"status": "PASS"' not in run_checks_rs(text, head + rule, False)
    }


def put(*path: Any) -> Callable[[dict[str, Any]], None]:
    """Sets what lies at ``path``, whose last part is the value, in the resources."""
    *way, name, value = path

    def change(template: dict[str, Any]) -> None:
        found: Any = template["Resources"]
        for part in way:
            found = found[part]
        found[name] = value

    return change


def drop(*path: Any) -> Callable[[dict[str, Any]], None]:
    *way, name = path

    def change(template: dict[str, Any]) -> None:
        found: Any = template["Resources"]
        for part in way:
            found = found[part]
        del found[name]

    return change


def statement(resource: str, sid: str, name: str, value: Any) -> Callable[[dict[str, Any]], None]:
    """Sets something of one statement of a policy."""

    def change(template: dict[str, Any]) -> None:
        for kind in ("PolicyDocument", "KeyPolicy"):
            policy = template["Resources"][resource]["Properties"].get(kind, {})
            for found in policy.get("Statement", []):
                if found.get("Sid") == sid:
                    found[name] = value

    return change


def without_condition(
    resource: str, sid: str, operator: str, name: str
) -> Callable[[dict[str, Any]], None]:
    """Drops one condition of one statement of a policy."""

    def change(template: dict[str, Any]) -> None:
        for kind in ("PolicyDocument", "KeyPolicy"):
            policy = template["Resources"][resource]["Properties"].get(kind, {})
            for found in policy.get("Statement", []):
                if found.get("Sid") == sid:
                    del found["Condition"][operator][name]

    return change


def more(resource: str, **added: Any) -> Callable[[dict[str, Any]], None]:
    """Adds a statement to a policy."""

    def change(template: dict[str, Any]) -> None:
        policy = template["Resources"][resource]["Properties"]["PolicyDocument"]
        policy["Statement"].append({"Sid": "More", "Effect": "Allow", **added})

    return change


P = "Properties"
EVERY_STUDY = {"Fn::Sub": "${ArtifactsBucket.Arn}/studies/*"}
PRINCIPAL = "aws:PrincipalArn"
ALSO: list[tuple[str, Callable[[dict[str, Any]], None]]] = [  # other ways to break them
    (
        "a_study_reaches_its_own_objects_only",
        statement("StudyPolicy", "Artifacts", "Resource", EVERY_STUDY),
    ),
    (
        "a_study_reaches_its_own_objects_only",
        without_condition("StudyPolicy", "Artifacts", "ArnLike", PRINCIPAL),
    ),
    (
        "a_study_reaches_its_own_objects_only",
        without_condition("StudyPolicy", "ListArtifacts", "ArnLike", PRINCIPAL),
    ),
    (
        "a_study_reaches_its_own_objects_only",
        more("StudyPolicy", Action=["s3:GetObject"], Resource=EVERY_STUDY),
    ),
    (
        "a_study_reaches_its_own_objects_only",
        more("StudyPolicy", Action="s3:GetObject", Resource=EVERY_STUDY),
    ),
    (
        "a_launch_opens_for_the_role_of_its_study",
        without_condition("LaunchKey", "OpenLaunches", "ArnLike", PRINCIPAL),
    ),
]
BREAKS: dict[str, Callable[[dict[str, Any]], None]] = {
    "keys_rotate": put("AuditKey", P, "EnableKeyRotation", False),
    "keys_are_never_deleted_with_the_stack": drop("LaunchKey", "DeletionPolicy"),
    "who_manages_a_key_cannot_use_it": statement(
        "AuditKey", "AdministerWithoutUse", "Action", ["kms:Create*", "kms:*"]
    ),
    "launches_open_for_their_study_and_run_only": statement(
        "LaunchKey", "OpenLaunches", "Condition", {"Null": {"kms:EncryptionContext:run": "false"}}
    ),
    "buckets_keep_versions": put("ArtifactsBucket", P, "VersioningConfiguration", "Status", "Off"),
    "buckets_are_encrypted": drop("AuditBucket", P, "BucketEncryption"),
    "buckets_are_private": put(
        "AccessLogBucket", P, "PublicAccessBlockConfiguration", "BlockPublicAcls", False
    ),
    "buckets_speak_tls_only": statement("AuditBucketPolicy", "TlsOnly", "Effect", "Allow"),
    "buckets_take_one_key_only": statement("AuditBucketPolicy", "OneKeyOnly", "Effect", "Allow"),
    "buckets_outlive_the_stack": put("AuditBucket", "DeletionPolicy", "Delete"),
    "audit_copies_are_locked": put(
        "AuditBucket",
        P,
        "ObjectLockConfiguration",
        "Rule",
        "DefaultRetention",
        "Mode",
        "GOVERNANCE",
    ),
    "what_was_removed_is_gone_within_a_day": drop("ArtifactsBucket", P, "LifecycleConfiguration"),
    "nobody_is_let_in_from_everywhere": put(
        "CoordinatorGroup",
        P,
        "SecurityGroupIngress",
        0,
        {"IpProtocol": "tcp", "FromPort": 9443, "ToPort": 9443, "CidrIp": "0.0.0.0/0"},
    ),
    "nothing_goes_out_to_everywhere": put(
        "AggregatorGroup",
        P,
        "SecurityGroupEgress",
        0,
        {"IpProtocol": "-1", "CidrIp": "0.0.0.0/0"},
    ),
    "only_the_hospital_listener_is_public": put("HospitalListener", P, "Port", 9444),
    "client_certificates_arrive": put("HospitalListener", P, "Protocol", "TLS"),
    "no_machine_has_a_public_address": put("Coordinator", P, "SubnetId", {"Ref": "PublicSubnetA"}),
    "disks_are_encrypted": put(
        "Coordinator", P, "BlockDeviceMappings", 0, "Ebs", "Encrypted", False
    ),
    "disks_outlive_the_machine": put("Coordinator", P, "DisableApiTermination", False),
    "machine_credentials_need_a_session": put(
        "Coordinator", P, "MetadataOptions", "HttpTokens", "optional"
    ),
    "the_machine_recovers": put("MachineFailed", P, "AlarmActions", [{"Ref": "Alarms"}]),
    "images_never_change": put("AggregatorRepository", P, "ImageTagMutability", "MUTABLE"),
    "no_role_may_everything": statement("StudyPolicy", "Artifacts", "Action", ["s3:*"]),
    "a_study_reaches_its_own_objects_only": statement(
        "StudyPolicy", "ListArtifacts", "Condition", {}
    ),
    "a_study_opens_its_own_launches_only": statement(
        "StudyPolicy", "OpenItsLaunch", "Condition", {}
    ),
    "a_launch_opens_for_the_role_of_its_study": without_condition(
        "LaunchKey", "OpenLaunches", "StringEquals", "kms:EncryptionContext:study"
    ),
    "only_actions_that_know_no_resource_name_none": statement(
        "CoordinatorPolicy", "LookAfterJobs", "Resource", "*"
    ),
    "jobs_run_encrypted_and_inside_the_network": statement(
        "CoordinatorPolicy", "Jobs", "Condition", {}
    ),
    "a_role_is_passed_to_sagemaker_only": statement(
        "CoordinatorPolicy", "GiveJobsTheirRole", "Condition", {}
    ),
    "people_show_a_second_factor": drop(
        "OperatorRole", P, "AssumeRolePolicyDocument", "Statement", 0, "Condition"
    ),
    "the_calendar_makes_our_endpoints_only_and_through_cloudformation": statement(
        "CalendarPolicy", "Endpoints", "Condition", {}
    ),
    "only_the_accounts_calendar_wakes_it": drop(
        "CalendarRole", P, "AssumeRolePolicyDocument", "Statement", 0, "Condition"
    ),
    "logs_are_kept_and_encrypted": drop("CoordinatorLogs", P, "RetentionInDays"),
    "alarms_reach_someone": put("JobsFail", P, "AlarmActions", []),
}


def test_the_template_keeps_every_promise(loaded: dict[str, Any]) -> None:
    assert broken(loaded) == set()


def test_every_promise_has_a_template_that_breaks_it() -> None:
    assert set(BREAKS) == set(re.findall(r"^rule (\w+)", RULES, re.MULTILINE))


@pytest.mark.parametrize("rule", [*BREAKS])
def test_a_template_that_breaks_a_promise_is_caught(loaded: dict[str, Any], rule: str) -> None:
    changed = copy.deepcopy(loaded)
    BREAKS[rule](changed)
    assert changed != loaded
    assert rule in broken(changed)


@pytest.mark.parametrize("number", range(len(ALSO)))
def test_other_ways_to_break_it_are_caught_too(loaded: dict[str, Any], number: int) -> None:
    rule, change = ALSO[number]
    changed = copy.deepcopy(loaded)
    change(changed)
    assert changed != loaded
    assert rule in broken(changed)


# -- roles -----------------------------------------------------------------------------------------

ROLES = (
    *("CoordinatorRole", "AuditorRole", "OperatorRole", "ReaderRole"),
    "CalendarRole",
)
DIGEST, OTHER = "ab" * 32, "cd" * 32
PATH = f"arn:aws:iam::{ACCOUNT}:role/flo/eu-central-1/AWS::StackName/"
STUDIES = {  # as `flo aws role` makes them
    "its study": role_request(PATH, "StudyPolicy", DIGEST),
    "another study": role_request(PATH, "StudyPolicy", OTHER),
}
STUDY = {"purpose": "launch", "study": DIGEST, "run": "run-1"}
S3_ONLY = {"kms:ViaService": "s3.eu-central-1.amazonaws.com"}
TLS = {"aws:SecureTransport": "true"}


def context(**pairs: str) -> dict[str, str]:
    return {f"kms:EncryptionContext:{name}": value for name, value in pairs.items()}


def ours(key: str) -> dict[str, str]:
    return {**TLS, "s3:x-amz-server-side-encryption-aws-kms-key-id": f"arn:{key}"}


JOB = "arn:aws:sagemaker:eu-central-1:123456789012:training-job/flo-run-1-1"
BUCKET, COPY = "arn:ArtifactsBucket", "arn:AuditBucket/2026/head"
STATE = f"{BUCKET}/studies/{DIGEST}/runs/r/state-1"
MACHINE = "arn:aws:ec2:eu-central-1:123456789012:instance/Coordinator"
ENDPOINT = "arn:aws:ec2:eu-central-1:123456789012:vpc-endpoint/vpce-1"
ALARM = "arn:aws:cloudwatch:eu-central-1:123456789012:alarm:AWS::StackName-CoordinatorAway-1"
VIA = {"aws:CalledVia": "cloudformation.amazonaws.com"}
TO, SERVICE = "ec2:VpceServiceName", "com.amazonaws.eu-central-1"
OPENS_A_DISK = {
    "kms:GrantIsForAWSResource": "true",
    "kms:ViaService": "ec2.eu-central-1.amazonaws.com",
    "kms:CallerAccount": "123456789012",
}
PACKAGE = "arn:aws:sagemaker:eu-central-1:123456789012:model-package/flo-heart/1"
INSIDE = {
    "sagemaker:VolumeKmsKey": "arn:ArtifactsKey",
    "sagemaker:OutputKmsKey": "arn:ArtifactsKey",
    "sagemaker:VpcSubnets": "PrivateSubnetA",
    "sagemaker:VpcSecurityGroupIds": "arn:AggregatorGroup",
}

# What is asked -> the roles that may. Every other role must be denied.
MATRIX: list[tuple[Request, set[str]]] = [
    # states and models
    (Request("s3:GetObject", STATE, TLS), {"CoordinatorRole", "its study"}),
    (Request("s3:PutObject", STATE, ours("ArtifactsKey")), {"CoordinatorRole", "its study"}),
    (Request("s3:PutObject", STATE, ours("AuditKey")), set()),
    (Request("s3:GetObject", STATE, {"aws:SecureTransport": "false"}), set()),
    (Request("s3:DeleteObjectVersion", STATE, TLS), {"CoordinatorRole", "its study"}),
    (Request("s3:PutBucketPolicy", "arn:ArtifactsBucket", TLS), set()),
    (Request("s3:GetObject", "arn:ArtifactsBucket/elsewhere", TLS), set()),
    (Request("s3:DeleteObject", STATE, TLS), {"CoordinatorRole", "its study"}),
    (Request("s3:AbortMultipartUpload", STATE, TLS), {"CoordinatorRole", "its study"}),
    (
        Request("s3:ListBucket", BUCKET, {**TLS, "s3:prefix": f"studies/{DIGEST}/runs/"}),
        {"CoordinatorRole", "its study"},
    ),
    (
        Request("s3:ListBucketVersions", BUCKET, {**TLS, "s3:prefix": f"studies/{DIGEST}/jobs/j"}),
        {"CoordinatorRole", "its study"},
    ),
    (Request("s3:ListBucket", BUCKET, {**TLS, "s3:prefix": "studies/"}), {"CoordinatorRole"}),
    (Request("s3:ListBucket", BUCKET, TLS), {"CoordinatorRole"}),
    (  # S3 encrypts for a whole bucket; who may use the key there is decided object by object
        Request("kms:Decrypt", "arn:ArtifactsKey", S3_ONLY),
        {"CoordinatorRole", "its study", "another study", "ReaderRole"},
    ),
    (
        Request("s3:GetObject", f"{BUCKET}/studies/{DIGEST}/registry/run-1/model.tar.gz", TLS),
        {"CoordinatorRole", "its study", "ReaderRole"},
    ),
    (Request("s3:PutObject", STATE, TLS), {"CoordinatorRole", "its study"}),
    (Request("sagemaker:DescribeModelPackage", PACKAGE, {}), {"CoordinatorRole", "ReaderRole"}),
    (Request("sagemaker:UpdateModelPackage", PACKAGE, {}), {"CoordinatorRole"}),
    (Request("sagemaker:CreateModelPackageGroup", PACKAGE, {}), {"CoordinatorRole"}),
    (
        Request("kms:GenerateDataKey", "arn:ArtifactsKey", S3_ONLY),
        {"CoordinatorRole", "its study", "another study"},
    ),
    (
        Request("kms:CreateGrant", "arn:ArtifactsKey", {"kms:GrantIsForAWSResource": "true"}),
        {"its study", "another study"},
    ),
    (
        Request(
            "kms:CreateGrant",
            "arn:ArtifactsKey",
            {
                "kms:GrantIsForAWSResource": "true",
                "kms:ViaService": "sagemaker.eu-central-1.amazonaws.com",
            },
        ),
        {"CoordinatorRole", "its study", "another study"},
    ),
    (Request("kms:CreateGrant", "arn:ArtifactsKey", {}), set()),
    (Request("kms:Decrypt", "arn:ArtifactsKey", {}), set()),
    (Request("kms:GenerateDataKey", "arn:ArtifactsKey", {}), set()),
    (Request("kms:ScheduleKeyDeletion", "arn:ArtifactsKey", {}), set()),
    # what SageMaker does in a job's role: the image, the network, the log
    *(
        (Request(f"ecr:{action}", "arn:AggregatorRepository", {}), {"its study", "another study"})
        for action in ("BatchCheckLayerAvailability", "BatchGetImage", "GetDownloadUrlForLayer")
    ),
    (Request("ecr:GetAuthorizationToken", "*", {}), {"its study", "another study"}),
    (Request("ecr:PutImage", "arn:AggregatorRepository", {}), set()),
    (Request("ec2:CreateNetworkInterface", "*", {}), {"its study", "another study"}),
    (Request("ec2:DeleteNetworkInterface", "*", {}), {"its study", "another study"}),
    (
        Request(
            "logs:PutLogEvents",
            "arn:aws:logs:eu-central-1:123456789012:log-group:/aws/sagemaker/TrainingJobs:x",
            {},
        ),
        {"its study", "another study"},
    ),
    # launches
    (Request("kms:GenerateDataKey", "arn:LaunchKey", context(**STUDY)), {"CoordinatorRole"}),
    (Request("kms:Decrypt", "arn:LaunchKey", context(**STUDY)), {"its study"}),
    (Request("kms:Decrypt", "arn:LaunchKey", context(purpose="launch")), set()),
    (
        Request("kms:Decrypt", "arn:LaunchKey", context(**{**STUDY, "purpose": "model"})),
        set(),
    ),
    (Request("kms:Decrypt", "arn:LaunchKey", {}), set()),
    # the coordinator's own secrets
    (Request("kms:Decrypt", "arn:FolderKey", context(purpose="identity-key")), {"CoordinatorRole"}),
    (Request("kms:Decrypt", "arn:FolderKey", {}), set()),
    # who the coordinator is
    (
        Request("kms:Sign", "arn:SigningKey", {"kms:CallerAccount": "123456789012"}),
        {"CoordinatorRole"},
    ),
    (Request("kms:Sign", "arn:SigningKey", {"kms:CallerAccount": "210987654321"}), set()),
    (Request("kms:ScheduleKeyDeletion", "arn:SigningKey", {}), set()),
    # audit copies
    (Request("s3:PutObject", COPY, ours("AuditKey")), {"CoordinatorRole"}),
    (Request("s3:PutObject", COPY, ours("ArtifactsKey")), set()),
    (Request("s3:GetObject", COPY, TLS), {"AuditorRole"}),
    (Request("s3:DeleteObject", COPY, TLS), set()),
    (Request("s3:DeleteObjectVersion", COPY, TLS), set()),
    (Request("s3:BypassGovernanceRetention", COPY, TLS), set()),
    (Request("kms:Decrypt", "arn:AuditKey", S3_ONLY), {"CoordinatorRole", "AuditorRole"}),
    (Request("kms:Decrypt", "arn:AuditKey", {}), set()),
    (Request("s3:AbortMultipartUpload", COPY, TLS), {"CoordinatorRole"}),
    # jobs
    (Request("sagemaker:CreateTrainingJob", JOB, INSIDE), {"CoordinatorRole"}),
    (Request("sagemaker:CreateTrainingJob", JOB, {}), set()),
    (
        Request(
            "sagemaker:CreateTrainingJob", JOB, {**INSIDE, "sagemaker:VpcSubnets": "subnet-other"}
        ),
        set(),
    ),
    (
        Request(
            "sagemaker:CreateTrainingJob", JOB, {**INSIDE, "sagemaker:VolumeKmsKey": "arn:other"}
        ),
        set(),
    ),
    (Request("sagemaker:CreateTrainingJob", JOB.replace("flo-", "x-"), INSIDE), set()),
    (Request("sagemaker:DescribeTrainingJob", JOB, {}), {"CoordinatorRole", "OperatorRole"}),
    (Request("sagemaker:StopTrainingJob", JOB, {}), {"CoordinatorRole"}),
    (
        Request("iam:PassRole", PATH + DIGEST, {"iam:PassedToService": "sagemaker.amazonaws.com"}),
        {"CoordinatorRole"},
    ),
    (
        Request("iam:PassRole", PATH + DIGEST, {"iam:PassedToService": "ec2.amazonaws.com"}),
        set(),
    ),
    (
        Request(
            "iam:PassRole",
            PATH.replace("AWS::StackName", "another") + DIGEST,
            {"iam:PassedToService": "sagemaker.amazonaws.com"},
        ),
        set(),
    ),
    (
        Request(
            "iam:PassRole",
            "arn:CoordinatorRole",
            {"iam:PassedToService": "sagemaker.amazonaws.com"},
        ),
        set(),
    ),
    # sleeping and waking: people do it as administrators, and the calendar does nothing else
    (Request("ec2:StartInstances", MACHINE, {}), {"CalendarRole"}),
    (Request("ec2:StopInstances", MACHINE, {}), {"CalendarRole"}),
    (Request("ec2:StopInstances", MACHINE.replace("Coordinator", "i-other"), {}), set()),
    (Request("ec2:RunInstances", MACHINE, {}), set()),
    (Request("cloudformation:UpdateStack", "AWS::StackId", {}), {"CalendarRole"}),
    (Request("cloudformation:UpdateStack", "another stack", {}), set()),
    (Request("cloudformation:DeleteStack", "AWS::StackId", {}), set()),
    (Request("ec2:DeleteVpcEndpoints", ENDPOINT, VIA), {"CalendarRole"}),
    (Request("ec2:DeleteVpcEndpoints", ENDPOINT, {}), set()),
    (Request("ec2:CreateVpcEndpoint", ENDPOINT, {**VIA, TO: f"{SERVICE}.kms"}), {"CalendarRole"}),
    (Request("ec2:CreateVpcEndpoint", ENDPOINT, {TO: f"{SERVICE}.kms"}), set()),
    (Request("ec2:CreateVpcEndpoint", ENDPOINT, {**VIA, TO: f"{SERVICE}.s3"}), set()),
    (Request("ec2:CreateVpcEndpoint", ENDPOINT, {**VIA, TO: "com.example.elsewhere"}), set()),
    (Request("ec2:ModifyVpcEndpoint", ENDPOINT, VIA), set()),
    (Request("cloudwatch:PutMetricAlarm", ALARM, VIA), {"CalendarRole"}),
    (Request("cloudwatch:PutMetricAlarm", ALARM, {}), set()),
    (
        Request("cloudwatch:PutMetricAlarm", ALARM.replace("CoordinatorAway", "Audit"), VIA),
        set(),
    ),
    (Request("kms:CreateGrant", "arn:MachineKey", OPENS_A_DISK), {"CalendarRole"}),
    (
        Request(
            "kms:CreateGrant",
            "arn:MachineKey",
            {**OPENS_A_DISK, "kms:GrantIsForAWSResource": "false"},
        ),
        set(),
    ),
    (Request("kms:Decrypt", "arn:MachineKey", OPENS_A_DISK), set()),
    (Request("iam:PassRole", "arn:CalendarRole", {}), set()),
    (Request("scheduler:UpdateSchedule", "anything", {}), set()),
    # nobody's business
    (Request("iam:CreateUser", "arn:anyone", {}), set()),
    (Request("iam:CreateRole", PATH + DIGEST, {}), set()),
    (Request("iam:TagRole", PATH + DIGEST, {}), set()),
    (Request("iam:UntagRole", PATH + OTHER, {}), set()),
    (Request("iam:DeleteRolePermissionsBoundary", PATH + DIGEST, {}), set()),
    (Request("sts:AssumeRole", PATH + DIGEST, {}), set()),
    (Request("ec2:TerminateInstances", "arn:Coordinator", {}), set()),
    (Request("ec2:ModifyInstanceAttribute", "arn:Coordinator", {}), set()),
    (Request("logs:DeleteLogGroup", "arn:CoordinatorLogs", {}), set()),
    (Request("logs:PutLogEvents", "arn:CoordinatorLogs", {}), {"CoordinatorRole"}),
    (Request("logs:GetLogEvents", "arn:CoordinatorLogs", {}), {"OperatorRole"}),
    (Request("kms:PutKeyPolicy", "arn:LaunchKey", {}), set()),
]


def _named(value: Request | set[str]) -> str:
    return str(sorted(value) if isinstance(value, set) else value)[:90]


@pytest.mark.parametrize(("asked", "allowed"), MATRIX, ids=_named)
def test_each_role_may_what_it_needs_and_nothing_else(
    loaded: dict[str, Any], asked: Request, allowed: set[str]
) -> None:
    template = Template(loaded)
    may = {role for role in ROLES if template.allows(role, asked)}
    may |= {
        name for name, made in STUDIES.items() if template.allows_made(made, ["StudyPolicy"], asked)
    }
    assert may == allowed


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("without a tag", {"Tags": []}),
        ("of another path", {"Path": "/elsewhere/"}),
        ("of another stack", {"Path": "/flo/eu-central-1/another/"}),
        ("of another region", {"Path": "/flo/us-east-1/AWS::StackName/"}),
        ("with another's tag", {"RoleName": OTHER}),
    ],
)
def test_a_role_that_is_not_as_flo_makes_it_opens_nothing(
    loaded: dict[str, Any], name: str, change: dict[str, Any]
) -> None:
    template, made = Template(loaded), {**STUDIES["its study"], **change}
    launch = Request("kms:Decrypt", "arn:LaunchKey", context(**STUDY))
    assert template.allows_made(STUDIES["its study"], ["StudyPolicy"], launch)
    assert not template.allows_made(made, ["StudyPolicy"], launch)
    through_s3 = Request("kms:Decrypt", "arn:ArtifactsKey", S3_ONLY)
    state = Request("s3:GetObject", STATE, TLS)
    assert not (
        template.allows_made(made, ["StudyPolicy"], through_s3)
        and template.allows_made(made, ["StudyPolicy"], state)
    )


def test_sagemakers_training_jobs_of_this_account_and_region_alone_take_a_studys_role() -> None:
    trust = json.loads(STUDIES["its study"]["AssumeRolePolicyDocument"])
    job = {"aws:SourceAccount": ACCOUNT, "aws:SourceArn": JOB}
    assert trusts(trust, "sagemaker.amazonaws.com", job)
    for service, keys in (
        ("ec2.amazonaws.com", job),
        (f"arn:aws:iam::{ACCOUNT}:root", job),
        (ACCOUNT, job),
        ("sagemaker.amazonaws.com", {}),
        ("sagemaker.amazonaws.com", {**job, "aws:SourceAccount": "210987654321"}),
        ("sagemaker.amazonaws.com", {**job, "aws:SourceArn": JOB.replace("eu-", "us-")}),
        ("sagemaker.amazonaws.com", {**job, "aws:SourceArn": JOB.replace("training-job", "app")}),
    ):
        assert not trusts(trust, service, keys), (service, keys)


def test_what_would_replace_the_policy_under_all_roles_stays_as_it_is(
    loaded: dict[str, Any],
) -> None:
    """CloudFormation makes another policy for another description or path: then every role of a
    study has a boundary of yesterday, and `flo aws role` refuses it."""
    policy = loaded["Resources"]["StudyPolicy"]["Properties"]
    assert policy["Description"] == (
        "FLO, the training jobs of the study that a role's tag names (flo aws role)"
    )
    assert policy["Path"] == {"Fn::Sub": "/flo/${AWS::Region}/${AWS::StackName}/"}
    assert "ManagedPolicyName" not in policy


def test_what_else_is_attached_to_a_studys_role_gives_it_nothing(loaded: dict[str, Any]) -> None:
    """Its permissions boundary is the same policy."""
    template, policies = Template(loaded), ["StudyPolicy", "AdministratorAccess"]
    for asked, allowed in MATRIX:
        found = template.allows_made(STUDIES["its study"], policies, asked)
        assert found == ("its study" in allowed), asked
    unbounded = {**STUDIES["its study"], "PermissionsBoundary": "AdministratorAccess"}
    assert template.allows_made(
        unbounded, policies, Request("s3:GetObject", STATE.replace(DIGEST, OTHER), TLS)
    )


KEYS = ("ArtifactsKey", "LaunchKey", "FolderKey", "SigningKey", "AuditKey")


@pytest.mark.parametrize("key", KEYS)
def test_the_account_manages_every_key_and_uses_none(loaded: dict[str, Any], key: str) -> None:
    template = Template(loaded)
    for action in ("PutKeyPolicy", "EnableKeyRotation", "DescribeKey", "ScheduleKeyDeletion"):
        assert template.administrator_may(key, f"kms:{action}"), action
    for action in ("Decrypt", "Encrypt", "GenerateDataKey", "Sign", "CreateGrant", "ReEncryptFrom"):
        assert not template.administrator_may(key, f"kms:{action}"), action

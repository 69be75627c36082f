"""A study's role: made once, as FLO makes it, removed with the study; and enough for its jobs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from flo.errors import RefusedError, TrustError, UsageError
from flo.infra.aws.s3 import S3Artifacts
from flo.infra.aws.sagemaker import SageMakerJobs, training_job
from flo.infra.aws.stack import Stack, settings
from flo.infra.aws.study_roles import StudyRoles, role_request
from flo.server.runs.job_access import JobAccess
from tests.builders import make_site, study_document
from tests.commands import flo_process
from tests.infra.aws import emulated
from tests.infra.aws.account import account, home_with
from tests.infra.aws.emulated import REGION, Asked, Aws
from tests.infra.aws.iam import ACCOUNT, Request, Template
from tests.infra.aws.machine import deployed
from tests.infra.aws.test_aggregation import staged
from tests.infra.aws.test_template import OTHER, S3_ONLY, loaded  # noqa: F401 - a fixture
from tests.server.real_coordinator import RealCoordinator, served

pytestmark = pytest.mark.slow

STUDY = "12" * 32
USES_THE_KEY = {"s3:GetObject": ("Decrypt",), "s3:PutObject": ("Decrypt", "GenerateDataKey")}
MORE = {"Effect": "Allow", "Action": "s3:GetObject", "Resource": "*"}
COMMAND = ("aws", "role", STUDY, "--region", REGION, "--name", "roled")


@pytest.fixture(scope="module")
def stack(aws: Aws) -> Stack:
    return deployed(aws, "roled")


@pytest.fixture
def roles(aws: Aws, stack: Stack) -> Iterator[StudyRoles]:
    yield stack.study_roles()
    for role in stack.study_roles().all():
        stack.study_roles().remove(role.study)


def test_it_is_made_once_listed_and_removed(aws: Aws, stack: Stack, roles: StudyRoles) -> None:
    made = flo_process(*COMMAND)
    assert (made.returncode, "made: jobs of this study can start" in made.stdout) == (0, True)
    again = flo_process(*COMMAND)
    assert (again.returncode, "nothing was changed" in again.stdout) == (0, True)
    found = aws.client("iam").get_role(RoleName=STUDY)["Role"]
    policy = stack.outputs()["StudyPolicyArn"]
    assert found["Arn"] == stack.outputs()["StudyRoles"] + STUDY
    assert found["Tags"] == [{"Key": "flo-study", "Value": STUDY}]
    assert found["PermissionsBoundary"]["PermissionsBoundaryArn"] == policy
    (trusted,) = found["AssumeRolePolicyDocument"]["Statement"]
    assert trusted["Principal"] == {"Service": "sagemaker.amazonaws.com"}
    assert trusted["Condition"] == {
        "StringEquals": {"aws:SourceAccount": ACCOUNT},
        "ArnLike": {"aws:SourceArn": f"arn:aws:sagemaker:{REGION}:{ACCOUNT}:training-job/*"},
    }
    attached = aws.client("iam").list_attached_role_policies(RoleName=STUDY)["AttachedPolicies"]
    assert [one["PolicyArn"] for one in attached] == [policy]
    listed = flo_process("aws", "roles", "--region", REGION, "--name", "roled", "--json", "-")
    assert [one["study"] for one in json.loads(listed.stdout)["roles"]] == [STUDY]
    kept = flo_process(*COMMAND, "--remove")
    assert (kept.returncode, "--yes removes it" in kept.stderr) == (3, True)
    gone = flo_process(*COMMAND, "--remove", "--yes")
    assert (gone.returncode, gone.stdout.strip()) == (0, "removed")
    assert roles.all() == []
    assert "the study has no role" in flo_process(*COMMAND, "--remove", "--yes").stdout


def test_what_was_interrupted_is_completed(aws: Aws, stack: Stack, roles: StudyRoles) -> None:
    outputs, iam = stack.outputs(), aws.client("iam")
    iam.create_role(**role_request(outputs["StudyRoles"], outputs["StudyPolicyArn"], STUDY))
    assert iam.list_attached_role_policies(RoleName=STUDY)["AttachedPolicies"] == []
    assert roles.make(STUDY)
    assert not roles.make(STUDY)
    assert len(iam.list_attached_role_policies(RoleName=STUDY)["AttachedPolicies"]) == 1


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"Tags": [{"Key": "flo-study", "Value": OTHER}]}, "tag flo-study"),
        ({"Tags": []}, "tag flo-study"),
        (
            {"PermissionsBoundary": "arn:aws:iam::aws:policy/AdministratorAccess"},
            "permissions boundary",
        ),
        ({"AssumeRolePolicyDocument": "{}"}, "trust policy"),
        ({"Path": "/flo/eu-central-1/another/"}, "it is another stack's"),
    ],
    ids=["another study's tag", "no tag", "wider boundary", "another trust", "another stack"],
)
def test_a_role_that_is_not_as_flo_makes_it_is_refused_by_name(
    aws: Aws, stack: Stack, roles: StudyRoles, changed: dict[str, Any], named: str
) -> None:
    outputs, iam = stack.outputs(), aws.client("iam")
    request = role_request(outputs["StudyRoles"], outputs["StudyPolicyArn"], STUDY)
    if changed.get("AssumeRolePolicyDocument"):
        trust = json.loads(request["AssumeRolePolicyDocument"])
        trust["Statement"][0]["Principal"] = {"AWS": ACCOUNT}
        changed = {"AssumeRolePolicyDocument": json.dumps(trust)}
    iam.create_role(**{**request, **changed})
    with pytest.raises(RefusedError, match=named):
        roles.make(STUDY)
    assert iam.list_attached_role_policies(RoleName=STUDY)["AttachedPolicies"] == []
    if "Path" in changed:
        with pytest.raises(RefusedError, match="/flo/eu-central-1/another/"):
            roles.remove(STUDY)
        iam.delete_role(RoleName=STUDY)
    else:
        policy = {"Version": "2012-10-17", "Statement": [MORE]}
        iam.put_role_policy(RoleName=STUDY, PolicyName="more", PolicyDocument=json.dumps(policy))
        assert roles.remove(STUDY)
        assert roles.make(STUDY)


@pytest.mark.parametrize("digest", ["12", "AB" * 32, "12" * 33, "../" + "1" * 61, "heart:1"])
def test_only_a_digest_names_a_study_here(digest: str) -> None:
    done = flo_process("aws", "role", digest, "--region", REGION)
    assert done.returncode == 2
    assert "is not the digest of a study" in done.stderr


def test_a_stack_of_an_earlier_flo_has_none(monkeypatch: pytest.MonkeyPatch, aws: Aws) -> None:
    stack = Stack("roled", REGION)
    earlier = {**stack.outputs(), "JobRole": "arn"}
    for name in ("StudyRoles", "StudyPolicyArn"):
        del earlier[name]
    monkeypatch.setattr(Stack, "outputs", lambda _: earlier)
    assert "study_roles" not in settings(stack.outputs())
    with pytest.raises(UsageError, match="all of its jobs share one role") as refused:
        stack.study_roles()
    assert "flo aws deploy" in str(refused.value.hint)


def test_a_launch_makes_it_and_an_erasure_removes_it(
    aws: Aws, stack: Stack, roles: StudyRoles, tmp_path: Path
) -> None:
    """With an access file that names the stack; the owner of the folder is told who makes it."""
    config = account(aws).model_copy(update={"study_roles": stack.outputs()["StudyRoles"]})
    home = home_with(config, tmp_path / "coordinator")
    access, study = tmp_path / "operator.json", tmp_path / "study.toml"
    with served(RealCoordinator(home)) as coordinator:
        for name in ("north", "south"):
            coordinator.admit(make_site(tmp_path / name, name))
        token = ("coordinator", "token", "Olga", "--role", "operator")
        done = flo_process(*token, "--home", home.directory, "--out", access)
        assert done.returncode == 0, done.stderr
        hospitals = [{"id": name, "declared_size": 40} for name in ("north", "south")]
        study.write_text(tomli_w.dumps(study_document(hospitals=hospitals)))
        launch = ("study", "launch", study, "--on", "sagemaker", "--detach", "--home")
        done = flo_process(*launch, access)
        assert done.returncode == 0, done.stderr
        assert "its jobs have a role in AWS" in done.stdout
        (role,) = roles.all()
        for verb in ("stop", "shred"):
            done = flo_process("study", verb, role.study, "--yes", "--home", access)
            assert done.returncode == 0, done.stderr
        assert "its role in AWS is removed" in done.stdout, done.stderr
        assert roles.all() == []
        study.write_text(tomli_w.dumps(study_document(hospitals=hospitals, version=2)))
        made = access.read_text()
        access.write_text(made.replace(f":{ACCOUNT}:", ":210987654321:"))
        done = flo_process(*launch, access)
        assert done.returncode == 0, done.stderr
        assert "use credentials" not in done.stdout
        assert "the credentials lead to a stack whose roles are" in done.stdout
        assert roles.all() == []
        study.write_text(tomli_w.dumps(study_document(hospitals=hospitals, version=4)))
        access.write_text(made.replace('"roled"', '"nowhere"'))
        done = flo_process(*launch, access)
        assert done.returncode == 0, done.stderr
        assert "its jobs have no role yet: no stack nowhere in eu-central-1" in done.stdout
        assert "--name nowhere --region eu-central-1" in done.stdout.replace("\n", " ")
        study.write_text(tomli_w.dumps(study_document(hospitals=hospitals, version=3)))
        done = flo_process(*launch, home.directory)
        assert "whoever deploys the stack makes the role" in done.stdout, done.stderr
        assert "--name roled --region eu-central-1" in done.stdout.replace("\n", " ")
        assert roles.all() == []


def access_of(job: str) -> JobAccess:
    return JobAccess(
        url="https://10.61.10.10:9444",
        ca="ca",
        job=job,
        run="run-1-121212",
        study=STUDY,
        token="a.token",
    )


@pytest.fixture
def job(aws: Aws, stack: Stack, roles: StudyRoles) -> Iterator[str]:
    """A job that is under way in the study's role."""
    from moto.backends import get_backend
    from moto.core import DEFAULT_ACCOUNT_ID

    outputs, name = stack.outputs(), "flo-run-1-121212-1"
    config = account(aws).model_copy(update={"study_roles": outputs["StudyRoles"]})
    roles.make(STUDY)
    aws.client("sagemaker").create_training_job(**training_job(config, access_of(name)))
    kept = get_backend("sagemaker")[DEFAULT_ACCOUNT_ID][REGION].training_jobs[name]
    kept.training_job_status = "InProgress"
    yield name
    kept.training_job_status = "Completed"


def test_a_role_that_a_job_uses_stays_until_the_job_is_over(
    aws: Aws, stack: Stack, roles: StudyRoles, job: str
) -> None:
    assert roles.in_use() == {STUDY: job}
    kept = flo_process(*COMMAND, "--remove", "--yes")
    assert (kept.returncode, f"training job {job} still uses" in kept.stderr) == (3, True)
    machine = stack.outputs()["Machine"]
    lift = {"InstanceId": machine, "DisableApiTermination": {"Value": False}}
    aws.client("ec2").modify_instance_attribute(**lift)
    destroy = ("aws", "destroy", "--region", REGION, "--name", "roled", "--yes")
    guard_balancer(aws, "true")  # as the template has it; moto leaves attributes out
    protected = flo_process(*destroy)
    assert (protected.returncode, "load balancer" in protected.stderr) == (3, True)
    guard_balancer(aws, "false")
    refused = flo_process(*destroy)
    assert (refused.returncode, f"{job} is under way" in refused.stderr) == (3, True)
    assert [role.study for role in roles.all()] == [STUDY]
    assert stack.status() == "CREATE_COMPLETE"


def guard_balancer(aws: Aws, value: str) -> None:
    elb = aws.client("elbv2")
    (group,) = elb.describe_target_groups()["TargetGroups"]
    (balancer,) = group["LoadBalancerArns"]
    guard = [{"Key": "deletion_protection.enabled", "Value": value}]
    elb.modify_load_balancer_attributes(LoadBalancerArn=balancer, Attributes=guard)


REFUSALS = [  # SageMaker's words, when it refuses a job, or when it gives up on one
    ("Could not assume role arn:x. Please ensure that the role exists and allows ...", True),
    ("ClientError: SageMaker was unable to assume the role 'arn:x'", True),
    ("SageMaker is unable to perform: sts:AssumeRole on the role", True),
    (
        "Access denied for repository: x. Please check if your ECR repository and image exist and "
        "role arn:x has proper pull permissions",
        False,
    ),
    ("The account-level service limit is 0 Instances", False),
]


@pytest.mark.parametrize(("said", "named"), REFUSALS)
def test_the_command_is_named_where_sagemaker_cannot_take_the_role_and_nowhere_else(
    aws: Aws, said: str, named: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from moto.sagemaker.exceptions import ValidationError
    from moto.sagemaker.models import SageMakerModelBackend

    def refuse(*_: Any, **__: Any) -> None:
        raise ValidationError(said)

    monkeypatch.setattr(SageMakerModelBackend, "create_training_job", refuse)
    config = account(aws)
    jobs = SageMakerJobs(config)
    with pytest.raises(UsageError) as refused:
        jobs.begin(access_of("flo-run-1-121212-1"))
    assert said[:60] in str(refused.value)
    assert (f"flo aws role {STUDY} --name flo --region {REGION}" in str(refused.value)) == named
    assert jobs.artifacts(STUDY).keys("") == []


def test_a_job_that_is_there_already_keeps_its_launch_document(
    aws: Aws, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An earlier try of the same request arrived, and its answer did not."""
    from moto.sagemaker.exceptions import ResourceInUseException
    from moto.sagemaker.models import SageMakerModelBackend

    def refuse(*_: Any, **__: Any) -> None:
        raise ResourceInUseException("Job name must be unique")

    monkeypatch.setattr(SageMakerModelBackend, "create_training_job", refuse)
    jobs = SageMakerJobs(account(aws))
    with pytest.raises(UsageError, match="ResourceInUse"):
        jobs.begin(access_of("flo-run-1-121212-1"))
    assert jobs.artifacts(STUDY).keys("") == ["jobs/flo-run-1-121212-1/input/launch.sealed"]


@pytest.mark.parametrize(("said", "named"), REFUSALS)
def test_a_job_that_sagemaker_gives_up_on_says_the_same(
    aws: Aws, stack: Stack, job: str, said: str, named: bool
) -> None:
    from moto.backends import get_backend
    from moto.core import DEFAULT_ACCOUNT_ID

    kept = get_backend("sagemaker")[DEFAULT_ACCOUNT_ID][REGION].training_jobs[job]
    kept.training_job_status, kept.failure_reason = "Failed", said
    outputs = stack.outputs()
    config = account(aws).model_copy(update={"study_roles": outputs["StudyRoles"]})
    state = SageMakerJobs(config).state(job)
    assert state.over
    assert state.why.startswith(f"it failed: {said.rstrip('.')}")
    assert (f"flo aws role {STUDY} --name roled --region {REGION}" in state.why) == named


def test_a_missing_object_is_missing_though_s3_denies_it(aws: Aws, bucket: str) -> None:
    """S3 answers 403 in place of 404 to whoever may not list the whole bucket."""
    store = S3Artifacts(aws.client("s3"), bucket, aws.new_key(), "studies/a/")
    store.put("runs/there", b"state")
    emulated.denied.append(lambda asked: asked.method == "GET" and asked.path.endswith("runs/no"))
    emulated.denied.append(
        lambda asked: asked.method == "GET" and asked.path.endswith("runs/there")
    )
    try:
        with pytest.raises(UsageError, match="runs/no"):
            store.get("runs/no", 100)
        with pytest.raises(TrustError, match="AWS denied access"):
            store.get("runs/there", 100)
    finally:
        emulated.denied.clear()


# -- what a job asks of AWS ------------------------------------------------------------------------


def in_words_of_iam(asked: Asked, bucket: str, keys: dict[str, str]) -> Request:
    """What IAM is asked: action, resource of the template, condition keys.

    Source: the service authorization reference, Amazon S3 and AWS KMS. ``keys``: names of the
    template's keys, by ARN.
    """
    target = asked.headers.get("x-amz-target", "")
    if target.startswith("TrentService."):
        body = json.loads(asked.body)
        given = body.get("EncryptionContext", {})
        context = {f"kms:EncryptionContext:{name}": value for name, value in given.items()}
        return Request(f"kms:{target.partition('.')[2]}", f"arn:{keys[body['KeyId']]}", context)
    first, _, key = asked.path.lstrip("/").partition("/")
    assert first == bucket, asked
    found = {"aws:SecureTransport": "true"}
    if not key:
        action = "ListBucketVersions" if "versions" in asked.query else "ListBucket"
        if "prefix" in asked.query:
            found["s3:prefix"] = asked.query["prefix"]
        return Request(f"s3:{action}", "arn:ArtifactsBucket", found)
    header = "x-amz-server-side-encryption-aws-kms-key-id"
    if header in asked.headers:
        found[f"s3:{header}"] = f"arn:{keys[asked.headers[header]]}"
    upload = "uploadId" in asked.query
    action = {
        "GET": "GetObject",
        "HEAD": "GetObject",
        "PUT": "PutObject",
        "POST": "PutObject",
        "DELETE": "AbortMultipartUpload"
        if upload
        else "DeleteObjectVersion"
        if "versionId" in asked.query
        else "DeleteObject",
    }[asked.method]
    return Request(f"s3:{action}", f"arn:ArtifactsBucket/{key}", found)


def test_a_jobs_role_allows_all_that_the_job_asks_and_another_studys_nothing_of_it(
    aws: Aws,
    tmp_path: Path,
    loaded: dict[str, Any],  # noqa: F811
) -> None:
    """Every request of a real job, killed once, as the emulator heard it."""
    heard: list[Asked] = []
    emulated.told.append(lambda asked: heard.append(asked))
    try:
        with staged(aws, tmp_path, ("north", "south", "west")) as stage:
            digest = stage.launch("distributed noise", steps=12)
            stage.round_passed(digest, 3)
            first, job = stage.sagemaker.latest()
            job.stop()
            stage.over(digest)
            jobs = {name for name, one in stage.sagemaker.jobs.items() if one.process}
            config = stage.config
    finally:
        emulated.told.clear()
    keys = {config.artifacts_key: "ArtifactsKey", config.launch_key: "LaunchKey"}
    asked = [in_words_of_iam(one, config.bucket, keys) for one in heard if one.who in jobs]
    assert len(jobs) == 2
    assert first in jobs
    assert {"kms:Decrypt", "s3:GetObject", "s3:PutObject"} <= {one.action for one in asked}
    template, path = Template(loaded), f"arn:aws:iam::{ACCOUNT}:role/flo/{REGION}/AWS::StackName/"
    its, another = (role_request(path, "StudyPolicy", one) for one in (digest, OTHER))
    for one in asked:
        assert template.allows_made(its, ["StudyPolicy"], one), one
        assert not template.allows_made(another, ["StudyPolicy"], one), one
        for action in USES_THE_KEY.get(one.action, ()):  # S3 does, in the job's name
            through = Request(f"kms:{action}", "arn:ArtifactsKey", S3_ONLY)
            assert template.allows_made(its, ["StudyPolicy"], through), through

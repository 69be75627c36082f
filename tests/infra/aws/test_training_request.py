"""A request for a training job is what the service allows; boto3 checks only a part of it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from flo.infra.aws.sagemaker import training_job
from flo.server.runs.job_access import JobAccess
from tests.infra.aws.account import account
from tests.infra.aws.emulated import Aws
from tests.infra.aws.requests import RequestRefused, check

pytestmark = pytest.mark.slow


def request(aws: Aws) -> dict[str, Any]:
    access = JobAccess(
        url="https://10.61.10.10:9444",
        ca="-----BEGIN CERTIFICATE-----",
        job="flo-run-1a231fc36be-658276-3",
        run="run-1a231fc36be-658276",
        study="ab" * 32,
        token="a.token",
    )
    return training_job(account(aws), access)


def test_the_service_takes_the_request(aws: Aws) -> None:
    check(aws.client("sagemaker"), "CreateTrainingJob", request(aws))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda asked: asked.update(TrainingJobName="-" * 80),
        lambda asked: asked.update(RoleArn="a role"),
        lambda asked: asked["ResourceConfig"].update(InstanceType="ml.unknown.large"),
        lambda asked: asked["StoppingCondition"].pop("MaxRuntimeInSeconds") and asked.update(X=1),
    ],
)
def test_what_it_would_refuse_is_seen(aws: Aws, spoil: Callable[[dict[str, Any]], object]) -> None:
    asked = copy.deepcopy(request(aws))
    spoil(asked)
    with pytest.raises(RequestRefused):
        check(aws.client("sagemaker"), "CreateTrainingJob", asked)

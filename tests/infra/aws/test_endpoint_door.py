"""A model as a SageMaker endpoint of the hospital's own: real containers, recorded configurations,
a clock and alarms of the test's."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flo.clients.cloud import deployable, steps
from flo.clients.home.site_home import SiteHome
from flo.errors import RefusedError, TrustError, UsageError
from flo.infra.aws.serving import endpoint as endpoints
from flo.infra.aws.serving.endpoint import EndpointDoor
from flo.infra.aws.serving.settings import HospitalAws
from tests.clients.prediction.told import V9, Told, api, ask, promote, withdrawn
from tests.infra.aws.doors import (
    ASKED,
    WHY,
    a_site,
    account_of,
    audited,
    begun,
    in_use,
    told_of_both,
)
from tests.infra.aws.emulated import Aws
from tests.infra.aws.endpoints import EmulatedEndpoints, emulated_endpoints
from tests.infra.aws.requests import RequestRefused, check

pytestmark = pytest.mark.slow
ALARM = "flo-tiny-errors"


@pytest.fixture
def site(tmp_path: Path) -> SiteHome:
    return a_site(tmp_path)


@pytest.fixture
def told() -> Told:
    return told_of_both()


@pytest.fixture
def settings(aws: Aws) -> HospitalAws:
    return account_of(aws, alarms=(ALARM,), instances=2)


@pytest.fixture
def cloud(aws: Aws, monkeypatch: pytest.MonkeyPatch) -> Iterator[EmulatedEndpoints]:
    monkeypatch.setattr(endpoints, "_WAIT", {"Delay": 0, "MaxAttempts": 100})
    with emulated_endpoints(aws) as found:
        yield found


@pytest.fixture
def door(settings: HospitalAws, cloud: EmulatedEndpoints) -> Iterator[EndpointDoor]:
    found = EndpointDoor(settings, "tiny")
    yield found
    found.remove()


def answers(door: EndpointDoor, cloud: EmulatedEndpoints, count: int) -> Counter[int]:
    """Versions of the model that answered callers."""
    found = Counter[int]()
    for _ in range(count):
        said = door._runtime.invoke_endpoint(
            EndpointName=door.name, ContentType="application/json", Body=json.dumps(ASKED).encode()
        )
        found[json.loads(said["Body"].read())["version"]] += 1
    return found


def test_deployed_then_a_canary_then_back(
    site: SiteHome, told: Told, door: EndpointDoor, cloud: EmulatedEndpoints
) -> None:
    promote(site, told, "tiny:9")
    assert door.state() is None
    first = steps.deploy(site, door, in_use(site), WHY)
    assert answers(door, cloud, 5) == {9: 5}
    assert set(cloud.endpoints) == {"flo-tiny"}, "the endpoint on which it was checked is gone"
    ten = deployable.approved(site, api(told), "tiny:10")
    canary = steps.canary(site, door, ten, 30, WHY)
    found = door.state()
    assert found is not None
    assert (found.live, found.canary, found.share) == (first, canary, 30)
    shares = answers(door, cloud, 200)
    assert 30 <= shares[10] <= 90
    assert steps.roll_back(site, door, "tiny", WHY) == first
    assert answers(door, cloud, 20) == {9: 20}
    after = door.state()
    assert after is not None
    assert after.canary is None
    promote(site, told, "tiny:10")
    assert steps.deploy(site, door, in_use(site), WHY) == canary, "the same model of SageMaker"
    assert answers(door, cloud, 5) == {10: 5}
    assert steps.roll_back(site, door, "tiny", WHY) == first
    assert answers(door, cloud, 5) == {9: 5}
    with pytest.raises(UsageError, match="was live before"):
        steps.roll_back(site, door, "tiny", WHY)
    done = [one[0] for one in audited(site)]
    assert done == ["live", "canary", "rolled back", "live", "rolled back"]


def test_a_tenth_first_then_all_and_an_alarm_brings_the_old_version_back(
    site: SiteHome, told: Told, door: EndpointDoor, cloud: EmulatedEndpoints
) -> None:
    promote(site, told, "tiny:9")
    steps.deploy(site, door, in_use(site), WHY)
    promote(site, told, "tiny:10")
    local, before = cloud.endpoints["flo-tiny"], door.state()
    assert before is not None
    shares = list[Counter[int]]()
    look = cloud.describe

    def looked(params: dict[str, Any], **more: Any) -> Any:
        if local.is_updating:
            shares.append(answers(door, cloud, 60))
        return look(params, **more)

    cloud.sagemaker.meta.events.unregister("before-call.sagemaker.DescribeEndpoint", look)
    cloud.sagemaker.meta.events.register("before-call.sagemaker.DescribeEndpoint", looked)
    try:
        steps.deploy(site, door, in_use(site), WHY)
    finally:
        cloud.sagemaker.meta.events.unregister("before-call.sagemaker.DescribeEndpoint", looked)
        cloud.sagemaker.meta.events.register("before-call.sagemaker.DescribeEndpoint", look)
    assert 0 < shares[0][10] < 20, "a tenth of the requests at first"
    assert shares[-1] == {10: 60}, "then all, while the old machines wait"
    (update,) = cloud.updates
    assert update["DeploymentConfig"]["AutoRollbackConfiguration"]["Alarms"] == [
        {"AlarmName": ALARM}
    ]
    cloud.alarms.add(ALARM)
    promote(site, told, "tiny:9")
    with pytest.raises(RefusedError, match="brought back what answered before"):
        steps.deploy(site, door, in_use(site), WHY)
    assert answers(door, cloud, 10) == {10: 10}
    assert len(audited(site)) == 2, "what did not take over is not done"
    assert begun(site)[-1] == ("begun", 9, 100), (
        "but it answered some, and that it was begun is told"
    )


def test_an_archive_that_was_exchanged_does_not_start(
    aws: Aws,
    site: SiteHome,
    told: Told,
    door: EndpointDoor,
    cloud: EmulatedEndpoints,
    settings: HospitalAws,
) -> None:
    promote(site, told, "tiny:9")
    steps.deploy(site, door, in_use(site), WHY)
    promote(site, told, "tiny:10")
    steps.deploy(site, door, in_use(site), WHY)
    state = door.state()
    assert state is not None
    assert state.before is not None
    s3 = aws.client("s3")
    nine, ten = (
        door._model_of(one.number)["PrimaryContainer"]["ModelDataUrl"]  # type: ignore[index]
        for one in (state.before, state.live)
    )
    keys = [one.removeprefix(f"s3://{settings.bucket}/") for one in (nine, ten)]
    other = s3.get_object(Bucket=settings.bucket, Key=keys[1])["Body"].read()
    s3.put_object(Bucket=settings.bucket, Key=keys[0], Body=other)
    with pytest.raises(Exception, match="another one than FLO_MODEL"):
        steps.roll_back(site, door, "tiny", WHY)
    assert answers(door, cloud, 5) == {10: 5}


def test_a_version_that_answers_otherwise_is_not_put_live(
    site: SiteHome,
    told: Told,
    door: EndpointDoor,
    cloud: EmulatedEndpoints,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    promote(site, told, "tiny:9")
    right = door.ask

    def other(number: str, request: Any) -> dict[str, Any]:
        return {**right(number, request), "risk": 0.5}

    monkeypatch.setattr(door, "ask", other)
    with pytest.raises(TrustError, match="otherwise than the model does here"):
        steps.deploy(site, door, in_use(site), WHY)
    assert door.state() is None
    assert cloud.endpoints == {}
    assert audited(site) == []


def test_what_is_withdrawn_is_not_rolled_back_to(
    site: SiteHome, told: Told, door: EndpointDoor, cloud: EmulatedEndpoints
) -> None:
    for wanted in ("tiny:9", "tiny:10"):
        promote(site, told, wanted)
        steps.deploy(site, door, in_use(site), WHY)
    withdrawn(told, V9)
    ask(site, told)
    with pytest.raises(RefusedError, match="version 9 of tiny is withdrawn"):
        steps.roll_back(site, door, "tiny", WHY)
    assert answers(door, cloud, 3) == {10: 3}


def test_a_serverless_endpoint_answers_and_has_no_canary(
    aws: Aws, site: SiteHome, told: Told, cloud: EmulatedEndpoints
) -> None:
    door = EndpointDoor(account_of(aws, serverless_mb=2048), "tiny")
    promote(site, told, "tiny:9")
    try:
        steps.deploy(site, door, in_use(site), WHY)
        assert answers(door, cloud, 3) == {9: 3}
        ten = deployable.approved(site, api(told), "tiny:10")
        with pytest.raises(UsageError, match="serverless endpoint has one version"):
            steps.canary(site, door, ten, 10, WHY)
        promote(site, told, "tiny:10")
        steps.deploy(site, door, in_use(site), WHY)
        assert answers(door, cloud, 3) == {10: 3}
    finally:
        door.remove()


def test_an_endpoint_that_failed_is_made_again(
    site: SiteHome, told: Told, door: EndpointDoor, cloud: EmulatedEndpoints
) -> None:
    promote(site, told, "tiny:9")
    steps.deploy(site, door, in_use(site), WHY)
    cloud.status["flo-tiny"] = "Failed"
    assert door.state() is None
    steps.deploy(site, door, in_use(site), WHY)
    assert answers(door, cloud, 3) == {9: 3}
    cloud.status["flo-tiny"] = "Updating"
    with pytest.raises(RefusedError, match="is Updating: somebody changes it now"):
        steps.deploy(site, door, in_use(site), WHY)
    cloud.status.clear()


def test_an_alarm_that_is_on_already_does_not_keep_the_mend_away(
    aws: Aws, site: SiteHome, told: Told, door: EndpointDoor, cloud: EmulatedEndpoints
) -> None:
    promote(site, told, "tiny:9")
    steps.deploy(site, door, in_use(site), WHY)
    alarms = aws.client("cloudwatch")
    about: dict[str, Any] = {"EvaluationPeriods": 1, "Threshold": 0, "MetricName": "m"}
    about |= {"Namespace": "n", "Period": 60, "Statistic": "Sum"}
    alarms.put_metric_alarm(AlarmName=ALARM, ComparisonOperator="GreaterThanThreshold", **about)
    alarms.set_alarm_state(AlarmName=ALARM, StateValue="ALARM", StateReason="it fails")
    cloud.alarms.add(ALARM)
    promote(site, told, "tiny:10")
    steps.deploy(site, door, in_use(site), WHY)
    assert answers(door, cloud, 3) == {10: 3}
    alarms.delete_alarms(AlarmNames=[ALARM])


@pytest.mark.parametrize(
    ("operation", "params", "why"),
    [
        ("CreateEndpoint", {"EndpointName": "a_b", "EndpointConfigName": "c"}, "does not match"),
        ("CreateEndpoint", {"EndpointName": "a"}, "EndpointConfigName is missing"),
        (
            "CreateEndpointConfig",
            {
                "EndpointConfigName": "c",
                "ProductionVariants": [{"VariantName": f"v{n}"} for n in range(11)],
            },
            "not within",
        ),
        (
            "CreateEndpointConfig",
            {
                "EndpointConfigName": "c",
                "ProductionVariants": [{"VariantName": "v"}],
                "ShadowProductionVariants": [{"VariantName": "s"}, {"VariantName": "t"}],
            },
            "more than 1",
        ),
        (
            "CreateEndpointConfig",
            {
                "EndpointConfigName": "c",
                "ProductionVariants": [{"VariantName": "v", "InstanceType": "ml.m5.tiny"}],
            },
            "is none of",
        ),
    ],
)
def test_requests_are_checked_as_the_service_would(
    aws: Aws, operation: str, params: dict[str, Any], why: str
) -> None:
    with pytest.raises(RequestRefused, match=why):
        check(aws.client("sagemaker"), operation, params)

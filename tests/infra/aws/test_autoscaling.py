"""The number of an endpoint's machines: what Application Auto Scaling is told, by the emulator."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from flo.clients.cloud import steps
from flo.clients.home.site_home import SiteHome
from flo.infra.aws.serving import endpoint as endpoints
from flo.infra.aws.serving.autoscaling import ScaledVariant, actions, at_least
from flo.infra.aws.serving.endpoint import EndpointDoor
from flo.infra.aws.serving.settings import ScalingSettings
from tests.clients.prediction.told import promote
from tests.infra.aws.doors import WHY, a_site, account_of, in_use, told_of_both
from tests.infra.aws.emulated import REGION, Aws
from tests.infra.aws.endpoints import EmulatedEndpoints, emulated_endpoints

pytestmark = pytest.mark.slow

QUIET = (1,) * 24
WORKING = (1,) * 8 + (4,) * 10 + (1,) * 6
CALENDAR = dict.fromkeys(("mon", "tue", "wed", "thu", "fri"), WORKING) | dict.fromkeys(
    ("sat", "sun"), QUIET
)
SCALING = ScalingSettings.model_validate(
    {"least": 1, "most": 9, "requests_a_minute": 40000, "zone": "Europe/Berlin"}
    | {"calendar": CALENDAR}
)


@pytest.fixture
def cloud(aws: Aws, monkeypatch: pytest.MonkeyPatch) -> Iterator[EmulatedEndpoints]:
    monkeypatch.setattr(endpoints, "_WAIT", {"Delay": 0, "MaxAttempts": 100})
    with emulated_endpoints(aws) as found:
        yield found


def scaled(aws: Aws) -> list[tuple[int, int]]:
    found = aws.client("application-autoscaling").describe_scalable_targets(
        ServiceNamespace="sagemaker", ResourceIds=["endpoint/flo-tiny/variant/live"]
    )["ScalableTargets"]
    return [(one["MinCapacity"], one["MaxCapacity"]) for one in found]


def planned(aws: Aws) -> dict[str, tuple[str, str, dict[str, int]]]:
    found = aws.client("application-autoscaling").describe_scheduled_actions(
        ServiceNamespace="sagemaker", ResourceId="endpoint/flo-tiny/variant/live"
    )["ScheduledActions"]
    return {
        one["ScheduledActionName"]: (
            one["Schedule"],
            one["Timezone"],
            one["ScalableTargetAction"],
        )
        for one in found
    }


def tracked(aws: Aws) -> list[float]:
    found = aws.client("application-autoscaling").describe_scaling_policies(
        ServiceNamespace="sagemaker", ResourceId="endpoint/flo-tiny/variant/live"
    )["ScalingPolicies"]
    return [one["TargetTrackingScalingPolicyConfiguration"]["TargetValue"] for one in found]


def test_a_deployed_endpoint_is_scaled_as_the_settings_say_and_removed_no_more(
    tmp_path: Path, aws: Aws, cloud: EmulatedEndpoints
) -> None:
    site = _in_use_somewhere(tmp_path)
    door = EndpointDoor(account_of(aws, scaling=SCALING), "tiny")
    _deploy(site, door)
    assert scaled(aws)[0][1] == 9
    assert tracked(aws) == [40000]
    assert len(planned(aws)) == 10
    assert planned(aws)["mon-08"] == ("cron(55 7 ? * MON *)", "Europe/Berlin", {"MinCapacity": 4})
    assert planned(aws)["mon-18"] == ("cron(0 18 ? * MON *)", "Europe/Berlin", {"MinCapacity": 1})
    door.remove()
    assert scaled(aws) == []
    assert planned(aws) == {}


def test_a_change_keeps_the_machines_that_there_are_and_follows_new_settings(
    tmp_path: Path, aws: Aws, cloud: EmulatedEndpoints
) -> None:
    site, settings = _in_use_somewhere(tmp_path), account_of(aws, scaling=SCALING)
    _deploy(site, EndpointDoor(settings, "tiny"))
    assert settings.endpoint is not None
    fewer = ScalingSettings(least=2, most=3, requests_a_minute=100)
    more = settings.endpoint.model_copy(update={"scaling": fewer, "instances": 2})
    door = EndpointDoor(settings.model_copy(update={"endpoint": more}), "tiny")
    _deploy(site, door)
    assert cloud.updates[-1]["RetainAllVariantProperties"] is True
    assert (scaled(aws), tracked(aws), planned(aws)) == ([(2, 3)], [100], {})
    fixed = settings.endpoint.model_copy(update={"scaling": None, "instances": 3})
    door = EndpointDoor(settings.model_copy(update={"endpoint": fixed}), "tiny")
    _deploy(site, door)
    assert "RetainAllVariantProperties" not in cloud.updates[-1]
    assert scaled(aws) == []
    door.remove()


def test_a_calendar_alone_fixes_the_number_of_machines(aws: Aws) -> None:
    variant = ScaledVariant(REGION, "flo-tiny", "live")
    by_calendar = SCALING.model_copy(update={"requests_a_minute": None})
    variant.begin(by_calendar, datetime(2026, 12, 1, 9, 30, tzinfo=UTC))
    assert scaled(aws) == [(4, 4)], "half past ten in Berlin, on a Tuesday"
    assert tracked(aws) == []
    assert planned(aws)["tue-08"][2] == {"MinCapacity": 4, "MaxCapacity": 4}
    variant.end(strict=True)
    variant.end(strict=True)  # it is not there any more: no error
    assert scaled(aws) == []


@pytest.mark.parametrize(
    ("hour", "minute", "least"),
    [(6, 50, 1), (6, 54, 1), (6, 55, 4), (7, 0, 4), (16, 59, 4), (17, 0, 1), (23, 0, 1)],
)
def test_whenever_it_is_deployed_the_calendars_machines_are_there(
    hour: int, minute: int, least: int
) -> None:
    """Of now, and of five minutes later; UTC, an hour behind Berlin."""
    assert at_least(SCALING, datetime(2026, 12, 1, hour, minute, tzinfo=UTC)) == least
    assert at_least(SCALING.model_copy(update={"calendar": {}}), datetime.now(UTC)) == 1


class Denied:
    """Application Auto Scaling for a role that was made before FLO scaled anything."""

    def describe_scalable_targets(self, **_: object) -> None:
        from botocore.exceptions import ClientError

        raise ClientError({"Error": {"Code": "AccessDeniedException"}}, "DescribeScalableTargets")


def test_a_role_without_rights_to_scale_still_deploys_and_removes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ScaledVariant, "_client", lambda _: Denied())
    variant = ScaledVariant(REGION, "flo-tiny", "live")
    variant.end(strict=False)
    with pytest.raises(Exception, match="AccessDenied"):
        variant.end(strict=True)


def test_only_the_scaling_changed_and_the_version_stayed(
    tmp_path: Path, aws: Aws, cloud: EmulatedEndpoints
) -> None:
    site, settings = _in_use_somewhere(tmp_path), account_of(aws, instances=1)
    _deploy(site, EndpointDoor(settings, "tiny"))
    assert scaled(aws) == []
    assert settings.endpoint is not None
    for found in (SCALING, ScalingSettings(most=5, requests_a_minute=7)):
        changed = settings.endpoint.model_copy(update={"scaling": found})
        door = EndpointDoor(settings.model_copy(update={"endpoint": changed}), "tiny")
        _deploy(site, door)
        assert tracked(aws) == [found.requests_a_minute]
        assert len(planned(aws)) == (10 if found.calendar else 0)
    assert not cloud.updates, "no machine was changed"
    door.remove()


def test_a_week_follows_a_week() -> None:
    night = (3,) + (1,) * 23
    days = dict.fromkeys(("mon", "tue", "wed", "thu", "fri", "sat", "sun"), QUIET) | {"mon": night}
    found = ScalingSettings.model_validate({"most": 3, "calendar": days})
    assert list(actions(found)) == [
        ("mon-00", "cron(55 23 ? * SUN *)", 3),
        ("mon-01", "cron(0 1 ? * MON *)", 1),
    ]
    always = ScalingSettings.model_validate({"most": 3, "calendar": days | {"mon": QUIET}})
    assert list(actions(always)) == []


def _deploy(site: SiteHome, door: EndpointDoor) -> None:
    steps.deploy(site, door, in_use(site), WHY)


def _in_use_somewhere(folder: Path) -> SiteHome:
    site = a_site(folder)
    promote(site, told_of_both(), "tiny:9")
    return site

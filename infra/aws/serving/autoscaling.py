"""The number of an endpoint's machines, by Application Auto Scaling.

A variant of an endpoint is registered with its least and most machines. A policy of target tracking
keeps the requests a minute of each machine near a number; scheduled actions change the least number
of machines: to more of them ``START_MINUTES`` before an hour, as new machines need that long, to
fewer on the hour. Deregistering deletes the policy and the actions; deleting the endpoint does
that, too.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, get_args
from zoneinfo import ZoneInfo

from flo.infra.aws.clients import client, code_of
from flo.infra.aws.serving.settings import Day, ScalingSettings

START_MINUTES = 5
TAG = "flo:model"
_DAYS = get_args(Day)
_COOLDOWN_SECONDS = 300  # between two removals of machines
_NOT_ALLOWED = ("AccessDeniedException", "AccessDenied")


class ScaledVariant:
    """One variant of one endpoint, whose name is its tag, too."""

    def __init__(self, region: str, endpoint: str, variant: str) -> None:
        self._region, self._tags = region, {TAG: endpoint}
        self._which: dict[str, Any] = {
            "ServiceNamespace": "sagemaker",
            "ResourceId": f"endpoint/{endpoint}/variant/{variant}",
            "ScalableDimension": "sagemaker:variant:DesiredInstanceCount",
        }

    def begin(self, scaling: ScalingSettings, now: datetime | None = None) -> None:
        """Scale its machines as the settings say, from the calendar's present hour on."""
        service, tracked = self._client(), scaling.requests_a_minute
        present = at_least(scaling, now or datetime.now(UTC))
        service.register_scalable_target(
            **self._which,
            MinCapacity=present,
            MaxCapacity=scaling.most if tracked else present,
            Tags=self._tags,
        )
        if tracked is not None:
            service.put_scaling_policy(
                **self._which,
                PolicyName="requests",
                PolicyType="TargetTrackingScaling",
                TargetTrackingScalingPolicyConfiguration={
                    "TargetValue": tracked,
                    "PredefinedMetricSpecification": {
                        "PredefinedMetricType": "SageMakerVariantInvocationsPerInstance"
                    },
                    "ScaleInCooldown": _COOLDOWN_SECONDS,
                    "ScaleOutCooldown": 0,
                },
            )
        for name, schedule, count in actions(scaling):
            service.put_scheduled_action(
                **self._which,
                ScheduledActionName=name,
                Schedule=schedule,
                Timezone=scaling.zone,
                ScalableTargetAction={"MinCapacity": count}
                | ({} if tracked else {"MaxCapacity": count}),
            )

    def end(self, *, strict: bool) -> None:
        """Let its machines be as many as there are; no error if they are not scaled.

        ``strict``: whether missing rights are an error. A role that was made before FLO scaled
        anything has none, and nothing is scaled there.
        """
        from botocore.exceptions import ClientError

        try:
            found = self._client().describe_scalable_targets(
                ServiceNamespace=self._which["ServiceNamespace"],
                ResourceIds=[self._which["ResourceId"]],
            )
        except ClientError as error:
            if strict or code_of(error) not in _NOT_ALLOWED:
                raise
            return
        if found["ScalableTargets"]:
            self._client().deregister_scalable_target(**self._which)

    def _client(self) -> Any:
        return client("application-autoscaling", self._region)


def at_least(scaling: ScalingSettings, now: datetime) -> int:
    """Return the least machines for now and for when a machine that is started now is there."""
    if not scaling.calendar:
        return scaling.least
    zone = ZoneInfo(scaling.zone)
    soon = [(now + timedelta(minutes=one)).astimezone(zone) for one in (0, START_MINUTES)]
    return max(scaling.calendar[_DAYS[at.weekday()]][at.hour] for at in soon)


def actions(scaling: ScalingSettings) -> Iterator[tuple[str, str, int]]:
    """Return name, schedule and least machines of each hour at which the number changes.

    A week follows a week: Monday's first hour comes after Sunday's last.
    """
    if not scaling.calendar:
        return
    counts = [count for day in _DAYS for count in scaling.calendar[day]]
    for hour, count in enumerate(counts):
        before = counts[hour - 1]
        if count == before:
            continue
        early = START_MINUTES if count > before else 0
        day, minutes = divmod((hour * 60 - early) % (len(counts) * 60), 24 * 60)
        schedule = f"cron({minutes % 60} {minutes // 60} ? * {_DAYS[day].upper()} *)"
        yield f"{_DAYS[hour // 24]}-{hour % 24:02}", schedule, count

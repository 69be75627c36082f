"""The number of an endpoint's machines, by Application Auto Scaling.

A variant of an endpoint is registered with its least and most machines. A policy of target tracking
keeps the requests a minute of each machine near a number; scheduled actions change the least number
of machines, ``START_MINUTES`` before an hour, as new machines need that long. Deregistering deletes
the policy and the actions; deleting the endpoint does that, too.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args

from flo.infra.aws.clients import client
from flo.infra.aws.serving.settings import Day, ScalingSettings

START_MINUTES = 5
_DAYS = get_args(Day)
_COOLDOWN_SECONDS = 300  # between two removals of machines


class ScaledVariant:
    """One variant of one endpoint."""

    def __init__(self, region: str, endpoint: str, variant: str) -> None:
        self._region = region
        self._which: dict[str, Any] = {
            "ServiceNamespace": "sagemaker",
            "ResourceId": f"endpoint/{endpoint}/variant/{variant}",
            "ScalableDimension": "sagemaker:variant:DesiredInstanceCount",
        }

    def is_there(self) -> bool:
        """Return whether its machines are scaled."""
        found = self._client().describe_scalable_targets(
            ServiceNamespace=self._which["ServiceNamespace"],
            ResourceIds=[self._which["ResourceId"]],
        )
        return bool(found["ScalableTargets"])

    def begin(self, scaling: ScalingSettings | None) -> None:
        """Scale its machines as the settings say; not at all if there are none."""
        if scaling is None:
            return
        service = self._client()
        service.register_scalable_target(
            **self._which, MinCapacity=scaling.least, MaxCapacity=scaling.most
        )
        if scaling.requests_a_minute is not None:
            service.put_scaling_policy(
                **self._which,
                PolicyName="requests",
                PolicyType="TargetTrackingScaling",
                TargetTrackingScalingPolicyConfiguration={
                    "TargetValue": scaling.requests_a_minute,
                    "PredefinedMetricSpecification": {
                        "PredefinedMetricType": "SageMakerVariantInvocationsPerInstance"
                    },
                    "ScaleInCooldown": _COOLDOWN_SECONDS,
                    "ScaleOutCooldown": 0,
                },
            )
        for name, schedule, count in actions(scaling):
            capacity = {"MinCapacity": count}
            if scaling.requests_a_minute is None:
                capacity["MaxCapacity"] = count
            service.put_scheduled_action(
                **self._which,
                ScheduledActionName=name,
                Schedule=schedule,
                Timezone=scaling.zone,
                ScalableTargetAction=capacity,
            )

    def end(self) -> None:
        """Let its machines be as many as there are; no error if they are not scaled."""
        if self.is_there():
            self._client().deregister_scalable_target(**self._which)

    def _client(self) -> Any:
        return client("application-autoscaling", self._region)


def actions(scaling: ScalingSettings) -> Iterator[tuple[str, str, int]]:
    """Return name, schedule and least machines of each hour before which the number changes.

    A week follows a week: Monday's first hour comes after Sunday's last.
    """
    if not scaling.calendar:
        return
    counts = [count for day in _DAYS for count in scaling.calendar[day]]
    changes = [hour for hour in range(len(counts)) if counts[hour] != counts[hour - 1]] or [0]
    for hour in changes:
        at = (hour * 60 - START_MINUTES) % (len(counts) * 60)
        day, minutes = divmod(at, 24 * 60)
        schedule = f"cron({minutes % 60} {minutes // 60} ? * {_DAYS[day].upper()} *)"
        yield f"{_DAYS[hour // 24]}-{hour % 24:02}", schedule, counts[hour]

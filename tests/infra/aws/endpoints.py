"""SageMaker's endpoints, emulated: moto keeps models and configurations, the local runner carries
the recorded ones out, and every request is checked against the service's own model."""

from __future__ import annotations

import contextlib
import io
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.infra.aws.emulated import REGION, Aws
from tests.infra.aws.local_endpoint import LocalEndpoint
from tests.infra.aws.requests import RequestRefused, checked

_STEP_SECONDS = 60.0  # that pass between two looks at an endpoint


@dataclass
class EmulatedEndpoints:
    """``alarms``: names of those that are on. ``updates``: as they were asked."""

    sagemaker: Any
    s3: Any
    now: float = 0.0
    alarms: set[str] = field(default_factory=set)
    endpoints: dict[str, LocalEndpoint] = field(default_factory=dict)
    updates: list[dict[str, Any]] = field(default_factory=list)
    status: dict[str, str] = field(default_factory=dict)  # of an endpoint, whatever it does

    def create(self, params: dict[str, Any], **_: Any) -> None:
        """Before moto keeps it: start its containers."""
        asked = json.loads(params["body"])
        endpoint = LocalEndpoint(
            self.s3,
            lambda name: self.sagemaker.describe_model(ModelName=name),
            random.Random(3),
            lambda: self.now,
            lambda: self.alarms,
        )
        endpoint.create(asked["EndpointConfigName"], self._config(asked["EndpointConfigName"]))
        self.endpoints[asked["EndpointName"]] = endpoint

    def update(self, params: dict[str, Any], **_: Any) -> tuple[Any, dict[str, Any]]:
        """In place of moto, which has no such call."""
        asked = json.loads(params["body"])
        self.updates.append(asked)
        name = asked["EndpointConfigName"]
        endpoint = self.endpoints[asked["EndpointName"]]
        wanted = {one["VariantName"] for one in self._config(name)["ProductionVariants"]}
        if "DeploymentConfig" in asked and wanted != set(endpoint.weights):
            raise RequestRefused("guardrails need the variants that there are")
        endpoint.update(name, self._config(name), asked.get("DeploymentConfig", {}))
        return _ok(), {"EndpointArn": f"arn:aws:sagemaker:{REGION}:123456789012:endpoint/x"}

    def describe(self, params: dict[str, Any], **_: Any) -> tuple[Any, dict[str, Any]] | None:
        """What there is now; time goes on with each look."""
        name = json.loads(params["body"])["EndpointName"]
        endpoint = self.endpoints.get(name)
        if endpoint is None:
            return None  # moto knows that there is none
        self.now += _STEP_SECONDS
        endpoint.tick()
        return _ok(), {
            "EndpointName": name,
            "EndpointConfigName": endpoint.config,
            "EndpointStatus": self.status.get(
                name, "Updating" if endpoint.is_updating else "InService"
            ),
            "ProductionVariants": [
                {"VariantName": variant, "CurrentWeight": weight}
                for variant, weight in endpoint.weights.items()
            ],
        }

    def weigh(self, params: dict[str, Any], **_: Any) -> tuple[Any, dict[str, Any]]:
        asked = json.loads(params["body"])
        weights = {
            one["VariantName"]: one["DesiredWeight"] for one in asked["DesiredWeightsAndCapacities"]
        }
        self.endpoints[asked["EndpointName"]].set_weights(weights)
        return _ok(), {"EndpointArn": "arn"}

    def delete(self, params: dict[str, Any], **_: Any) -> None:
        name = json.loads(params["body"])["EndpointName"]
        self.status.pop(name, None)
        self.endpoints.pop(name).close()

    def invoke(self, params: dict[str, Any], **_: Any) -> tuple[Any, dict[str, Any]]:
        from botocore.exceptions import ClientError

        name = params["url_path"].split("/")[2]
        status, body, variant = self.endpoints[name].invoke(params["body"])
        if status != 200:
            said = {"Error": {"Code": "ModelError", "Message": "the container said no"}}
            raise ClientError({**said, "OriginalStatusCode": status}, "InvokeEndpoint")
        return _ok(), {"Body": io.BytesIO(body), "InvokedProductionVariant": variant}

    def _config(self, name: str) -> Any:
        return self.sagemaker.describe_endpoint_config(EndpointConfigName=name)


def _ok() -> Any:
    class Ok:
        status_code = 200

    return Ok()


@contextlib.contextmanager
def emulated_endpoints(aws: Aws) -> Iterator[EmulatedEndpoints]:
    sagemaker, runtime = aws.client("sagemaker"), aws.client("sagemaker-runtime")
    found = EmulatedEndpoints(sagemaker, aws.client("s3"))
    hooks: list[tuple[Any, str, Callable[..., Any]]] = [
        (sagemaker, "before-call.sagemaker.CreateEndpoint", found.create),
        (sagemaker, "before-call.sagemaker.UpdateEndpoint", found.update),
        (sagemaker, "before-call.sagemaker.DescribeEndpoint", found.describe),
        (sagemaker, "before-call.sagemaker.DeleteEndpoint", found.delete),
        (
            sagemaker,
            "before-call.sagemaker.UpdateEndpointWeightsAndCapacities",
            found.weigh,
        ),
        (runtime, "before-call.sagemaker-runtime.InvokeEndpoint", found.invoke),
    ]
    for client, event, hook in hooks:
        client.meta.events.register(event, hook)
    ends = [checked(sagemaker), checked(runtime)]
    try:
        yield found
    finally:
        for end in ends:
            end()
        for client, event, hook in hooks:
            client.meta.events.unregister(event, hook)
        for one in found.endpoints.values():
            one.close()

"""A model as a SageMaker endpoint: checked on one of its own, put live, given a share, rolled back.

1. each version of the model is a model of SageMaker, whose environment names version, study and
   card, and the digest of what its container loads (``flo.infra.aws.serving.container``);
2. it is checked on an endpoint of its own, NAME-check, which is deleted afterwards;
3. what answers is an endpoint configuration: the variant ``live``, and ``canary`` with its
   weight. SageMaker gives each request to a variant by chance, so a patient may meet both; each
   answer says which version it is of. No request is captured;
4. a new configuration takes over blue/green: a tenth of the requests first, then all; an alarm
   brings the old one back. A canary is ended at once, by its weight. What was live before is in
   the configuration's tag. The number of machines is Application Auto Scaling's, if the settings
   say how (``flo.infra.aws.serving.autoscaling``).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import math
from collections.abc import Iterator, Mapping
from typing import Any

from flo.clients.cloud.deployable import Deployable
from flo.clients.cloud.door import Deployed, DoorState
from flo.documents import canonical
from flo.errors import FloError, RefusedError, TrustError, UsageError
from flo.infra.aws.archives import packed
from flo.infra.aws.clients import client, code_of, translate_errors
from flo.infra.aws.s3 import S3Artifacts
from flo.infra.aws.serving.autoscaling import ScaledVariant
from flo.infra.aws.serving.contract import (
    AT_ONCE_VARIABLE,
    MODEL_FILE,
    MODEL_VARIABLE,
    NETWORK_FILE,
    digest_of,
)
from flo.infra.aws.serving.settings import HospitalAws

log = logging.getLogger("flo.infra.aws.serving")

LONGEST_NAME = 40  # of a model; SageMaker allows 63 characters with what is added
LIVE, CANARY = "live", "canary"
_BEFORE, _MODEL = "flo:before", "flo:model"
_WAIT = {"Delay": 15, "MaxAttempts": 480}
_CANARY_PERCENT = 10  # of the new machines, at first
_LONGEST_UPDATE = 8 * 3600
_SAME_MACHINES = {  # as many as there are now, with the weights of the configuration
    "RetainAllVariantProperties": True,
    "ExcludeRetainedVariantProperties": [{"VariantPropertyType": "DesiredWeight"}],
}
_UNKNOWN = ("ValidationException", "ResourceNotFound")
_FACTS = {"version": "FLO_VERSION", "study": "FLO_STUDY", "card": "FLO_CARD"}


class EndpointDoor:
    """One model's endpoint, in the hospital's own account."""

    where = "the SageMaker endpoint"

    def __init__(self, settings: HospitalAws, name: str) -> None:
        """Raises UsageError: the settings have no [endpoint], or the model's name is too long."""
        if settings.endpoint is None:
            raise UsageError(
                f"aws/{name}.toml has no section [endpoint]", hint="docs/cloud-doors.md"
            )
        if len(name) > LONGEST_NAME:
            raise UsageError(
                f"the model's name has {len(name)} characters, and an endpoint allows "
                f"{LONGEST_NAME}"
            )
        self._settings, self._own = settings, settings.endpoint
        self._model, self.name = name, f"flo-{name}"
        self._check = f"check-{self.name}"
        self._sagemaker = client("sagemaker", settings.region)
        self._runtime = client("sagemaker-runtime", settings.region)
        self._scaled = ScaledVariant(settings.region, self.name, LIVE)

    def state(self) -> DoorState | None:
        """Return what answers; None if nothing was deployed."""
        with translate_errors(f"reading {self.name}"):
            endpoint = self._described(self.name)
            if endpoint is None or endpoint["EndpointStatus"] == "Failed":
                return None
            if endpoint["EndpointStatus"] != "InService":
                raise RefusedError(
                    f"{self.name} is {endpoint['EndpointStatus']}: somebody changes it now",
                    hint="wait until SageMaker shows it in service, then repeat the command",
                )
            config = self._sagemaker.describe_endpoint_config(
                EndpointConfigName=endpoint["EndpointConfigName"]
            )
            tags = self._sagemaker.list_tags(ResourceArn=config["EndpointConfigArn"])["Tags"]
            models = {one["VariantName"]: one["ModelName"] for one in config["ProductionVariants"]}
            weights = _weights(endpoint, config)
            before = next((tag["Value"] for tag in tags if tag["Key"] == _BEFORE), "")
            share = weights.get(CANARY, 0) / (sum(weights.values()) or 1)
            return DoorState(
                live=self._deployed(models[LIVE]),
                canary=self._deployed(models[CANARY]) if share else None,
                share=round(100 * share),
                before=self._deployed_or_gone(before) if before else None,
                revision=f"{endpoint['EndpointConfigName']} {sorted(weights.items())}",
            )

    @contextlib.contextmanager
    def staged(self, model: Deployable) -> Iterator[Deployed]:
        """Make a version that can be asked on an endpoint of its own, until the context ends."""
        with translate_errors(f"staging {model.title}"):
            found = self._made(model)
            config = self._config({LIVE: (found.number, 1)}, "", machines=1)
            self._end(self._check)  # what a deployment that was cut off left
        try:
            with translate_errors(f"starting {self._check}"):
                self._start(self._check, config)
            yield found
        finally:
            with translate_errors(f"deleting {self._check}"):
                self._end(self._check)

    def ask(self, number: str, request: Mapping[str, Any]) -> dict[str, Any]:
        """Return the answer of the version that is staged."""
        from botocore.exceptions import ClientError

        with translate_errors(f"asking {self._check}"):
            try:
                answer = self._runtime.invoke_endpoint(
                    EndpointName=self._check,
                    ContentType="application/json",
                    Body=json.dumps(request).encode(),
                )
            except ClientError as error:
                if code_of(error) != "ModelError":
                    raise
                raise TrustError(
                    f"{number} failed on {self._check}", hint="its log in CloudWatch says where"
                ) from error
            said = json.loads(answer["Body"].read())
        if not isinstance(said, dict):
            raise TrustError(f"{number} answers in another form on {self._check}")
        return {"status": 200, **said}

    def put_live(self, staged: Deployed, before: DoorState | None) -> None:
        """Let a version answer all requests. [4]"""
        if before is None:
            with translate_errors(f"putting {self.name} live"):
                self._end(self.name)  # one that failed can only be deleted
                self._start(self.name, self._config({LIVE: (staged.number, 1)}, ""))
                self._scale()
            return
        earlier = before.before.number if before.before else ""
        kept = earlier if before.live.number == staged.number else before.live.number
        self._update({LIVE: (staged.number, 1)}, kept, before)

    def give_share(self, staged: Deployed, share: int, before: DoorState) -> None:
        """Let a version answer ``share`` percent of requests. [3]

        Raises UsageError: the endpoint is serverless.
        """
        if self._own.serverless_mb is not None:
            raise UsageError(
                "a serverless endpoint has one version: SageMaker allows no canary there",
                hint="leave out `serverless_mb`, or use --on lambda",
            )
        variants = {LIVE: (before.live.number, 100 - share), CANARY: (staged.number, share)}
        there = _machines(self._described(self.name)) if self._own.scaling else 0
        enough = max(self._own.instances, math.ceil(there * share / 100))  # it is not scaled
        kept = before.before.number if before.before else ""
        self._update(variants, kept, before, machines=enough)

    def roll_back(self, before: DoorState) -> Deployed:
        """End the canary, at once; if there is none, put the version before live. [4]"""
        if before.canary is not None:
            self._refuse_changed(before)
            weights = [{"VariantName": LIVE, "DesiredWeight": 1.0}]
            weights += [{"VariantName": CANARY, "DesiredWeight": 0.0}]
            with translate_errors(f"ending the canary of {self.name}"):
                self._sagemaker.update_endpoint_weights_and_capacities(
                    EndpointName=self.name, DesiredWeightsAndCapacities=weights
                )
                self._wait(self.name)
            self._end_machines_of_canary(before)
            return before.live
        if before.before is None:
            raise UsageError(
                f"no version of {self.name} was live before version {before.live.version}",
                hint="flo model deploy NAME deploys the version that is in use here",
            )
        self._update({LIVE: (before.before.number, 1)}, "", before, at_once=True)
        return before.before

    def remove(self) -> None:
        """Delete the endpoint; no error if there is none. Its models stay, and answer nobody."""
        with translate_errors(f"removing {self.name}"):
            for name in (self.name, self._check):
                self._end(name)
            self._end_scaling()

    # -- inside ----------------------------------------------------------------------------------

    def _end_machines_of_canary(self, before: DoorState) -> None:
        """Go on without the canary's variant, which answers nobody. If that fails, it only costs
        money, and the next change ends it."""
        kept = before.before.number if before.before else ""
        try:
            now = self.state() or before
            self._update({LIVE: (before.live.number, 1)}, kept, now, at_once=True)
        except FloError as error:
            log.warning(f"the machines of the canary of {self.name} run on: {error}")

    def _made(self, model: Deployable) -> Deployed:
        """Store the model, and describe it to SageMaker, unless that was done before. [1]"""
        document = canonical.encode(model.document)
        files = {MODEL_FILE: document} | ({NETWORK_FILE: model.onnx} if model.onnx else {})
        archive = packed(files)
        key = f"{hashlib.sha256(archive).hexdigest()}.tar.gz"
        prefix = f"models/{self._model}/"
        settings, own = self._settings, self._own
        facts = {MODEL_VARIABLE: digest_of(document, model.onnx)}
        facts |= {"FLO_VERSION": str(model.model.version), "FLO_STUDY": model.model.study}
        facts |= {"FLO_CARD": model.model.card, AT_ONCE_VARIABLE: str(own.at_once)}
        request: dict[str, Any] = {
            "PrimaryContainer": {
                "Image": own.image,
                "ModelDataUrl": f"s3://{settings.bucket}/{prefix}{key}",
                "Environment": facts,
            },
            "ExecutionRoleArn": own.role,
            "Tags": [{"Key": _MODEL, "Value": self._model}],
        }
        if own.serverless_mb is None:  # SageMaker allows neither for serverless endpoints
            request["EnableNetworkIsolation"] = True
            if own.subnets:
                request["VpcConfig"] = {
                    "Subnets": list(own.subnets),
                    "SecurityGroupIds": list(own.security_groups),
                }
        number = f"flo-m-{_short(request)}-{self._model}"
        if self._model_of(number) is None:
            s3 = client("s3", settings.region)
            S3Artifacts(s3, settings.bucket, settings.key, prefix).put(key, archive)
            self._sagemaker.create_model(ModelName=number, **request)
        return self._deployed(number)

    def _config(self, variants: dict[str, tuple[str, int]], before: str, machines: int = 0) -> str:
        """Make the configuration of these variants, unless it is there; return its name.

        ``variants``: name -> model, weight. ``before``: the model that was live before.
        ``machines``: of each variant; 0 for those of the settings.
        """
        own = self._own
        runs_on: dict[str, Any] = {
            "InstanceType": own.instance,
            "InitialInstanceCount": machines or own.instances,
        }
        if own.serverless_mb is not None:
            runs_on = {
                "ServerlessConfig": {
                    "MemorySizeInMB": own.serverless_mb,
                    "MaxConcurrency": own.concurrency,
                }
            }
        request: dict[str, Any] = {
            "ProductionVariants": [
                {
                    "VariantName": name,
                    "ModelName": model,
                    "InitialVariantWeight": float(weight),
                    **runs_on,
                }
                for name, (model, weight) in variants.items()
            ],
            "Tags": [{"Key": _MODEL, "Value": self._model}],
        }
        if before:
            request["Tags"].append({"Key": _BEFORE, "Value": before})
        if own.serverless_mb is None:
            request["KmsKeyId"] = self._settings.key
        name = f"flo-c-{_short(request)}-{self._model}"
        if not self._exists(
            lambda: self._sagemaker.describe_endpoint_config(EndpointConfigName=name)
        ):
            self._sagemaker.create_endpoint_config(EndpointConfigName=name, **request)
        return name

    def _start(self, endpoint: str, config: str) -> None:
        tags = [{"Key": _MODEL, "Value": self._model}]
        self._sagemaker.create_endpoint(EndpointName=endpoint, EndpointConfigName=config, Tags=tags)
        self._wait(endpoint)

    def _update(
        self,
        variants: dict[str, tuple[str, int]],
        kept: str,
        before: DoorState,
        *,
        machines: int = 0,
        at_once: bool = False,
    ) -> None:
        """Let a configuration of these variants take over. [4]

        ``machines``: of each new variant; 0 for those of the settings.

        Raises RefusedError: an alarm brought the old one back, or somebody else has changed it.
        """
        self._refuse_changed(before)
        with translate_errors(f"updating {self.name}"):
            config = self._config(variants, kept, machines)
            now = self._described(self.name)
            if now is not None and now["EndpointConfigName"] == config:
                self._end_scaling()
                self._scale()
                return
            request: dict[str, Any] = {"EndpointName": self.name, "EndpointConfigName": config}
            same = set(variants) == set(_variants(now))
            if self._own.serverless_mb is None and same:  # guardrails need the same variants
                request["DeploymentConfig"] = self._take_over(_machines(now), at_once=at_once)
            if self._own.scaling is not None:
                request |= _SAME_MACHINES
            self._end_scaling()  # SageMaker changes no machine that is scaled
            try:
                self._sagemaker.update_endpoint(**request)
                self._wait(self.name)
            except Exception:
                with contextlib.suppress(Exception):  # what failed first is said
                    self._scale()
                raise
            self._scale()
            found = self._described(self.name)
        if found is None or found["EndpointConfigName"] != config:
            raise RefusedError(
                f"SageMaker brought back what answered before at {self.name}",
                hint="see its alarms in CloudWatch, then deploy again",
            )

    def _scale(self) -> None:
        """Scale the live variant's machines, if the settings say how."""
        if self._own.scaling is not None:
            self._scaled.begin(self._own.scaling)

    def _end_scaling(self) -> None:
        self._scaled.end(strict=self._own.scaling is not None)

    def _take_over(self, machines: int, *, at_once: bool) -> dict[str, Any]:
        """Return how a new configuration takes over from so many machines. [4]

        One machine has no tenth: it takes over at once, and alarms are watched before the old one
        ends. An alarm that is on already is not watched: it is of what answers now, and would keep
        its mend away.
        """
        own = self._own
        routing: dict[str, Any] = {"Type": "ALL_AT_ONCE", "WaitIntervalInSeconds": 0}
        if not at_once and max(machines, own.instances) > 1:
            routing = {
                "Type": "CANARY",
                "CanarySize": {"Type": "CAPACITY_PERCENT", "Value": _CANARY_PERCENT},
                "WaitIntervalInSeconds": own.bake_seconds,
            }
        found: dict[str, Any] = {
            "BlueGreenUpdatePolicy": {
                "TrafficRoutingConfiguration": routing,
                "TerminationWaitInSeconds": 0 if at_once else own.bake_seconds,
                "MaximumExecutionTimeoutInSeconds": _LONGEST_UPDATE,
            }
        }
        watched = [] if at_once else self._alarms_that_are_off()
        if watched:
            found["AutoRollbackConfiguration"] = {"Alarms": [{"AlarmName": a} for a in watched]}
        return found

    def _alarms_that_are_off(self) -> list[str]:
        names = list(self._own.alarms)
        if not names:
            return []
        alarms = client("cloudwatch", self._settings.region)
        found = alarms.describe_alarms(AlarmNames=names, StateValue="ALARM")["MetricAlarms"]
        on = {one["AlarmName"] for one in found}
        for name in sorted(on):
            log.warning(f"{name} is on already, and is not watched while {self.name} changes")
        return [name for name in names if name not in on]

    def _refuse_changed(self, before: DoorState) -> None:
        """Raise RefusedError if somebody else has changed the endpoint since ``before``."""
        now = self.state()
        if now is None or now.revision != before.revision:
            raise RefusedError(
                f"somebody else has changed {self.name} meanwhile; nothing was done",
                hint="look at it, then repeat the command",
            )

    def _wait(self, endpoint: str) -> None:
        self._sagemaker.get_waiter("endpoint_in_service").wait(
            EndpointName=endpoint, WaiterConfig=_WAIT
        )

    def _end(self, endpoint: str) -> None:
        from botocore.exceptions import WaiterError

        found = self._described(endpoint)
        if found is not None:
            if found["EndpointStatus"] not in ("InService", "Failed"):  # cannot be deleted now
                with contextlib.suppress(WaiterError):  # it has failed
                    self._wait(endpoint)
            self._sagemaker.delete_endpoint(EndpointName=endpoint)
            self._sagemaker.get_waiter("endpoint_deleted").wait(
                EndpointName=endpoint, WaiterConfig=_WAIT
            )

    def _deployed_or_gone(self, number: str) -> Deployed | None:
        try:
            return self._deployed(number)
        except UsageError:
            return None  # somebody deleted it

    def _deployed(self, number: str) -> Deployed:
        found = self._model_of(number)
        facts = (found or {}).get("PrimaryContainer", {}).get("Environment", {})
        if not set(_FACTS.values()) <= set(facts):
            raise UsageError(f"{number} was not made by FLO")
        said = {name: facts[variable] for name, variable in _FACTS.items()}
        return Deployed(number, int(said["version"]), said["study"], said["card"])

    def _model_of(self, number: str) -> dict[str, Any] | None:
        return self._exists(lambda: self._sagemaker.describe_model(ModelName=number))

    def _described(self, endpoint: str) -> dict[str, Any] | None:
        return self._exists(lambda: self._sagemaker.describe_endpoint(EndpointName=endpoint))

    @staticmethod
    def _exists(describe: Any) -> dict[str, Any] | None:
        from botocore.exceptions import ClientError

        try:
            found: dict[str, Any] = describe()
        except ClientError as error:
            if code_of(error) not in _UNKNOWN:
                raise
            return None
        return found


def _variants(endpoint: Mapping[str, Any] | None) -> list[str]:
    return [one["VariantName"] for one in (endpoint or {}).get("ProductionVariants", [])]


def _machines(endpoint: Mapping[str, Any] | None) -> int:
    """Return how many machines the live variant has now; 0 if that is not known."""
    several = (endpoint or {}).get("ProductionVariants", [])
    return next(
        (int(one.get("CurrentInstanceCount", 0)) for one in several if one["VariantName"] == LIVE),
        0,
    )


def _weights(endpoint: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, float]:
    """Return the weight of each variant now."""
    first = {
        one["VariantName"]: one["InitialVariantWeight"] for one in config["ProductionVariants"]
    }
    now = {
        one["VariantName"]: one["CurrentWeight"]
        for one in endpoint.get("ProductionVariants", [])
        if "CurrentWeight" in one
    }
    return {name: float(now.get(name, weight)) for name, weight in first.items()}


def _short(request: Mapping[str, Any]) -> str:
    """Return twelve digits of a request's digest: the same request has the same name."""
    return canonical.digest(canonical.encode(request))[:12]

"""A model as a Lambda function: published, asked, put live, given a share, rolled back.

1. each version of the model is a version of the function, which Lambda keeps as it is; its
   description names the study and the card;
2. callers invoke the alias ``live``. A version that it does not name answers nobody;
3. a canary is a weight of the alias: Lambda gives each request to a version by chance, so a
   patient may meet both; each answer says which one it is of;
4. putting live and rolling back move the alias, in one call that fails if somebody else has
   moved it meanwhile.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import platform
import re
import secrets
import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from flo.clients.cloud.deployable import Deployable
from flo.clients.cloud.door import Deployed, DoorState
from flo.errors import RefusedError, TrustError, UsageError
from flo.infra.aws.clients import client, code_of, translate_errors
from flo.infra.aws.s3 import S3Artifacts
from flo.infra.aws.serving.function_code import (
    HANDLER,
    MOST_SENT,
    function_code,
    libraries,
    runtime,
)
from flo.infra.aws.serving.settings import HospitalAws

ALIAS = "live"
LONGEST_NAME = 60  # of a model; Lambda allows 64 characters with the prefix
_SECONDS, _LIBRARIES_MB = 10, 512
_SNAPPED = (3, 12)  # SnapStart is for this Python and later ones
_ARCHITECTURES = {"x86_64": "x86_64", "aarch64": "arm64"}
_SAID = re.compile(r"version ([0-9]{1,9}), study ([0-9a-f]{64}), card ([0-9a-f]{64})")
_NO = ("ResourceNotFoundException",)
_YOUNG = timedelta(hours=1)
_NEW_ENOUGH = (3, 12)  # before, Lambda's C library is older than those of NumPy's wheels


class FunctionDoor:
    """One model's function, in the hospital's own account."""

    where = "the Lambda function"

    def __init__(self, settings: HospitalAws, name: str) -> None:
        """Raises UsageError: the settings have no [function], or the model's name is too long."""
        if settings.function is None:
            raise UsageError(
                f"aws/{name}.toml has no section [function]", hint="docs/cloud-doors.md"
            )
        if len(name) > LONGEST_NAME:
            raise UsageError(
                f"the model's name has {len(name)} characters, and Lambda allows {LONGEST_NAME}"
            )
        self._settings, self._own = settings, settings.function
        self.name = f"flo-{name}"
        self._lambda = client("lambda", settings.region)

    def state(self) -> DoorState | None:
        """Return what answers; None if nothing was deployed."""
        from botocore.exceptions import ClientError

        with translate_errors(f"reading {self.name}"):
            try:
                alias = self._lambda.get_alias(FunctionName=self.name, Name=ALIAS)
            except ClientError as error:
                if code_of(error) in _NO:
                    return None
                raise
        weights = (alias.get("RoutingConfig") or {}).get("AdditionalVersionWeights") or {}
        before = re.search(r"before ([0-9]+)", alias.get("Description", ""))
        canary = next(iter(weights), None)
        return DoorState(
            live=self._deployed(alias["FunctionVersion"]),
            canary=self._deployed(canary) if canary else None,
            share=round(100 * weights[canary]) if canary else 0,
            before=self._deployed_or_gone(before[1]) if before else None,
            revision=str(alias.get("RevisionId", "")),
        )

    @contextlib.contextmanager
    def staged(self, model: Deployable) -> Iterator[Deployed]:
        """Make a version of the function that answers nobody yet. [1]

        Raises:
            TrustError: Lambda has other code than was sent.
        """
        code = function_code(model.document, model.onnx)
        digest = base64.b64encode(hashlib.sha256(code).digest()).decode()
        with translate_errors(f"publishing {self.name}"):
            there = self._there(digest, model)
            number = there or self._published(code, digest, model)
            self._delete_old()
            self._lambda.get_waiter("published_version_active").wait(
                FunctionName=self.name, Qualifier=number
            )
        yield Deployed(number, model.model.version, model.model.study, model.model.card)

    def ask(self, number: str, request: Mapping[str, Any]) -> dict[str, Any]:
        """Return a version's answer. Raises TrustError: it failed."""
        with translate_errors(f"asking {self.name}"):
            answer = self._lambda.invoke(
                FunctionName=self.name, Qualifier=number, Payload=json.dumps(request).encode()
            )
            said = json.loads(answer["Payload"].read())
        if answer.get("FunctionError") or not isinstance(said, dict):
            raise TrustError(
                f"version {number} of {self.name} failed",
                hint="its log group in CloudWatch says where",
            )
        return said

    def put_live(self, staged: Deployed, before: DoorState | None) -> None:
        """Let a version answer all requests. [4]"""
        if before is None:
            with translate_errors(f"putting {self.name} live"):
                self._lambda.create_alias(
                    FunctionName=self.name, Name=ALIAS, FunctionVersion=staged.number
                )
            return
        earlier = before.before.number if before.before else None
        live = before.live.number
        if live == staged.number and before.canary is None:
            return
        self._move(before, staged.number, {}, earlier if live == staged.number else live)

    def give_share(self, staged: Deployed, share: int, before: DoorState) -> None:
        """Let a version answer ``share`` percent of requests, beside the one that is live. [3]"""
        kept = before.before.number if before.before else None
        self._move(before, before.live.number, {staged.number: share / 100}, kept)

    def roll_back(self, before: DoorState) -> Deployed:
        """End the canary; if there is none, put the version before live. Return what is live. [4]

        Raises UsageError: nothing was live before.
        """
        if before.canary is not None:
            kept = before.before.number if before.before else None
            self._move(before, before.live.number, {}, kept)
            return before.live
        if before.before is None:
            raise UsageError(
                f"no version of {self.name} was live before version {before.live.version}",
                hint="flo model deploy NAME deploys the version that is in use here",
            )
        self._wake(before.before.number)
        self._move(before, before.before.number, {}, None)
        return before.before

    def remove(self) -> None:
        """Delete the function with all its versions; no error if there is none."""
        from botocore.exceptions import ClientError

        with translate_errors(f"removing {self.name}"):
            try:
                self._lambda.delete_function(FunctionName=self.name)
            except ClientError as error:
                if code_of(error) not in _NO:
                    raise

    # -- inside ----------------------------------------------------------------------------------

    def _wake(self, number: str) -> None:
        """Wait until a version answers that nobody asked for a while: Lambda may have put it to
        sleep. The request has no patient."""
        with translate_errors(f"waking version {number} of {self.name}"):
            self._lambda.get_waiter("published_version_active").wait(
                FunctionName=self.name, Qualifier=number
            )
            said = self.ask(number, {})
        if said.get("status") != 400:
            raise TrustError(f"version {number} of {self.name} does not answer as FLO's do")

    def _move(
        self, before: DoorState, number: str, weights: dict[str, float], kept: str | None
    ) -> None:
        from botocore.exceptions import ClientError

        with translate_errors(f"moving {self.name}"):
            try:
                self._lambda.update_alias(
                    FunctionName=self.name,
                    Name=ALIAS,
                    FunctionVersion=number,
                    Description=f"before {kept}" if kept else "",
                    RoutingConfig={"AdditionalVersionWeights": weights},
                    RevisionId=before.revision,
                )
            except ClientError as error:
                if code_of(error) != "PreconditionFailedException":
                    raise
                raise RefusedError(
                    f"somebody else has changed {self.name} meanwhile; nothing was done",
                    hint="look at it, then repeat the command",
                ) from error

    def _delete_old(self) -> None:
        """Delete versions that neither answer nor answered before: Lambda may charge for them.

        Not those of the last hour, which somebody may be checking; what cannot be deleted now is
        deleted another time.
        """
        from botocore.exceptions import ClientError

        state = self.state()
        if state is None:
            return
        wanted = {one.number for one in (state.live, state.canary, state.before) if one}
        for one in self._versions():
            made = datetime.fromisoformat(one["LastModified"])
            if one["Version"] not in wanted and datetime.now(UTC) - made > _YOUNG:
                with contextlib.suppress(ClientError):
                    self._lambda.delete_function(FunctionName=self.name, Qualifier=one["Version"])

    def _there(self, digest: str, model: Deployable) -> str | None:
        """Return the version that has this code and these settings already; None if none has."""
        from botocore.exceptions import ClientError

        wanted = {"CodeSha256": digest, "Description": _said(model)}
        wanted |= _settings(self._configuration(model))
        try:
            for one in self._versions():
                found = {name: one.get(name) for name in ("CodeSha256", "Description")}
                if {**found, **_settings(one)} == wanted and one.get("State") != "Failed":
                    return str(one["Version"])
        except ClientError as error:
            if code_of(error) not in _NO:
                raise
        return None

    def _versions(self) -> Iterator[dict[str, Any]]:
        pages = self._lambda.get_paginator("list_versions_by_function")
        for page in pages.paginate(FunctionName=self.name):
            yield from (one for one in page["Versions"] if one["Version"] != "$LATEST")

    def _published(self, code: bytes, digest: str, model: Deployable) -> str:
        self._send(code, model)
        made = self._lambda.publish_version(
            FunctionName=self.name, CodeSha256=digest, Description=_said(model)
        )
        if made["CodeSha256"] != digest:
            raise TrustError(f"{self.name} has other code than was sent")
        return str(made["Version"])

    def _send(self, code: bytes, model: Deployable) -> None:
        """Create the function, or give it this code; wait until it has it."""
        from botocore.exceptions import ClientError

        packed = self._packed(code, model)
        try:
            self._lambda.get_function(FunctionName=self.name)
        except ClientError as error:
            if code_of(error) not in _NO:
                raise
            self._lambda.create_function(**self._function(model), Code=packed)
        else:
            self._lambda.update_function_configuration(**self._configuration(model))
            self._wait()
            architectures = [_architecture(model)]
            self._lambda.update_function_code(
                FunctionName=self.name, Architectures=architectures, **packed
            )
        self._wait()

    def _wait(self) -> None:
        for waiter in ("function_active_v2", "function_updated_v2"):
            self._lambda.get_waiter(waiter).wait(FunctionName=self.name)

    def _packed(self, code: bytes, model: Deployable) -> dict[str, Any]:
        """Return the code as a request carries it: itself, or its place in the bucket."""
        if len(code) <= MOST_SENT // 2:  # requests carry it as base64
            return {"ZipFile": code}
        settings, key = self._settings, f"{hashlib.sha256(code).hexdigest()}.zip"
        prefix = f"functions/{model.name}/"
        s3 = client("s3", settings.region)
        S3Artifacts(s3, settings.bucket, settings.key, prefix).put(key, code)
        return {"S3Bucket": settings.bucket, "S3Key": f"{prefix}{key}"}

    def _configuration(self, model: Deployable) -> dict[str, Any]:
        snapped = sys.version_info[:2] >= _SNAPPED
        least = _LIBRARIES_MB if libraries(model.document, model.onnx) else 0
        return {
            "FunctionName": self.name,
            "Runtime": runtime(),
            "Role": self._own.role,
            "Handler": HANDLER,
            # Lambda publishes a version only of what has changed since the last one.
            "Description": f"FLO answers for {model.name} ({secrets.token_hex(4)})",
            "Timeout": _SECONDS,
            "MemorySize": max(self._own.memory_mb, least),
            "VpcConfig": {
                "SubnetIds": list(self._own.subnets),
                "SecurityGroupIds": list(self._own.security_groups),
            },
            "TracingConfig": {"Mode": "PassThrough"},
            "SnapStart": {"ApplyOn": "PublishedVersions" if snapped else "None"},
            "LoggingConfig": {
                "LogFormat": "JSON",
                "ApplicationLogLevel": "WARN",
                "SystemLogLevel": "WARN",
            },
        }

    def _function(self, model: Deployable) -> dict[str, Any]:
        return {
            **self._configuration(model),
            "Architectures": [_architecture(model)],
            "PackageType": "Zip",
            "Publish": False,
            "Tags": {"flo:model": model.name},
        }

    def _deployed_or_gone(self, number: str) -> Deployed | None:
        try:
            return self._deployed(number)
        except UsageError:
            return None  # somebody deleted it

    def _deployed(self, number: str) -> Deployed:
        with translate_errors(f"reading version {number} of {self.name}"):
            found = self._lambda.get_function_configuration(
                FunctionName=self.name, Qualifier=number
            )
        said = _SAID.fullmatch(found.get("Description", ""))
        if said is None:
            raise UsageError(f"version {number} of {self.name} was not made by FLO")
        return Deployed(number, int(said[1]), said[2], said[3])


def _settings(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of a version's settings follows from the site's."""
    network = found.get("VpcConfig") or {}
    return {
        **{name: found.get(name) for name in ("MemorySize", "Role", "Runtime", "Timeout")},
        "SubnetIds": sorted(network.get("SubnetIds") or ()),
        "SecurityGroupIds": sorted(network.get("SecurityGroupIds") or ()),
    }


def _said(model: Deployable) -> str:
    """Return the description of a version; ``_SAID`` reads it."""
    return f"version {model.model.version}, study {model.model.study}, card {model.model.card}"


def _architecture(model: Deployable) -> str:
    """Return the processor: of a network's libraries, which are this machine's; else any."""
    if not libraries(model.document, model.onnx):
        return "x86_64"
    if sys.version_info[:2] < _NEW_ENOUGH:
        raise UsageError(
            f"a function with NumPy needs Python 3.12 or later, and this is {runtime()}: Lambda's "
            "machines for older ones have an older C library",
            hint="install FLO under a newer Python, or deploy to an endpoint: --on sagemaker",
        )
    found = _ARCHITECTURES.get(platform.machine())
    if found is None or sys.platform != "linux":
        raise UsageError(
            f"this machine is {sys.platform} {platform.machine()}, and Lambda runs Linux",
            hint="deploy a network from Linux on x86_64 or aarch64",
        )
    return found

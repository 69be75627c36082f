"""A SageMaker endpoint on this machine: recorded configurations, carried out by real processes.

Each variant is a process of the serving image's own program, which loads the archive that the
recorded model names, from S3, and answers on a port of loopback. Requests go to variants by their
weights. A new configuration takes over blue/green as its ``DeploymentConfig`` says: by steps of an
injected clock, and back if an alarm goes off meanwhile. FLO makes no shadow variants, and none is
carried out.
"""

from __future__ import annotations

import contextlib
import io
import os
import random
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from flo.errors import FloError
from flo.infra.aws.job_contract import ROOT_VARIABLE
from flo.infra.aws.serving.contract import PORT_VARIABLE
from tests.ports import free_port

_START_SECONDS, _GRACE_SECONDS = 30.0, 30.0  # SageMaker kills thirty seconds after SIGTERM
Alarmed = Callable[[], set[str]]  # names of the alarms that are on
Clock = Callable[[], float]


@dataclass
class _Variant:
    name: str
    weight: float
    url: str
    process: subprocess.Popen[bytes]
    folder: tempfile.TemporaryDirectory[str]


@dataclass
class _Fleet:
    """The variants of one configuration."""

    config: str
    variants: list[_Variant]


@dataclass
class _Shift:
    """A fleet that takes over: the share of requests that it gets until ``until``, then all."""

    fleet: _Fleet
    share: float
    until: float
    ends: float
    alarms: set[str]
    whole: bool = False


@dataclass
class LocalEndpoint:
    """``models``: from a model's name to its recorded request. ``s3``: to read archives with.

    ``dice``: chooses variants. ``clock``: in seconds. ``alarmed``: asked at each ``tick``.
    """

    s3: Any
    models: Callable[[str], Mapping[str, Any]]
    dice: random.Random
    clock: Clock = time.monotonic
    alarmed: Alarmed = set
    answered: dict[str, int] = field(default_factory=dict)
    _fleet: _Fleet | None = None
    _shift: _Shift | None = None

    @property
    def config(self) -> str:
        """Name of the configuration that answers."""
        assert self._fleet is not None
        return self._fleet.config

    @property
    def is_updating(self) -> bool:
        """Whether another configuration takes over."""
        return self._shift is not None

    @property
    def weights(self) -> dict[str, float]:
        """Weight of each variant."""
        assert self._fleet is not None
        return {one.name: one.weight for one in self._fleet.variants}

    def create(self, config: str, recorded: Mapping[str, Any]) -> None:
        """Start a configuration's variants; all of them answer when this returns."""
        self._fleet = self._started(config, recorded)

    def update(
        self, config: str, recorded: Mapping[str, Any], deployment: Mapping[str, Any]
    ) -> None:
        """Let another configuration take over; ``tick`` carries it out."""
        policy = deployment.get("BlueGreenUpdatePolicy", {})
        routing = policy.get("TrafficRoutingConfiguration", {"Type": "ALL_AT_ONCE"})
        named = deployment.get("AutoRollbackConfiguration", {}).get("Alarms", [])
        wait = float(routing.get("WaitIntervalInSeconds", 0))
        share = 1.0
        if routing["Type"] == "CANARY":
            share = routing["CanarySize"]["Value"] / 100
        until = self.clock() + (wait if share < 1 else 0)
        ends = until + float(policy.get("TerminationWaitInSeconds", 0))
        alarms = {one["AlarmName"] for one in named}
        self._shift = _Shift(self._started(config, recorded), share, until, ends, alarms)
        self.tick()

    def tick(self) -> None:
        """Carry on a take-over as far as the clock allows; an alarm ends it."""
        shift = self._shift
        if shift is None or self._fleet is None:
            return
        if shift.alarms & self.alarmed():
            self._shift = None
            _end(shift.fleet)
            return
        if self.clock() >= shift.until:
            shift.whole = True
        if self.clock() >= shift.ends:
            before, self._fleet, self._shift = self._fleet, shift.fleet, None
            _end(before)

    def set_weights(self, weights: Mapping[str, float]) -> None:
        """Change the weights of variants, at once."""
        assert self._fleet is not None
        for one in self._fleet.variants:
            one.weight = weights.get(one.name, one.weight)

    def invoke(self, body: bytes, target: str = "") -> tuple[int, bytes, str]:
        """Return status, body and variant of an answer. ``target``: the variant to ask."""
        self.tick()
        fleet = self._fleet
        assert fleet is not None
        if self._shift and (self._shift.whole or self.dice.random() < self._shift.share):
            fleet = self._shift.fleet
        chosen = self._chosen(fleet, target)
        found = _ask(chosen, body)
        place = f"{fleet.config}/{chosen.name}"
        self.answered[place] = self.answered.get(place, 0) + 1
        return found.status_code, found.content, chosen.name

    def close(self) -> None:
        """End every process."""
        for fleet in (self._fleet, self._shift.fleet if self._shift else None):
            if fleet is not None:
                _end(fleet)
        self._fleet = self._shift = None

    def _chosen(self, fleet: _Fleet, target: str) -> _Variant:
        variants = [one for one in fleet.variants if not target or one.name == target]
        if not variants:
            raise FloError(f"{fleet.config} has no variant {target}")
        weights = [one.weight for one in variants] if not target else [1.0]
        return self.dice.choices(variants, weights)[0]

    def _started(self, config: str, recorded: Mapping[str, Any]) -> _Fleet:
        with contextlib.ExitStack() as undo:
            fleet = _Fleet(config, [])
            undo.callback(_end, fleet)
            for one in recorded["ProductionVariants"]:
                fleet.variants.append(self._run(one))
            for variant in fleet.variants:
                _wait(variant)
            undo.pop_all()
        return fleet

    def _run(self, recorded: Mapping[str, Any]) -> _Variant:
        """Start a variant's container: the archive unpacked, the environment, `serve`."""
        container = self.models(str(recorded["ModelName"]))["PrimaryContainer"]
        bucket, _, key = container["ModelDataUrl"].removeprefix("s3://").partition("/")
        folder = tempfile.TemporaryDirectory(prefix="flo-endpoint-")
        data = self.s3.get_object(Bucket=bucket, Key=key)["Body"].read()
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as archive:
            archive.extractall(Path(folder.name) / "model", filter="data")
        port = free_port()
        with (Path(folder.name) / "log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "flo.infra.aws.serving.container", "serve"],
                env={
                    **container.get("Environment", {}),
                    ROOT_VARIABLE: folder.name,
                    PORT_VARIABLE: str(port),
                    "PATH": os.environ.get("PATH", ""),
                    "OMP_NUM_THREADS": "1",
                },
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        weight = float(recorded.get("InitialVariantWeight", 1.0))
        url = f"http://127.0.0.1:{port}"
        return _Variant(str(recorded["VariantName"]), weight, url, process, folder)


def _wait(variant: _Variant) -> None:
    """Wait until a variant answers its ping. Raises FloError with its log: it does not start."""
    end = time.monotonic() + _START_SECONDS
    while time.monotonic() < end and variant.process.poll() is None:
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(f"{variant.url}/ping", trust_env=False).status_code == 200:
                return
        time.sleep(0.02)
    said = (Path(variant.folder.name) / "log").read_text(encoding="utf-8")[-2000:]
    raise FloError(f"the container of {variant.name} does not start: {said}")


def _ask(variant: _Variant, body: bytes) -> httpx.Response:
    headers = {"content-type": "application/json"}
    url = f"{variant.url}/invocations"
    return httpx.post(url, content=body, headers=headers, timeout=60, trust_env=False)


def _end(fleet: _Fleet) -> None:
    """End a fleet's containers as SageMaker does: SIGTERM, later SIGKILL."""
    for one in fleet.variants:
        one.process.send_signal(signal.SIGTERM)
    for one in fleet.variants:
        try:
            one.process.wait(_GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            one.process.kill()
            one.process.wait()
        one.folder.cleanup()

"""The coordinator's machine, emulated: moto keeps its state, and a real coordinator follows it.

A machine that runs serves the coordinator; one that is stopped ends it, as a shutdown or as a power
cut. The load balancer finds it healthy as long as its port takes connections.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from flo.infra.aws import sleeping, stack
from flo.infra.aws.stack import Stack
from flo.server.home.coordinator_home import CoordinatorHome
from tests.end_to_end.agents import kill
from tests.infra.aws.emulated import REGION, Aws
from tests.server.real_coordinator import RealCoordinator

_LOOK_SECONDS = 0.05


class EmulatedMachine:
    """``cut``: whether the next stop is a power cut. ``started``: when each start began."""

    def __init__(self, aws: Aws, identifier: str, home: CoordinatorHome) -> None:
        self._ec2, self._identifier, self.home = aws.client("ec2"), identifier, home
        self.coordinator: RealCoordinator | None = None
        self.cut = False
        self.started: list[datetime] = []
        self._ended = threading.Event()

    @property
    def state(self) -> str:
        found = self._ec2.describe_instances(InstanceIds=[self._identifier])
        return str(found["Reservations"][0]["Instances"][0]["State"]["Name"])

    @property
    def healthy(self) -> bool:
        with contextlib.suppress(OSError):
            port = self.home.read_config().port
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return True
        return False

    def watch(self) -> None:
        """Follow the state, until the end."""
        while not self._ended.wait(_LOOK_SECONDS):
            runs = self.state == "running"
            if runs and self.coordinator is None:
                self.started.append(datetime.now(UTC))
                self.coordinator = RealCoordinator(self.home)
            elif not runs and self.coordinator is not None:
                self._stop(self.coordinator)
                self.coordinator = None
        if self.coordinator is not None:
            self._stop(self.coordinator)

    def end(self) -> None:
        self._ended.set()

    def _stop(self, coordinator: RealCoordinator) -> None:
        if self.cut:
            kill(coordinator.pid)
        coordinator.stop()

    def until(self, *, there: bool) -> RealCoordinator | None:
        """The coordinator's process, once it is or is not there."""
        end = time.monotonic() + 30
        while (self.coordinator is not None) != there:
            assert time.monotonic() < end
            time.sleep(_LOOK_SECONDS)
        return self.coordinator


def deployed(aws: Aws, name: str) -> Stack:
    """The whole template, as a stack in an empty account."""
    aws.empty()
    ec2 = aws.client("ec2")

    def networks(named: str) -> str:
        made = ec2.create_managed_prefix_list(
            PrefixListName=named, MaxEntries=10, AddressFamily="IPv4"
        )
        return str(made["PrefixList"]["PrefixListId"])

    found = Stack(name, REGION)
    parameters = {
        "HospitalNetworks": networks("hospitals"),
        "S3PrefixList": networks("s3"),
        "AlarmAddress": "ops@example.org",
        "CoordinatorImage": "ami-12c6146b",
    }
    found.deploy(parameters, lambda _: None)
    outputs = found.outputs()
    aws.client("elbv2").register_targets(  # which moto's CloudFormation leaves out
        TargetGroupArn=outputs["Targets"], Targets=[{"Id": outputs["Machine"], "Port": 9443}]
    )
    return found


@contextlib.contextmanager
def machine(
    aws: Aws, found: Stack, home: CoordinatorHome, patch: pytest.MonkeyPatch
) -> Iterator[EmulatedMachine]:
    """The stack's machine, running, with this coordinator on it."""
    from moto.elbv2.models import FakeHealthStatus, FakeTargetGroup

    emulated = EmulatedMachine(aws, found.outputs()["Machine"], home)

    def health(group: Any, target: dict[str, Any], _: Any) -> FakeHealthStatus:
        state = "healthy" if emulated.healthy else "unhealthy"
        return FakeHealthStatus(target["Id"], "9443", "traffic-port", state)

    patch.setattr(FakeTargetGroup, "health_for", health)
    patch.setattr(sleeping, "_LOOK_SECONDS", 0.1)
    patch.setattr(stack, "_LOOK_SECONDS", 0.1)
    watching = threading.Thread(target=emulated.watch)
    watching.start()
    try:
        yield emulated
    finally:
        emulated.end()
        watching.join()

"""A coordinator in AWS sleeps and wakes, and every round goes on where it was.

``FLO_SLEEPS=20 pytest -s tests/infra/aws/test_sleeping.py`` sleeps more often, and shows how long
it took from waking to the next round.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from flo.errors import UsageError
from flo.infra.aws import sleeping
from flo.infra.aws.awake import Calendar
from flo.infra.aws.stack import TEMPLATE, Stack
from flo.server.home.coordinator_home import CoordinatorHome
from tests.builders import make_site, study_document
from tests.commands import flo_process
from tests.end_to_end.agents import agent, kill
from tests.end_to_end.running import (
    SITES,
    all_events,
    failed,
    launch,
    live,
    releases,
    rounds,
    wait_for,
)
from tests.end_to_end.test_coordinator_kills import seconds_to_the_next_round
from tests.infra.aws.account import account, home_with
from tests.infra.aws.emulated import REGION, Aws
from tests.infra.aws.machine import EmulatedMachine, deployed, machine
from tests.infra.aws.test_stack import SMALL
from tests.server.real_coordinator import new_home

pytestmark = pytest.mark.slow
KEYED = "tests.end_to_end.keyed_agent"
ROUNDS_A_WAKING = 15  # at most, and about as many until it sleeps


@pytest.fixture(scope="module")
def stack(aws: Aws) -> Stack:
    return deployed(aws, "sleeper")


def endpoints(aws: Aws) -> dict[str, int]:
    """Private endpoints that are there, by service -> zones."""
    found = aws.client("ec2").describe_vpc_endpoints()["VpcEndpoints"]
    return {
        one["ServiceName"].partition(".eu-central-1.")[2]: len(one["SubnetIds"])
        for one in found
        if one["VpcEndpointType"] == "Interface" and one["State"] == "available"
    }


def test_every_round_goes_on_after_sleeping_and_power_cuts(
    aws: Aws, stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sleeps, chosen = int(os.environ.get("FLO_SLEEPS", "3")), random.Random()
    steps = (sleeps + 1) * 2 * ROUNDS_A_WAKING
    home = new_home(tmp_path / "coordinator")
    sites = [make_site(tmp_path / name, name) for name in SITES]
    with contextlib.ExitStack() as running:
        emulated = running.enter_context(machine(aws, stack, home, monkeypatch))
        coordinator = emulated.until(there=True)
        assert coordinator is not None
        coordinator.wait_until_ready()
        for site in sites:
            coordinator.admit(site)
        agents = [running.enter_context(agent(site, KEYED)) for site in sites]
        digest = launch(coordinator, sites, "distributed noise", steps=steps, epsilon=0.4)
        killed = 0
        for number in range(sleeps):
            live(home, digest, seconds=3, most=ROUNDS_A_WAKING)
            emulated.cut = number % 2 == 0
            sleeping.sleep(stack, lambda _: None)
            emulated.until(there=False)
            assert endpoints(aws) == {}
            if number % 5 == 1:  # meanwhile a hospital's machine dies, too
                lost, killed = chosen.randrange(len(sites)), killed + 1
                kill(agents[lost].pid)
                agents[lost] = running.enter_context(agent(sites[lost], KEYED))
            sleeping.wake(stack, lambda _: None)
        wait_for(lambda found: found["status"] == "done", home.directory, digest, seconds=600)
    events = all_events(home, digest)
    assert rounds(events) == list(range(1, steps + 1)), "no round is lost"
    why = [event["facts"] for event in events if event["kind"] == "attempt-failed"]
    assert failed(events, sites[0]) <= killed, f"a hospital that dies costs one at most: {why}"
    for site in sites:
        charged = releases(site)
        assert steps <= charged.pop("training") <= steps + killed, "each is charged once"
        assert charged == {"evaluation": 1}
    back = seconds_to_the_next_round(emulated.started[1:], events)
    print(  # noqa: T201 - the measured result, shown with -s
        f"{sleeps} wakings; next round within {statistics.median(back):.1f} s (median) and "
        f"{max(back):.1f} s at most"
    )


def test_a_study_that_is_launched_to_a_sleeping_coordinator_wakes_it(
    aws: Aws, stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = account(aws).model_copy(update={"study_roles": stack.outputs()["StudyRoles"]})
    home = home_with(config, tmp_path / "coordinator")
    sites = [make_site(tmp_path / name, name) for name in SITES]
    with machine(aws, stack, home, monkeypatch) as emulated:
        access = access_file(emulated, home, tmp_path)
        coordinator = emulated.until(there=True)
        assert coordinator is not None
        for site in sites:
            coordinator.admit(site)
        sleeping.sleep(stack, lambda _: None)
        emulated.until(there=False)
        asleep = flo_process("study", "list", "--home", access)
        assert f"it may sleep: flo aws wake --name sleeper --region {REGION}" in asleep.stderr
        study = study_document()
        study["hospitals"] = [{"id": name, "declared_size": 40} for name in SITES]
        (tmp_path / "study.toml").write_text(tomli_w.dumps(study))
        done = flo_process(
            *("study", "launch", tmp_path / "study.toml", "--detach", "--home", access), seconds=60
        )
        assert done.returncode == 0, done.stderr
        assert "sleeper sleeps: waking it" in done.stdout
        assert "offered:" in done.stdout
        assert sleeping.power(stack).answers


def access_file(emulated: EmulatedMachine, home: CoordinatorHome, folder: Path) -> Path:
    """An operator's, of a coordinator whose settings name its stack."""
    coordinator = emulated.until(there=True)
    assert coordinator is not None
    coordinator.wait_until_ready()
    done = flo_process(
        *("coordinator", "token", "Olga", "--role", "operator", "--home", home.directory),
        *("--out", folder / "operator.json"),
    )
    assert done.returncode == 0, done.stderr
    return folder / "operator.json"


def test_whoever_was_interrupted_says_it_again(
    aws: Aws, stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flo.infra.aws.stack._LOOK_SECONDS", 0.1)
    ec2, identifier = aws.client("ec2"), stack.outputs()["Machine"]
    sleeping.wake(stack, lambda _: None)
    assert endpoints(aws) == dict.fromkeys(
        ("kms", "sagemaker.api", "logs", "ecr.api", "ecr.dkr", "ssm", "ssmmessages"), 1
    )
    ec2.stop_instances(InstanceIds=[identifier])  # and no further
    sleeping.sleep(stack, lambda _: None)
    sleeping.sleep(stack, lambda _: None)
    state = sleeping.power(stack)
    assert (state.awake, state.machine, state.answers) == (False, "stopped", False)
    ec2.start_instances(InstanceIds=[identifier])
    sleeping.wake(stack, lambda _: None)
    sleeping.wake(stack, lambda _: None)
    assert sleeping.power(stack).awake
    assert len(endpoints(aws)) == 7


def test_the_calendar_asks_for_what_the_commands_do(
    aws: Aws, stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """moto makes no schedules: what each would send is sent here, as the template writes it."""
    monkeypatch.setattr("flo.infra.aws.stack._LOOK_SECONDS", 0.1)
    calendar = Calendar.parse("mon-fri", "07:30", "18:00", "Europe/Berlin")
    sleeping.schedule(stack, calendar, lambda _: None)
    assert sleeping.power(stack).calendar == calendar
    for when, awake in (("Sleep", False), ("Wake", True)):
        for name in (f"{when}Network", f"{when}Machine"):
            send(aws, stack, name)
        state = sleeping.power(stack)
        assert (state.awake, state.machine) == (awake, "running" if awake else "stopped")
        assert len(endpoints(aws)) == (7 if awake else 0)
        assert state.calendar == calendar
    sleeping.schedule(stack, None, lambda _: None)
    assert sleeping.power(stack).calendar is None


def send(aws: Aws, stack: Stack, name: str) -> None:
    """The request of one of the template's schedules."""
    kept = TEMPLATE.read_text().partition(f"  {name}:\n")[2]
    (service, action) = re.search(r"aws-sdk:(\w+):(\w+)", kept).groups()  # type: ignore[union-attr]
    text = re.findall(r"Input: !Sub \[?'([^']*)'", kept)[0]
    (rest,) = re.findall(r"Rest: '(.*)'", TEMPLATE.read_text())
    for reference, value in (
        ("${AWS::StackName}", stack.name),
        ("${Coordinator}", stack.outputs()["Machine"]),
        ("${Rest}", rest),
    ):
        text = text.replace(reference, value)
    asked: dict[str, Any] = json.loads(text)
    if action == "updateStack":
        assert {one["ParameterKey"] for one in asked["Parameters"]} == set(stack.parameters())
    operation = re.sub(r"(?=[A-Z])", "_", action).lower()
    getattr(aws.client(service), operation)(**asked)


def test_a_stack_of_an_earlier_flo_is_left_alone(aws: Aws, tmp_path: Path) -> None:
    old = tmp_path / "old.yaml"
    old.write_text(SMALL)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("flo.infra.aws.stack.TEMPLATE", old)
        earlier = Stack("earlier", REGION)
        earlier.deploy({}, lambda _: None)
    asked: list[Callable[[], object]] = [
        lambda: sleeping.sleep(earlier, lambda _: None),
        lambda: sleeping.wake(earlier, lambda _: None),
        lambda: sleeping.schedule(earlier, None, lambda _: None),
        lambda: sleeping.power(earlier),
    ]
    for one in asked:
        with pytest.raises(UsageError, match="earlier was deployed by an earlier FLO"):
            one()
    (found,) = aws.client("ec2").describe_instances(InstanceIds=[earlier.outputs()["Machine"]])[
        "Reservations"
    ]
    assert found["Instances"][0]["State"]["Name"] == "running"

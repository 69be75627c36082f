"""Attacks on what a training job is given: one run, and nothing else of the coordinator's."""

from __future__ import annotations

import time
from collections.abc import Iterable

from flo.server.http.roles import ROUTES
from flo.server.http.tokens import Role, issue
from tests.attacks.attack import Attack, call, denied
from tests.attacks.on_the_operator import bearer
from tests.attacks.stage import Stage, status

RUN, ANOTHER = "run-0-000000", "run-1-000000"
OF_A_RUN = [
    (method, path.replace("{run}", RUN)) for method, path in ROUTES if path.startswith("/v1/run/")
]
OF_PEOPLE = [
    (method, path.replace("{digest}", "0" * 64).replace("{step}", "withdraw"))
    for method, path in ROUTES
    if path.startswith("/v1/flo/")
]
JOB = f"/job/flo-{RUN}-1"


def token(stage: Stage, run: str, role: Role = "aggregator", seconds_ago: float = 0) -> str:
    identity = stage.coordinator.home.open_identity()
    return issue(identity, run, role, 600, now=time.time() - seconds_ago)[0]


def asks(stage: Stage, text: str, routes: list[tuple[str, str]]) -> Iterable[str]:
    for method, path in routes:
        yield status(stage.coordinator.private(method, path, headers=bearer(text)))


ATTACKS = (
    Attack(
        "a job's token at every call for people",
        lambda s: asks(s, token(s, RUN), OF_PEOPLE),
        "403",
        denied("the role aggregator may not"),
    ),
    Attack(
        "an operator's token at every call of a job",
        lambda s: asks(s, token(s, RUN, "operator"), OF_A_RUN),
        "403",
        denied("the role operator may not carry out a run"),
    ),
    Attack(
        "a job's token for another run",
        lambda s: asks(s, token(s, ANOTHER), OF_A_RUN),
        "400",
        call("this token is for another run"),
    ),
    Attack(
        "a job's token that has expired",
        lambda s: asks(s, token(s, RUN, seconds_ago=601), OF_A_RUN),
        "401",
        denied("this token has expired"),
    ),
    Attack(
        "a job that does not exist asks for work",
        lambda s: asks(s, token(s, RUN), [("POST", f"{JOB}/v1/runtime/acquire-task")]),
        "401",
        denied("no such job"),
    ),
    Attack(
        "a job's path to Flower's control and to people's calls",
        lambda s: asks(
            s,
            token(s, RUN, "operator"),
            [("POST", f"{JOB}/v1/control/start-run"), ("GET", f"{JOB}/v1/flo/audit")],
        ),
        "401",
        denied("no such job"),
    ),
)

"""The private listener: every route needs its credential, whatever the path."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.routing import iter_route_contexts
from flwr.supercore.constant import SUPEREXEC_AUTH_SIGNATURE_HEADER, TASK_TOKEN_HEADER

from flo.server.flower.app_calls import APP_CALLS
from flo.server.flower.superlink import SuperLink
from flo.server.http.tokens import issue
from tests.server.every_route import filled, own_calls
from tests.server.real_coordinator import RealCoordinator, ask

pytestmark = pytest.mark.processes

Route = tuple[str, str]
WRONG = {
    "no credential": {},
    "a wrong token": {"authorization": "Bearer wrong"},
    "an empty token": {"authorization": "Bearer "},
    "a wrong task token": {TASK_TOKEN_HEADER: "wrong"},
    "a wrong token of every kind": {
        "authorization": "Bearer wrong",
        TASK_TOKEN_HEADER: "wrong",
        "x-flwr-account": "admin",
    },
}


@pytest.fixture(scope="module")
def routes(tmp_path_factory: pytest.TempPathFactory) -> list[Route]:
    """Every (method, path) of the embedded Flower app and of FLO's own."""
    flower = SuperLink(superexec_secret=bytes(32)).control
    with own_calls(tmp_path_factory.mktemp("own")) as own:
        found = {
            (method, filled(route.path or ""))
            for app in (flower, *own)
            for route in iter_route_contexts(app.routes)
            for method in route.methods or ()
        }
    return sorted(found | {("POST", path) for path in APP_CALLS})


@pytest.fixture
def token(coordinator: RealCoordinator) -> dict[str, str]:
    text, _ = issue(coordinator.home.open_identity(), "tests", "operator", 600)
    return {"authorization": f"Bearer {text}"}


def _statuses(
    coordinator: RealCoordinator, routes: list[Route], headers: dict[str, str]
) -> Iterator[tuple[Route, int]]:
    with coordinator.connection(coordinator.private_port, coordinator.anonymous()) as connection:
        for method, path in routes:
            yield (method, path), ask(connection, method, path, headers=headers).status


@pytest.mark.parametrize("headers", WRONG.values(), ids=WRONG.keys())
def test_every_route_but_health_wants_a_credential(
    coordinator: RealCoordinator, routes: list[Route], headers: dict[str, str]
) -> None:
    assert len(routes) > 70
    open_routes = {
        route: status for route, status in _statuses(coordinator, routes, headers) if status != 401
    }
    pages = {route: status for route, status in open_routes.items() if route[1][:8] == "/console"}
    assert open_routes.items() - pages.items() == {
        (("GET", "/health"), 204),
        (("HEAD", "/health"), 204),
    }
    streams = {route for route in pages if route[1].endswith("/live")}
    assert {(route[0], route in streams, status) for route, status in pages.items()} == {
        ("GET", False, 303),  # to the form to sign in with
        ("GET", True, 200),  # which says that it is over, and no more
        ("POST", False, 403),  # from no page of ours
    }


@pytest.mark.parametrize(
    "path",
    ["/", "/docs", "/docs/oauth2-redirect", "/openapi.json", "/redoc", "/metrics", "/health/",
     "//health", "/v1/flo/", "/v1/flo/studies/..%2fhealth", "/no/such/path"],
)  # fmt: skip
def test_a_path_that_does_not_exist_says_no_more_than_one_that_does(
    coordinator: RealCoordinator, path: str
) -> None:
    assert coordinator.private("GET", path).status == 401


def test_health_says_204_and_no_more(coordinator: RealCoordinator) -> None:
    answer = coordinator.private("GET", "/health")
    assert (answer.status, answer.body) == (204, b"")
    assert coordinator.private("POST", "/health").status == 401


def test_the_operators_token_opens_the_operators_calls(
    coordinator: RealCoordinator, token: dict[str, str]
) -> None:
    answer = coordinator.private("GET", "/v1/flo/studies", headers=token)
    assert (answer.status, answer.document) == (200, [])


def test_the_operators_token_does_not_open_the_runtime(
    coordinator: RealCoordinator, routes: list[Route], token: dict[str, str]
) -> None:
    runtime = [route for route in routes if route[1].startswith("/v1/runtime/")]
    assert len(runtime) > 15
    assert {status for _, status in _statuses(coordinator, runtime, token)} == {401}


def test_fleet_calls_do_not_exist_here(
    coordinator: RealCoordinator, routes: list[Route], token: dict[str, str]
) -> None:
    fleet = [route for route in routes if route[1].startswith("/v1/fleet/")]
    assert len(fleet) > 10
    assert {status for _, status in _statuses(coordinator, fleet, token)} == {403}


def test_a_forged_superexec_signature_gets_no_task(coordinator: RealCoordinator) -> None:
    headers = {
        SUPEREXEC_AUTH_SIGNATURE_HEADER: "ab" * 32,
        "content-type": "application/protobuf",
    }
    answer = coordinator.private("POST", "/v1/runtime/acquire-task", headers=headers)
    assert answer.status in (401, 403)


@pytest.mark.parametrize(
    "name", ["superexec.secret", "identity.key", "ca.key", "keystore.key", "audit.sqlite"]
)
def test_secrets_are_readable_by_their_owner_only(coordinator: RealCoordinator, name: str) -> None:
    path: Path = coordinator.home.directory / name
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_token_is_in_no_log(coordinator: RealCoordinator, token: dict[str, str]) -> None:
    folder, text = coordinator.home.directory, token["authorization"].removeprefix("Bearer ")
    assert coordinator.private("GET", "/v1/flo/studies", headers=token).status == 200
    for path in [*folder.glob("*.log"), *folder.glob("log/*"), *folder.glob("*.sqlite*")]:
        assert text[-64:].encode() not in path.read_bytes(), path

"""Who may do what on the private listener: the table, route by route, over real sockets."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from fastapi.routing import iter_route_contexts

from flo.documents import canonical
from flo.errors import PolicyError
from flo.server.console.sign_in import CONSOLE, COOKIE
from flo.server.flower.superlink import SuperLink
from flo.server.http.roles import ALLOWED, ROUTES, refuse_forbidden
from flo.server.http.tokens import Role, issue
from tests.builders import HOSPITALS, small_study
from tests.server.every_route import filled, own_calls
from tests.server.real_coordinator import RealCoordinator, ask, serving

Route = tuple[str, str]
ROLES: tuple[Role, ...] = get_args(Role)
UNKNOWN, UNKNOWN_RUN = "0" * 64, "run-0-000000"
HOSPITALS_PATH, STUDIES = "/v1/flo/hospitals", "/v1/flo/studies"
OF_A_PROCESS = ("/v1/runtime/", "/v1/control/")  # no person's token is looked at there


def registered(app: Any) -> set[Route]:
    return {
        (method, route.path or "")
        for route in iter_route_contexts(app.routes)
        for method in route.methods or ()
    }


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> set[Route]:
    """Every route of FLO's own for people: their programs' calls, and the console's pages."""
    with own_calls(tmp_path_factory.mktemp("own")) as apps:
        return set().union(*map(registered, apps))


@pytest.fixture(scope="module")
def flowers() -> set[Route]:
    """Every route of the embedded Flower app but its health."""
    found = registered(SuperLink(superexec_secret=bytes(32)).control)
    return found - {("GET", "/health"), ("HEAD", "/health")}


@pytest.fixture(scope="module")
def coordinator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealCoordinator]:
    """This module's own: what it refuses by the hundred must not crowd out other tests' entries."""
    with serving(tmp_path_factory.mktemp("roles") / "home") as real:
        yield real


@pytest.fixture(scope="module")
def tokens(coordinator: RealCoordinator) -> dict[Role, dict[str, str]]:
    identity = coordinator.home.open_identity()
    return {role: bearer(issue(identity, f"the {role}", role, 3600)[0]) for role in ROLES}


def bearer(text: str) -> dict[str, str]:
    """What a program shows, and a browser."""
    return {"authorization": f"Bearer {text}", "cookie": f"{COOKIE}={text}"}


def asked(
    coordinator: RealCoordinator, routes: set[Route], headers: dict[str, str]
) -> dict[Route, int]:
    """Route -> status, for all of them over one connection."""
    port, anyone = coordinator.private_port, coordinator.anonymous()
    headers = {**headers, "origin": f"https://127.0.0.1:{port}"}
    streams = {(method, path) for method, path in routes if path.endswith("/live")}
    with coordinator.connection(port, anyone) as connection:
        found = {
            (method, path): ask(connection, method, filled(path), headers=headers).status
            for method, path in sorted(routes - streams)
        }
    for method, path in streams:  # they have no end
        with coordinator.connection(port, anyone) as connection:
            connection.request(method, filled(path), headers=headers)
            found[method, path] = connection.getresponse().status
    return found


# -- the table -------------------------------------------------------------------------------------


def test_every_route_is_in_the_table(own: set[Route], flowers: set[Route]) -> None:
    assert own == set(ROUTES)
    assert len(flowers) > 70
    for role in ROLES:
        for method, path in flowers:
            with pytest.raises(PolicyError, match="no such action"):
                refuse_forbidden(role, method, path)


def test_the_table_answers_for_every_role_and_action() -> None:
    assert set(ALLOWED) == {(role, action) for role in ROLES for action in ROUTES.values()}


def test_only_an_operator_changes_anything() -> None:
    changing = {action for (method, _), action in ROUTES.items() if method not in ("GET", "HEAD")}
    changing.remove("check a study")  # and it changes nothing
    changing -= {"carry out a run", "open a job"}  # of which a job's token allows its own
    assert changing == {*("launch a study", "stop a study", "shred a study", "decide on a model")}
    assert {role for role, action in ALLOWED if action in changing and ALLOWED[role, action]} == {
        "operator"
    }


def test_a_viewer_reads_neither_extracts_nor_the_audit_log() -> None:
    viewed = {action for (role, action), yes in ALLOWED.items() if role == "viewer" and yes}
    assert viewed == {"see hospitals", "see studies", "see metrics", "check a study"}


# -- over sockets ----------------------------------------------------------------------------------


@pytest.mark.processes
@pytest.mark.parametrize("role", ROLES)
def test_each_role_gets_what_the_table_says(
    coordinator: RealCoordinator, tokens: dict[Role, dict[str, str]], own: set[Route], role: Role
) -> None:
    statuses = asked(coordinator, own, tokens[role])
    assert {route: status not in (401, 403) for route, status in statuses.items()} == {
        route: ALLOWED[role, action] for route, action in ROUTES.items()
    }
    assert all(status in (200, 303, 400, 401, 403) for status in statuses.values())
    assert (statuses["GET", HOSPITALS_PATH] == 200) == (role not in ("aggregator", "launch"))


@pytest.mark.processes
@pytest.mark.parametrize("role", ROLES)
def test_no_role_reaches_flowers_own_calls(
    coordinator: RealCoordinator,
    tokens: dict[Role, dict[str, str]],
    flowers: set[Route],
    role: Role,
) -> None:
    assert asked(coordinator, flowers, tokens[role]) == {
        (method, path): 401 if path.startswith(OF_A_PROCESS) else 403 for method, path in flowers
    }


OTHER_WAYS = [
    ("GET", "/"),
    ("GET", "/v1/flo"),
    ("GET", "/v1/flo/"),
    ("GET", "/v1/flo/no-such-call"),
    ("GET", "/docs"),
    ("GET", "/openapi.json"),
    ("GET", "/health/"),
    ("POST", "/health"),
    ("HEAD", HOSPITALS_PATH),
    ("OPTIONS", HOSPITALS_PATH),
    ("POST", HOSPITALS_PATH),
    ("DELETE", f"{STUDIES}/{UNKNOWN}"),
    ("PUT", STUDIES),
    ("GET", f"{STUDIES}/"),
    ("GET", f"/{STUDIES}"),
    ("GET", "/V1/FLO/STUDIES"),
    ("GET", f"{STUDIES}/{UNKNOWN[:-1]}"),
    ("GET", f"{STUDIES}/{UNKNOWN}0"),
    ("GET", f"{STUDIES}/{'F' * 64}"),
    ("GET", f"{STUDIES}/{UNKNOWN}/extracts/"),
    ("GET", f"{STUDIES}/{UNKNOWN}/extracts%0a"),
    ("GET", f"{STUDIES}/{UNKNOWN}/events"),
    ("GET", f"{STUDIES}/..%2faudit"),
    ("GET", "/v1/flo/hospitals/../audit"),
    ("GET", "/v1/flo/hospitals%00"),
    ("GET", "/v1/flo/hospitals;/v1/flo/audit"),
]  # fmt: skip


@pytest.mark.processes
@pytest.mark.parametrize(("method", "path"), OTHER_WAYS, ids=str)
def test_an_unknown_path_is_denied(
    coordinator: RealCoordinator, tokens: dict[Role, dict[str, str]], method: str, path: str
) -> None:
    for headers in tokens.values():
        assert coordinator.private(method, path, headers=headers).status == 403


def signed(coordinator: RealCoordinator, **changes: Any) -> dict[str, str]:
    """A token that the coordinator's key signed, whatever it says."""
    identity = coordinator.home.open_identity()
    _, token = issue(identity, "Ada", "operator", 3600)
    document = canonical.encode({**token.model_dump(mode="json"), **changes})
    encoded = base64.urlsafe_b64encode(document).decode()
    return bearer(f"{encoded}.{identity.sign('token', document)}")


@pytest.mark.processes
@pytest.mark.parametrize("role", ["admin", "", "OPERATOR", "operator ", None, ["operator"], 1])
def test_an_unknown_role_in_a_signed_token_is_denied(
    coordinator: RealCoordinator, own: set[Route], role: Any
) -> None:
    assert coordinator.private("GET", STUDIES, headers=signed(coordinator)).status == 200
    statuses = asked(coordinator, own, signed(coordinator, role=role))
    pages = {route for route in own if route[0] == "GET" and route[1].startswith(CONSOLE)}
    streams = {route for route in pages if route[1].endswith("/live")}
    expected = dict.fromkeys(own, 401) | dict.fromkeys(pages, 303)  # to the form to sign in with
    assert statuses == expected | dict.fromkeys(streams, 200)  # which say that it is over


@pytest.mark.processes
def test_a_query_gives_no_other_rights(
    coordinator: RealCoordinator, tokens: dict[Role, dict[str, str]]
) -> None:
    for path in ("/v1/flo/audit?role=auditor", "/v1/flo/audit?path=/v1/flo/hospitals"):
        assert coordinator.private("GET", path, headers=tokens["viewer"]).status == 403


@pytest.mark.processes
def test_a_denied_launch_or_stop_changes_nothing_and_the_log_names_who_did_it(
    coordinator: RealCoordinator, tokens: dict[Role, dict[str, str]], tmp_path: Path
) -> None:
    for name in HOSPITALS:
        coordinator.enrol(tmp_path / name, name)
    study = small_study().canonical_bytes
    statuses = {
        role: coordinator.private("POST", STUDIES, body=study, headers=headers).status
        for role, headers in tokens.items()
        if role != "operator"
    }
    assert statuses == {"viewer": 403, "auditor": 403, "aggregator": 403, "launch": 403}
    assert coordinator.private("GET", STUDIES, headers=tokens["operator"]).document == []
    answer = coordinator.private("POST", STUDIES, body=study, headers=tokens["operator"])
    assert answer.status == 200
    stop = f"{STUDIES}/{answer.document['digest']}/stop"
    for role in ("viewer", "auditor"):
        assert coordinator.private("POST", stop, headers=tokens[role]).status == 403
    (seen,) = coordinator.private("GET", STUDIES, headers=tokens["viewer"]).document
    assert seen["status"] == "offered"
    assert coordinator.private("POST", stop, headers=tokens["operator"]).status == 200
    (seen,) = coordinator.private("GET", STUDIES, headers=tokens["viewer"]).document
    assert seen["status"] == "stopped"
    log = coordinator.private("GET", "/v1/flo/audit", headers=tokens["auditor"]).document
    by = {entry["kind"]: entry["facts"].get("by") for entry in log["entries"]}
    assert (by["offered"], by["stop-requested"]) == ("the operator", "the operator")
    assert by["audit-log-exported"] == "the auditor"

"""Attacks on the hospital listener's list of paths, and on HTTP itself."""

from __future__ import annotations

from collections.abc import Iterable

from fastapi.routing import iter_route_contexts

from flo.server.flower.control import CONTROL_PREFIX
from flo.server.flower.superlink import SuperLink
from flo.server.http.roles import ROUTES
from tests.attacks.attack import Attack, connection, request
from tests.attacks.on_the_handshake import CUT_OFF, said
from tests.attacks.stage import Stage, status


def asks(stage: Stage, *routes: tuple[str, str]) -> Iterable[str]:
    for method, path in routes:
        yield status(stage.coordinator.outside(method, path, stage.client("north"), body=b"{}"))


def control_routes() -> Iterable[tuple[str, str]]:
    """Every control call that Flower has."""
    flower = SuperLink(superexec_secret=bytes(32)).control
    paths = {str(route.path) for route in iter_route_contexts(flower.routes)}
    found = sorted(path for path in paths if path.startswith(CONTROL_PREFIX))
    assert len(found) > 30
    return [("POST", path) for path in found]


def operator_routes() -> Iterable[tuple[str, str]]:
    return [
        (
            method,
            path.replace("{digest}", "0" * 64)
            .replace("{run}", "run-0-000000")
            .replace("{job}", "flo-run-0-000000-1"),
        )
        for method, path in ROUTES
    ]


TRAVERSALS = (
    "/v1/site/../control/start-run",
    "/v1/site/%2e%2e/flo/studies",
    "/v1/fleet/pull-messages/..%2f..%2fflo%2faudit",
    "/../../../../etc/passwd",
    "//v1/site/studies",
)
HEADERS = b"GET / HTTP/1.1\r\nhost: flo\r\n" + b"x: y\r\n" * 200_000
QUEUED = b"POST /v1/site/heads HTTP/1.1\r\nhost: flo\r\ncontent-length: 2\r\n\r\n{}" * 1000
SMUGGLED = (
    b"POST /v1/site/heads HTTP/1.1\r\nhost: flo\r\ncontent-length: 2\r\n"
    b"transfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"
)

ATTACKS = (
    Attack(
        "a path that is not on the list",
        lambda s: asks(s, ("POST", "/v1/fleet/get-fab")),
        "404",
        request("/v1/fleet/get-fab"),
    ),
    Attack(
        "GET where a hospital posts",
        lambda s: asks(s, ("GET", "/v1/site/studies")),
        "404",
        request("/v1/site/studies"),
    ),
    Attack(
        "paths that climb out of theirs",
        lambda s: asks(s, *(("POST", path) for path in TRAVERSALS)),
        "404",
        request("this path is not open to hospitals"),
    ),
    Attack(
        "every operator's call at the hospitals' port",
        lambda s: asks(s, *operator_routes()),
        "404",
        request("this path is not open to hospitals"),
    ),
    Attack(
        "every control call of Flower's at the hospitals' port",
        lambda s: asks(s, *control_routes()),
        "404",
        request("/v1/control/"),
    ),
    Attack(
        "headers without end to the hospitals' port",
        lambda s: [said(s.coordinator.port, s.client("north"), HEADERS)],
        CUT_OFF,
        connection("more than 65536 bytes"),
    ),
    Attack(
        "headers without end to the private port",
        lambda s: [said(s.coordinator.private_port, s.coordinator.anonymous(), HEADERS)],
        CUT_OFF,
        connection("more than 65536 bytes"),
    ),
    Attack(
        "requests in a queue, before the first one is answered",
        lambda s: [said(s.coordinator.port, s.client("north"), QUEUED)],
        CUT_OFF,
        connection("requests wait on one connection"),
    ),
    Attack(
        "a request with two lengths, to smuggle another in",
        lambda s: [said(s.coordinator.port, s.client("north"), SMUGGLED)],
        "400",
        connection("invalid HTTP"),
    ),
)

"""Attacks on the hospital listener: wrong certificates, wrong protocols, wrong paths."""

from __future__ import annotations

import base64
import socket
import ssl
from collections.abc import Iterable

from cryptography.hazmat.primitives import serialization
from fastapi.routing import iter_route_contexts

from flo.clients.enrol import request as signing_request
from flo.identity import Identity
from flo.keystore import LocalKeyStore
from flo.server.authority import Authority
from flo.server.roles import ROUTES
from flo.server.site_api import SITE_CALLS
from flo.server.superlink import CONTROL_PREFIX, PUBLIC_KEY_HEADER, PULL_PATH, SuperLink
from flo.tls import show
from tests.attacks.attack import LOG, NOWHERE, Attack, Logged, call, request
from tests.attacks.certificates import request_with_anothers_key, shows
from tests.attacks.stage import Stage, status

CUT_OFF = "connection closed"
_QUESTION = b"POST /v1/site/studies HTTP/1.1\r\nhost: flo\r\ncontent-length: 2\r\n\r\n{}"


# -- before the first byte of HTTP ---------------------------------------------------------------


def said(port: int, client: ssl.SSLContext | None, data: bytes = _QUESTION) -> str:
    """The status that raw bytes are answered with, or that the connection was closed."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=10) as plain:
            connection = client.wrap_socket(plain, server_hostname="127.0.0.1") if client else plain
            with connection:
                connection.sendall(data)
                answer = connection.recv(100)
    except (ssl.SSLError, ConnectionError):
        return CUT_OFF
    return answer.split()[1].decode() if answer else CUT_OFF


def old_tls(stage: Stage) -> ssl.SSLContext:
    """North with its good certificate, and nothing newer than TLS 1.2."""
    client, home = stage.coordinator.anonymous(), stage.homes["north"]
    show(client, (home.directory / "certificate.pem").read_bytes(), home.identity().pem())
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    return client


def of_another_authority(stage: Stage) -> ssl.SSLContext:
    folder = stage.folder / "another-authority"
    folder.mkdir()
    other = Authority.create(folder, LocalKeyStore(folder / "keystore.key"))
    return stage.coordinator.issued("north", other)


def of_the_coordinator(stage: Stage) -> ssl.SSLContext:
    home = stage.coordinator.home
    return stage.coordinator.shows(home.certificate_path.read_bytes(), home.identity().pem())


def outside(stage: Stage, client: ssl.SSLContext | None) -> Iterable[str]:
    yield said(stage.coordinator.port, client)


def inside(stage: Stage, client: ssl.SSLContext | None) -> Iterable[str]:
    yield said(stage.coordinator.private_port, client)


# -- certificates that open something, but not this ----------------------------------------------


def key_header(identity: Identity) -> str:
    pem = identity.key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return base64.b64encode(pem).decode()


def pulls_as(stage: Stage, *names: str) -> Iterable[str]:
    """North pulls messages under the node keys of these hospitals."""
    with stage.coordinator.connection(stage.coordinator.port, stage.client("north")) as connection:
        connection.putrequest("POST", PULL_PATH)
        for name in names:
            connection.putheader(PUBLIC_KEY_HEADER, key_header(stage.homes[name].identity()))
        connection.putheader("content-length", "0")
        connection.endheaders()
        yield str(connection.getresponse().status)


def with_invitation(stage: Stage, invitation: bytes, *calls: str) -> Iterable[str]:
    """The bootstrap certificate of an invitation at these calls."""
    client = stage.coordinator.invited(invitation)
    for name in calls:
        yield status(stage.coordinator.outside("POST", f"/v1/{name}", client, body=b"{}"))


def enrols(stage: Stage, wish: str) -> Iterable[str]:
    """The guest's invitation, for whatever request it is shown with."""
    yield stage.call("enrol", {"request": wish}, stage.coordinator.invited(stage.invitation))


def renews(stage: Stage, wish: str) -> Iterable[str]:
    yield stage.call("renew", {"request": wish})


def identity(stage: Stage, name: str) -> Identity:
    return stage.homes[name].identity()


OTHER_CALLS = (
    *(f"site/{path.rpartition('/')[2]}" for path in SITE_CALLS if path != "/v1/site/enrol"),
    *("fleet/activate-node", "fleet/pull-messages", "fleet/push-object"),
)


# -- paths ---------------------------------------------------------------------------------------


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
    return [(method, path.replace("{digest}", "0" * 64)) for method, path in ROUTES]


TRAVERSALS = (
    "/v1/site/../control/start-run",
    "/v1/site/%2e%2e/flo/studies",
    "/v1/fleet/pull-messages/..%2f..%2fflo%2faudit",
    "/../../../../etc/passwd",
    "//v1/site/studies",
)
SMUGGLED = (
    b"POST /v1/site/heads HTTP/1.1\r\nhost: flo\r\ncontent-length: 2\r\n"
    b"transfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"
)

ATTACKS = (
    Attack(
        "a certificate of another authority",
        lambda s: outside(s, of_another_authority(s)),
        CUT_OFF,
        NOWHERE,
    ),
    Attack(
        "a self-signed certificate",
        lambda s: outside(s, shows(s.coordinator, "north", by_itself=True)),
        CUT_OFF,
        NOWHERE,
    ),
    Attack(
        "an expired certificate",
        lambda s: outside(s, shows(s.coordinator, "north", days=(-9, -1))),
        CUT_OFF,
        NOWHERE,
    ),
    Attack(
        "a certificate that is not valid yet",
        lambda s: outside(s, shows(s.coordinator, "north", days=(1, 9))),
        CUT_OFF,
        NOWHERE,
    ),
    Attack(
        "an invitation that has expired, at the coordinator",
        lambda s: outside(s, shows(s.coordinator, "guest", kind="bootstrap", days=(-9, -1))),
        CUT_OFF,
        NOWHERE,
    ),
    Attack("no certificate", lambda s: outside(s, s.coordinator.anonymous()), CUT_OFF, NOWHERE),
    Attack(
        "the coordinator's own certificate as a hospital's",
        lambda s: outside(s, of_the_coordinator(s)),
        CUT_OFF,
        NOWHERE,
    ),
    Attack("TLS 1.2 to the hospitals' port", lambda s: outside(s, old_tls(s)), CUT_OFF, NOWHERE),
    Attack("TLS 1.2 to the private port", lambda s: inside(s, old_tls(s)), CUT_OFF, NOWHERE),
    Attack("HTTP without TLS to the hospitals' port", lambda s: outside(s, None), CUT_OFF, NOWHERE),
    Attack("HTTP without TLS to the private port", lambda s: inside(s, None), CUT_OFF, NOWHERE),
    Attack(
        "a certificate from a leaked authority's key, never enrolled",
        lambda s: outside(s, shows(s.coordinator, "north")),
        "403",
        request("north: not the enrolled certificate"),
    ),
    Attack(
        "the certificate of a revoked hospital",
        lambda s: [s.call("studies", {}, s.client("gone"))],
        "403",
        request("gone: the certificate is revoked"),
    ),
    Attack(
        "the certificate of a hospital that left",
        lambda s: [s.call("studies", {}, s.left)],
        "403",
        request("left: the certificate is revoked"),
    ),
    Attack(
        "a certificate from before its renewal",
        lambda s: [s.call("studies", {}, s.before_renewal)],
        "403",
        request("renewed: not the enrolled certificate"),
    ),
    Attack(
        "another hospital's node key in a Fleet call",
        lambda s: pulls_as(s, "south"),
        "403",
        request("the node key is not the certificate's key"),
    ),
    Attack(
        "two node keys in a Fleet call, one of them the certificate's",
        lambda s: pulls_as(s, "north", "south"),
        "403",
        request("the node key is not the certificate's key"),
    ),
    Attack(
        "an invitation that was used",
        lambda s: with_invitation(s, s.used_invitation, "site/enrol"),
        "403",
        request("this invitation opens enrolment only, once"),
    ),
    Attack(
        "an invitation at every other call",
        lambda s: with_invitation(s, s.invitation, *OTHER_CALLS),
        "403",
        request("this invitation opens enrolment only, once"),
    ),
    Attack(
        "enrolment in another hospital's name",
        lambda s: enrols(s, signing_request("north", Identity.new())),
        "403",
        call("not in the name of guest"),
    ),
    Attack(
        "enrolment with a key that another hospital holds",
        lambda s: enrols(
            s, request_with_anothers_key("guest", Identity.new(), identity(s, "north"))
        ),
        "403",
        call("not signed by its own key"),
    ),
    Attack(
        "enrolment of one key for two hospitals",
        lambda s: enrols(s, signing_request("guest", identity(s, "north"))),
        "403",
        call("this key is enrolled for another hospital"),
    ),
    Attack(
        "a renewal with another key",
        lambda s: renews(s, signing_request("north", Identity.new())),
        "403",
        call("a renewal is for the enrolled key"),
    ),
    Attack(
        "a renewal with another hospital's recorded request",
        lambda s: renews(s, signing_request("south", identity(s, "south"))),
        "403",
        call("not in the name of north"),
    ),
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
        request("not on the list"),
    ),
    Attack(
        "every operator's call at the hospitals' port",
        lambda s: asks(s, *operator_routes()),
        "404",
        request("/v1/flo/"),
    ),
    Attack(
        "every control call of Flower's at the hospitals' port",
        lambda s: asks(s, *control_routes()),
        "404",
        request("/v1/control/"),
    ),
    Attack(
        "a request with two lengths, to smuggle another in",
        lambda s: [said(s.coordinator.port, s.client("north"), SMUGGLED)],
        "400",
        Logged(LOG, "Invalid HTTP request received"),
    ),
)

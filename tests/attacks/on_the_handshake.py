"""Attacks on both listeners before the first byte of HTTP: wrong certificates, wrong protocols."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterable

from flo.keys.keystore import LocalKeyStore
from flo.keys.tls import load_certificate
from flo.server.keys.authority import Authority
from tests.attacks.attack import Attack, connection
from tests.attacks.certificates import shows
from tests.attacks.stage import Stage

CUT_OFF = "connection closed"
_QUESTION = b"POST /v1/site/studies HTTP/1.1\r\nhost: flo\r\ncontent-length: 2\r\n\r\n{}"


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
    load_certificate(
        client, (home.directory / "certificate.pem").read_bytes(), home.open_identity().pem()
    )
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    return client


def of_another_authority(stage: Stage) -> ssl.SSLContext:
    folder = stage.folder / "another-authority"
    folder.mkdir()
    other = Authority.create(folder, LocalKeyStore(folder / "keystore.key"))
    return stage.coordinator.issued("north", other)


def of_the_coordinator(stage: Stage) -> ssl.SSLContext:
    home = stage.coordinator.home
    return stage.coordinator.shows(
        home.certificate_path.read_bytes(), home.open_tls_identity().pem()
    )


def outside(stage: Stage, client: ssl.SSLContext | None) -> Iterable[str]:
    yield said(stage.coordinator.port, client)


def inside(stage: Stage, client: ssl.SSLContext | None) -> Iterable[str]:
    yield said(stage.coordinator.private_port, client)


ATTACKS = (
    Attack(
        "a certificate of another authority",
        lambda s: outside(s, of_another_authority(s)),
        CUT_OFF,
        connection("unable to get local issuer"),
    ),
    Attack(
        "a self-signed certificate",
        lambda s: outside(s, shows(s.coordinator, "north", by_itself=True)),
        CUT_OFF,
        connection("self-signed"),
    ),
    Attack(
        "an expired certificate",
        lambda s: outside(s, shows(s.coordinator, "north", days=(-9, -1))),
        CUT_OFF,
        connection("has expired"),
    ),
    Attack(
        "a certificate that is not valid yet",
        lambda s: outside(s, shows(s.coordinator, "north", days=(1, 9))),
        CUT_OFF,
        connection("not yet valid"),
    ),
    Attack(
        "an invitation that has expired, at the coordinator",
        lambda s: outside(s, shows(s.coordinator, "guest", kind="bootstrap", days=(-9, -1))),
        CUT_OFF,
        connection("has expired"),
    ),
    Attack(
        "no certificate",
        lambda s: outside(s, s.coordinator.anonymous()),
        CUT_OFF,
        connection("peer did not return a certificate"),
    ),
    Attack(
        "the coordinator's own certificate as a hospital's",
        lambda s: outside(s, of_the_coordinator(s)),
        CUT_OFF,
        connection("purpose"),
    ),
    Attack(
        "TLS 1.2 to the hospitals' port",
        lambda s: outside(s, old_tls(s)),
        CUT_OFF,
        connection("unsupported protocol"),
    ),
    Attack(
        "TLS 1.2 to the private port",
        lambda s: inside(s, old_tls(s)),
        CUT_OFF,
        connection("unsupported protocol"),
    ),
    Attack(
        "HTTP without TLS to the hospitals' port",
        lambda s: outside(s, None),
        CUT_OFF,
        connection("http request"),
    ),
    Attack(
        "HTTP without TLS to the private port",
        lambda s: inside(s, None),
        CUT_OFF,
        connection("http request"),
    ),
)

"""Whom TLS refuses: entered in the audit log, and nobody else is kept waiting."""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from flo.keys.keystore import LocalKeyStore
from flo.server.keys.authority import Authority
from tests.server.real_coordinator import RealCoordinator, serving

pytestmark = pytest.mark.processes


@pytest.fixture(scope="module")
def coordinator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealCoordinator]:
    with serving(tmp_path_factory.mktemp("handshakes") / "coordinator") as real:
        yield real


def entered(coordinator: RealCoordinator) -> list[dict[str, Any]]:
    with closing(coordinator.home.open_audit_log()) as log:
        return [entry.facts for entry in log.entries() if entry.kind == "refused-connection"]


def knock(port: int, context: ssl.SSLContext) -> None:
    """With TLS 1.3 a client learns only from its first read that its certificate was refused."""
    with (
        contextlib.suppress(ssl.SSLError, ConnectionError),
        closing(
            http.client.HTTPSConnection("localhost", port, context=context, timeout=5)
        ) as connection,
    ):
        connection.request("POST", "/v1/site/studies", body=b"{}")
        raise AssertionError(f"answered {connection.getresponse().status}")


def another_ca(coordinator: RealCoordinator, folder: Path) -> ssl.SSLContext:
    folder.mkdir()
    return coordinator.issued("north", Authority.create(folder, LocalKeyStore(folder / "key")))


def old_tls(coordinator: RealCoordinator, _: Path) -> ssl.SSLContext:
    context = coordinator.anonymous()
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_2
    return context


@pytest.mark.parametrize(
    ("context", "why"),
    [
        (another_ca, "unable to get local issuer certificate"),
        (old_tls, "unsupported protocol"),
        (lambda coordinator, _: coordinator.anonymous(), "peer did not return a certificate"),
    ],
    ids=["another CA", "TLS 1.2", "no certificate"],
)
def test_a_handshake_that_fails_is_entered_with_its_reason(
    coordinator: RealCoordinator,
    tmp_path: Path,
    context: Callable[[RealCoordinator, Path], ssl.SSLContext],
    why: str,
) -> None:
    before = len(entered(coordinator))
    knock(coordinator.port, context(coordinator, tmp_path / "other"))
    end = time.monotonic() + 10
    while len(entered(coordinator)) == before and time.monotonic() < end:
        time.sleep(0.05)
    facts = entered(coordinator)[before:]
    assert facts == [{"listener": "hospitals", "address": "127.0.0.1", "why": facts[0]["why"]}]
    assert why in facts[0]["why"]


@pytest.mark.parametrize("private", [False, True], ids=["hospitals", "operators"])
def test_plain_http_is_entered_too(coordinator: RealCoordinator, private: bool) -> None:
    before = len(entered(coordinator))
    port = coordinator.private_port if private else coordinator.port
    with socket.create_connection(("localhost", port), timeout=5) as plain:
        plain.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert plain.recv(100)[:4] != b"HTTP"
    end = time.monotonic() + 10
    while len(entered(coordinator)) == before and time.monotonic() < end:
        time.sleep(0.05)
    (facts,) = entered(coordinator)[before:]
    assert facts["listener"] == ("operators" if private else "hospitals")
    assert facts["why"] == "http request"


def test_who_says_nothing_keeps_nobody_waiting(coordinator: RealCoordinator) -> None:
    with contextlib.ExitStack() as silent:
        for _ in range(50):
            silent.enter_context(socket.create_connection(("localhost", coordinator.private_port)))
        began = time.monotonic()
        assert coordinator.private("GET", "/health").status == 204
        assert time.monotonic() - began < 5


@pytest.mark.slow
def test_who_never_ends_a_request_is_cut_off_in_time(coordinator: RealCoordinator) -> None:
    before, began = len(entered(coordinator)), time.monotonic()
    with (
        socket.create_connection(("localhost", coordinator.private_port), timeout=30) as raw,
        coordinator.anonymous().wrap_socket(raw, server_hostname="localhost") as tls,
    ):
        tls.sendall(b"GET /health HTTP/1.1\r\nHost: ")
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            assert tls.recv(100) == b""
    assert 5 < time.monotonic() - began < 20
    end = time.monotonic() + 10
    while len(entered(coordinator)) == before and time.monotonic() < end:
        time.sleep(0.05)
    (facts,) = entered(coordinator)[before:]
    assert facts["why"] == "no complete headers in 10 seconds"

"""A real coordinator for tests: its own process, TLS on loopback, and every kind of client."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization

from flo.clients.connection.coordinator_api import client_context
from flo.clients.connection.enrolment import enrol
from flo.clients.home.site_home import SiteHome
from flo.keys.identity import Identity
from flo.server.home.coordinator_home import CoordinatorConfig, CoordinatorHome
from flo.server.keys.authority import Authority
from flo.server.maintenance.invitations import invite
from flo.storage.files import write_private
from tests.builders import make_site
from tests.forked import Forked
from tests.ports import free_ports

START_SECONDS = 120.0


@dataclass(frozen=True)
class Answer:
    status: int
    body: bytes

    @property
    def document(self) -> Any:
        return json.loads(self.body)


_SERVE = """
import sys
from flo.cli import main
sys.argv[1:1] = ["coordinator", "serve", "--home"]
main()
"""


class RealCoordinator:
    """``flo coordinator serve`` in a process group of its own, with free ports.

    ``before``: Python that its process runs first, to see within seconds what takes hours or needs
    a small machine.
    """

    def __init__(self, home: CoordinatorHome, before: str = "") -> None:
        self.home = home
        self.port, self.private_port = home.read_config().port, home.read_config().private_port
        self._log = (home.directory / "serve.log").open("ab")
        self._process = self._run(before)

    def _run(self, before: str) -> Forked | subprocess.Popen[bytes]:
        folder = str(self.home.directory)
        if not before:
            return Forked("flo.cli", "coordinator", "serve", "--home", folder, log=self._log)
        return subprocess.Popen(
            [sys.executable, "-c", f"{before}\n{_SERVE}", folder],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait_until_ready(self) -> None:
        self.wait_until_served(while_=lambda: self._process.poll() is None)

    def wait_until_served(self, *, while_: Callable[[], bool] = lambda: True) -> None:
        """By whatever process: it answers."""
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end:
            with contextlib.suppress(OSError):
                if self.private("GET", "/health").status == 204:
                    return
            if not while_():
                break
            time.sleep(0.05)
        raise AssertionError((self.home.directory / "serve.log").read_text())

    def stop(self) -> None:
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=10)
                break
        self._log.close()

    # -- asking ----------------------------------------------------------------------------------

    def outside(
        self,
        method: str,
        path: str,
        context: ssl.SSLContext,
        *,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """One request to the hospital listener, the path sent as it is."""
        with self.connection(self.port, context) as connection:
            return ask(connection, method, path, body=body, headers=headers)

    def private(
        self,
        method: str,
        path: str,
        *,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """One request to the private listener."""
        with self.connection(self.private_port, self.anonymous()) as connection:
            return ask(connection, method, path, body=body, headers=headers)

    @contextlib.contextmanager
    def connection(
        self, port: int, context: ssl.SSLContext
    ) -> Iterator[http.client.HTTPSConnection]:
        with contextlib.closing(
            http.client.HTTPSConnection("127.0.0.1", port, context=context, timeout=10)
        ) as connection:
            yield connection

    # -- who asks --------------------------------------------------------------------------------

    def anonymous(self) -> ssl.SSLContext:
        """Trusts this coordinator and shows no certificate."""
        return ssl.create_default_context(cafile=str(self.home.ca_path))

    def site(self, home: SiteHome) -> ssl.SSLContext:
        """Shows an enrolled site's certificate."""
        return self.shows(
            (home.directory / "certificate.pem").read_bytes(), home.open_identity().pem()
        )

    def issued(self, name: str, authority: Authority | None = None) -> ssl.SSLContext:
        """Shows a fresh site certificate in this name, never enrolled, of this or another CA."""
        identity = Identity.new()
        pem, _ = (authority or self.home.open_authority()).issue_client(
            name, "site", identity.key.public_key()
        )
        return self.shows(pem, identity.pem())

    def invited(self, invitation: bytes) -> ssl.SSLContext:
        """Shows the bootstrap certificate of an invitation."""
        document = json.loads(invitation)
        return self.shows(document["certificate"].encode(), document["key"].encode())

    def shows(self, certificate: bytes, key: bytes) -> ssl.SSLContext:
        return client_context(self.home.ca_path.read_text(), certificate, key)

    def enrol(self, folder: Path, name: str) -> SiteHome:
        """A new site, enrolled as people do it.

        Its keys are new, too: this coordinator may serve several tests, and remembers ledgers.
        """
        home = make_site(folder, name, copied=False)
        self.admit(home)
        return home

    def admit(self, site: SiteHome) -> None:
        """Invite and enrol a site that has no coordinator yet."""
        invitation = site.directory.parent / "invitation.json"
        write_private(invitation, invite(self.home, site.read_config().hospital))
        enrol(site, invitation)


@contextlib.contextmanager
def served(real: RealCoordinator) -> Iterator[RealCoordinator]:
    """This coordinator from when it answers on, stopped at the end."""
    try:
        real.wait_until_ready()
        yield real
    finally:
        real.stop()


@contextlib.contextmanager
def serving(folder: Path, before: str = "") -> Iterator[RealCoordinator]:
    """A new coordinator in this folder."""
    with served(RealCoordinator(new_home(folder), before)) as real:
        yield real


def key_header(site: SiteHome) -> str:
    """What Flower's calls show of the site's key, in the header of this name."""
    pem = (
        site.open_identity()
        .key.public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    return base64.b64encode(pem).decode()


def kinds(home: CoordinatorHome) -> list[str]:
    """Of its audit log's entries, in order."""
    with contextlib.closing(home.open_audit_log()) as log:
        return [entry.kind for entry in log.entries()]


def ask(
    connection: http.client.HTTPSConnection,
    method: str,
    path: str,
    *,
    body: bytes = b"",
    headers: Mapping[str, str] | None = None,
) -> Answer:
    connection.request(method, path, body=body, headers=dict(headers or {}))
    response = connection.getresponse()
    return Answer(response.status, response.read())


def new_home(folder: Path) -> CoordinatorHome:
    """A coordinator's folder with two free ports."""
    port, private_port = free_ports(2)
    return CoordinatorHome.create(folder, CoordinatorConfig(port=port, private_port=private_port))

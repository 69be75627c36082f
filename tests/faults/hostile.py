"""A hospital that is enrolled and hostile, as a process: all that it can do at once.

    python -m tests.faults.hostile SITE PORT STUDY SECONDS

SITE: its folder. PORT: of the coordinator here. STUDY: a file of a study that names it. Prints how
often it did what, and how it was answered, as JSON.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import ssl
import sys
import threading
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

from flo.clients.connection.enrolment import context_of
from flo.clients.home.site_home import SiteHome
from flo.documents import canonical

_CONNECTIONS, _PATIENCE = 400, 20.0  # seconds
_MIB = 1 << 20
_REPORTS = "/v1/site/reports"


class Hostile:
    def __init__(self, home: SiteHome, port: int, study: str) -> None:
        self._port, self._context = port, context_of(home)
        self._context.check_hostname = False
        self._over = threading.Event()
        self.did = Counter[str]()
        junk = _junk(home, study)
        self._works: dict[str, Callable[[str], None]] = {
            "arrays in arrays": partial(self._post, _REPORTS, b"[" * (4 * _MIB)),
            "many values": partial(self._post, _REPORTS, b"[" + b"[]," * (1 * _MIB) + b"0]"),
            "extracts that are none": partial(self._post, _REPORTS, junk),
            "refused calls": partial(self._post, "/v1/site/models", b'{"study": 7}'),
            "paths that are not there": partial(self._post, "/v1/site/nothing", b"{}"),
            "connections that stay": self._hold,
            "requests without an end": self._trickle,
        }

    def attack(self, seconds: float) -> None:
        """Everything at once, for so long."""
        threads = [
            threading.Thread(target=self._again, args=(name,), daemon=True) for name in self._works
        ]
        for thread in threads:
            thread.start()
        self._over.wait(seconds)
        self._over.set()
        for thread in threads:
            thread.join(_PATIENCE)

    def _again(self, name: str) -> None:
        while not self._over.wait(0.02):
            try:
                self._works[name](name)
            except (OSError, ssl.SSLError) as error:
                self.did[f"{name}: {type(error).__name__}"] += 1

    def _connected(self) -> ssl.SSLSocket:
        raw = socket.create_connection(("127.0.0.1", self._port), timeout=_PATIENCE)
        return self._context.wrap_socket(raw)

    def _post(self, path: str, body: bytes, name: str) -> None:
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        with self._connected() as connection:
            connection.sendall(head.encode() + body)
            self.did[f"{name}: {connection.recv(65_536)[9:12].decode()}"] += 1

    def _hold(self, name: str) -> None:
        with contextlib.ExitStack() as stack:
            for _ in range(_CONNECTIONS):
                stack.enter_context(self._connected())
                self.did[name] += 1

    def _trickle(self, name: str) -> None:
        head = b"POST /v1/site/heads HTTP/1.1\r\nHost: x\r\nContent-Length: 999\r\n\r\n"
        with self._connected() as connection:
            connection.sendall(head)
            self.did[name] += 1
            while not self._over.wait(0.5):
                connection.sendall(b" ")


def _junk(home: SiteHome, study: str) -> bytes:
    """An extract that this hospital signed, as large as one may be, of rows that are none."""
    rows = [{"public": {"kind": "release"}, "private": "x" * 80}] * 15_000
    body = {"hospital": home.read_config().hospital, "study": study, "rows": rows}
    signature = home.open_identity().sign("extract", canonical.encode(body))
    extract = canonical.encode({"body": body, "signature": signature}).decode()
    return json.dumps({"study": canonical.digest(study.encode()), "extract": extract}).encode()


def main(site: str, port: str, study: str, seconds: str) -> None:
    os.nice(10)  # it shares the machine with those whom it attacks
    hostile = Hostile(SiteHome.open(Path(site)), int(port), Path(study).read_text())
    hostile.attack(float(seconds))
    print(json.dumps(hostile.did))  # noqa: T201


if __name__ == "__main__":
    main(*sys.argv[1:])

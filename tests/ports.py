"""Ports for servers that tests start."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import socket
from collections.abc import Iterator


def free_ports(count: int) -> list[int]:
    """Return ports that no program listens on now, and that no other worker's test asks for."""
    found: list[int] = []
    while len(found) < count:
        port = next(_PORTS)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            found.append(port)
    return found


def free_port() -> int:
    return free_ports(1)[0]


def _ports() -> Iterator[int]:
    """Below those that the kernel gives to connections, and of each worker's own: whoever comes
    back to a port must find it as it was left."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    own = range(16_000 + worker * 4_000, 20_000 + worker * 4_000)
    start = random.randrange(len(own))
    yield from itertools.cycle([*own[start:], *own[:start]])


_PORTS = _ports()

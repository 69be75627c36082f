"""A front that has no worker says so and ends, instead of waiting for ever."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from pathlib import Path

import pytest

from flo.clients.serving import front
from flo.clients.serving.front import Sockets
from flo.clients.serving.settings import read_serve_config
from flo.errors import NetworkError
from tests.clients.serving.served_site import served_site


def test_a_front_without_workers_ends_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = served_site(tmp_path / "north")
    monkeypatch.setattr(front, "_WORKER_SECONDS", 0.1)
    with contextlib.ExitStack() as stack:
        ours, theirs = socket.socketpair()
        tls = socket.socket()
        local = socket.socket()
        for one in (ours, theirs, tls, local):
            stack.enter_context(one)
        run = front._run(
            home, read_serve_config(home.directory), theirs, Sockets(tls, local, metrics=None)
        )
        with pytest.raises(NetworkError, match="no worker could be used within") as refused:
            asyncio.run(run)
    assert "flo doctor" in refused.value.hint

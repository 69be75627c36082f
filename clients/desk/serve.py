"""Serve the desk on one loopback port until the command ends."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from types import FrameType
from typing import ClassVar

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from flo.clients.desk.access import DeskAuth
from flo.clients.desk.context import DeskContext
from flo.clients.desk.routes import desk_app
from flo.clients.home.site_home import SiteHome
from flo.errors import NetworkError
from flo.pages.live import LiveUpdates

_HEAD_SECONDS, _MOST_WAITING = 5.0, 100


class _Protocol(HttpToolsProtocol):
    """Closes connections that send no request, so that they cannot block other users."""

    waiting: ClassVar[list[_Protocol]] = []

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.waiting.append(self)
        asyncio.get_running_loop().call_later(_HEAD_SECONDS, self._give_up)
        if len(self.waiting) > _MOST_WAITING:
            self.waiting[0]._give_up()

    def on_headers_complete(self) -> None:
        self._asked()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._asked()
        super().connection_lost(exc)

    def _asked(self) -> None:
        if self in self.waiting:
            self.waiting.remove(self)

    def _give_up(self) -> None:
        if self in self.waiting:
            self.waiting.remove(self)
            self.transport.abort()


class _Server(uvicorn.Server):
    """Ends open streams on a signal, so that they do not delay the shutdown."""

    def __init__(self, config: uvicorn.Config, live: LiveUpdates) -> None:
        super().__init__(config)
        self._live = live

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        asyncio.get_event_loop().call_soon_threadsafe(self._live.closing.set)
        super().handle_exit(sig, frame)


def serve_desk(home: SiteHome, port: int, show_link: Callable[[str], None]) -> None:
    """Serve until SIGINT or SIGTERM. ``port``: 0 for any free port.

    ``show_link``: called with the link that opens the desk, and with a new one after each use.

    Raises:
        NetworkError: the port is in use.
    """
    try:
        bound = socket.create_server(("127.0.0.1", port))
    except OSError as error:
        raise NetworkError(
            f"port {port} on 127.0.0.1 cannot be opened ({error.strerror})",
            hint="choose another --port, or leave the option out",
        ) from error
    guard = DeskAuth(bound.getsockname()[1], show_link)
    context = DeskContext(home, guard.base)
    guard.inside = desk_app(context)
    config = uvicorn.Config(
        guard,
        http=_Protocol,
        ws="none",
        lifespan="off",
        server_header=False,
        proxy_headers=False,
        access_log=False,
        log_config=None,
        timeout_graceful_shutdown=2,
    )
    guard.offer_link()
    _Server(config, context.live).run([bound])

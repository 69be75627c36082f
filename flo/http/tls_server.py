"""A TLS listener: accepts connections, does their handshakes, and limits their number.

``flo.http.protocol`` limits what one connection may do.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import resource
import socket
import ssl
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from flo.errors import NetworkError
from flo.http.connection_rate import ConnectionRate
from flo.http.presence import ConnectionTracker
from flo.http.protocol import PeerProtocol, Refuse
from flo.keys.tls import load_certificate

log = logging.getLogger("flo.http.tls_server")

MOST_CONNECTIONS, _OTHER_FILES = 4096, 192  # an agent has four
_HANDSHAKE_SECONDS, _ACCEPT_AGAIN_SECONDS = 10.0, 0.5


class Listener(uvicorn.Server):
    """uvicorn server that accepts connections itself, to report failed TLS handshakes.

    uvicorn leaves accepting to asyncio, which discards a failed handshake. ``on_refused`` is called
    in a thread with the client's address and the reason: OpenSSL's error, or a limit that is
    reached.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        on_refused: Refuse,
        most_of_one: int = MOST_CONNECTIONS,
        pace: ConnectionRate | None = None,
    ) -> None:
        """``most_of_one``: connections of one address. ``pace``: of its new ones."""
        super().__init__(config)
        self._most_of_one = most_of_one
        self._on_refused = on_refused
        self._tasks: set[asyncio.Task[None]] = set()
        self._pace, self._tell_again = pace or ConnectionRate(), 0.0

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen on these sockets; this class does their handshakes instead of asyncio."""
        await super().startup(sockets=[])
        for bound in sockets or []:
            bound.listen(self.config.backlog)
            bound.setblocking(False)
            self._spawn(self._accept(bound))

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop accepting, cancel unfinished handshakes, then shut down as uvicorn does."""
        for task in self._tasks:
            task.cancel()
        await super().shutdown(sockets=sockets)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _accept(self, bound: socket.socket) -> None:
        while True:
            try:
                connection, address = await asyncio.get_running_loop().sock_accept(bound)
            except OSError as error:  # out of file descriptors: retry when others are closed
                log.error(f"a connection could not be accepted: {error}")
                await asyncio.sleep(_ACCEPT_AGAIN_SECONDS)
                continue
            most = _most_connections()
            if len(self._tasks) + len(self.server_state.connections) >= most:
                connection.close()
                why = f"the limit of {most} connections is reached"
                await asyncio.to_thread(self._on_refused, str(address[0]), why, None)
                continue
            if self._count_of(address[0]) >= self._most_of_one:
                connection.close()
                why = f"more than {self._most_of_one} connections from this address"
                await asyncio.to_thread(self._on_refused, str(address[0]), why, None)
                continue
            delay = self._pace.wait(str(address[0]))
            if delay is None:
                connection.close()
                if time.monotonic() > self._tell_again:  # limit the reports of a flood
                    self._tell_again = time.monotonic() + _ACCEPT_AGAIN_SECONDS
                    why = "too many new connections from this address"
                    await asyncio.to_thread(self._on_refused, str(address[0]), why, None)
                continue
            self._spawn(self._shake_hands(connection, delay))

    def _count_of(self, address: str) -> int:
        """Return the number of open connections of an address, whose handshake is done."""
        known: Any = self.server_state.connections
        return sum(one.client is not None and one.client[0] == address for one in known)

    async def _shake_hands(self, connection: socket.socket, delay: float) -> None:
        try:
            await asyncio.sleep(delay)
            address = str(connection.getpeername()[0])
            await asyncio.get_running_loop().connect_accepted_socket(
                self._protocol,
                connection,
                ssl=self.config.ssl,
                ssl_handshake_timeout=_HANDSHAKE_SECONDS,
            )
        except ssl.SSLError as error:
            why = getattr(error, "verify_message", "") or (error.reason or "unknown")
            await asyncio.to_thread(self._on_refused, address, why.replace("_", " ").lower(), None)
        except OSError as error:  # the client disconnected or was too slow
            log.debug(f"no handshake: {error}")

    def _protocol(self) -> asyncio.Protocol:
        kind: Any = self.config.http_protocol_class
        made: asyncio.Protocol = kind(
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
        return made


def listener(
    app: ASGIApp,
    *,
    certificate: bytes,
    key: bytes,
    ca: Path | None,
    lifespan: bool,
    on_refused: Refuse,
    presence: ConnectionTracker | None = None,
    oldest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3,
    most_of_one_address: int = MOST_CONNECTIONS,
    pace: ConnectionRate | None = None,
) -> Listener:
    """Return a TLS listener with this ``certificate`` (PEM) and ``key`` (PEM).

    ``oldest``: version of TLS that is accepted; agents of FLO need none but 1.3.
    ``most_of_one_address``: limit on its connections; many hospitals may share one. ``pace``: limit
    on its new connections. With ``ca``, every client must present a certificate that exactly this
    authority issued.
    """
    config = uvicorn.Config(
        app,
        http=type(
            "Protocol",
            (PeerProtocol,),
            {"presence": presence, "on_refused": staticmethod(on_refused)},
        ),
        ws="none",
        lifespan="on" if lifespan else "off",
        server_header=False,
        date_header=False,
        proxy_headers=False,
        access_log=False,
        log_config=None,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=2,
    )
    config.load()
    config.ssl = _context(certificate, key, ca, oldest)
    return Listener(config, on_refused, most_of_one_address, pace)


def _most_connections() -> int:
    """Return the limit for each of the two listeners; it leaves file descriptors for other uses."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(16, min(MOST_CONNECTIONS, (files - _OTHER_FILES) // 2))


def reload_certificate(open_listener: Listener, certificate: bytes, key: bytes) -> None:
    """Replace a running listener's certificate for all later connections."""
    if open_listener.config.ssl is None:
        raise NetworkError("this listener has no TLS")
    load_certificate(open_listener.config.ssl, certificate, key)


def _context(
    certificate: bytes, key: bytes, ca: Path | None, oldest: ssl.TLSVersion
) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = oldest
    load_certificate(context, certificate, key)
    if ca is not None:
        context.load_verify_locations(ca)
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # the CA may be an intermediate one
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def bind(host: str, port: int, another: str) -> socket.socket:
    """Return a socket bound to this address.

    Raises:
        NetworkError: the port is in use or not allowed. ``another``: how to choose another.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        reason = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be used ({error})"
        raise NetworkError(
            f"port {port} on {host} {reason}",
            hint=f"stop the process that uses it, or {another}",
        ) from error
    return bound

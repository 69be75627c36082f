"""Two TLS listeners in one event loop: hospitals outside, operators inside.

uvicorn does not put the client's certificate into the ASGI scope; ``PeerProtocol`` adds it as
``scope["extensions"]["flo.peer"]`` (DER bytes, or None without a certificate).
"""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from flo.errors import NetworkError
from flo.server.presence import Presence
from flo.tls import show

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

PEER = "flo.peer"


class PeerProtocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol, with the peer's certificate in every request's scope."""

    presence: Presence | None = None
    _certificate: bytes | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        tls: ssl.SSLObject | None = transport.get_extra_info("ssl_object")
        certificate = tls.getpeercert(binary_form=True) if tls is not None else None
        if self.presence is not None and certificate is not None:
            self._certificate = certificate
            self.presence.opened(certificate)
        inner: App = self.app

        async def with_peer(scope: Scope, receive: Receive, send: Send) -> None:
            scope["extensions"] = {**scope.get("extensions", {}), PEER: certificate}
            await inner(scope, receive, send)

        self.app = with_peer

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        certificate, self._certificate = self._certificate, None
        if self.presence is not None and certificate is not None:
            self.presence.closed(certificate)


class Listener(uvicorn.Server):
    """One uvicorn server whose signals are handled by whoever runs several of them."""

    def install_signal_handlers(self) -> None:
        """The coordinator handles signals for both listeners."""


def listener(
    app: App,
    *,
    certificate: bytes,
    key: bytes,
    ca: Path | None,
    lifespan: bool,
    presence: Presence | None = None,
) -> Listener:
    """A TLS 1.3 listener that shows ``certificate`` (PEM) with ``key`` (PEM).

    With ``ca`` every client must show a certificate that this very authority issued.
    """
    config = uvicorn.Config(
        app,
        http=type("Protocol", (PeerProtocol,), {"presence": presence}),
        ws="none",
        lifespan="on" if lifespan else "off",
        server_header=False,
        date_header=False,
        proxy_headers=False,
        access_log=False,
        log_config=None,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=2,
        h11_max_incomplete_event_size=64 * 1024,
    )
    config.load()
    config.ssl = _context(certificate, key, ca)
    return Listener(config)


def show_anew(open_listener: Listener, certificate: bytes, key: bytes) -> None:
    """Let a running listener show another certificate to whoever connects from now on."""
    if open_listener.config.ssl is None:
        raise NetworkError("this listener has no TLS")
    show(open_listener.config.ssl, certificate, key)


def _context(certificate: bytes, key: bytes, ca: Path | None) -> ssl.SSLContext:
    """Only TLS 1.3 is spoken; there is no older partner to speak to."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    show(context, certificate, key)
    if ca is not None:
        context.load_verify_locations(ca)
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # the CA may be an intermediate one
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def bind(host: str, port: int) -> socket.socket:
    """A bound socket, before anything else starts.

    Raises:
        NetworkError: the port is in use or not allowed, and how to choose another.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        reason = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be had ({error})"
        raise NetworkError(
            f"port {port} on {host} {reason}",
            hint="stop what holds it, or set another port in coordinator.toml",
        ) from error
    return bound

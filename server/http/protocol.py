"""One HTTP connection of a listener: who is at its other end, and no more memory than that needs.

uvicorn does not put the client's certificate into the ASGI scope; here it is added as
``scope["extensions"]["flo.peer"]`` (DER bytes, or None without a certificate). Bodies are limited
by whoever reads them (``flo.server.http.asgi.read_body``); all else that a request consists of is
limited here, before anybody knows who asks.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable

from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from flo.server.http.presence import ConnectionTracker

# The client's address, why, and the certificate that it showed, if any; called in a thread.
Refuse = Callable[[str, str, bytes | None], None]

PEER = "flo.peer"
PERSON = "flo.person"  # the token that a request came with
MAX_HEAD_BYTES = 64 * 1024
MOST_OF_ONE = 64  # connections with one certificate: an agent has four, and new ones after a fault
_HEAD_SECONDS = 10.0
_MOST_QUEUED = 4  # a client that has a whole answer may ask on before we know that it is sent
_FRAMING = 16  # a body may come in chunks whose framing is this fraction of it


class PeerProtocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol, with the peer's certificate in every request's scope.

    A request line with its headers takes at most ``MAX_HEAD_BYTES`` (and one read more) and ten
    seconds, and few requests wait behind one that is not answered, or the connection is cut. So is
    one more than a certificate may have open.
    """

    presence: ConnectionTracker | None = None
    on_refused: Refuse | None = None
    _shown: bytes | None = None
    _certificate: bytes | None = None  # while it is counted
    _late: asyncio.TimerHandle | None = None
    _body_bytes = _other_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Put the client's certificate into every request's scope, and wait for a head."""
        super().connection_made(transport)
        tls: ssl.SSLObject | None = transport.get_extra_info("ssl_object")
        certificate = tls.getpeercert(binary_form=True) if tls is not None else None
        self._shown = certificate
        if self.presence is not None and certificate is not None:
            if self.presence.count(certificate) >= MOST_OF_ONE:
                self._cut(f"more than {MOST_OF_ONE} connections with one certificate")
                return
            self._certificate = certificate
            self.presence.opened(certificate)
        inner: ASGIApp = self.app

        async def with_peer(scope: Scope, receive: Receive, send: Send) -> None:
            scope["extensions"] = {**scope.get("extensions", {}), PEER: certificate}
            await inner(scope, receive, send)

        self.app = with_peer
        self._expect_a_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Whoever is gone is counted out, once."""
        super().connection_lost(exc)
        # After a reset uvicorn leaves this timer running, which holds the connection's buffers.
        self._unset_keepalive_if_required()
        self._have_a_head()
        certificate, self._certificate = self._certificate, None
        if self.presence is not None and certificate is not None:
            self.presence.closed(certificate)

    def data_received(self, data: bytes) -> None:
        """Cut the connection once what is no body is more than a head may be."""
        self._other_bytes += len(data)
        super().data_received(data)
        if self._other_bytes > MAX_HEAD_BYTES + self._body_bytes // _FRAMING:
            self._cut(f"more than {MAX_HEAD_BYTES} bytes that are no body")

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP, and tell who sent it."""
        self._tell("not HTTP as it should be")
        super().send_400_response(msg)

    def on_message_begin(self) -> None:
        """A request begins: cut the connection if too many wait, else count anew."""
        if len(self.pipeline) >= _MOST_QUEUED:
            self._cut("requests in a queue before the last one was answered")
        super().on_message_begin()
        self._body_bytes = self._other_bytes = 0
        self._expect_a_head()

    def on_headers_complete(self) -> None:
        """The head came in time."""
        self._have_a_head()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Bytes of a body are limited by whoever reads it, so they leave the count here."""
        self._body_bytes += len(body)
        self._other_bytes -= len(body)
        super().on_body(body)

    def _expect_a_head(self) -> None:
        self._have_a_head()
        loop = asyncio.get_running_loop()
        self._late = loop.call_later(_HEAD_SECONDS, self._cut, "no whole request in time")

    def _cut(self, why: str) -> None:
        if not self.transport.is_closing():
            self._tell(why)
            self.transport.abort()

    def _tell(self, why: str) -> None:
        if self.on_refused is not None:
            address = self.client[0] if self.client else "unknown"
            loop = asyncio.get_running_loop()
            loop.run_in_executor(None, self.on_refused, address, why, self._shown)

    def _have_a_head(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

"""HTTP connection of a listener: adds the client's certificate and limits memory.

uvicorn does not put the client's certificate into the ASGI scope; this module adds it as
``scope["extensions"]["flo.peer"]`` (DER bytes, or None without a certificate). The code that reads
a body limits it (``flo.http.asgi.read_body``); all other parts of a request are limited
here, before the client is authorized.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from flo.http.presence import ConnectionTracker

# Called in a thread with the client's address, the reason, and the client's certificate, if any.
Refuse = Callable[[str, str, bytes | None], None]

PEER = "flo.peer"
PERSON = "flo.person"  # scope key of the request's token
MAX_HEAD_BYTES = 64 * 1024
MOST_OF_ONE = 64  # connections per certificate: an agent has four, and new ones after a fault
_HEAD_SECONDS = 10.0
_MOST_QUEUED = 4  # a client may send its next request before we notice that a response was sent
_LARGE_PART = 1 << 16  # bytes
_FRAMING = 16  # the framing of chunked bodies may add 1/_FRAMING of their size


class PeerProtocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol, with the peer's certificate in every request's scope.

    The connection is aborted if a request line with its headers exceeds ``MAX_HEAD_BYTES`` (plus
    one read) or ten seconds, if more than ``_MOST_QUEUED`` requests wait behind an unanswered one,
    or if the certificate already has ``MOST_OF_ONE`` connections open.
    """

    presence: ConnectionTracker | None = None
    on_refused: Refuse | None = None
    _shown: bytes | None = None
    _certificate: bytes | None = None  # set while the connection is counted
    _late: asyncio.TimerHandle | None = None
    _body_bytes = _other_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Add the client's certificate to every request's scope and start the head's timeout."""
        super().connection_made(_Gathered(transport))  # type: ignore[arg-type]
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
        """Report the closed connection, once."""
        super().connection_lost(exc)
        # uvicorn leaves this timer running after a reset; it would retain the connection's buffers.
        self._unset_keepalive_if_required()
        self._have_a_head()
        certificate, self._certificate = self._certificate, None
        if self.presence is not None and certificate is not None:
            self.presence.closed(certificate)

    def data_received(self, data: bytes) -> None:
        """Abort the connection once the bytes outside of bodies exceed the limit of a head."""
        self._other_bytes += len(data)
        super().data_received(data)
        if self._other_bytes > MAX_HEAD_BYTES + self._body_bytes // _FRAMING:
            self._cut(f"more than {MAX_HEAD_BYTES} bytes of headers and framing")

    def send_400_response(self, msg: str) -> None:
        """Answer invalid HTTP and report the client."""
        self._tell("invalid HTTP")
        super().send_400_response(msg)

    def on_message_begin(self) -> None:
        """Begin a request: abort the connection if too many wait, and reset the byte counts."""
        if len(self.pipeline) >= _MOST_QUEUED:
            self._cut(f"more than {_MOST_QUEUED} requests wait on one connection")
        super().on_message_begin()
        self._body_bytes = self._other_bytes = 0
        self._expect_a_head()

    def on_headers_complete(self) -> None:
        """Cancel the head's timeout."""
        self._have_a_head()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Subtract body bytes from the count: the code that reads the body limits them."""
        self._body_bytes += len(body)
        self._other_bytes -= len(body)
        super().on_body(body)

    def _expect_a_head(self) -> None:
        self._have_a_head()
        loop = asyncio.get_running_loop()
        why = f"no complete headers in {_HEAD_SECONDS:g} seconds"
        self._late = loop.call_later(_HEAD_SECONDS, self._cut, why)

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


class _Gathered:
    """A transport that writes what one turn of the event loop answers at once: head and body.

    uvicorn writes them one by one, which costs a third of the time of a small answer.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport, self._held = transport, list[bytes]()
        self._loop = asyncio.get_running_loop()

    def write(self, data: bytes) -> None:
        """Write at the end of this turn; a large part at once, so that it is not copied."""
        if len(data) > _LARGE_PART:
            self._flush()
            self._transport.write(data)
            return
        if not self._held:
            self._loop.call_soon(self._flush)
        self._held.append(data)

    def close(self) -> None:
        """Write what is held, then close."""
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        held, self._held = self._held, []
        if held and not self._transport.is_closing():
            self._transport.write(held[0] if len(held) == 1 else b"".join(held))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

"""Real proxies on loopback, as a hospital has them: plain, with a password, looking into TLS."""

from __future__ import annotations

import contextlib
import selectors
import socket
import socketserver
import ssl
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from flo.keys.identity import Identity
from flo.keys.tls import load_certificate

INSPECTOR = "Hospital Web Inspection CA"


@dataclass
class Proxy:
    """``seen``: what it was asked for, and its answers."""

    url: str
    seen: list[tuple[str, int]] = field(default_factory=list)


@contextlib.contextmanager
def proxy(
    names: Mapping[str, str], *, password: bool = False, inspects: bool = False
) -> Iterator[Proxy]:
    """A proxy that knows where these names are, which nobody else here does."""
    made = Proxy("")

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            asked = self.rfile.readline().split()
            if not asked:  # somebody looked whether we are there
                return
            target = asked[1].decode()
            headers = dict(self._headers())
            host, _, port = target.rpartition(":")
            status = 200 if host in names else 502
            if password and "proxy-authorization" not in headers:
                status = 407
            made.seen.append((target, status))
            self.wfile.write(f"HTTP/1.1 {status} so\r\n\r\n".encode())
            if status != 200:
                return
            if inspects:
                with (
                    contextlib.suppress(OSError),
                    _inspector(host).wrap_socket(self.connection, server_side=True) as shown,
                ):
                    shown.recv(1)
                return
            with socket.create_connection((names[host], int(port))) as there:
                _join(self.connection, there)

        def _headers(self) -> Iterator[tuple[str, str]]:
            while line := self.rfile.readline().strip():
                name, _, value = line.decode().partition(":")
                yield name.lower(), value.strip()

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        block_on_close = False

    with Server(("127.0.0.1", 0), Handler) as server:
        made.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield made
        finally:
            server.shutdown()
            thread.join()


def _join(one: socket.socket, other: socket.socket) -> None:
    """Hand bytes over, both ways, until either side closes."""
    with selectors.DefaultSelector() as waiting, contextlib.suppress(OSError):
        waiting.register(one, selectors.EVENT_READ, other)
        waiting.register(other, selectors.EVENT_READ, one)
        while True:
            for key, _ in waiting.select():
                data = key.fileobj.recv(65_536)  # type: ignore[union-attr]
                if not data:
                    return
                key.data.sendall(data)


def _inspector(host: str) -> ssl.SSLContext:
    """Shows a certificate for ``host`` of an authority that the hospital's browsers trust."""
    key, now = Identity.new(), datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, INSPECTOR)]))
        .public_key(key.key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .sign(key.key, hashes.SHA384())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    load_certificate(context, made.public_bytes(Encoding.PEM), key.pem())
    return context

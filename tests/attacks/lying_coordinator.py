"""A coordinator that can be told to lie: real TLS on loopback, its own authority and key."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from flo.audit.chain import LogExtension, Receipt
from flo.clients.connection.offers import Offered
from flo.documents import canonical
from flo.keys.identity import Identity, fingerprint, public_bytes
from flo.keys.keystore import LocalKeyStore
from flo.keys.roster import Roster
from flo.keys.tls import load_certificate
from flo.protocol.whole_messages import PULL_PATH, PUSH_PATH
from flo.server.keys.authority import Authority, read_request
from tests.attacks.lying_fleet import ByObjects, Fleet

HOSPITAL = "north"


@dataclass(frozen=True)
class Said:
    """One answer."""

    body: bytes = b"{}"
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    endless: bool = False

    @classmethod
    def document(cls, value: Any) -> Said:
        return cls(canonical.encode(value))


def roster_of(public: bytes, second: str = "00") -> Roster:
    """The roster of the one hospital with this key. ``second``: of the minute that it joined in."""
    time = f"2026-11-28T12:00:{second}.000+00:00"
    return Roster(entries=(Roster().joined(HOSPITAL, fingerprint(public), time),))


def shown_roster(roster: Roster) -> dict[str, Any]:
    return {"roster": {"roster": roster.model_dump(mode="json")}}


class LyingCoordinator:
    """Honest until it is told what to say. ``visits``: the paths that it was asked for."""

    def __init__(self, folder: Path, identity: Identity) -> None:
        folder.mkdir()
        self.authority = Authority.create(folder, LocalKeyStore(folder / "keystore.key"))
        self.identity, self.fleet = identity, Fleet()
        self.offers: list[Offered] = []
        self.visits: list[str] = []
        self.roster = Roster()
        self._seen = 0
        self._lies: dict[str, Said | Callable[[bytes], Said]] = {}
        self._server = _Server(("127.0.0.1", 0), type("_Handler", (_Handler,), {"liar": self}))
        self._server.socket = self._context().wrap_socket(
            self._server.socket, server_side=True, do_handshake_on_connect=False
        )
        self.url = f"https://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def stop(self) -> None:
        self.fleet.hang_up()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @contextmanager
    def saying(self, call: str, said: Said | Callable[[bytes], Said]) -> Iterator[None]:
        """Lie about one call, and make the agent ask for it."""
        self._lies[call] = said
        self.fleet.hang_up()
        try:
            yield
        finally:
            del self._lies[call]
            self.fleet.hang_up(False)

    def invitation(self, **changes: Any) -> bytes:
        """An invitation as the coordinator's command writes it, with changes."""
        key = Identity.new()
        certificate, _ = self.authority.issue_client(HOSPITAL, "bootstrap", key.key.public_key())
        return json.dumps(
            {
                "schema_version": 1,
                "hospital": HOSPITAL,
                "url": self.url,
                "coordinator": self.identity.public.hex(),
                "ca": self.authority.pem.decode(),
                "certificate": certificate.decode(),
                "key": key.pem().decode(),
                "expires": (datetime.now(UTC) + timedelta(days=1)).isoformat(),
                **changes,
            }
        ).encode()

    def says(self, path: str, body: bytes) -> Said:
        self.visits.append(path)
        name = path.rpartition("/")[2]
        lie = self._lies.get(name)
        if lie is not None:
            return lie(body) if callable(lie) else lie
        if path in (PULL_PATH, PUSH_PATH):
            try:
                answer = self.fleet.whole(path, body)
            except ByObjects:
                return Said(status=404)
            return Said(b"", 503) if answer is None else Said(answer)
        if path.startswith("/v1/fleet/"):
            answer = self.fleet.call(name, body)
            return Said(b"", 503) if answer is None else Said(answer)
        return Said.document(self._honest(name, body))

    def issue(self, request: str) -> str:
        key = read_request(request.encode(), HOSPITAL)
        return self.authority.issue_client(HOSPITAL, "site", key)[0].decode()

    def countersigned(self, body: bytes, signer: Identity, growth: Any = None) -> dict[str, Any]:
        """The answer to an agent that shows what its audit log grew by."""
        shown, receipt = json.loads(body).get("growth"), None
        if shown is not None:
            head = LogExtension.model_validate(shown).head
            self._seen, receipt = head.number, Receipt.given(signer, head).model_dump()
        return {"receipt": receipt, "growth": growth, "seen": self._seen}

    def _honest(self, name: str, body: bytes) -> Any:
        match name:
            case "heads":
                return {"head": None}
            case "enrol":
                wish = json.loads(body)["request"]
                if not self.roster.entries:
                    self.roster = roster_of(public_bytes(read_request(wish.encode(), HOSPITAL)))
                return {"certificate": self.issue(wish), "coordinator": self.identity.public.hex()}
            case "studies":
                return [
                    {
                        "study": offer.study.canonical_bytes.decode(),
                        "signature": offer.signature,
                        "status": "running",
                    }
                    for offer in self.offers
                ]
            case "audit":
                return self.countersigned(body, self.identity)
            case "roster":
                return shown_roster(self.roster)
            case "keys":
                return {"schema_version": 1, "steps": []}
            case _:
                return {}

    def _context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        own = self.authority.issue_server(self.identity, ["127.0.0.1"])
        load_certificate(context, own, self.identity.pem())
        context.load_verify_locations(cadata=self.authority.pem.decode())
        context.verify_mode = ssl.CERT_REQUIRED
        return context


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, *_: object) -> None:
        """A client that hangs up is no error of this server."""


class _Handler(BaseHTTPRequestHandler):
    liar: LyingCoordinator

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        said = self.liar.says(self.path, body)
        self.send_response(said.status)
        kind = "protobuf" if self.path.startswith("/v1/fleet/") else "json"
        for name, value in {"content-type": f"application/{kind}", **said.headers}.items():
            self.send_header(name, value)
        if not said.endless:
            self.send_header("content-length", str(len(said.body)))
        self.end_headers()
        self.wfile.write(said.body)
        while said.endless:
            self.wfile.write(bytes(1 << 20))

    do_GET = do_POST

    def log_message(self, *_: object) -> None:
        """It keeps no log."""

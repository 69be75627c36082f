"""The site's calls against a real TLS server on loopback that means no good."""

from __future__ import annotations

import gzip
import json
import socket
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from flo.clients.connection import coordinator_api
from flo.clients.connection.coordinator_api import CoordinatorApi, client_context
from flo.errors import FloError, MessageError, NetworkError, RefusedError, TrustError
from flo.keys.identity import Identity
from flo.keys.keystore import LocalKeyStore
from flo.keys.tls import load_certificate
from flo.protocol.https import CappedTransport
from flo.server.keys.authority import Authority

LIMIT = 1000


@dataclass
class Answer:
    """What the server says to every call, and the calls that it saw."""

    status: int = 200
    body: bytes = b'{"ok":1}'
    headers: dict[str, str] = field(default_factory=dict)
    endless: bool = False
    seen: list[tuple[str, str, bytes]] = field(default_factory=list)


class Handler(BaseHTTPRequestHandler):
    answer: Answer

    def do_POST(self) -> None:
        answer = self.answer
        body = self.rfile.read(int(self.headers["content-length"]))
        answer.seen.append((self.path, self.headers.get("accept-encoding", ""), body))
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        if not answer.endless:
            self.send_header("content-length", str(len(answer.body)))
        self.end_headers()
        try:
            self.wfile.write(answer.body)
            while answer.endless:
                self.wfile.write(b" " * 4096)
        except OSError:
            pass  # the client hung up, as it should

    do_GET = do_POST

    def log_message(self, *_: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    def handle_error(self, *_: object) -> None:
        """A client that refuses the certificate is no error of this server."""


@dataclass
class Stage:
    url: str
    context: ssl.SSLContext
    answer: Answer

    def call(self) -> object:
        with CoordinatorApi(self.url, self.context) as api:
            return api.call("heads", {"x": 1})


def authority(folder: Path) -> Authority:
    folder.mkdir()
    return Authority.create(folder, LocalKeyStore(folder / "keystore.key"))


def our_context(folder: Path, ca: Authority) -> ssl.SSLContext:
    """What a site of that authority connects with."""
    identity = Identity.new()
    certificate, _ = ca.issue_client("north", "site", identity.key.public_key())
    return client_context(ca.pem.decode(), certificate, identity.pem())


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    """A server with a certificate of the site's own authority, which asks for ours."""
    ca = authority(tmp_path / "ca")
    identity = Identity.new()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    load_certificate(context, ca.issue_server(identity, ["127.0.0.1"]), identity.pem())
    context.load_verify_locations(cadata=ca.pem.decode())
    context.verify_mode = ssl.CERT_REQUIRED
    answer = Answer()
    handler = type("ThisHandler", (Handler,), {"answer": answer})
    with Server(("127.0.0.1", 0), handler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        url = f"https://127.0.0.1:{server.server_address[1]}"
        yield Stage(url, our_context(tmp_path / "site", ca), answer)
        server.shutdown()
        thread.join()


@pytest.fixture
def small_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coordinator_api, "MAX_REPLY_BYTES", LIMIT)


def test_a_call_posts_canonical_bytes_and_reads_the_reply(stage: Stage) -> None:
    assert stage.call() == {"ok": 1}
    assert stage.answer.seen == [("/v1/site/heads", "identity", b'{"x":1}')]


def test_a_redirect_is_not_followed(stage: Stage) -> None:
    stage.answer.status = 307
    stage.answer.headers["location"] = f"{stage.url}/elsewhere"
    with pytest.raises(RefusedError, match="status 307"):
        stage.call()
    assert [path for path, _, _ in stage.answer.seen] == ["/v1/site/heads"]


def test_a_compressed_reply_is_refused(stage: Stage) -> None:
    stage.answer.body = gzip.compress(b" " * 10_000_000)
    stage.answer.headers["content-encoding"] = "gzip"
    with (
        httpx.Client(
            base_url=stage.url, transport=CappedTransport(stage.url, stage.context, LIMIT)
        ) as client,
        pytest.raises(httpx.DecodingError, match="compressed reply is refused"),
    ):
        client.post("/v1/site/heads", content=b"{}")


def test_a_compressed_reply_is_an_expected_failure(stage: Stage) -> None:
    stage.answer.body = gzip.compress(b"{}")
    stage.answer.headers["content-encoding"] = "gzip"
    with pytest.raises(FloError):
        stage.call()


@pytest.mark.usefixtures("small_limit")
def test_a_reply_just_within_the_limit_is_read(stage: Stage) -> None:
    stage.answer.body = json.dumps("x" * (LIMIT - 2)).encode()
    assert stage.call() == "x" * (LIMIT - 2)


@pytest.mark.usefixtures("small_limit")
@pytest.mark.parametrize("status", [200, 400])
def test_a_reply_over_the_limit_is_refused(stage: Stage, status: int) -> None:
    stage.answer.status = status
    stage.answer.body = b"1" * (LIMIT + 1)
    with pytest.raises(NetworkError):
        stage.call()


@pytest.mark.usefixtures("small_limit")
def test_a_reply_without_end_is_cut_off(stage: Stage) -> None:
    stage.answer.endless = True
    with pytest.raises(NetworkError):
        stage.call()


@pytest.mark.parametrize("body", [b"", b"<html>", b'{"a":1,"a":2}', b"NaN", b"\xff"])
def test_a_reply_that_is_no_document_is_refused(stage: Stage, body: bytes) -> None:
    stage.answer.body = body
    with pytest.raises(MessageError, match="reply to heads"):
        stage.call()


@pytest.mark.parametrize(
    ("status", "body", "error", "why"),
    [
        pytest.param(403, b'{"error":"revoked"}', TrustError, "refused heads: revoked", id="403"),
        pytest.param(401, b"", TrustError, "status 401", id="401"),
        pytest.param(409, b'{"error":"no"}', RefusedError, "refused heads: no", id="409"),
        pytest.param(400, b'{"error":"odd"}', MessageError, "refused heads: odd", id="400"),
        pytest.param(500, b"<html>", NetworkError, "answered heads with 500", id="500"),
        pytest.param(400, b"[]", MessageError, "status 400", id="no error in it"),
    ],
)
def test_a_no_is_told_apart_by_who_must_act(
    stage: Stage, status: int, body: bytes, error: type[FloError], why: str
) -> None:
    stage.answer.status, stage.answer.body = status, body
    with pytest.raises(error, match=why):
        stage.call()


def test_a_long_no_is_cut(stage: Stage) -> None:
    stage.answer.status = 409
    stage.answer.body = json.dumps({"error": "x" * 5000}).encode()
    with pytest.raises(RefusedError) as refusal:
        stage.call()
    assert len(str(refusal.value)) < 600


def test_a_server_of_another_authority_is_not_trusted(stage: Stage, tmp_path: Path) -> None:
    other = authority(tmp_path / "other-ca")
    stage.context = our_context(tmp_path / "other-site", other)
    with pytest.raises(TrustError, match="certificate from another authority"):
        stage.call()
    assert stage.answer.seen == []


def test_a_server_that_refuses_our_certificate_is_a_matter_of_trust(
    stage: Stage, tmp_path: Path
) -> None:
    mine = our_context(tmp_path / "other-site", authority(tmp_path / "other-ca"))
    mine.load_verify_locations(cadata=(tmp_path / "ca" / "ca.pem").read_text())
    stage.context = mine
    with pytest.raises(TrustError, match="or refused ours"):
        stage.call()
    assert stage.answer.seen == []


def test_a_server_under_another_name_is_not_trusted(stage: Stage) -> None:
    # the certificate names 127.0.0.1 and localhost; this address reaches the same loopback
    stage.url = stage.url.replace("127.0.0.1", "0.0.0.0")
    with pytest.raises(TrustError):
        stage.call()
    assert stage.answer.seen == []


def test_a_closed_port_is_named_with_the_way_out(stage: Stage) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and never listening: nobody else can take it
        stage.url = f"https://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(NetworkError, match="cannot be reached") as refusal:
            stage.call()
    assert "flo coordinator serve" in refusal.value.hint


def test_only_tls_1_3_is_spoken(stage: Stage) -> None:
    assert stage.context.minimum_version is ssl.TLSVersion.TLSv1_3
    assert stage.context.verify_mode is ssl.CERT_REQUIRED
    assert stage.context.check_hostname

"""``flo model serve`` as it runs at a hospital: processes, TLS, signals, and kill -9."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import ssl
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from flo.audit.log import AuditLog
from flo.clients.home.site_home import SiteHome
from flo.clients.prediction import version_decisions
from flo.clients.serving import local
from flo.clients.serving.answer_log import paths
from flo.clients.serving.own_socket import SOCKET
from flo.errors import EXIT_NETWORK, EXIT_TRUST, EXIT_USAGE
from tests.clients.serving.served_site import (
    bearer,
    hook,
    served_site,
    serving_process,
    token,
)
from tests.clients.serving.under_fire import (
    Connections,
    children,
    fronts_and_workers,
    under_fire,
    wait_until_ready,
)
from tests.commands import flo_process
from tests.ports import free_port

pytestmark = pytest.mark.processes
HOOK = "/cds-services/tiny"


def tls_of(home: SiteHome) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(home.directory / "serve.pem"))


def test_versions_change_and_workers_die_and_no_request_fails(tmp_path: Path) -> None:
    found = under_fire(tmp_path / "n", 8.0, 60.0)
    assert found.asked > 400
    assert (found.failed, found.by_withdrawn) == ([], 0)
    assert found.kills
    assert found.rollbacks


@pytest.mark.slow  # 25 s; ten minutes at 500 a second are run by hand
def test_the_same_for_longer(tmp_path: Path) -> None:
    found = under_fire(tmp_path / "n", 20.0, 150.0)
    assert (found.failed, found.by_withdrawn) == ([], 0)


def test_a_record_system_may_ask_about_a_whole_ward_at_once(tmp_path: Path) -> None:
    """Each request on a new connection, more of them than strangers to the coordinator may open."""
    port, many = free_port(), 250
    home = served_site(tmp_path / "n", port=port)
    url = f"https://localhost:{port}{HOOK}"
    body = json.dumps(hook()).encode()

    async def all_at_once() -> list[tuple[int, Any]]:
        connections = Connections(port, home.directory / "serve.pem")
        tokens = [token(url) for _ in range(many)]
        asked = [connections.post(HOOK, body, tokens.pop) for _ in range(many)]
        answers = await asyncio.gather(*asked)
        await connections.close()
        return answers

    with serving_process(home):
        wait_until_ready(port, home)
        answers = asyncio.run(all_at_once())
    assert [(status, len(answer["cards"])) for status, answer in answers] == [(200, 1)] * many


def test_a_front_that_is_killed_is_back_at_once_and_remembers_used_tokens(tmp_path: Path) -> None:
    port = free_port()
    home = served_site(tmp_path / "n", port=port)
    url = f"https://localhost:{port}{HOOK}"
    with serving_process(home) as process, httpx.Client(verify=tls_of(home)) as client:
        wait_until_ready(port, home)
        used = {"authorization": f"Bearer {token(url)}"}
        assert client.post(url, json=hook(), headers=used).status_code == 200
        front, workers = fronts_and_workers(process.pid)
        os.kill(front, signal.SIGKILL)
        with httpx.Client(verify=tls_of(home), timeout=30) as fresh:  # waits in the open socket
            assert fresh.post(url, json=hook(), headers=bearer(url)).status_code == 200
            assert fresh.post(url, json=hook(), headers=used).status_code == 401
        again, kept = fronts_and_workers(process.pid)
        assert again != front
        assert sorted(kept) == sorted(workers), "workers keep their models"


def test_any_order_of_deaths_is_survived(tmp_path: Path) -> None:
    """Front and workers are killed in every order, also while others are being started."""
    port = free_port()
    home = served_site(tmp_path / "n", port=port)
    url = f"https://localhost:{port}{HOOK}"
    with serving_process(home) as process:
        wait_until_ready(port, home)
        for stopped in (False, True):
            front, workers = fronts_and_workers(process.pid)
            if stopped:
                os.kill(front, signal.SIGSTOP)
            os.kill(workers[0], signal.SIGKILL)
            time.sleep(0.3)
            os.kill(front, signal.SIGKILL)
            time.sleep(0.2)
            for pid in children(process.pid):
                os.kill(pid, signal.SIGKILL)
            wait_until_ready(port, home)
            with httpx.Client(verify=tls_of(home), timeout=20) as client:
                assert client.post(url, json=hook(), headers=bearer(url)).status_code == 200
            assert process.poll() is None


def test_a_rollback_while_no_worker_is_there_is_answered_once_one_is(tmp_path: Path) -> None:
    port = free_port()
    home = served_site(tmp_path / "n", port=port)
    url = f"https://localhost:{port}{HOOK}"
    with serving_process(home) as process:
        wait_until_ready(port, home)
        for _ in range(2):  # the second time while they have hardly begun
            _, workers = fronts_and_workers(process.pid)
            for pid in workers:
                os.kill(pid, signal.SIGKILL)
            time.sleep(0.4)
        version_decisions.rollback(home, "tiny:9", "wrong units")
        with httpx.Client(verify=tls_of(home), timeout=30) as client:
            card = client.post(url, json=hook(), headers=bearer(url)).json()["cards"][0]
        assert card["extension"]["flo.answer"]["version"] == 1


def test_it_ends_in_order_and_answers_what_it_has_begun(tmp_path: Path) -> None:
    port = free_port()
    home = served_site(tmp_path / ("a-long-name-of-a-folder-" * 5), port=port)
    url = f"https://localhost:{port}{HOOK}"
    with serving_process(home) as process:
        wait_until_ready(port, home)
        with httpx.Client(verify=tls_of(home)) as client:
            assert client.post(url, json=hook(), headers=bearer(url)).status_code == 200
        assert local.status(home.directory) is not None, "also in a folder with a long path"
        pids = children(process.pid)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    assert not (home.directory / SOCKET).exists()
    assert local.status(home.directory) is None
    (path,) = paths(home.directory)
    with closing(AuditLog(path, home.open_identity())) as log:
        assert [one.kind for one in log.entries()] == ["continues", "began", "answers", "ended"]


def test_its_processes_end_with_it(tmp_path: Path) -> None:
    port = free_port()
    home = served_site(tmp_path / "n", port=port)
    with serving_process(home) as process:
        wait_until_ready(port, home)
        pids = children(process.pid)
        process.kill()
        process.wait()
        end = time.monotonic() + 20
        while any(Path(f"/proc/{pid}").exists() for pid in pids):
            assert time.monotonic() < end
            time.sleep(0.05)


def test_workers_are_confined(tmp_path: Path) -> None:
    port = free_port()
    home = served_site(tmp_path / "n", port=port)
    with serving_process(home) as process:
        wait_until_ready(port, home)
        _, workers = fronts_and_workers(process.pid)
        for pid in workers:
            status = Path(f"/proc/{pid}/status").read_text()
            assert "Seccomp:\t2" in status
            assert "NoNewPrivs:\t1" in status
            assert "CapEff:\t0000000000000000" in status
        log = home.directory / "log" / "serve.jsonl"
        assert "not confined" not in log.read_text()


def test_what_is_no_http_and_no_tls_takes_nobody_elses_answers(tmp_path: Path) -> None:
    port = free_port()
    home = served_site(tmp_path / "n", port=port)
    url = f"https://localhost:{port}{HOOK}"
    body = json.dumps(hook()).encode()

    async def raw(data: bytes, tls: bool = True) -> bytes:
        reader, writer = await asyncio.open_connection(
            "localhost", port, ssl=tls_of(home) if tls else None
        )
        writer.write(data)
        try:
            async with asyncio.timeout(2):
                return await reader.read(1000)
        except (TimeoutError, ConnectionError):
            return b""
        finally:
            writer.close()

    async def attack() -> None:
        head = b"POST /cds-services/tiny HTTP/1.1\r\nhost: x\r\n"
        length = str(len(body)).encode()
        hostile = [
            (b"GET / HTTP/1.1\r\n\r\n", False),
            (b"\x16\x03\x01" + b"\0" * 500, False),
            (b"\0" * 100_000, True),
            (head + b"a: " + b"x" * 70_000 + b"\r\n\r\n", True),
            (head + b"content-length: 5\r\ncontent-length: 6\r\n\r\n", True),
            (head + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", True),
            (head + b"content-length: 99999999999\r\n\r\n", True),
            (head + b"transfer-encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFFF\r\n", True),
            (head + b"content-length: " + length + b"\r\n\r\n" + body, True),
            (b"POST http://evil/cds-services/tiny HTTP/1.1\r\nhost: x\r\n\r\n", True),
        ]
        for data, tls in hostile:
            answered = await raw(data, tls)
            assert b" 200 " not in answered[:20], data[:60]
        connections = Connections(port, home.directory / "serve.pem")
        status, answer = await connections.post(HOOK, body, lambda: token(url))
        assert (status, len(answer["cards"])) == (200, 1)
        await connections.close()

    with serving_process(home):
        wait_until_ready(port, home)
        asyncio.run(attack())


@pytest.mark.parametrize(
    ("change", "code", "said"),
    [
        (lambda f: (f / "serve.toml").unlink(), EXIT_USAGE, "flo model serve --draft"),
        (lambda f: (f / "serve.key").chmod(0o644), EXIT_TRUST, "other users may read"),
        (lambda f: (f / "serve.key").unlink(), EXIT_TRUST, "is missing"),
        (lambda f: (f / "serve.pem").write_text("x"), EXIT_TRUST, "is not a certificate"),
        (lambda f: (f / "ehr.jwks.json").write_text("{}"), EXIT_TRUST, "caller ehr"),
        (lambda f: _edit(f, "port = ", "port = 99"), EXIT_USAGE, "port"),
        (lambda f: _edit(f, "https://", "http://"), EXIT_USAGE, "url"),
    ],
)
def test_a_server_that_cannot_begin_says_why(
    tmp_path: Path, change: Any, code: int, said: str
) -> None:
    home = served_site(tmp_path / "n", port=free_port())
    change(home.directory)
    done = flo_process("model", "serve", "--home", home.directory)
    assert (done.returncode, said in done.stderr + done.stdout) == (code, True), done.stderr


def _edit(folder: Path, before: str, after: str) -> None:
    path = folder / "serve.toml"
    path.write_text(path.read_text().replace(before, after))


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        home = served_site(tmp_path / "n", port=taken.getsockname()[1])
        done = flo_process("model", "serve", "--home", home.directory)
    assert done.returncode == EXIT_NETWORK
    assert "set another port in serve.toml" in done.stderr

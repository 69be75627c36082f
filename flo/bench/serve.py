"""Answers of ``flo model serve``, against other servers on this machine.

A server's cost is the CPU of all its processes for one answer, measured at a fixed number of
requests from a closed loop, so that it does not depend on how many cores there are: the reciprocal
is requests a second and core. FLO's answers include encoding by the study's rules, calibration, and
the signed log; those to hooks also TLS, the token, and reasons. The references answer over plain
HTTP, check no token and write no log. Each has an environment of its own
(``flo.bench.references``).
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from flo.bench import BenchRow, row, serve_cold
from flo.bench.references import environment, free_port, wait_for_port
from flo.bench.served_site import ServedSite, made
from flo.errors import FloError
from flo.published.model_card import PublishedModel

_APPS = Path(__file__).parent / "references" / "serve_apps"
_CONNECTIONS = 64
_READY_SECONDS = 60.0
_UVICORN = ("-m", "uvicorn", "--no-access-log", "--log-level", "error", "--port")
_REFERENCES = {
    "FastAPI 0.138": (
        ("fastapi==0.138.2", "uvicorn[standard]==0.49.0"),
        lambda port: [*_UVICORN, str(port), "fastapi_app:app"],
    ),
    "LitServe 0.2.19": (("litserve==0.2.19",), lambda port: ["litserve_app.py", str(port)]),
    "BentoML 1.4.40": (
        ("bentoml==1.4.40",),
        lambda port: ["-m", "bentoml", "serve", "bentoml_app:Scorer", "-p", str(port)],
    ),
}


def rows(*, quick: bool) -> Iterator[BenchRow]:
    """Yield microseconds of CPU for an answer, milliseconds at 500 a second, and of recoveries."""
    yield from _plain(quick=quick)
    yield from _hooks(quick=quick)
    yield _images(2_000 if quick else 10_000)
    yield from _steady(5.0 if quick else 60.0)
    yield from serve_cold.rows(5 if quick else 25)


def _plain(*, quick: bool) -> Iterator[BenchRow]:
    requests = 20_000 if quick else 100_000
    with served(images=False) as (site, server, plain, _):
        ours = cost_of_an_answer(
            server, plain, f"/models/{site.study.name}/score", site.record(), requests
        )
    for name, (needs, command) in _REFERENCES.items():
        with _reference(needs, command) as (process, port):
            theirs = cost_of_an_answer(process, port, "/score", site.record(), requests // 5)
        yield row("serve", "plain call, logistic", ours, theirs, how=name, unit="µs CPU")


def _hooks(*, quick: bool) -> Iterator[BenchRow]:
    requests = 1_000 if quick else 4_000
    needs = ("healthchain==0.16.1", "uvicorn[standard]==0.49.0")
    found = dict[str, float]()
    with served(images=False) as (site, server, _, port):
        for algorithm in ("RS384", "ES384"):
            path = f"/cds-services/{site.study.name}"
            url = f"https://localhost:{port}{path}"
            more = {"tokens": site.tokens(url, algorithm, requests), "ca": _ca(site)}
            found[algorithm] = cost_of_an_answer(server, port, path, site.hook(), requests, **more)
    command = [*_UVICORN, "PORT", "healthchain_app:app"]
    with _reference(needs, lambda port: [str(port) if c == "PORT" else c for c in command]) as (
        process,
        port,
    ):
        theirs = cost_of_an_answer(process, port, "/cds/cds-services/score", site.hook(), requests)
    for algorithm, ours in found.items():
        name = f"CDS Hooks, TLS, {algorithm}, signed log, reasons"
        yield row("serve", name, ours, theirs, how="HealthChain 0.16, none of these", unit="µs CPU")


def _images(requests: int) -> BenchRow:
    with served(images=True) as (site, server, plain, _):
        path = f"/models/{site.study.name}/score"
        ours = cost_of_an_answer(server, plain, path, site.record(), requests)
        model = PublishedModel.open(
            next((site.home.directory / "models").rglob("*.card.json")),
            *site.home.read_coordinator().fingerprints,
        )
    torch.set_num_threads(1)
    inputs = np.zeros((200, 784))
    model.log_odds(inputs[:20])
    begun = time.process_time()
    model.log_odds(inputs)
    theirs = 1e6 * (time.process_time() - begun) / len(inputs)
    how = "torch alone, image by image"
    return row("serve", "plain call, CNN 28x28", ours, theirs, how=how, unit="µs CPU")


def _steady(seconds: float) -> Iterator[BenchRow]:
    """Measure answers at 500 a second, and how soon a killed front is back."""
    requests = int(500 * seconds)
    with served(images=False) as (site, server, plain, port):
        path = f"/cds-services/{site.study.name}"
        tokens = site.tokens(f"https://localhost:{port}{path}", "RS384", requests)
        more = {"tokens": tokens, "ca": _ca(site), "a_second": 500}
        found = _load(port, path, site.hook(), requests, connections=16, **more)
        name = "CDS Hooks at 500 a second, slowest of a hundred"
        how = "50 ms, as was asked"
        yield row("serve", name, 1000 * found["p99"], 50.0, how=how, unit="ms")
        times = []
        for _ in range(5):
            time.sleep(1.5)  # a front that has just begun is started again only after a second
            (front,) = [pid for pid in _children(server) if not _is_worker(pid)]
            os.kill(front, signal.SIGKILL)
            begun = time.perf_counter()
            while not _is_ready(plain):
                time.sleep(0.005)
            times.append(time.perf_counter() - begun)
        name, worst = "front killed, answers again, worst of five", 1000 * max(times)
        yield row("serve", name, worst, 1000.0, how="1 s, as was asked", unit="ms")


def cost_of_an_answer(
    server: int, port: int, path: str, body: str, requests: int, **more: Any
) -> float:
    """Return microseconds of CPU of a server's processes for one answer."""
    warm = {"tokens": more["tokens"][-50:]} if "tokens" in more else {}
    _load(port, path, body, 50, connections=8, **{**more, **warm})
    if "tokens" in more:
        more, requests = {**more, "tokens": more["tokens"][:-50]}, requests - 50
    before = processor_seconds(server)
    _load(port, path, body, requests, connections=_CONNECTIONS, **more)
    return 1e6 * (processor_seconds(server) - before) / requests


def _load(port: int, path: str, body: str, requests: int, **more: Any) -> dict[str, float]:
    """Run ``flo.bench.http_load``. Raises FloError: a request was not answered."""
    plan = {"port": port, "path": path, "body": body, "requests": requests, **more}
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        file.write(json.dumps(plan))
        file.flush()
        command = [sys.executable, "-m", "flo.bench.http_load", file.name]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    if refused := found["refused"]:
        each = ", ".join(f"{count} with status {status}" for status, count in refused.items())
        raise FloError(f"of {requests} requests, {each} were refused")
    return {name: found[name] for name in ("seconds", "p50", "p99")}


def processor_seconds(pid: int) -> float:
    """Return seconds of CPU of a process and of all that it has started."""
    ticks = os.sysconf("SC_CLK_TCK")
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    own = (int(fields[11]) + int(fields[12])) / ticks
    return own + sum(processor_seconds(child) for child in _children(pid))


def _children(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += [int(one) for one in (task / "children").read_text().split()]
    return found


def _is_worker(pid: int) -> bool:
    return b"worker_process" in Path(f"/proc/{pid}/cmdline").read_bytes()


def _ca(site: ServedSite) -> str:
    return str(site.home.directory / "serve.pem")


@contextmanager
def served(*, images: bool) -> Iterator[tuple[ServedSite, int, int, int]]:
    """Yield a site that answers, its server, a port without TLS and token, and the server's own."""
    with tempfile.TemporaryDirectory() as folder:
        port, plain = free_port(), free_port()
        site = made(Path(folder), images=images, port=port, workers=1)
        command = [sys.executable, "-m", "flo.bench.serve", str(site.home.directory), str(plain)]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            wait_for_port(plain)
            end = time.monotonic() + _READY_SECONDS
            while not _is_ready(plain):
                if process.poll() is not None or time.monotonic() > end:
                    raise FloError("flo model serve did not begin")
                time.sleep(0.1)
            yield site, process.pid, plain, port
        finally:
            process.terminate()
            process.wait()


def _is_ready(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), 5) as connection:
            connection.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            return b" 200 " in connection.recv(100)
    except OSError:  # the front that had this connection was killed
        return False


@contextmanager
def _reference(needs: tuple[str, ...], command: Any) -> Iterator[tuple[int, int]]:
    """Yield process and port of another server."""
    port, python = free_port(), environment(*needs) / "python"
    process = subprocess.Popen(
        [str(python), *command(port)],
        cwd=_APPS,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env={**os.environ, "BENTOML_DO_NOT_TRACK": "1", "PYTHONPATH": ""},
    )
    try:
        wait_for_port(port)
        time.sleep(3)
        yield process.pid, port
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def main() -> None:
    """Serve a site: ``flo model serve``, but its own socket is a port, which the load can reach."""
    from flo.clients.home.site_home import SiteHome
    from flo.clients.serving.front import Sockets
    from flo.clients.serving.settings import read_serve_config
    from flo.clients.serving.supervisor import Supervisor, open_sockets

    def tell(error: FloError) -> int:
        sys.stderr.write(f"{error}\n")
        return error.exit_code

    home = SiteHome.open(Path(sys.argv[1]))
    config = read_serve_config(home.directory)
    opened = open_sockets(home, config)
    plain = socket.create_server(("127.0.0.1", int(sys.argv[2])), backlog=2048)
    sys.exit(Supervisor(home, config, Sockets(opened.tls, plain, None), tell).run())


if __name__ == "__main__":
    main()

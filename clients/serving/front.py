"""The front: one process that listens, knows who may ask and which version answers, and writes the
log. It computes no score; its workers do (``flo.clients.serving.worker``).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from flo.clients.data_process.helpers import end_with_parent
from flo.clients.home.site_home import SiteHome
from flo.clients.serving import callers
from flo.clients.serving.answer_ids import AnswerIds
from flo.clients.serving.answer_log import FOLDER, AnswerLog
from flo.clients.serving.answering import AnsweringModels, SiteAtWork
from flo.clients.serving.app import App, Serving
from flo.clients.serving.metrics import Served
from flo.clients.serving.pool import Pool
from flo.clients.serving.recorder import Recorder
from flo.clients.serving.replays import ReplayMemory
from flo.clients.serving.settings import ServeConfig
from flo.documents import canonical
from flo.errors import NetworkError, TrustError
from flo.http.connection_rate import ConnectionRate
from flo.http.protocol import PeerProtocol
from flo.http.tls_server import Listener, listener, reload_certificate
from flo.keys.tls import read_certificate

log = logging.getLogger("flo.clients.serving.front")

USED_TOKENS = "used-tokens"  # beside the log of answers
READY, END_WORKER, NEW_WORKER = b"R", b"K", b"W"  # frames between supervisor and front
_RELOAD_SECONDS = 60.0
_MOST_HERE = 256  # connections of this machine to a listener without TLS
_WORKER_SECONDS = 60.0  # for the first worker to load the code and confine itself
_MOST_OF_ONE_ADDRESS, _NEW_A_SECOND = 512, 100.0  # connections of a record system


@dataclass(frozen=True)
class Sockets:
    """What the supervisor opened. ``local``: the site's own; ``metrics``: None if not wanted."""

    tls: socket.socket
    local: socket.socket
    metrics: socket.socket | None


def run(
    home: SiteHome,
    config: ServeConfig,
    control: socket.socket,
    sockets: Sockets,
) -> None:
    """Serve until the supervisor sends SIGTERM or ends.

    ``control``: to the supervisor. Raises FloError if the server cannot begin.
    """
    end_with_parent()
    with asyncio.Runner(
        loop_factory=uvicorn.Config("", log_config=None).get_loop_factory()
    ) as runner:
        runner.run(_run(home, config, control, sockets))


async def _run(
    home: SiteHome, config: ServeConfig, control: socket.socket, sockets: Sockets
) -> None:
    opened = SiteAtWork(home.directory, identity=home.open_identity())
    allow = callers.read_keys(config.callers, home.directory)
    identity = opened.open_identity()

    def end_worker(number: int) -> None:
        control.send(END_WORKER + bytes([number]))

    pool = Pool(end_worker, opened.read_policy().confinement)

    def anchor(**head: Any) -> None:
        opened.record("answers-anchored", None, **head)

    recorder = Recorder(AnswerLog(home.directory, identity), anchor)
    models = AnsweringModels(opened, config, pool)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    memory = ReplayMemory(home.directory / FOLDER / USED_TOKENS)
    since = float(int(time.time())) if memory.is_new else 0.0  # tokens tell whole seconds
    ids = AnswerIds(opened.open_patients_key())
    serving = Serving(
        *(models, pool, recorder, allow, memory, config.url, since, now, Served(), ids)
    )
    listeners = _listeners(home.directory, config, serving)
    recorder.start()
    recorder.enter("began", models=sorted(config.models), **_who(config, home.directory))
    tasks = [asyncio.create_task(_connect(control, pool))]
    try:
        latest = time.monotonic() + _WORKER_SECONDS
        while not pool.size:  # the supervisor sends the first worker at once
            if time.monotonic() > latest:
                raise NetworkError(
                    f"no worker could be used within {_WORKER_SECONDS:.0f} seconds",
                    hint="read the warnings above; `flo doctor` says what this machine lacks",
                )
            await asyncio.sleep(0.01)
        await models.begin()
        log.info(f"models answer at {config.url}")
        control.send(READY)
        tasks += [
            asyncio.create_task(pool.watch()),
            asyncio.create_task(models.keep_fresh()),
            asyncio.create_task(models.keep_judging()),
            asyncio.create_task(models.watching.keep_counting()),
            asyncio.create_task(_keep_current(home.directory, config, serving, listeners[0])),
        ]
        for task in tasks:
            task.add_done_callback(_end_if_failed)
        bound = [sockets.tls, sockets.local, sockets.metrics]
        await _serve([(one, sock) for one, sock in zip(listeners, bound, strict=True) if sock])
    finally:
        for task in tasks:
            task.cancel()
        pool.close()
        await asyncio.to_thread(models.comparing.close)
        await asyncio.to_thread(models.watching.close)
        await asyncio.to_thread(recorder.stop)


def _end_if_failed(task: asyncio.Task[None]) -> None:
    """End this front if a task failed that keeps it current; the supervisor starts another."""
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error(f"the front ends, for a part of it failed: {type(error).__name__}")
        signal.raise_signal(signal.SIGTERM)


def _who(config: ServeConfig, folder: Path) -> dict[str, Any]:
    """Return for the log which callers may ask, and the digest of the files of their keys."""
    return {
        "callers": {
            one.name: canonical.digest((folder / one.keys).read_bytes()) for one in config.callers
        }
    }


def _listeners(folder: Path, config: ServeConfig, serving: Serving) -> list[uvicorn.Server]:
    """Return the listeners: for record systems, for this site, and for Prometheus."""
    certificate, key = _certificate(folder, config)

    def refused(address: str, why: str, shown: bytes | None) -> None:
        serving.served.refused["connection"] += 1
        serving.recorder.refuse(f"connection: {why}")

    public = listener(
        App(serving, "public"),
        certificate=certificate,
        key=key,
        ca=None,
        lifespan=False,
        on_refused=refused,
        oldest=ssl.TLSVersion.TLSv1_2,
        most_of_one_address=_MOST_OF_ONE_ADDRESS,
        pace=ConnectionRate(_MOST_OF_ONE_ADDRESS, _NEW_A_SECOND),
    )
    return [public, plain_server(App(serving, "local")), plain_server(App(serving, "metrics"))]


def plain_server(app: ASGIApp) -> uvicorn.Server:
    """Return a server without TLS, for sockets that only this machine reaches."""
    config = uvicorn.Config(
        app,
        http=PeerProtocol,
        ws="none",
        lifespan="off",
        server_header=False,
        date_header=False,
        proxy_headers=False,
        access_log=False,
        log_config=None,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=2,
        limit_concurrency=_MOST_HERE,
    )
    config.load()
    return uvicorn.Server(config)


def _certificate(folder: Path, config: ServeConfig) -> tuple[bytes, bytes]:
    """Return the server's certificate and key. Raises TrustError: missing, or not private."""
    certificate, key = folder / config.certificate, folder / config.key
    read_certificate(certificate)
    if not key.is_file():
        raise TrustError(f"{key} is missing", hint="store the certificate's private key there")
    if key.stat().st_mode & 0o077:
        raise TrustError(f"other users may read {key}", hint=f"chmod 600 {key}")
    return certificate.read_bytes(), key.read_bytes()


async def _serve(several: list[tuple[uvicorn.Server, socket.socket]]) -> None:
    """Serve on all sockets until SIGTERM or SIGINT."""
    loop, ending = asyncio.get_running_loop(), asyncio.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, ending.set)
    for server, bound in several:
        server.lifespan = server.config.lifespan_class(server.config)  # as Server.serve does
        await server.startup(sockets=[bound])
    ticks = [asyncio.create_task(server.main_loop()) for server, _ in several]
    await ending.wait()
    for server, _ in several:
        server.should_exit = True
    await asyncio.gather(*ticks)
    for server, bound in several:
        await server.shutdown(sockets=[bound])


async def _connect(control: socket.socket, pool: Pool) -> None:
    """Take the workers into use that the supervisor starts, as long as it lives."""
    control.setblocking(False)
    loop = asyncio.get_running_loop()
    arrived, connecting = asyncio.Event(), set[asyncio.Task[None]]()
    loop.add_reader(control, arrived.set)
    while True:
        await arrived.wait()
        arrived.clear()
        with contextlib.suppress(BlockingIOError):
            while True:
                data, files, _, _ = socket.recv_fds(control, 16, 1)
                if not data:
                    loop.remove_reader(control)
                    signal.raise_signal(signal.SIGTERM)
                    return
                if data[:1] == NEW_WORKER and files:
                    task = asyncio.create_task(_take(pool, data[1], files[0]))
                    connecting.add(task)
                    task.add_done_callback(connecting.discard)


async def _take(pool: Pool, number: int, file: int) -> None:
    """Take one worker into use, unless it ends before that: then it is started again."""
    try:
        await pool.connect(number, socket.socket(fileno=file))
    except (NetworkError, OSError) as error:
        log.warning(f"a worker cannot be used: {error}")


async def _keep_current(
    folder: Path, config: ServeConfig, serving: Serving, public: uvicorn.Server
) -> None:
    """Read certificate and callers' keys again when their files change."""
    watched = [folder / config.certificate, folder / config.key]
    watched += [folder / one.keys for one in config.callers]
    seen = _times(watched)
    while True:
        await asyncio.sleep(_RELOAD_SECONDS)
        now = _times(watched)
        if now == seen:
            continue
        await _guarded("the certificate", lambda: _renew(public, *_certificate(folder, config)))
        await _guarded("callers' keys", lambda: _replace(serving, config, folder))
        seen = now


def _renew(public: uvicorn.Server, certificate: bytes, key: bytes) -> None:
    assert isinstance(public, Listener)
    reload_certificate(public, certificate, key)


def _replace(serving: Serving, config: ServeConfig, folder: Path) -> None:
    serving.callers = callers.read_keys(config.callers, folder)
    serving.recorder.enter("began", models=sorted(config.models), **_who(config, folder))


async def _guarded(what: str, work: Callable[[], None]) -> None:
    try:
        await asyncio.to_thread(work)
    except Exception:  # half-written files, for instance: what was read before stays in use
        log.exception(f"{what} changed and cannot be read; the earlier ones stay in use")


def _times(several: list[Path]) -> list[int]:
    found = []
    for path in several:
        with contextlib.suppress(OSError):
            found.append(path.stat().st_mtime_ns)
    return found

"""``flo model serve`` under load while its versions change and its processes are killed.

    python -m tests.clients.serving.under_fire SECONDS [A_SECOND]

Requests are CDS Hooks with tokens, over TLS, at a steady rate, each begun at its own time (an open
loop). Every few seconds version 9 is rolled back or put into use again, and a worker is killed.
Counted are answers that failed, answers by a version that had been withdrawn before they were
asked, and how long a rollback took until the version before answered.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import ssl
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flo.clients.home.site_home import SiteHome
from flo.clients.prediction import version_decisions
from tests.clients.serving.served_site import (
    V9,
    hook,
    put_into_use,
    served_site,
    serving_process,
    token,
)
from tests.ports import free_port

HOOK = "/cds-services/tiny"


@dataclass
class Result:
    """``seconds``: of each answer. ``rollbacks``: seconds until the version before answered."""

    asked: int = 0
    failed: list[str] = field(default_factory=list)
    by_withdrawn: int = 0
    seconds: list[float] = field(default_factory=list)
    rollbacks: list[float] = field(default_factory=list)
    kills: int = 0

    def percentile(self, share: float) -> float:
        return sorted(self.seconds)[min(len(self.seconds) - 1, int(share * len(self.seconds)))]


class Connections:
    """Keep-alive connections to the server, each with one request at a time.

    There are at most 256, as a record system has a limit, too: if this process or the server stands
    still for seconds, as on a machine that others use, requests wait for a connection.
    """

    def __init__(self, port: int, certificate: Path) -> None:
        self._port, self._tls = port, ssl.create_default_context(cafile=str(certificate))
        self._free = list[tuple[asyncio.StreamReader, asyncio.StreamWriter]]()
        self._limit = asyncio.Semaphore(256)

    async def post(self, path: str, body: bytes, bearer: Callable[[], str]) -> tuple[int, Any]:
        """Return status and JSON of the answer. ``bearer``: makes its token, once it is sent."""
        async with self._limit:
            return await self._post(path, body, bearer())

    async def _post(self, path: str, body: bytes, bearer: str) -> tuple[int, Any]:
        while self._free:
            reader, writer = self._free.pop()
            if not reader.at_eof():  # the server closes what was idle for 75 seconds
                break
            writer.transport.abort()
        else:
            reader, writer = await asyncio.open_connection("localhost", self._port, ssl=self._tls)
        head = (
            f"POST {path} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {bearer}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        kept = False
        try:
            writer.write(head.encode() + body)
            answered = await reader.readuntil(b"\r\n\r\n")
            length = int(answered.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            data = await reader.readexactly(length)
            kept = b"connection: close" not in answered.lower()
        finally:
            if kept:
                self._free.append((reader, writer))
            else:
                writer.transport.abort()
        return int(answered.split(b" ")[1]), json.loads(data)

    async def close(self) -> None:
        """Close them, and wait until they are: a socket left open would fail a later test."""
        for _, writer in self._free:
            writer.transport.abort()
        closed = (writer.wait_closed() for _, writer in self._free)
        await asyncio.gather(*closed, return_exceptions=True)  # the server may have been killed


def children(pid: int) -> list[int]:
    found = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=False)
    return [int(one) for one in found.stdout.split()]


def fronts_and_workers(pid: int) -> tuple[int, list[int]]:
    """Workers are programs of their own; the front is a fork."""
    found = children(pid)
    workers = [
        one for one in found if b"worker_process" in Path(f"/proc/{one}/cmdline").read_bytes()
    ]
    (front,) = set(found) - set(workers)
    return front, workers


async def siege(home: SiteHome, port: int, server: int, seconds: float, a_second: float) -> Result:
    """Ask at a steady rate while versions change and workers die."""
    result, gone = Result(), dict[int, int]()  # version -> which rollback took it away
    connections = Connections(port, home.directory / "serve.pem")
    url = f"https://localhost:{port}{HOOK}"
    body = json.dumps(hook()).encode()
    tokens = deque(token(url) for _ in range(64))

    def take() -> str:
        return tokens.popleft() if tokens else token(url)

    async def one() -> None:
        withdrawn, begun = dict(gone), time.perf_counter()
        result.asked += 1
        try:
            status, answer = await connections.post(HOOK, body, take)
        except Exception as error:  # any failure counts
            result.failed.append(type(error).__name__)
            return
        result.seconds.append(time.perf_counter() - begun)
        cards = answer.get("cards") or [{}]
        facts = cards[0].get("extension", {}).get("flo.answer", {})
        if status != 200 or "score" not in facts:
            result.failed.append(f"{status} {cards[0].get('summary', answer)}")
        elif (facts["version"], gone.get(facts["version"])) in withdrawn.items():
            result.by_withdrawn += 1

    async def mint() -> None:
        while True:
            while len(tokens) < 400:
                tokens.extend(await asyncio.to_thread(lambda: [token(url) for _ in range(50)]))
            await asyncio.sleep(0.05)

    async def change() -> None:
        dice = random.Random(1)
        while True:
            await asyncio.sleep(dice.uniform(1, 3))
            begun = time.perf_counter()
            await asyncio.to_thread(version_decisions.rollback, home, "tiny:9", "wrong units")
            gone[9] = len(result.rollbacks)
            status, answer = await connections.post(HOOK, body, take)
            version = answer["cards"][0]["extension"]["flo.answer"]["version"]
            if (status, version) != (200, 1):
                result.failed.append(f"after a rollback version {version} answered")
            result.rollbacks.append(time.perf_counter() - begun)
            await asyncio.sleep(dice.uniform(1, 3))
            gone.clear()
            await asyncio.to_thread(put_into_use, home, V9)
            _, workers = fronts_and_workers(server)
            os.kill(dice.choice(workers), signal.SIGKILL)
            result.kills += 1

    others = [asyncio.create_task(mint()), asyncio.create_task(change())]
    await asyncio.sleep(0.5)
    asking = set[asyncio.Task[None]]()
    begun, number = time.perf_counter(), 0
    while (now := time.perf_counter() - begun) < seconds:
        while number < now * a_second:
            number += 1
            task = asyncio.create_task(one())
            asking.add(task)
            task.add_done_callback(asking.discard)
        await asyncio.sleep(0.002)
    await asyncio.gather(*asking)
    for other in others:
        other.cancel()
        if other.done() and not other.cancelled() and other.exception():
            result.failed.append(repr(other.exception()))
    await connections.close()
    return result


def under_fire(folder: Path, seconds: float, a_second: float) -> Result:
    port = free_port()
    home = served_site(folder, port=port)
    with serving_process(home) as process:
        wait_until_ready(port, home)
        return asyncio.run(siege(home, port, process.pid, seconds, a_second))


def wait_until_ready(port: int, home: SiteHome, seconds: float = 30.0) -> float:
    """Seconds until /health says that models answer."""
    import httpx

    begun = time.perf_counter()
    tls = ssl.create_default_context(cafile=str(home.directory / "serve.pem"))
    while time.perf_counter() - begun < seconds:
        try:
            if httpx.get(f"https://localhost:{port}/health", verify=tls).status_code == 200:
                return time.perf_counter() - begun
        except httpx.TransportError:
            pass
        time.sleep(0.02)
    raise AssertionError("the server is not ready")


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 60.0
    a_second = float(sys.argv[2]) if len(sys.argv) > 2 else 500.0
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        found = under_fire(Path(folder) / "n", seconds, a_second)
    said = (
        f"asked {found.asked}, failed {len(found.failed)} {found.failed[:5]}, by a withdrawn "
        f"version {found.by_withdrawn}, workers killed {found.kills}, rollbacks "
        f"{len(found.rollbacks)}: slowest {max(found.rollbacks, default=0):.3f} s; answers p50 "
        f"{1000 * found.percentile(0.5):.1f} ms, p99 {1000 * found.percentile(0.99):.1f} ms\n"
    )
    sys.stdout.write(said)


if __name__ == "__main__":
    main()

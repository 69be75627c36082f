"""Load on one HTTP server of this machine: a fixed number of requests, as a program of its own.

    python -m flo.bench.http_load PLAN

``PLAN``: JSON file with ``port``, ``path``, ``body`` (in which ``NUMBER`` becomes each request's
own number of six digits), ``requests``, ``connections``, and optionally
``tokens`` (one for each request), ``ca`` (a certificate file: TLS) and ``a_second`` (an open loop:
each request begins at its own time, whether or not the ones before were answered). Prints JSON:
``refused`` (how many answers had each status that is not 200), ``seconds``, and percentiles of the
time to an answer.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class _Load:
    def __init__(self, plan: dict[str, Any]) -> None:
        self._plan, self._free = plan, list[Connection]()
        self._body = plan["body"].encode()
        self._tls = ssl.create_default_context(cafile=plan["ca"]) if plan.get("ca") else None
        self._next, self._statuses, self._times = 0, Counter[str](), list[float]()

    async def run(self) -> dict[str, Any]:
        for _ in range(self._plan["connections"]):
            self._free.append(await self._connect())
        begun = time.perf_counter()
        await (self._open_loop() if self._plan.get("a_second") else self._closed_loop())
        seconds, times = time.perf_counter() - begun, sorted(self._times)
        return {
            "refused": {one: count for one, count in self._statuses.items() if one != "200"},
            "seconds": seconds,
            "p50": times[len(times) // 2],
            "p99": times[int(0.99 * len(times))],
        }

    async def _closed_loop(self) -> None:
        async def one(connection: Connection) -> None:
            while (number := self._take()) is not None:
                await self._ask(connection, number)

        await asyncio.gather(*(one(connection) for connection in self._free))

    async def _open_loop(self) -> None:
        async def one(number: int) -> None:
            connection = self._free.pop() if self._free else await self._connect()
            await self._ask(connection, number)
            self._free.append(connection)

        begun, tasks = time.perf_counter(), set[asyncio.Task[None]]()
        while self._next < self._plan["requests"]:
            due = (time.perf_counter() - begun) * self._plan["a_second"]
            while self._next < due and (number := self._take()) is not None:
                task = asyncio.create_task(one(number))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
            await asyncio.sleep(0.001)
        await asyncio.gather(*tasks)

    def _take(self) -> int | None:
        number = self._next
        if number >= self._plan["requests"]:
            return None
        self._next += 1
        return number

    async def _connect(self) -> Connection:
        return await asyncio.open_connection("localhost", self._plan["port"], ssl=self._tls)

    async def _ask(self, connection: Connection, number: int) -> None:
        reader, writer = connection
        body = self._body.replace(b"NUMBER", b"%06d" % number)
        head = f"POST {self._plan['path']} HTTP/1.1\r\nhost: localhost\r\n"
        head += f"content-type: application/json\r\ncontent-length: {len(body)}\r\n"
        if tokens := self._plan.get("tokens"):
            head += f"authorization: Bearer {tokens[number]}\r\n"
        begun = time.perf_counter()
        writer.write(f"{head}\r\n".encode() + body)
        answer = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = int(answer.split(b"content-length: ")[1].split(b"\r\n")[0])
        await reader.readexactly(length)
        self._times.append(time.perf_counter() - begun)
        self._statuses[answer.split(b" ", 2)[1].decode()] += 1


def main() -> None:
    """Read the plan, load the server, and print what was measured."""
    plan = json.loads(Path(sys.argv[1]).read_text())
    try:
        import uvloop

        found = uvloop.run(_Load(plan).run())
    except ImportError:
        found = asyncio.run(_Load(plan).run())
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main()

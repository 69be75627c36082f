"""The workers of a front: each question goes to one of them, and to another if that one dies.

    1. a worker that connects is told to load every version that may answer, then asked;
    2. a question goes to the worker with the fewest open ones;
    3. if a worker dies, its open questions go to the others. A question that ended two workers is
       not asked again;
    4. a worker that does not answer within ``_LONGEST_SECONDS`` is ended, and 3 follows.

A worker's answer depends on the question alone, so asking twice is harmless.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from flo.clients.serving.frames import FORGET, LOAD, REFUSED, Buffer, asked
from flo.clients.serving.service import Answer, ServedVersion, invalid
from flo.errors import NetworkError, RefusedError

log = logging.getLogger("flo.clients.serving.pool")

MOST_OPEN = 4096  # questions
_LONGEST_SECONDS, _LOOK_SECONDS, _MOST_TRIES = 10.0, 1.0, 2
_NO_WORKER_SECONDS = 10.0
_LOADED = 200
POISON = invalid(
    500, "this request ended the process that read it; the operator finds it in the log"
)
BUSY = invalid(503, "too many requests at once")
NO_WORKER = invalid(503, "no process is there to answer")


@dataclass(eq=False)
class _Job:
    """A frame that waits for its answer. ``parts``: kind and body."""

    kind: int
    body: tuple[bytes, ...]
    answer: asyncio.Future[Answer]
    begun: float
    tries: int = 0


class Pool:
    """Used on the event loop only. ``end_worker``: tells the supervisor to end one by number."""

    def __init__(self, end_worker: Callable[[int], None]) -> None:
        self._end_worker, self._numbers = end_worker, itertools.count(1)
        self._workers = dict[int, _Worker]()
        self._versions = dict[str, bytes]()  # digest -> document
        self._waiting = list[_Job]()
        self.restarts = 0
        self._open = 0

    @property
    def size(self) -> int:
        """Number of connected workers."""
        return len(self._workers)

    async def connect(self, number: int, connection: socket.socket) -> None:
        """Take a worker into use. [1]"""
        connection.setblocking(False)
        loop = asyncio.get_running_loop()
        _, worker = await loop.create_connection(
            lambda: _Worker(number, self._numbers, self._lost), sock=connection
        )
        self._workers[number] = worker
        for digest, document in self._versions.items():
            worker.ask(self._job(LOAD, bytes.fromhex(digest), document))
        waiting, self._waiting = self._waiting, []
        for job in waiting:
            self._ask(job)

    async def load(self, version: ServedVersion) -> str:
        """Load a version in every worker; return why it has no reasons, "" if it has.

        Raises RefusedError: a worker's check of it failed. NetworkError: every worker ended
        meanwhile, or there is none.
        """
        digest, document = version.digest, version.to_bytes()
        self._versions[digest] = document  # also of workers that connect meanwhile
        jobs = [self._job(LOAD, bytes.fromhex(digest), document) for _ in self._workers]
        for worker, job in zip(self._workers.values(), jobs, strict=True):
            worker.ask(job)
        answers = await asyncio.gather(*(job.answer for job in jobs))
        for answer in answers:
            if answer.status == REFUSED:
                said = json.loads(answer.body)
                del self._versions[digest]
                raise RefusedError(said["error"], hint=said["hint"])
        loaded = [json.loads(one.body) for one in answers if one.status == _LOADED]
        if not loaded:
            raise NetworkError("no process is there that could load it")
        return str(loaded[0]["reasons"])

    def keep_only(self, digests: set[str]) -> None:
        """Forget all other versions."""
        for digest in set(self._versions) - digests:
            del self._versions[digest]
            for worker in self._workers.values():
                worker.ask(self._job(FORGET, bytes.fromhex(digest)))

    async def ask(self, kind: int, digest: bytes, answer_id: str, body: bytes) -> Answer:
        """Ask one question. [2]"""
        if self._open >= MOST_OPEN:
            return BUSY
        self._open += 1
        try:
            job = self._job(kind, digest, answer_id.encode("ascii"), body)
            self._ask(job)
            return await job.answer
        finally:
            self._open -= 1

    def close(self) -> None:
        """Close the connections to all workers; they wait for another front then."""
        for worker in self._workers.values():
            worker.close()

    async def watch(self) -> None:
        """End workers that do not answer [4], and questions that no worker takes."""
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            now = asyncio.get_running_loop().time()
            for worker in list(self._workers.values()):
                if now - worker.oldest(now) > _LONGEST_SECONDS:
                    log.error("a worker did not answer, and is ended")
                    self._end_worker(worker.number)
            for job in [j for j in self._waiting if now - j.begun > _NO_WORKER_SECONDS]:
                self._waiting.remove(job)
                _answer(job, NO_WORKER)

    def _job(self, kind: int, *body: bytes) -> _Job:
        loop = asyncio.get_running_loop()
        return _Job(kind, body, loop.create_future(), loop.time())

    def _ask(self, job: _Job) -> None:
        if not self._workers:
            self._waiting.append(job)
            return
        min(self._workers.values(), key=lambda worker: worker.open).ask(job)

    def _lost(self, worker: _Worker) -> None:  # [3]
        if self._workers.get(worker.number) is worker:
            del self._workers[worker.number]
        self.restarts += 1
        given_up = 0
        for job in worker.left():
            job.tries += 1
            if job.kind in (LOAD, FORGET):
                _answer(job, invalid(503, "the process that was to load a version ended"))
            elif job.tries >= _MOST_TRIES:
                given_up += 1
                _answer(job, POISON)
            else:
                self._ask(job)
        if given_up:
            log.error(f"{given_up} requests are not asked again: two workers ended with them")


def _answer(job: _Job, answer: Answer) -> None:
    if not job.answer.done():
        job.answer.set_result(answer)


class _Worker(asyncio.Protocol):
    """Connection to one worker, and the questions that it has not answered."""

    def __init__(
        self, number: int, numbers: itertools.count[int], lost: Callable[[_Worker], None]
    ) -> None:
        self.number, self._numbers, self._lost = number, numbers, lost
        self._jobs, self._buffer = dict[int, _Job](), Buffer()
        self._out, self._flushing = list[bytes](), False
        self._transport: asyncio.Transport | None = None

    @property
    def open(self) -> int:
        """Number of questions without an answer."""
        return len(self._jobs)

    def oldest(self, now: float) -> float:
        """Return when the oldest open question was asked; ``now`` if there is none."""
        return next((job.begun for job in self._jobs.values()), now)

    def left(self) -> list[_Job]:
        """Return the questions without an answer, and forget them."""
        found, self._jobs = list(self._jobs.values()), {}
        return found

    def ask(self, job: _Job) -> None:
        """Send one question; all that are asked at once go out together."""
        number = next(self._numbers)
        self._jobs[number] = job
        self._out.append(asked(number, job.kind, *job.body))
        if not self._flushing:
            self._flushing = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        out, self._out = self._out, []
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(b"".join(out))

    def close(self) -> None:
        """Close the connection."""
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the connection."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's has no such base class

    def data_received(self, data: bytes) -> None:
        """Hand answers to those who wait for them."""
        self._buffer.add(data)
        for number, answer in self._buffer.answers():
            job = self._jobs.pop(number, None)
            if job is not None:
                _answer(job, answer)

    def connection_lost(self, error: Exception | None) -> None:
        """Return the open questions to the pool."""
        self._lost(self)

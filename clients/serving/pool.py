"""The workers of a front: each question goes to one of them, and to another if that one dies.

    1. a worker that connects says how it is confined, and is told to load every version that may
       answer;
    2. a question goes to the worker with the fewest open ones;
    3. if a worker dies, any of its open questions may be the cause. Each of them is asked again
       *alone*, one after the other, by one worker that does nothing else meanwhile, and of the
       version in use only. A question that ends two workers while it is alone is not asked again;
    4. a worker that makes no progress for ``_LONGEST_SECONDS`` is ended, and 3 follows.

A worker's answer depends on the question alone, so asking twice is harmless.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import socket
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import cast

from flo.clients.serving.frames import FORGET, LOAD, REFUSED, Buffer, asked
from flo.clients.serving.service import Answer, ServedVersion, invalid
from flo.clients.serving.several import of_the_first
from flo.errors import MessageError, NetworkError, RefusedError

log = logging.getLogger("flo.clients.serving.pool")

MOST_OPEN = 4096  # questions
_LONGEST_SECONDS, _LONGEST_LOAD_SECONDS, _LOOK_SECONDS = 3.0, 120.0, 0.5
_NO_WORKER_SECONDS, _MOST_ENDED, _LONGEST_ANSWER = 30.0, 2, 8 << 20
_LOADED = 200
POISON = invalid(
    500, "this request ended the process that read it; the operator finds it in the log"
)
BUSY = invalid(503, "too many requests at once")
NO_WORKER = invalid(503, "no process is there to answer")


@dataclass(eq=False)
class _Job:
    """A frame that waits for its answer. ``ended``: workers that ended with it alone."""

    kind: int
    body: tuple[bytes, ...]
    answer: asyncio.Future[Answer]
    begun: float
    ended: int = 0


class Pool:
    """Used on the event loop only.

    ``end_worker``: tells the supervisor to end one by number. ``required``: layers of confinement
    without which no worker is used.
    """

    def __init__(self, end_worker: Callable[[int], None], required: Collection[str] = ()) -> None:
        self._end_worker, self._required = end_worker, set(required)
        self._numbers = itertools.count(1)
        self._workers = dict[int, _Worker]()
        self._versions = dict[str, bytes]()  # digest -> document
        self._waiting, self._suspects = deque[_Job](), deque[_Job]()
        self.restarts = 0
        self._open = 0

    @property
    def size(self) -> int:
        """Number of connected workers."""
        return len(self._workers)

    @property
    def open(self) -> int:
        """Number of questions that wait for their answer."""
        return self._open

    async def connect(self, number: int, connection: socket.socket) -> None:
        """Take a worker into use. [1]"""
        connection.setblocking(False)
        loop = asyncio.get_running_loop()
        _, worker = await loop.create_connection(
            lambda: _Worker(number, self._numbers, self._lost, self._step), sock=connection
        )
        missing = set(await worker.hello)
        if missing & self._required:
            log.error(
                "a worker is not used: the site's policy requires confinement that this machine "
                f"does not give: {', '.join(sorted(missing & self._required))}"
            )
            worker.close()
            return
        if missing:
            log.warning(f"workers are not confined by {', '.join(sorted(missing))}")
        self._workers[number] = worker
        for digest, document in self._versions.items():
            worker.ask(self._job(LOAD, bytes.fromhex(digest), document))
        self._step()

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
                self._versions.pop(digest, None)
                raise RefusedError(said["error"], hint=said["hint"])
        loaded = [json.loads(one.body) for one in answers if one.status == _LOADED]
        if not loaded:
            raise NetworkError("no process is there that could load it")
        return str(loaded[0]["reasons"])

    async def try_out(self, version: ServedVersion) -> None:
        """Load a version in one worker. Raises RefusedError: its check failed, or ended the worker.
        NetworkError: there is no worker."""
        if version.digest in self._versions:
            return
        if not self._workers:
            raise NetworkError("no process is there that could load it")
        worker = min(self._workers.values(), key=lambda one: one.open)
        job = self._job(LOAD, bytes.fromhex(version.digest), version.to_bytes())
        worker.ask(job)
        answer = await job.answer
        if answer.status == REFUSED:
            said = json.loads(answer.body)
            raise RefusedError(said["error"], hint=said["hint"])
        if answer.status != _LOADED:
            raise RefusedError("it ended the process that loaded it")

    def keep_only(self, digests: set[str]) -> None:
        """Forget all other versions."""
        for digest in set(self._versions) - digests:
            del self._versions[digest]
            for worker in self._workers.values():
                worker.ask(self._job(FORGET, bytes.fromhex(digest)))

    async def ask(self, kind: int, versions: bytes, answer_id: str, body: bytes) -> Answer:
        """Ask one question. [2]

        ``versions``: packed, of ``flo.clients.serving.several``.
        """
        if self._open >= MOST_OPEN:
            return BUSY
        self._open += 1
        try:
            job = self._job(kind, versions, answer_id.encode("ascii"), body)
            self._ask(job)
            return await job.answer
        finally:
            self._open -= 1

    def close(self) -> None:
        """Close the connections to all workers; they wait for another front then."""
        for worker in self._workers.values():
            worker.close()

    async def watch(self) -> None:
        """End workers that make no progress [4], and questions that no worker takes."""
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            now = asyncio.get_running_loop().time()
            for worker in list(self._workers.values()):
                if worker.is_stuck(now):
                    log.error("a worker makes no progress, and is ended")
                    self._end_worker(worker.number)
            for several in (self._waiting, self._suspects):
                for job in [j for j in several if now - j.begun > _NO_WORKER_SECONDS]:
                    several.remove(job)
                    _answer(job, NO_WORKER)

    def _job(self, kind: int, *body: bytes) -> _Job:
        loop = asyncio.get_running_loop()
        return _Job(kind, body, loop.create_future(), loop.time())

    def _ask(self, job: _Job) -> None:
        free = [worker for worker in self._workers.values() if not worker.is_reserved]
        if free:
            min(free, key=lambda worker: worker.open).ask(job)
        else:
            self._waiting.append(job)

    def _lost(self, worker: _Worker) -> None:  # [3]
        if self._workers.get(worker.number) is worker:
            del self._workers[worker.number]
        self.restarts += 1
        for job in worker.left():
            if job.kind in (LOAD, FORGET):
                _answer(job, invalid(503, "the process that was to load a version ended"))
                continue
            job.ended += worker.is_reserved
            if job.ended >= _MOST_ENDED:
                log.error("a request is not asked again: two workers ended with it alone")
                _answer(job, POISON)
            else:  # perhaps another version than the one in use ended it
                job.body = (of_the_first(job.body[0]), *job.body[1:])
                self._suspects.append(job)
        self._step()

    def _step(self) -> None:
        """Ask the next suspect alone, or what waits, wherever a worker is free. [3]"""
        workers = self._workers.values()
        reserved = next((one for one in workers if one.is_reserved), None)
        if self._suspects and reserved is None and workers:
            reserved = min(workers, key=lambda worker: worker.open)
            reserved.is_reserved = True
        if reserved is not None and not reserved.open:
            if self._suspects:
                reserved.ask(self._suspects.popleft())
            else:
                reserved.is_reserved = False
        if self._waiting and any(not one.is_reserved for one in workers):
            waiting, self._waiting = self._waiting, deque()
            for job in waiting:
                self._ask(job)


def _answer(job: _Job, answer: Answer) -> None:
    if not job.answer.done():
        job.answer.set_result(answer)


class _Worker(asyncio.Protocol):
    """Connection to one worker, and the questions that it has not answered.

    ``hello``: the layers of confinement that it misses. ``is_reserved``: whether it is asked one
    suspect after the other, and nothing else.
    """

    def __init__(
        self,
        number: int,
        numbers: itertools.count[int],
        lost: Callable[[_Worker], None],
        answered: Callable[[], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self.number, self.is_reserved = number, False
        self.hello: asyncio.Future[list[str]] = self._loop.create_future()
        self._numbers, self._lost, self._answered = numbers, lost, answered
        self._jobs, self._buffer = dict[int, _Job](), Buffer(_LONGEST_ANSWER)
        self._out, self._progress = list[bytes](), self._loop.time()
        self._transport: asyncio.Transport | None = None

    @property
    def open(self) -> int:
        """Number of questions without an answer."""
        return len(self._jobs)

    def is_stuck(self, now: float) -> bool:
        """Return whether nothing was answered for too long, while something is asked."""
        loads = any(job.kind == LOAD for job in self._jobs.values())
        longest = _LONGEST_LOAD_SECONDS if loads else _LONGEST_SECONDS
        return bool(self._jobs) and now - self._progress > longest

    def left(self) -> list[_Job]:
        """Return the questions without an answer, and forget them."""
        found, self._jobs = list(self._jobs.values()), {}
        return found

    def ask(self, job: _Job) -> None:
        """Send one question; all that are asked in one turn go out together."""
        if not self._jobs:
            self._progress = self._loop.time()
        number = next(self._numbers)
        self._jobs[number] = job
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out.append(asked(number, job.kind, *job.body))

    def _flush(self) -> None:
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
        self._progress = self._loop.time()
        self._buffer.add(data)
        try:
            for number, answer in self._buffer.answers():
                job = self._jobs.pop(number, None)
                if job is not None:
                    _answer(job, answer)
                elif not self.hello.done():
                    self.hello.set_result(json.loads(answer.body)["missing"])
        except (MessageError, ValueError, KeyError, IndexError):
            log.error("a worker answered what it cannot have computed, and is ended")
            self.close()
        self._answered()

    def connection_lost(self, error: Exception | None) -> None:
        """Return the open questions to the pool."""
        if not self.hello.done():
            self.hello.set_exception(NetworkError("a worker ended before it could be used"))
        self._lost(self)

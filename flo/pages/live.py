"""Pages that stay as things stand: what changed is sent as server-sent events (WHATWG HTML 9.2).

    hello  how this process is called; another name means that it was started anew
    failed what is shown now cannot be made; it is tried again, and the next hello says that it can
    part   {"id", "html"}: what an element of the page holds from now on
    beat   nothing has changed, and the line is alive
    over   whoever looks may look no longer
    full   too many pages are open for this one to be kept up to date

Pages are looked after by a few threads of their own, and those that show the same to people who may
do the same share what is made for them: however many are open, nobody else has to wait.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from starlette.responses import Response, StreamingResponse

from flo.pages.responses import HEADERS

log = logging.getLogger("flo.pages")

_LOOK_SECONDS, _RENDER_SECONDS, _BEAT_SECONDS = 0.2, 2.0, 5.0
_MOST_STREAMS, _MOST_OF_ONE = 64, 8
_THREADS = 2
AnswerT = TypeVar("AnswerT")
Parts = dict[str, str]


class LiveUpdates:
    """The streams of one process; they end when it does."""

    def __init__(self) -> None:
        self._boot, self._open = secrets.token_hex(8), Counter[str]()
        self._made: dict[str, tuple[object, float, Parts]] = {}
        self._failing = set[str]()  # said in the log once
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="pages")
        self.closing = asyncio.Event()

    def stream(
        self,
        version: Callable[[], object],
        parts: Callable[[], Parts],
        *,
        shown: str,
        owner: str = "",
        until: float = float("inf"),
    ) -> Response:
        """What changes of a page, until it is closed, or until a time (seconds since 1970).

        ``version``: cheap, and another whenever something may have happened. ``parts``: made anew
        then, and every two seconds besides. Both are called in a thread. ``shown``: the same for
        pages whose parts are the same. ``owner``: who may have only so many pages open.
        """
        if self._open.total() >= _MOST_STREAMS or self._open[owner] >= _MOST_OF_ONE:
            return _answer(_only("full"))
        return _answer(self._events(version, parts, shown, owner, until))

    async def _events(
        self,
        version: Callable[[], object],
        parts: Callable[[], Parts],
        shown: str,
        owner: str,
        until: float,
    ) -> AsyncIterator[str]:
        self._open[owner] += 1
        try:
            yield _event("hello", self._boot)
            sent, beaten, state = Parts(), 0.0, "hello"
            while not self.closing.is_set():
                if time.time() >= until:
                    yield _event("over", "")
                    return
                made, now = await self._look(version, parts, shown)
                if now != state:
                    state, beaten = now, time.monotonic()
                    yield _event(state, self._boot)
                for name, html in made.items():
                    if sent.get(name) != html:
                        beaten = time.monotonic()
                        yield _event("part", {"id": name, "html": html})
                sent |= made
                if time.monotonic() - beaten >= _BEAT_SECONDS:
                    beaten = time.monotonic()
                    yield _event("beat" if state == "hello" else state, self._boot)
                await self._pause()
        finally:
            self._open[owner] -= 1
            if not self._open[owner]:
                del self._open[owner]

    async def _look(
        self, version: Callable[[], object], parts: Callable[[], Parts], shown: str
    ) -> tuple[Parts, str]:
        """What is to be shown, and "hello"; or nothing, and "failed"."""
        try:
            seen = await self._in_a_thread(version)
            return await self._fresh(shown, seen, parts), "hello"
        except Exception:  # of whatever kind: the page says that it is not up to date
            if shown not in self._failing:
                log.exception("a page cannot be kept up to date; it is tried again")
            self._failing.add(shown)
            return Parts(), "failed"

    async def _fresh(self, shown: str, seen: object, parts: Callable[[], Parts]) -> Parts:
        """As made before for whoever sees the same, or anew."""
        known = self._made.get(shown)
        if known and known[0] == seen and time.monotonic() - known[1] < _RENDER_SECONDS:
            return known[2]
        made = await self._in_a_thread(parts)
        self._failing.discard(shown)
        if len(self._made) >= _MOST_STREAMS:
            self._made.clear()
        self._made[shown] = seen, time.monotonic(), made
        return made

    async def _in_a_thread(self, work: Callable[[], AnswerT]) -> AnswerT:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    async def _pause(self) -> None:
        try:
            await asyncio.wait_for(self.closing.wait(), _LOOK_SECONDS)
        except TimeoutError:
            return


def over() -> Response:
    """For a page whose reader may look no longer."""
    return _answer(_only("over"))


async def _only(kind: str) -> AsyncIterator[str]:
    yield _event(kind, "")


def _answer(events: AsyncIterator[str]) -> Response:
    headers = HEADERS | {"content-type": "text/event-stream", "x-accel-buffering": "no"}
    return StreamingResponse(events, headers=headers)


def _event(kind: str, data: Any) -> str:
    text = data if isinstance(data, str) else json.dumps(data)
    return f"event: {kind}\ndata: {text}\n\n"

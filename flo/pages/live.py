"""Live pages: sends the parts that changed as server-sent events (WHATWG HTML 9.2).

    hello  the id of this server process; a different id means that the server was restarted
    failed the page cannot be rendered now; it is retried, and the next hello reports success
    part   {"id", "html"}: the new content of an element of the page
    beat   no change; the connection is alive
    over   the reader's access has ended
    full   too many pages are open: this one is not kept up to date

A few dedicated threads render the pages. Pages with the same content for people with the same
rights share one rendering. Open pages therefore do not delay other requests.
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
    """The event streams of one process; they end when ``closing`` is set."""

    def __init__(self) -> None:
        self._boot, self._open = secrets.token_hex(8), Counter[str]()
        self._made: dict[str, tuple[object, float, Parts]] = {}
        self._failing = set[str]()  # already logged
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
        """Stream the changes of a page until it is closed, or until ``until`` (seconds since 1970).

        ``version``: cheap to call; its value changes whenever the page may have changed. ``parts``:
        renders the page, when the version changes and at least every two seconds. Both are called
        in a thread. ``shown``: a key, equal for pages with equal parts. ``owner``: the reader; the
        number of open pages per owner is limited.
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
        """Return the current parts and "hello", or no parts and "failed"."""
        try:
            seen = await self._in_a_thread(version)
            return await self._fresh(shown, seen, parts), "hello"
        except Exception:  # any error: the page then reports that it is not up to date
            if shown not in self._failing:
                log.exception("a page cannot be updated; FLO keeps trying")
            self._failing.add(shown)
            return Parts(), "failed"

    async def _fresh(self, shown: str, seen: object, parts: Callable[[], Parts]) -> Parts:
        """Return the cached parts of ``shown`` if they are current; otherwise render them."""
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
    """Return a stream with the one event ``over``: the reader's access has ended."""
    return _answer(_only("over"))


async def _only(kind: str) -> AsyncIterator[str]:
    yield _event(kind, "")


def _answer(events: AsyncIterator[str]) -> Response:
    headers = HEADERS | {"content-type": "text/event-stream", "x-accel-buffering": "no"}
    return StreamingResponse(events, headers=headers)


def _event(kind: str, data: Any) -> str:
    text = data if isinstance(data, str) else json.dumps(data)
    return f"event: {kind}\ndata: {text}\n\n"

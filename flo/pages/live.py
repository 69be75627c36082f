"""Pages that stay as things stand: what changed is sent as server-sent events (WHATWG HTML 9.2).

hello  how this process is called; another name means that it was started anew
part   {"id", "html"}: what an element of the page holds from now on
beat   nothing has changed, and the line is alive
over   whoever looks may look no longer
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

from starlette.responses import Response, StreamingResponse

from flo.errors import RefusedError
from flo.pages import HEADERS

_LOOK_SECONDS, _RENDER_SECONDS, _BEAT_SECONDS = 0.2, 2.0, 5.0
_MOST_STREAMS = 64


class Live:
    """The streams of one process; they end when it does."""

    def __init__(self) -> None:
        self._boot, self._open = secrets.token_hex(8), 0
        self.closing = asyncio.Event()

    def stream(
        self,
        version: Callable[[], object],
        parts: Callable[[], dict[str, str]],
        until: float = float("inf"),
    ) -> Response:
        """What changes of a page, until it is closed, or until a time (seconds since 1970).

        ``version``: cheap, and another whenever something may have happened. ``parts``: made anew
        then, and every two seconds besides. Both are called in a thread.

        Raises:
            RefusedError: too many pages are open.
        """
        if self._open >= _MOST_STREAMS:
            raise RefusedError(f"{_MOST_STREAMS} pages are open already", hint="close some")
        headers = HEADERS | {"content-type": "text/event-stream", "x-accel-buffering": "no"}
        return StreamingResponse(self._events(version, parts, until), headers=headers)

    async def _events(
        self, version: Callable[[], object], parts: Callable[[], dict[str, str]], until: float
    ) -> AsyncIterator[str]:
        self._open += 1
        try:
            yield _event("hello", self._boot)
            known, sent = object(), dict[str, str]()
            rendered = beaten = 0.0
            while not self.closing.is_set():
                if time.time() >= until:
                    yield _event("over", "")
                    return
                now, seen = time.monotonic(), await asyncio.to_thread(version)
                if seen != known or now - rendered >= _RENDER_SECONDS:
                    known, rendered = seen, now
                    made = await asyncio.to_thread(parts)
                    for name, html in made.items():
                        if sent.get(name) != html:
                            beaten = now
                            yield _event("part", {"id": name, "html": html})
                    sent = made
                if now - beaten >= _BEAT_SECONDS:
                    beaten = now
                    yield _event("beat", "")
                await self._pause()
        finally:
            self._open -= 1

    async def _pause(self) -> None:
        try:
            await asyncio.wait_for(self.closing.wait(), _LOOK_SECONDS)
        except TimeoutError:
            return


def _event(kind: str, data: Any) -> str:
    text = data if isinstance(data, str) else json.dumps(data)
    return f"event: {kind}\ndata: {text}\n\n"

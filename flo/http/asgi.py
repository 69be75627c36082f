"""Helpers of both listeners for ASGI requests: read and replay bodies, send responses."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from email.utils import formatdate
from typing import Any

from starlette.types import Receive, Scope, Send

_BODY_SECONDS = 600.0


class Refused(Exception):
    """The request is refused with this HTTP status."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


def headers_of(scope: Scope) -> dict[bytes, bytes]:
    """Return lower-case header name -> value; the last value if a header was sent twice."""
    return dict(scope["headers"])


class ByteQuota:
    """Limit on the bytes that the bodies of one party's concurrent requests occupy in total."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held: Counter[str] = Counter()

    @contextmanager
    def reserve(self, who: str, limit: int | None = None) -> Iterator[Callable[[int], None]]:
        """Count the bytes of one request of the party ``who`` until the request is handled.

        Yields a function that counts ``size`` more bytes and raises Refused (429) beyond the
        limit. ``limit``: the party's own limit, if it has one.
        """
        own, most = 0, self._limit if limit is None else limit

        def take(size: int) -> None:
            nonlocal own
            own += size
            self._held[who] += size
            if self._held[who] > most:
                raise Refused(429, f"{who}: concurrent requests exceed {most} bytes")

        try:
            yield take
        finally:
            self._held[who] -= own


def unlimited(size: int) -> None:
    """Accept any number of bytes: for bodies that our own processes send."""


async def read_body(receive: Receive, limit: int, take: Callable[[int], None] = unlimited) -> bytes:
    """Return the whole body. Raises Refused if it exceeds ``limit`` (413) or takes too long (408).

    ``take``: called with the size of every part, see ``ByteQuota``.
    """
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            return await _read(receive, limit, take)
    except TimeoutError as error:
        raise Refused(408, f"the body did not arrive in {_BODY_SECONDS:g} seconds") from error


async def _read(receive: Receive, limit: int, take: Callable[[int], None]) -> bytes:
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Refused(400, "the client disconnected")
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        take(len(parts[-1]))
        if size > limit:
            raise Refused(413, f"the body exceeds {limit} bytes")
        if not message.get("more_body", False):
            return b"".join(parts)


def replay(body: bytes, receive: Receive) -> Receive:
    """Return a receive that yields ``body`` once and then the connection's own messages."""
    sent = False

    async def again() -> MutableMapping[str, Any]:
        nonlocal sent
        if not sent:
            sent = True
            return {"type": "http.request", "body": body, "more_body": False}
        return await receive()

    return again


def dated(send: Send) -> Send:
    """Return a send that adds a ``Date`` to each response. Agents sign Flower's timestamps by it.

    uvicorn's own ``Date`` is the time of the request; a long poll answers up to 20 s later.
    """

    async def with_date(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            now = formatdate(time.time(), usegmt=True).encode()
            message["headers"] = [*message.get("headers", ()), (b"date", now)]
        await send(message)

    return with_date


async def send_bytes(send: Send, body: bytes) -> None:
    """Send a complete response of bytes, with caching forbidden."""
    headers = [(b"content-length", str(len(body)).encode()), (b"cache-control", b"no-store")]
    headers.append((b"content-type", b"application/octet-stream"))
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def send_json(send: Send, status: int, document: Any | None) -> None:
    """Send a complete response, JSON or empty (None), with caching forbidden."""
    body = b"" if document is None else json.dumps(document).encode()
    headers = [(b"content-length", str(len(body)).encode()), (b"cache-control", b"no-store")]
    if body:
        headers.append((b"content-type", b"application/json"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})

"""What both listeners do with a request before anyone decides about it: read, replay, answer."""

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
    """A request that goes no further."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


def headers_of(scope: Scope) -> dict[bytes, bytes]:
    """Header name in lower case -> value; of a header sent twice the last one."""
    return dict(scope["headers"])


class ByteQuota:
    """Bytes that the bodies of one party may take up here, all of its requests together."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held: Counter[str] = Counter()

    @contextmanager
    def reserve(self, who: str, limit: int | None = None) -> Iterator[Callable[[int], None]]:
        """While a request is handled; each call takes so many bytes or raises Refused (429).

        ``limit``: of this party, where it has one of its own.
        """
        own, most = 0, self._limit if limit is None else limit

        def take(size: int) -> None:
            nonlocal own
            own += size
            self._held[who] += size
            if self._held[who] > most:
                raise Refused(429, f"{who}: more than {most} bytes at once")

        try:
            yield take
        finally:
            self._held[who] -= own


def unlimited(size: int) -> None:
    """A body whose sender is a process of ours."""


async def read_body(receive: Receive, limit: int, take: Callable[[int], None] = unlimited) -> bytes:
    """The whole body. Raises Refused (413, 408) as soon as it exceeds ``limit``, or takes too long.

    ``take``: told of every part, see ``ByteQuota``.
    """
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            return await _read(receive, limit, take)
    except TimeoutError as error:
        raise Refused(408, f"no whole body in {_BODY_SECONDS:g} seconds") from error


async def _read(receive: Receive, limit: int, take: Callable[[int], None]) -> bytes:
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Refused(400, "the client went away")
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        take(len(parts[-1]))
        if size > limit:
            raise Refused(413, f"a body of more than {limit} bytes")
        if not message.get("more_body", False):
            return b"".join(parts)


def replay(body: bytes, receive: Receive) -> Receive:
    """A receive that yields ``body`` once and then whatever the connection says."""
    sent = False

    async def again() -> MutableMapping[str, Any]:
        nonlocal sent
        if not sent:
            sent = True
            return {"type": "http.request", "body": body, "more_body": False}
        return await receive()

    return again


def with_length(scope: Scope, length: int) -> Scope:
    """The same request with another body length."""
    headers = [item for item in scope["headers"] if item[0] != b"content-length"]
    return {**scope, "headers": [*headers, (b"content-length", str(length).encode())]}


def dated(send: Send) -> Send:
    """The same, with a ``Date`` on each response. Agents sign Flower's timestamps by it.

    uvicorn's own ``Date`` is the time of the request; a long poll answers up to 20 s later.
    """

    async def with_date(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            now = formatdate(time.time(), usegmt=True).encode()
            message["headers"] = [*message.get("headers", ()), (b"date", now)]
        await send(message)

    return with_date


async def send_json(send: Send, status: int, document: Any | None) -> None:
    """Send a whole response, JSON or (None) empty, that nobody may cache."""
    body = b"" if document is None else json.dumps(document).encode()
    headers = [(b"content-length", str(len(body)).encode()), (b"cache-control", b"no-store")]
    if body:
        headers.append((b"content-type", b"application/json"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})

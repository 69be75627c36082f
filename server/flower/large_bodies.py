"""Transfer of large bodies between a ServerApp and hospitals, outside Flower's messages.

Flower stores every object of a message whole, in memory and several times. So a message carries its
header only, and a body of more than ``flo.protocol.messages.MAX_INLINE_BYTES`` bytes is transferred
separately:

    down    the ServerApp stores a request's body here once; each addressed hospital fetches it;
    up      a hospital offers its reply and waits; when the ServerApp takes it, it passes through
            this process piece by piece. No party holds more than one reply of a run at a time.

A ServerApp on this machine passes bodies and receives replies in shared memory
(``flo.host.shared_memory``); for a ServerApp elsewhere they are streamed.

An offer ends when it was taken, when its run is over or does not wait for it, or when the hospital
makes another offer. A run no longer waits if it asks for replies and this one is not among them: a
hospital that was asked twice, because it was slow, then hears the next question at once. Runs on
the event loop; stores data no longer than the run.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from dataclasses import dataclass, field

from starlette.types import Receive, Send

from flo.documents.canonical import Bytes
from flo.host.shared_memory import SharedBytes
from flo.http.asgi import Refused
from flo.protocol.large_bodies import NAME_HEADER
from flo.server.http.notifier import Notifier

_NAME, _NUMBER = re.compile(r"[0-9a-f]{32}"), re.compile(r"[0-9]{1,20}")
_LOOK_SECONDS = 1.0
_TAKE_SECONDS = 10.0  # a hospital offers a body right after announcing it
_STALLED_SECONDS = 60.0
_PIECE = 1 << 17  # several are buffered for each hospital that fetches


@dataclass(frozen=True)
class _StoredRequest:
    name: str
    nodes: Collection[int]
    body: Bytes


@dataclass
class _PendingReply:
    run: int
    answers: str | None  # the id of the message that it answers, if known
    name: str
    size: int
    receive: Receive
    over: asyncio.Event = field(default_factory=asyncio.Event)  # transfer ended, or offer replaced
    taken: bool = False
    whole: bool = False


class LargeBodyRelay:
    """Relay of large bodies. ``node`` is Flower's id of an agent, ``run`` is Flower's run id."""

    def __init__(self) -> None:
        self._down: dict[int, _StoredRequest] = {}  # run -> its last request
        self._up: dict[int, _PendingReply] = {}
        self._offered = Notifier()
        self._shared: dict[int, SharedBytes] = {}  # run -> reply its ServerApp reads
        self._filling: dict[int, asyncio.Task[None]] = {}
        self._asked: dict[int, int] = {}  # run -> number of share_reply calls

    def store_request(self, run: int, name: str, nodes: Collection[int], body: Bytes) -> None:
        """Store a request's body for these nodes; it replaces the run's last one."""
        self._down[run] = _StoredRequest(name, nodes, body)

    def forget(self, is_over: Callable[[int], bool]) -> None:
        """Delete the data of runs that are over."""
        for run in filter(is_over, {*self._down, *self._shared} - set(self._filling)):
            self._down.pop(run, None)
            self._asked.pop(run, None)
            if (shared := self._shared.pop(run, None)) is not None:
                shared.close()

    async def serve_request(self, node: int, name: str, send: Send) -> None:
        """Send a request's body. Raises Refused (404): there is none for this node."""
        for run, parcel in list(self._down.items()):
            if parcel.name == name and node in parcel.nodes:
                await _start(send, len(parcel.body))
                view = memoryview(parcel.body)
                for start in range(0, len(view), _PIECE):
                    piece, more = view[start : start + _PIECE], start + _PIECE < len(view)
                    if self._down.get(run) is not parcel:
                        return  # cut short: another request has replaced this one
                    body = {"type": "http.response.body", "body": bytes(piece), "more_body": more}
                    try:
                        async with asyncio.timeout(_STALLED_SECONDS):
                            await send(body)
                    except TimeoutError:
                        return
                return
        raise Refused(404, "no such body is stored for this hospital")

    def end_unawaited(self, run: int, awaited: Collection[str]) -> None:
        """End a run's offers that are not taken and answer none of the messages ``awaited``.

        To be called when the run asks for the replies to these messages. A run asks for all replies
        that it waits for, so an offer made before it asks is either among them or of no use to it.
        """
        for up in self._up.values():
            unawaited = up.answers is not None and up.answers not in awaited
            if up.run == run and unawaited and not up.taken:
                up.over.set()

    async def hold_reply(
        self,
        node: int,
        run: int,
        answers: str | None,
        name: str,
        size: int,
        receive: Receive,
        is_over: Callable[[int], bool],
    ) -> bool:
        """Wait until the body of a hospital's reply was taken. Return False if it is not wanted.

        ``answers``: the id of the message that it answers; if it is not known, the offer waits
        until it is taken or the run is over. ``is_over``: whether a run is over.
        """
        if before := self._up.pop(node, None):
            before.over.set()
        up = self._up[node] = _PendingReply(run, answers, name, size, receive)
        self._offered.notify_all()
        try:
            while not up.over.is_set():
                if not up.taken and is_over(run):
                    break
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(up.over.wait(), _LOOK_SECONDS)
        finally:
            if self._up.get(node) is up:
                del self._up[node]
        return up.whole

    async def stream_reply(self, node: int, name: str, size: int, send: Send) -> None:
        """Send the body that this node offers.

        If the hospital disconnects midway, the response ends short of its Content-Length, which
        the ServerApp detects. Raises Refused (404): no such offer arrives within
        ``_TAKE_SECONDS``.
        """
        up = await self._wait_for(node, name, size)
        up.taken = True
        try:
            await _start(send, up.size)
            there = 0
            async for piece in _pieces(up):
                there += len(piece)
                more = there < up.size
                await send({"type": "http.response.body", "body": piece, "more_body": more})
            up.whole = there == up.size
        finally:
            up.over.set()

    async def share_reply(self, run: int, node: int, name: str, size: int) -> str:
        """Return the place in shared memory where a local ServerApp reads this node's offer.

        The content is valid until the run's next call, which also cancels a transfer under way.
        Raises Refused (404): it is not offered, or did not arrive whole.
        """
        number = self._asked[run] = self._asked.get(run, 0) + 1
        if before := self._filling.get(run):  # the ServerApp has given it up
            before.cancel()
        up = await self._wait_for(node, name, size)
        if self._asked[run] != number:  # a later call has begun: this one was given up, too
            raise Refused(404, "the ServerApp no longer waits for this body")
        up.taken = True
        shared = self._shared[run] = self._shared.get(run) or SharedBytes()
        filling = self._filling[run] = asyncio.create_task(_fill(shared, up))
        await asyncio.wait({filling})
        if self._filling.get(run) is filling:
            del self._filling[run]
        if not up.whole:
            raise Refused(404, "the hospital disconnected during the transfer")
        return shared.place

    async def _wait_for(self, node: int, name: str, size: int) -> _PendingReply:
        end = asyncio.get_running_loop().time() + _TAKE_SECONDS
        while (left := end - asyncio.get_running_loop().time()) > 0:
            up = self._up.get(node)
            if up is not None and (up.name, up.size) == (name, size) and not up.taken:
                return up
            await self._offered.wait(left)
        raise Refused(404, f"the hospital did not offer this body in {_TAKE_SECONDS:g} seconds")


async def _fill(shared: SharedBytes, up: _PendingReply) -> None:
    there = 0
    try:
        async for piece in _pieces(up):
            shared.write(piece, there)
            there += len(piece)
        up.whole = there == up.size
    finally:
        up.over.set()


async def _pieces(up: _PendingReply) -> AsyncIterator[bytes]:
    """Yield the body as it arrives: at most the announced size, until it stalls or is cut off."""
    left = up.size
    while left > 0:
        try:
            async with asyncio.timeout(_STALLED_SECONDS):
                message = await up.receive()
        except TimeoutError:
            return
        piece = message.get("body", b"")
        if message["type"] == "http.disconnect" or len(piece) > left:
            return
        left -= len(piece)
        if piece:
            yield piece


async def _start(send: Send, size: int) -> None:
    headers = [(b"content-length", str(size).encode()), (b"cache-control", b"no-store")]
    headers.append((b"content-type", b"application/octet-stream"))
    await send({"type": "http.response.start", "status": 200, "headers": headers})


def name_in(headers: Mapping[bytes, bytes]) -> str:
    """Return the name of the parcel that a request is about. Raises Refused (400)."""
    name = headers.get(NAME_HEADER.encode(), b"").decode("latin-1")
    if not _NAME.fullmatch(name):
        raise Refused(400, f"{NAME_HEADER} is missing or invalid")
    return name


def number_in(headers: Mapping[bytes, bytes], header: str, most: int) -> int:
    """Return a header's decimal number, at most ``most``. Raises Refused (400, 413)."""
    text = headers.get(header.encode(), b"").decode("latin-1")
    if not _NUMBER.fullmatch(text):
        raise Refused(400, f"{header} is not a number")
    if int(text) > most:
        raise Refused(413, f"{header} exceeds {most}")
    return int(text)


def numbers_in(headers: Mapping[bytes, bytes], header: str) -> set[int]:
    """Return a header's comma-separated decimal numbers, at least one. Raises Refused (400)."""
    texts = headers.get(header.encode(), b"").decode("latin-1").split(",")
    if not all(map(_NUMBER.fullmatch, texts)):
        raise Refused(400, f"{header} is not a list of numbers")
    return set(map(int, texts))

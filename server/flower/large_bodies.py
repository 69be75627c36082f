"""Large bodies on their way between a ServerApp and hospitals, past Flower's messages.

Flower keeps every object of a message whole, in memory and several times over. So a message carries
its header, and a body of more than ``flo.protocol.messages.MAX_INLINE_BYTES`` bytes goes beside it:

    down    the ServerApp puts a request's body here once; each hospital that it is for fetches it;
    up      a hospital offers its reply and is kept waiting; when the ServerApp takes it, it runs
            through this process piece by piece. Nobody holds more than one at a time.

A ServerApp on this machine hands its bodies over in memory and takes replies from there
(``flo.host.shared_memory``); to one elsewhere they are streamed.

An offer ends when it was taken, when its run is over or asks the hospital something else, or when
the hospital offers another. Lives on the event loop; keeps nothing beyond the run.
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
from flo.protocol.large_bodies import NAME_HEADER
from flo.server.http.asgi import Refused
from flo.server.http.notifier import Notifier

_NAME, _NUMBER = re.compile(r"[0-9a-f]{32}"), re.compile(r"[0-9]{1,20}")
_LOOK_SECONDS = 1.0
_TAKE_SECONDS = 10.0  # a hospital offers as soon as it has announced it
_STALLED_SECONDS, _GRACE_SECONDS = 60.0, 15.0
_PIECE = 1 << 17  # several of them wait for each hospital that fetches


@dataclass(frozen=True)
class _StoredRequest:
    name: str
    nodes: Collection[int]
    body: Bytes


@dataclass
class _PendingReply:
    name: str
    size: int
    receive: Receive
    over: asyncio.Event = field(default_factory=asyncio.Event)  # taken to its end, or replaced
    taken: bool = False
    whole: bool = False


class LargeBodyRelay:
    """``nodes`` are Flower's ids of hospitals' agents, ``run`` is Flower's id of a run."""

    def __init__(self) -> None:
        self._down: dict[int, _StoredRequest] = {}  # of a run the last request
        self._up: dict[int, _PendingReply] = {}
        self._offered = Notifier()
        self._shared: dict[int, SharedBytes] = {}  # of a run: what its ServerApp is reading
        self._filling: dict[int, asyncio.Task[None]] = {}
        self._asked: dict[int, int] = {}  # of a run: how often it asked

    def store_request(self, run: int, name: str, nodes: Collection[int], body: Bytes) -> None:
        """Keep a request's body for these nodes, instead of the run's last one."""
        self._down[run] = _StoredRequest(name, nodes, body)

    def forget(self, is_over: Callable[[int], bool]) -> None:
        """What was kept for runs that are over."""
        for run in filter(is_over, {*self._down, *self._shared} - set(self._filling)):
            self._down.pop(run, None)
            self._asked.pop(run, None)
            if (shared := self._shared.pop(run, None)) is not None:
                shared.close()

    async def serve_request(self, node: int, name: str, send: Send) -> None:
        """Answer with a request's body. Raises Refused (404): there is none for this node."""
        for run, parcel in list(self._down.items()):
            if parcel.name == name and node in parcel.nodes:
                await _start(send, len(parcel.body))
                view = memoryview(parcel.body)
                for start in range(0, len(view), _PIECE):
                    piece, more = view[start : start + _PIECE], start + _PIECE < len(view)
                    if self._down.get(run) is not parcel:
                        return  # cut short: it is another one's place by now
                    body = {"type": "http.response.body", "body": bytes(piece), "more_body": more}
                    try:
                        async with asyncio.timeout(_STALLED_SECONDS):
                            await send(body)
                    except TimeoutError:
                        return
                return
        raise Refused(404, "no such parcel for this hospital")

    async def hold_reply(
        self, node: int, name: str, size: int, receive: Receive, is_called: Callable[[], bool]
    ) -> bool:
        """Keep a hospital waiting until its reply's body was taken. False if it is not wanted.

        ``is_called``: whether its run is over or asks the hospital something else.
        """
        began = asyncio.get_running_loop().time()
        if before := self._up.pop(node, None):
            before.over.set()
        up = self._up[node] = _PendingReply(name, size, receive)
        self._offered.notify_all()
        try:
            while not up.over.is_set():
                waited = asyncio.get_running_loop().time() - began
                if not up.taken and waited > _GRACE_SECONDS and is_called():
                    break
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(up.over.wait(), _LOOK_SECONDS)
        finally:
            if self._up.get(node) is up:
                del self._up[node]
        return up.whole

    async def stream_reply(self, node: int, name: str, size: int, send: Send) -> None:
        """Answer with what this node offers. Raises Refused (404): none of this size, for a while.

        If it goes away half way the answer is cut short, which whoever takes it sees.
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
        """Where in memory a ServerApp of this machine finds what this node offers.

        It stays there until the run takes the next, which ends one that is still under way. Raises
        Refused (404): it is not offered, or did not come whole.
        """
        number = self._asked[run] = self._asked.get(run, 0) + 1
        if before := self._filling.get(run):  # which the ServerApp has given up
            before.cancel()
        up = await self._wait_for(node, name, size)
        if self._asked[run] != number:  # and this one, too: what it reads now is another's
            raise Refused(404, "the ServerApp went on")
        up.taken = True
        shared = self._shared[run] = self._shared.get(run) or SharedBytes()
        filling = self._filling[run] = asyncio.create_task(_fill(shared, up))
        await asyncio.wait({filling})
        if self._filling.get(run) is filling:
            del self._filling[run]
        if not up.whole:
            raise Refused(404, "the hospital went away")
        return shared.place

    async def _wait_for(self, node: int, name: str, size: int) -> _PendingReply:
        end = asyncio.get_running_loop().time() + _TAKE_SECONDS
        while (left := end - asyncio.get_running_loop().time()) > 0:
            up = self._up.get(node)
            if up is not None and (up.name, up.size) == (name, size) and not up.taken:
                return up
            await self._offered.wait(left)
        raise Refused(404, "the hospital does not offer this")


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
    """What comes of it, never more than was announced, until nothing comes for a while."""
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
    """Which parcel a request is about. Raises Refused (400)."""
    name = headers.get(NAME_HEADER.encode(), b"").decode("latin-1")
    if not _NAME.fullmatch(name):
        raise Refused(400, "no parcel is named")
    return name


def number_in(headers: Mapping[bytes, bytes], header: str, most: int) -> int:
    """A decimal number up to ``most`` that a header gives. Raises Refused (400, 413)."""
    text = headers.get(header.encode(), b"").decode("latin-1")
    if not _NUMBER.fullmatch(text):
        raise Refused(400, f"{header} is no number")
    if int(text) > most:
        raise Refused(413, f"{header} is more than {most}")
    return int(text)


def numbers_in(headers: Mapping[bytes, bytes], header: str) -> set[int]:
    """Decimal numbers with commas between them, at least one. Raises Refused (400)."""
    texts = headers.get(header.encode(), b"").decode("latin-1").split(",")
    if not all(map(_NUMBER.fullmatch, texts)):
        raise Refused(400, f"{header} is no list of numbers")
    return set(map(int, texts))

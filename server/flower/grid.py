"""A round's messages through Flower: who is asked, asked again, waited for and given up.

Each message is one record of bytes. A body that is too large for Flower is transferred separately
(``flo.server.flower.large_bodies``).
"""

from __future__ import annotations

import logging
import secrets
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Protocol

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.serverapp import Grid, ServerApp

from flo.documents.canonical import Bytes
from flo.errors import MessageError
from flo.protocol.messages import MAX_INLINE_BYTES, MAX_MESSAGE_BYTES

log = logging.getLogger("flo.server.flower.grid")

_RECORD, _BODY, _PARCEL, _SIZE, _MESSAGE_TYPE = "flo", "message", "parcel", "size", "query"
_SALT = "salt"
_POLL_SECONDS = 0.02  # after the coordinator held a question for replies in vain
_LOOK_SECONDS = 0.5
_LEAST_SECONDS = 5.0
_OFFLINE_SECONDS = 2.0  # an agent that only lost its connection is back sooner
_MOST_REPEATS = 16  # copies of one request that a hospital gets, even if it connects more often


class GridExchange:
    """Exchange of a round's messages through Flower's grid, one record of bytes each.

    ``nodes``: hospital -> Flower's node id. ``connections``: hospital -> how often its agent has
    connected, to notice an agent that crashed and came back. ``large_bodies``: transport of large
    bodies.
    """

    def __init__(
        self,
        grid: Messages,
        nodes: Callable[[], dict[str, int]],
        connections: Callable[[], dict[str, int]],
        is_stopped: Callable[[], bool],
        large_bodies: LargeBodyTransport,
    ) -> None:
        self._large_bodies = large_bodies
        self._grid, self._nodes, self._connections = grid, nodes, connections
        self._is_stopped = is_stopped
        self._answered: dict[str, int] = {}  # hospital -> connection count at its last answer

    def wait_for(self, hospitals: Sequence[str], seconds: float) -> list[str]:
        """Wait until all are online, or ``seconds`` have passed. Returns those that are online."""
        end = time.monotonic() + seconds
        while True:
            online = self.connected()
            present = [hospital for hospital in hospitals if hospital in online]
            if len(present) == len(hospitals) or _past(end) or self._is_stopped():
                return present
            time.sleep(0.1)

    def ask(
        self, heads: Mapping[str, bytes], body: memoryview, deadline_seconds: float
    ) -> Iterator[tuple[str, Bytes]]:
        """Send each hospital its head and the same body; yield replies as they arrive.

        No reply is yielded for a hospital that is offline, late or in error. Flower never delivers
        a message again that an agent pulled and lost. So the same bytes are sent again when the
        agent has reconnected, and half way to the deadline; a site answers repeats with the same
        bits. Waiting for a hospital ends soon after it goes offline.
        """
        asking = _PendingRequest(heads, body, self._connections(), deadline_seconds)
        self._push(asking, asking.hospitals)
        while asking.waiting and not asking.is_over():
            nothing = True
            for message in self._grid.pull_messages(asking.outstanding):
                nothing = False
                hospital = asking.sent.get(str(message.metadata.reply_to_message_id))
                if hospital in asking.waiting and message.has_content():
                    record = message.content.config_records.get(_RECORD)
                    data = self._whole(message.metadata.src_node_id, record, asking.left)
                    if data is not None:
                        asking.answered.add(hospital)
                        self._answered[hospital] = asking.connections.get(hospital, 0)
                        yield hospital, data
            if asking.waiting:
                if asking.poll_due():
                    self._push(asking, asking.to_resend(self._connections()))
                    asking.update_online(self.connected())
                if nothing:
                    time.sleep(_POLL_SECONDS)

    def connected(self) -> set[str]:
        """Return the hospitals whose agents are connected now."""
        online = self._grid.get_node_ids()
        return {hospital for hospital, node in self._nodes().items() if node in online}

    def reconnected(self) -> set[str]:
        """Return the hospitals whose agents have reconnected since their last answer."""
        counts = self._connections()
        return {h for h, before in self._answered.items() if counts.get(h, 0) > before}

    def _push(self, asking: _PendingRequest, hospitals: list[str]) -> None:
        nodes = self._nodes()
        asked = [hospital for hospital in hospitals if hospital in nodes]
        if not asked:
            return
        self._put_body(asking, nodes)
        salt = secrets.token_bytes(16)  # so nobody knows the object's name before it is stored
        messages = [
            _message(_record(asking, hospital, salt), nodes[hospital], asking.seconds)
            for hospital in asked
        ]
        pushed = self._grid.push_messages(messages)
        asking.sent |= {i: hospital for i, hospital in zip(pushed, asked, strict=True) if i}

    def _put_body(self, asking: _PendingRequest, nodes: dict[str, int]) -> None:
        """Store a large body separately, once for all hospitals."""
        if len(asking.body) > MAX_INLINE_BYTES and not asking.parcel:
            asking.parcel = secrets.token_hex(16)
            of_all = [nodes[h] for h in asking.hospitals if h in nodes]
            self._large_bodies.put(asking.parcel, of_all, asking.body)

    def _whole(self, node: int, record: ConfigRecord | None, seconds: float) -> Bytes | None:
        """Return a hospital's reply: empty if it is invalid, None if its body did not arrive."""
        name = record.get(_PARCEL) if record is not None else None
        if record is None or name is None:
            inside = body_of(record)
            return inside if len(inside) <= MAX_INLINE_BYTES else b""
        size = record.get(_SIZE)
        if not isinstance(name, str) or type(size) is not int or not 0 < size < MAX_MESSAGE_BYTES:
            return b""
        try:
            return self._large_bodies.take(name, node, size, seconds)
        except MessageError as error:
            log.warning(str(error))
            return None


class Messages(Protocol):
    """Flower's messages to hospitals and their replies."""

    def get_node_ids(self) -> set[int]:
        """Return the nodes of the agents that are online."""

    def push_messages(self, messages: Sequence[Message]) -> list[str]:
        """Send messages; return their ids, each empty if the message was not accepted."""

    def pull_messages(self, message_ids: Sequence[str]) -> list[Message]:
        """Return replies to these messages; wait a moment if there is none."""


class LargeBodyTransport(Protocol):
    """Transport of large bodies outside Flower's messages."""

    def put(self, name: str, nodes: Collection[int], body: memoryview) -> None:
        """Store a body for these nodes to fetch."""

    def take(self, name: str, node: int, size: int, seconds: float) -> memoryview:
        """Return the body that this node offers.

        Raises:
            MessageError: it does not arrive in time and with this size.
        """


class _PendingRequest:
    """A request to several hospitals: which have answered, which to ask again, when to give up."""

    def __init__(
        self,
        heads: Mapping[str, bytes],
        body: memoryview,
        connections: dict[str, int],
        seconds: float,
    ) -> None:
        self.hospitals, self.heads, self.body = list(heads), heads, body
        self.connections, self.seconds = connections, seconds
        self.sent: dict[str, str] = {}
        self.answered: set[str] = set()
        self.parcel = ""  # the name of a large body
        self._began = self._looked = time.monotonic()
        self._offline: dict[str, float] = {}  # hospital -> since when it is seen offline
        self._halfway = False

    @property
    def waiting(self) -> list[str]:
        """Hospitals whose reply is outstanding and that have not been offline for too long."""
        gone = {h for h, since in self._offline.items() if _past(since + _OFFLINE_SECONDS)}
        asked = set(self.sent.values()) - self.answered - gone
        return [hospital for hospital in self.hospitals if hospital in asked]

    @property
    def outstanding(self) -> list[str]:
        """Ids of the messages to the waiting hospitals."""
        waiting = set(self.waiting)
        return [message for message, hospital in self.sent.items() if hospital in waiting]

    @property
    def left(self) -> float:
        """Seconds that one reply may take: an equal share, so a slow one does not block others."""
        left = self._began + self.seconds - time.monotonic()
        return max(_LEAST_SECONDS, left / max(1, len(self.waiting)))

    def is_over(self) -> bool:
        return _past(self._began + self.seconds)

    def poll_due(self) -> bool:
        """Return whether to query Flower for online hospitals; each query has a cost."""
        if not _past(self._looked + _LOOK_SECONDS):
            return False
        self._looked = time.monotonic()
        return True

    def update_online(self, online: set[str]) -> None:
        now = time.monotonic()
        self._offline = {h: self._offline.get(h, now) for h in self.hospitals if h not in online}

    def to_resend(self, connections: dict[str, int]) -> list[str]:
        """Return hospitals to ask again: those that reconnected; all missing ones at half time."""
        waiting = self.waiting
        halfway = not self._halfway and _past(self._began + self.seconds / 2)
        self._halfway |= halfway
        asked = Counter(self.sent.values())
        again = [
            hospital
            for hospital in waiting
            if asked[hospital] < _MOST_REPEATS
            and (halfway or connections.get(hospital, 0) > self.connections.get(hospital, 0))
        ]
        self.connections |= {h: connections[h] for h in again if h in connections}
        return again


def _past(instant: float) -> bool:
    return time.monotonic() > instant


def server_app(main: Callable[[Grid, str], None]) -> ServerApp:
    """Return a Flower ServerApp that calls ``main(grid, run)`` with FLO's own run id."""
    app = ServerApp()

    @app.main()
    def run(grid: Grid, context: Context) -> None:
        main(grid, str(context.run_config["run"]))

    return app


def _record(asking: _PendingRequest, hospital: str, salt: bytes) -> ConfigRecord:
    """Return the record that Flower carries to a hospital, which names a large body."""
    head = asking.heads[hospital]
    if asking.parcel:
        size = len(asking.body)
        return ConfigRecord({_BODY: head, _SALT: salt, _PARCEL: asking.parcel, _SIZE: size})
    return ConfigRecord({_BODY: b"".join((head, asking.body)), _SALT: salt})


def _message(record: ConfigRecord, node: int, deadline_seconds: float) -> Message:
    content = RecordDict({_RECORD: record})
    return Message(content, node, _MESSAGE_TYPE, ttl=deadline_seconds + 60)


def body_of(record: ConfigRecord | None) -> bytes:
    """Return the message in a record; empty if there is none."""
    body = record.get(_BODY) if record is not None else None
    return body if isinstance(body, bytes) else b""

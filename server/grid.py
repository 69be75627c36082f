"""The ServerApp's side of Flower: a round's messages through its grid, a record of bytes each."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.serverapp import Grid, ServerApp

_RECORD, _BODY, _MESSAGE_TYPE = "flo", "message", "query"
_POLL_SECONDS = 0.02
_LOOK_SECONDS = 0.5
_OFFLINE_SECONDS = 2.0  # an agent that only lost its connection is back by then


class GridExchange:
    """Carries a round's messages through Flower's grid, a record of bytes each.

    ``nodes``: hospital -> Flower's node id. ``connections``: hospital -> how often its agent has
    connected, so that one that crashed and came back is noticed.
    """

    def __init__(
        self,
        grid: Grid,
        nodes: Callable[[], dict[str, int]],
        connections: Callable[[], dict[str, int]],
        is_stopped: Callable[[], bool],
    ) -> None:
        self._grid, self._nodes, self._connections = grid, nodes, connections
        self._is_stopped = is_stopped
        self._answered: dict[str, int] = {}  # hospital -> its connections when it last answered

    def wait_for(self, hospitals: Sequence[str], seconds: float) -> list[str]:
        """Wait until all are online, or ``seconds`` have passed. Returns who is."""
        end = time.monotonic() + seconds
        while True:
            present = [hospital for hospital in hospitals if hospital in self.connected()]
            if len(present) == len(hospitals) or _past(end) or self._is_stopped():
                return present
            time.sleep(0.1)

    def ask(self, requests: dict[str, bytes], deadline_seconds: float) -> dict[str, bytes]:
        """Replies by hospital. A hospital that is offline, late or in error is simply absent.

        A message that an agent pulled and lost is never delivered again by Flower, so the same
        bytes go out once more when the agent has connected anew, and half way to the deadline; a
        site answers repeats with the same bits. Nobody waits for a hospital that went offline.
        """
        asking = _Asking(requests, self._connections(), deadline_seconds)
        self._push(asking, list(requests))
        while asking.waiting and not asking.is_over():
            for message in self._grid.pull_messages(list(asking.sent)):
                hospital = asking.sent.get(str(message.metadata.reply_to_message_id))
                if hospital is not None and message.has_content():
                    body = body_of(message.content.config_records.get(_RECORD))
                    asking.replies.setdefault(hospital, body)
            if asking.waiting:
                if asking.time_to_look():
                    self._push(asking, asking.to_ask_again(self._connections()))
                    asking.note_online(self.connected())
                time.sleep(_POLL_SECONDS)
        self._answered |= {h: asking.connections.get(h, 0) for h in asking.replies}
        return asking.replies

    def connected(self) -> set[str]:
        """Hospitals whose agents are connected now."""
        online = set(self._grid.get_node_ids())
        return {hospital for hospital, node in self._nodes().items() if node in online}

    def reconnected(self) -> set[str]:
        """Hospitals whose agent connected anew since it last answered."""
        counts = self._connections()
        return {h for h, before in self._answered.items() if counts.get(h, 0) > before}

    def _push(self, asking: _Asking, hospitals: list[str]) -> None:
        nodes = self._nodes()
        asked = [hospital for hospital in hospitals if hospital in nodes]
        messages = [_message(asking.requests[h], nodes[h], asking.seconds) for h in asked]
        pushed = self._grid.push_messages(messages) if messages else []
        asking.sent |= {i: hospital for i, hospital in zip(pushed, asked, strict=True) if i}


class _Asking:
    """One question to several hospitals: who has answered, whom to ask again, when to give up."""

    def __init__(
        self, requests: dict[str, bytes], connections: dict[str, int], seconds: float
    ) -> None:
        self.requests, self.connections, self.seconds = requests, connections, seconds
        self.sent: dict[str, str] = {}
        self.replies: dict[str, bytes] = {}
        self._began = self._looked = time.monotonic()
        self._offline: dict[str, float] = {}  # hospital -> since when it was seen to be
        self._halfway = False

    @property
    def waiting(self) -> list[str]:
        """Hospitals still worth waiting for."""
        gone = {h for h, since in self._offline.items() if _past(since + _OFFLINE_SECONDS)}
        asked = set(self.sent.values()) - set(self.replies) - gone
        return [hospital for hospital in self.requests if hospital in asked]

    def is_over(self) -> bool:
        return _past(self._began + self.seconds)

    def time_to_look(self) -> bool:
        """Whether to look who is online, which is asked of Flower and not for free."""
        if not _past(self._looked + _LOOK_SECONDS):
            return False
        self._looked = time.monotonic()
        return True

    def note_online(self, online: set[str]) -> None:
        now = time.monotonic()
        self._offline = {h: self._offline.get(h, now) for h in self.requests if h not in online}

    def to_ask_again(self, connections: dict[str, int]) -> list[str]:
        """Who connected anew since it was asked; half way to the deadline, all who are missing."""
        waiting = self.waiting
        halfway = not self._halfway and _past(self._began + self.seconds / 2)
        self._halfway |= halfway
        again = [
            h for h in waiting if halfway or connections.get(h, 0) > self.connections.get(h, 0)
        ]
        self.connections |= {h: connections[h] for h in again if h in connections}
        return again


def _past(instant: float) -> bool:
    return time.monotonic() > instant


def server_app(main: Callable[[Grid, str], None]) -> ServerApp:
    """A Flower ServerApp that runs ``main(grid, run)`` with FLO's own run id."""
    app = ServerApp()

    @app.main()
    def run(grid: Grid, context: Context) -> None:
        main(grid, str(context.run_config["run"]))

    return app


def _message(data: bytes, node: int, deadline_seconds: float) -> Message:
    content = RecordDict({_RECORD: ConfigRecord({_BODY: data})})
    return Message(content, node, _MESSAGE_TYPE, ttl=deadline_seconds + 60)


def body_of(record: ConfigRecord | None) -> bytes:
    """The message in a record; empty if there is none."""
    body = record.get(_BODY) if record is not None else None
    return body if isinstance(body, bytes) else b""

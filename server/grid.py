"""The ServerApp's side of Flower: a round's messages through its grid, a record of bytes each."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.serverapp import Grid, ServerApp

_RECORD, _BODY, _MESSAGE_TYPE = "flo", "message", "query"
_POLL_SECONDS = 0.02


class GridExchange:
    """Carries a round's messages through Flower's grid, a record of bytes each."""

    def __init__(
        self,
        grid: Grid,
        nodes: Callable[[], dict[str, int]],
        is_stopped: Callable[[], bool],
    ) -> None:
        self._grid, self._nodes, self._is_stopped = grid, nodes, is_stopped

    def wait_for(self, hospitals: Sequence[str], minimum: int, seconds: float) -> list[str]:
        """Wait until all are online, or ``seconds`` have passed and at least ``minimum`` are."""
        end = time.monotonic() + seconds
        while True:
            online = set(self._grid.get_node_ids())
            present = [h for h in hospitals if self._nodes().get(h) in online]
            enough = len(present) >= minimum and time.monotonic() > end
            if len(present) == len(hospitals) or enough or self._is_stopped():
                return present
            time.sleep(0.1)

    def ask(self, requests: dict[str, bytes], deadline_seconds: float) -> dict[str, bytes]:
        """Replies by hospital. A hospital that is offline, late or in error is simply absent.

        A message that an agent pulled and lost is never delivered again by Flower, so half way to
        the deadline the same bytes go out once more; a site answers repeats with the same bits.
        """
        replies: dict[str, bytes] = {}
        began = time.monotonic()
        waiting = self._push(requests, deadline_seconds)
        again = began + deadline_seconds / 2
        while waiting and time.monotonic() < began + deadline_seconds:
            for message in self._grid.pull_messages(list(waiting)):
                hospital = waiting.get(str(message.metadata.reply_to_message_id))
                if hospital is not None and message.has_content():
                    replies[hospital] = _body(message)
            waiting = {i: hospital for i, hospital in waiting.items() if hospital not in replies}
            if waiting and time.monotonic() > again:
                again = float("inf")
                missing = {hospital: requests[hospital] for hospital in waiting.values()}
                waiting |= self._push(missing, deadline_seconds)
            if waiting:
                time.sleep(_POLL_SECONDS)
        return replies

    def _push(self, requests: dict[str, bytes], deadline_seconds: float) -> dict[str, str]:
        """Message id -> hospital, for every request that Flower took."""
        nodes = self._nodes()
        asked = [hospital for hospital in requests if hospital in nodes]
        messages = [_message(requests[h], nodes[h], deadline_seconds) for h in asked]
        pushed = self._grid.push_messages(messages) if messages else []
        return {i: hospital for i, hospital in zip(pushed, asked, strict=True) if i}


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


def _body(message: Message) -> bytes:
    record = message.content.config_records.get(_RECORD)
    body = record.get(_BODY) if record is not None else None
    return body if isinstance(body, bytes) else b""

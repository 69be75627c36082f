"""The real agent, whose messages inside TLS can be duplicated, replayed, reordered or late.

    python -m tests.faults.faulty_agent HOME ORDERS SENT

ORDERS: a file whose new lines are taken at each message, one order a line. SENT gets every reply
before it leaves: 4 bytes of length, then the reply.

| order | what happens to the next request |
|---|---|
| duplicate | it is delivered twice and answered twice |
| replay | an earlier request is answered in its place, then it is answered itself |
| reorder | an earlier request is delivered before it, and that answer is lost |
| late SECONDS | it is delivered so much later |
"""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

from flo.clients.agent import agent, handler
from flo.clients.connection.flower import FleetLink, Incoming
from flo.clients.data_process import child_process
from flo.clients.home.site_home import SiteHome

_HISTORY = 4
_MAY_KNOW = child_process.may_know


class Orders:
    def __init__(self, path: Path) -> None:
        self._path, self._read = path, len(path.read_text().splitlines()) if path.exists() else 0

    def new(self) -> list[list[str]]:
        lines = self._path.read_text().splitlines() if self._path.exists() else []
        fresh, self._read = lines[self._read :], len(lines)
        return [line.split() for line in fresh]


class Mischief:
    """Stands between Flower's link and the agent."""

    def __init__(self, orders: Path, sent: Path) -> None:
        self._orders, self._sent = Orders(orders), sent
        self._pull, self._reply = FleetLink.pull, FleetLink.reply
        self._answer = handler.Handler.answer
        self._waiting: deque[Incoming] = deque()
        self._earlier: deque[bytes] = deque(maxlen=_HISTORY)
        self._before: list[bytes] = []  # delivered ahead of the next, their answers lost

    def install(self) -> None:
        def pull(link: FleetLink) -> Incoming | None:
            return self._waiting.popleft() if self._waiting else self._next(self._pull(link))

        def reply(
            link: FleetLink, incoming: Incoming, data: bytes, may_leave: Callable[[], None]
        ) -> None:
            with self._sent.open("ab") as file:
                file.write(len(data).to_bytes(4, "big") + data)
            self._reply(link, incoming, data, may_leave)

        def answer(self_: handler.Handler, data: bytes) -> bytes | None:
            while self._before:
                self._answer(self_, self._before.pop())
            return self._answer(self_, data)

        for owner, name, function in (
            (FleetLink, "pull", pull),
            (FleetLink, "reply", reply),
            (handler.Handler, "answer", answer),
        ):
            setattr(owner, name, function)

    def _next(self, incoming: Incoming | None) -> Incoming | None:
        if incoming is None:
            return None
        delivered = incoming
        for order, *value in self._orders.new():
            match order:
                case "duplicate":
                    self._waiting.append(incoming)
                case "replay" if self._earlier:
                    delivered = Incoming(self._earlier[0], incoming.message)
                    self._waiting.append(incoming)
                case "reorder" if self._earlier:
                    self._before.append(self._earlier[-1])
                case "late":
                    time.sleep(float(value[0]))
        self._earlier.append(bytes(incoming.data))
        return delivered


def may_know(name: str) -> bool:
    """The data process is told what others are of its clock, and what the product tells it."""
    return name in ("LD_PRELOAD", "FLO_WRONG_CLOCK") or _MAY_KNOW(name)


def main(*arguments: str) -> None:
    home, orders, sent = map(Path, arguments)
    Mischief(orders, sent).install()
    child_process.may_know = may_know
    agent.Agent(SiteHome.open(home), "cpu").run()


if __name__ == "__main__":
    main(*sys.argv[1:])

"""An agent that also writes down, for the test alone, what it was about to mask and what it sent.

    python -m tests.end_to_end.recording_agent NOISY SENT HOME

NOISY gets every noisy vector, int64 little endian, one after the other; SENT every reply.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flo.arrays import Integers
from flo.clients.agent import handler
from flo.clients.agent.agent import Agent
from flo.clients.agent.masking import mask
from flo.clients.connection.flower import FleetLink, Incoming
from flo.clients.home.site_home import SiteHome
from flo.protocol.messages import RequestHeader, Values
from flo.study.document import Study


def main(noisy_path: str, sent_path: str, home: str) -> None:
    def recording(
        study: Study, header: RequestHeader, own: Any, noisy: Integers, ready: Any = None
    ) -> Values:
        with Path(noisy_path).open("ab") as file:
            file.write(noisy.astype("<i8").tobytes())
        return mask(study, header, own, noisy, ready)

    def replying(
        link: FleetLink, incoming: Incoming, data: bytes, may_leave: Callable[[], None]
    ) -> None:
        with Path(sent_path).open("ab") as file:
            file.write(data)
        reply(link, incoming, data, may_leave)

    vars(handler)["mask"] = recording
    reply = FleetLink.reply
    setattr(FleetLink, "reply", replying)  # noqa: B010
    Agent(SiteHome.open(Path(home)), "cpu").run()


if __name__ == "__main__":
    main(*sys.argv[1:])

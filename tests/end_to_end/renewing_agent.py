"""``flo site run`` for which every certificate is about to end: it renews whenever it looks around.

Usage: renewing_agent SITE
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import flo.clients.agent.agent as agent_module
from flo.clients.agent.agent import Agent
from flo.clients.connection.enrolment import renew_when_due
from flo.clients.home.site_home import SiteHome


def main(site: str) -> None:
    agent_module._LOOK_SECONDS = 0.5
    agent_module.renew_when_due = partial(renew_when_due, days=10_000)  # type: ignore[attr-defined]
    Agent(SiteHome.open(Path(site)), "cpu").run()


if __name__ == "__main__":
    main(sys.argv[1])

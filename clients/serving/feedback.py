"""What clinicians did with the cards of each version, by the log of answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from contextlib import closing

from flo.audit.log import AuditLog
from flo.clients.home.site_home import SiteHome
from flo.clients.serving import answer_log


def counted(home: SiteHome, shown: Mapping[str, int]) -> Counter[tuple[int, str]]:
    """Return how many cards of each version were accepted and overridden.

    ``shown``: the version of each answer, by id; others do not count. Of several reports on a card
    the last counts.
    """
    last = dict[str, str]()
    for path in answer_log.paths(home.directory):
        with closing(AuditLog(path, home.open_identity())) as log:
            for entry in log.entries():
                for card, outcome, _ in entry.facts.get("cards", ()):
                    last[card] = outcome
    return Counter((shown[card], outcome) for card, outcome in last.items() if card in shown)

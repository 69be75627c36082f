"""What became of patients, reported once for all that wait for it: comparisons and monitors."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping

from flo.clients.home.site_home import SiteHome
from flo.clients.records import compared_answers, watched_answers
from flo.clients.records.answer_rows import Fate, Reported, merged, report_to
from flo.clients.records.compared_answers import ComparedAnswers
from flo.clients.records.watched_answers import WatchedAnswers
from flo.errors import FloError

log = logging.getLogger("flo.clients.records.outcome_reports")


def report(
    home: SiteHome,
    comparisons: Iterable[str],
    outcomes: Mapping[str, bool],
    now: float,
    caller: str | None = None,
) -> Reported:
    """Keep what became of patients, by the ids of answers: in these comparisons, and in every watch
    that has the answer.

    ``now``: seconds since 1970. ``caller``: who reports, and may report on what they asked only;
    None: the hospital itself. Raises TrustError, UsageError: a file cannot be used.
    """
    given = outcomes, now, caller

    def fates() -> Iterator[Mapping[str, Fate]]:
        yield dict.fromkeys(outcomes, "elsewhere")
        for one in comparisons:
            path = compared_answers.path_of(home, one)
            if path.exists():  # else it was erased
                yield report_to(ComparedAnswers(home, one), path, *given)
        for one in watched_answers.watches(home):
            path = watched_answers.path_of(home, one)
            try:
                yield report_to(WatchedAnswers(home, one), path, *given)
            except FloError as error:  # one damaged file must not keep outcomes from the others
                log.warning(f"outcomes are not kept for the monitors {one[:8]}: {error}")

    return Reported.of(merged(fates()))

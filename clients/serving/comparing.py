"""The comparisons of the models that answer: what is kept of each answer, and when a version is
taken from patients because it was shown to be worse.

    1. what versions said of a patient is kept after the answer was sent, by a thread of its own.
       Answers never wait for it. What cannot be kept is lost, and no patient who opted out is kept;
    2. the rows so far are judged when a comparison begins or changes here, and every minute
       (``flo.clients.comparison.result``);
    3. a version that was not judged yet, or was ever shown to be worse, is shown to nobody. It goes
       on in shadow.

No error of a comparison reaches those who answer: it is logged, and the comparison is shadow only.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections import deque
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from flo.clients.comparison import decisions
from flo.clients.comparison.result import results
from flo.clients.comparison.terms import Comparison
from flo.clients.home.site_home import SiteHome
from flo.clients.patients.opt_outs import FILE as OPT_OUTS
from flo.clients.patients.opt_outs import OptOuts
from flo.clients.records.answer_rows import Reported
from flo.clients.records.compared_answers import ComparedAnswer, ComparedAnswers
from flo.clients.records.outcome_reports import report
from flo.clients.serving.several import Compared
from flo.errors import FloError, UsageError
from flo.privacy.patients.split import keyed_hash

log = logging.getLogger("flo.clients.serving.comparing")

_MOST_WAITING, _MOST_REPORTS = 10_000, 20  # answers that are to be kept; reports of outcomes


@dataclass(frozen=True)
class _Judged:
    """``digest``: of the comparison. ``may_be_shown``, ``worse``: studies, by their models."""

    digest: str = ""
    may_be_shown: frozenset[str] = frozenset()
    worse: frozenset[str] = frozenset()


_NOT_JUDGED = _Judged()


class Comparing:
    """Used on the event loop; all files are read and written by one thread of its own."""

    def __init__(self, home: SiteHome) -> None:
        self._home, self._patients_key = home, home.open_patients_key()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="comparing")
        self._rows = dict[str, ComparedAnswers]()  # by the comparison's id; of that thread
        self._judged = dict[str, _Judged]()  # by the comparison's id
        self._running, self._in_judgement = set[str](), set[str]()
        self._waiting = deque[tuple[str, ComparedAnswer]]()
        self._is_keeping, self._reports, self._lost = False, 0, 0

    def share(self, comparison: Comparison, study: str) -> int:
        """Return the percentage of patients who now get the answers of a study's model. [3]"""
        judged = self._judged.get(comparison.id, _NOT_JUDGED)
        return (comparison.share_of(study) or 0) if study in judged.may_be_shown else 0

    def is_worse(self, comparison: Comparison, study: str) -> bool:
        """Return whether a study's model was shown to be worse."""
        return study in self._judged.get(comparison.id, _NOT_JUDGED).worse

    def is_judged(self, comparison: Comparison) -> bool:
        """Return whether the rows were judged since the last decision on a comparison."""
        return self._judged.get(comparison.id, _NOT_JUDGED).digest == comparison.digest

    async def judge(self, comparison: Comparison) -> None:
        """Judge the rows so far, unless that is being done. [2]"""
        if comparison.digest in self._in_judgement:
            return
        self._in_judgement.add(comparison.digest)
        try:
            loop = asyncio.get_running_loop()
            found = await loop.run_in_executor(self._thread, self._judge, comparison)
            self._judged[comparison.id] = found
        finally:
            self._in_judgement.discard(comparison.digest)

    def keep(
        self,
        comparison: Comparison,
        answer_id: str,
        caller: str,
        versions: list[int],
        said: Compared,
    ) -> None:
        """Keep what versions said of a patient whose answer was sent. [1]

        ``versions``: that were asked, in their order.
        """
        if len(self._waiting) >= _MOST_WAITING:
            self._lost += 1
            return
        patient = keyed_hash(self._patients_key, said.patient)
        risks = dict(zip(versions, said.risks, strict=True))
        facts = (answer_id, patient, caller, time.time(), versions[said.place], risks)
        self._waiting.append((comparison.id, ComparedAnswer(*facts)))
        if not self._is_keeping:
            self._is_keeping = True
            asyncio.get_running_loop().run_in_executor(self._thread, self._keep_waiting)

    async def report(self, name: str, caller: str, outcomes: Mapping[str, bool]) -> Reported:
        """Keep what became of patients whose answers by a model this caller asked for.

        Raises UsageError, TrustError: it cannot be kept, or too many report at once.
        """
        if self._reports >= _MOST_REPORTS:
            raise UsageError("too many reports of outcomes at once")
        self._reports += 1
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._thread, self._report, name, caller, outcomes)
        finally:
            self._reports -= 1

    def keep_only(self, comparisons: set[str]) -> None:
        """Close the rows of all other comparisons."""
        self._running = comparisons
        if set(self._rows) - comparisons:
            self._thread.submit(self._close_others, comparisons)

    def close(self) -> None:
        """Keep what waits, and close all rows."""
        self._thread.submit(self._keep_waiting)
        self._thread.submit(self._close_others, set())
        self._thread.shutdown()

    # -- in the thread -------------------------------------------------------------------------

    def _judge(self, comparison: Comparison) -> _Judged:
        """Return which versions may be shown; none if that cannot be judged."""
        try:
            opened = self._opened(comparison.id)
            rows = list(opened.rows(self._opted_out()))
            found = results(comparison, rows, time.time())
            studies = [one.model.study for one in comparison.versions]
            now = {s for s, one in zip(studies, found, strict=True) if one.verdict == "worse"}
            if new := now - opened.worse():
                opened.call_worse(new)
                log.warning(f"{len(new)} versions of {comparison.name} are worse, shown no more")
            worse = frozenset(opened.worse())
            return _Judged(comparison.digest, frozenset(studies) - worse, worse)
        except Exception as error:  # noqa: BLE001 - a comparison must not end the answers
            log.warning(f"the comparison of {comparison.name} cannot be judged: {_words(error)}")
            self._close(comparison.id)
            return _Judged(comparison.digest)

    def _keep_waiting(self) -> None:
        self._is_keeping = False
        several = dict[str, list[ComparedAnswer]]()
        while self._waiting:
            comparison, row = self._waiting.popleft()
            if comparison in self._running:  # else its file may be erased by now
                several.setdefault(comparison, []).append(row)
        for comparison, rows in several.items():
            try:
                out = set(self._opted_out())
                self._opened(comparison).add([row for row in rows if row.patient not in out])
            except Exception as error:  # noqa: BLE001 - as above
                log.warning(f"{len(rows)} answers cannot be kept for a comparison: {_words(error)}")
                self._close(comparison)
        if self._lost:
            log.warning(f"{self._lost} answers were too many to be kept for a comparison")
            self._lost = 0

    def _report(self, name: str, caller: str, outcomes: Mapping[str, bool]) -> Reported:
        found = decisions.latest(self._home, name)
        several = [found.id] if found is not None else []
        return report(self._home, several, outcomes, time.time(), caller)

    def _opened(self, comparison: str) -> ComparedAnswers:
        if comparison not in self._rows:
            self._rows[comparison] = ComparedAnswers(self._home, comparison)
        return self._rows[comparison]

    def _close_others(self, comparisons: set[str]) -> None:
        for id_ in set(self._rows) - comparisons:
            self._close(id_)

    def _close(self, comparison: str) -> None:
        opened = self._rows.pop(comparison, None)
        if opened is not None:
            opened.close()

    def _opted_out(self) -> tuple[str, ...]:
        path = self._home.directory / OPT_OUTS
        return self._home.read_unchanged(lambda: OptOuts.load(self._home), path).patients


def _words(error: Exception) -> str:
    """Return an error for the log: FLO's and SQLite's name no patient; of others, the type only."""
    return str(error) if isinstance(error, FloError | sqlite3.Error) else type(error).__name__

"""The comparisons of the models that answer: what is kept of each answer, and when a version is
taken from patients because it was shown to be worse.

    1. a version of a comparison is shown to patients only once the rows so far were judged;
    2. they are judged when the comparison begins here, and again every minute
       (``flo.clients.comparison.result``);
    3. a version that is shown to be worse gets no more patients. It goes on in shadow.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Mapping

from flo.clients.comparison.result import results
from flo.clients.comparison.terms import Comparison
from flo.clients.home.site_home import SiteHome
from flo.clients.patients.opt_outs import FILE as OPT_OUTS
from flo.clients.patients.opt_outs import OptOuts
from flo.clients.records.compared_answers import (
    ComparedAnswer,
    ComparedAnswers,
    Reported,
    report,
)
from flo.clients.serving.several import Compared
from flo.errors import FloError, UsageError
from flo.privacy.patients.split import keyed_hash

log = logging.getLogger("flo.clients.serving.comparing")


class Comparing:
    """Used by the front; ``begin``, ``judge`` and ``report`` in threads."""

    def __init__(self, home: SiteHome) -> None:
        self._home, self._patients_key = home, home.open_patients_key()
        self._rows = dict[str, ComparedAnswers]()  # by the comparison's id
        self._worse = dict[str, set[int]]()  # versions; none before the rows were judged

    def begin(self, comparison: Comparison) -> bool:
        """Open the rows of a comparison; return False if they cannot be opened."""
        if comparison.id not in self._rows:
            try:
                self._rows[comparison.id] = ComparedAnswers(self._home, comparison.id)
            except FloError as error:
                log.warning(f"the versions of {comparison.name} are not compared: {error}")
                return False
        return True

    def share(self, comparison: Comparison, study: str) -> int:
        """Return the percentage of patients who now get the answers of a study's model. [1, 3]"""
        worse = self._worse.get(comparison.id)
        share, version = next(
            (one.share, one.model.version)
            for one in comparison.versions
            if one.model.study == study
        )
        return 0 if worse is None or version in worse else share

    def is_worse(self, comparison: Comparison, version: int) -> bool:
        """Return whether a version was shown to be worse than the one in use."""
        return version in self._worse.get(comparison.id, ())

    def judge(self, comparison: Comparison) -> None:
        """Judge the rows so far. [2, 3] A comparison that cannot be judged is shadow only."""
        opened = self._rows.get(comparison.id)
        if opened is None:
            return
        try:
            rows = list(opened.rows(self._opted_out()))
        except (FloError, sqlite3.Error) as error:  # damaged, full, or closed meanwhile
            log.warning(f"the comparison of {comparison.name} cannot be judged: {error}")
            self._worse.pop(comparison.id, None)
            return
        found = results(comparison, rows, time.time())
        worse = {one.version for one in found if one.verdict == "worse"}
        for version in sorted(worse - self._worse.get(comparison.id, set())):
            log.warning(
                f"version {version} of {comparison.name} is worse than version "
                f"{comparison.baseline.version} here, and gets no more patients"
            )
        self._worse[comparison.id] = worse

    def row(
        self, comparison: Comparison, answer_id: str, versions: list[int], said: Compared
    ) -> tuple[ComparedAnswers, ComparedAnswer] | None:
        """Return what is kept of an answer, and where; None if the rows are closed.

        ``versions``: that were asked, in their order.
        """
        rows = self._rows.get(comparison.id)
        if rows is None:
            return None
        patient = keyed_hash(self._patients_key, said.patient)
        risks = dict(zip(versions, said.risks, strict=True))
        shown = versions[said.place]
        return rows, ComparedAnswer(answer_id, patient, time.time(), shown, risks)

    def report(self, outcomes: Mapping[str, bool]) -> Reported:
        """Keep what became of patients. Raises TrustError, UsageError: it cannot be written."""
        try:
            return report(self._home, outcomes, time.time())
        except sqlite3.Error as error:
            raise UsageError(f"outcomes cannot be written: {error}") from error

    def keep_only(self, comparisons: set[str]) -> None:
        """Close the rows of all other comparisons."""
        for id_ in set(self._rows) - comparisons:
            self._rows.pop(id_).close()
            self._worse.pop(id_, None)

    def _opted_out(self) -> tuple[str, ...]:
        path = self._home.directory / OPT_OUTS
        return self._home.read_unchanged(lambda: OptOuts.load(self._home), path).patients

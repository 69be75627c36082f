"""Reads the rows of a comparison and judges them. Patients who opted out are left out."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import replace

from flo.clients.comparison.result import ComparedResult, results
from flo.clients.comparison.terms import Comparison
from flo.clients.home.site_home import SiteHome
from flo.clients.patients.opt_outs import OptOuts
from flo.clients.records.compared_answers import ComparedAnswer, ComparedAnswers


def judged(
    home: SiteHome, comparison: Comparison
) -> tuple[list[ComparedResult], list[ComparedAnswer]]:
    """Return the result of each version, and the rows. Raises TrustError: one was changed."""
    with closing(ComparedAnswers(home, comparison.id)) as answers:
        rows = list(answers.rows(OptOuts.load(home).patients))
        worse = answers.worse()
    found = results(comparison, rows, time.time())
    studies = [one.model.study for one in comparison.versions]
    several = zip(found, studies, strict=True)
    return [replace(one, was_worse=study in worse) for one, study in several], rows

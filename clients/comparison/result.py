"""What a comparison of versions shows: how far their risks are apart, and whose are nearer the
outcomes.

Both versions have scored the same patients, whoever saw which answer. For each patient, g is the
logarithm of p' / p: the probabilities that the other version and the baseline gave to what then
happened. Its mean, the difference of log losses, is above 0 if the other version is better; exp of
the mean says how much likelier than the baseline it found what happened, on average. It is looked
at after every outcome, so the test is one that holds at every look (``flo.scores.always_valid``):

    1. a patient counts once, with the first answer in which both versions stated a risk; an outcome
       that was reported by the id of any of the patient's answers is that answer's;
    2. where the odds of the two risks are further apart than by a factor of ``FARTHEST``, the other
       version counts as if it had said that much: it is that forecast which is compared. So g is
       within -log ``FARTHEST`` and log ``FARTHEST``, whatever patients come;
    3. outcomes count in the order of the answers, when the follow-up is over. One that is not
       reported holds up all later ones for ``GRACE``, and is left out then for good. So an early
       death never counts before those who live, and no report changes what was looked at before.

Each version is called worse or better, wrongly, with a probability of at most ``ALPHA`` in all the
time of its comparison. The interval is of the mean so far. An outcome that care averted counts
against the version whose answer warned of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

import numpy as np

from flo.arrays import Floats
from flo.clients.comparison.terms import Comparison
from flo.clients.records.compared_answers import ComparedAnswer
from flo.scores.always_valid import bounds

ALPHA = 0.05
FARTHEST = 5.0
LEAST, MOST = 1e-6, 1 - 1e-6  # risks; one nearer to 0 or 1 counts as these
GRACE = timedelta(days=30)  # after the follow-up
_POINTS = 24  # of a plot
_UNIT = math.log(FARTHEST)
Verdict = Literal["better", "worse", "not known"]


@dataclass(frozen=True)
class Looked:
    """After so many ``outcomes``: by how many percent the version found what happened likelier than
    the baseline did, on average, with its interval."""

    outcomes: int
    gain: float
    low: float
    high: float


@dataclass(frozen=True)
class ComparedResult:
    """One version beside the baseline.

    ``answers``: that both scored. ``shown``: answers of it that were sent. ``without``: in which it
    alone stated no risk. ``patients``: with a risk of both; ``due``: of those whose follow-up is
    over; ``reported``: of these, whose outcome is known; ``left_out``: of these, whose outcome was
    never reported in time. ``gains``: g / log ``FARTHEST`` of those whose outcome counts, in their
    order. ``apart``: mean distance of the two risks. ``was_worse``: the server once found it to be
    worse, and shows it to nobody since.
    """

    version: int
    share: int
    answers: int
    shown: int
    without: int
    patients: int
    due: int
    reported: int
    left_out: int
    gains: Floats
    apart: float
    was_worse: bool = False

    @property
    def verdict(self) -> Verdict:
        """What is known of the version, beside the baseline."""
        now = bounds(self.gains, ALPHA)
        return "worse" if now.high < 0 else "better" if now.low > 0 else "not known"

    def looks(self) -> tuple[Looked, ...]:
        """Return what was known on the way, at up to ``_POINTS`` looks; the last is now."""
        count = len(self.gains)
        if not count:
            return ()
        places = np.unique(np.linspace(1, count, min(count, _POINTS)).round().astype(int))
        found = []
        for place in places.tolist():
            part = self.gains[:place]
            interval = bounds(part, ALPHA)
            several = (float(part.mean()), interval.low, interval.high)
            found.append(Looked(place, *(_percent(_UNIT * one) for one in several)))
        return tuple(found)


def _percent(log_ratio: float) -> float:
    return 100 * math.expm1(log_ratio)


def results(
    comparison: Comparison, rows: Sequence[ComparedAnswer], now: float
) -> list[ComparedResult]:
    """Return the result of each version.

    ``rows``: the earliest first. ``now``: seconds since 1970.
    """
    return [
        _result(comparison, one.model.version, one.share, rows, now) for one in comparison.versions
    ]


def _result(
    comparison: Comparison, version: int, share: int, rows: Sequence[ComparedAnswer], now: float
) -> ComparedResult:
    baseline = comparison.baseline.version
    both = [one for one in rows if version in one.risks and baseline in one.risks]
    first = _first(both, version, baseline)
    wait = timedelta(days=comparison.follow_up_days).total_seconds()
    due = [one for one in first if one.time + wait <= now]
    counted, left_out = _counted(due, wait + GRACE.total_seconds(), now)
    return ComparedResult(
        version=version,
        share=share,
        answers=len(both),
        shown=sum(one.shown == version for one in rows),
        without=sum(one.risks[version] is None is not one.risks[baseline] for one in both),
        patients=len(first),
        due=len(due),
        reported=sum(one.outcome is not None for one in due),
        left_out=left_out,
        gains=np.array([_gain(one) for one in counted], dtype=float),
        apart=float(np.mean([abs(one.own - one.old) for one in first] or [0.0])),
    )


@dataclass
class _Patient:
    """A patient's first answer. ``own``, ``old``: risks by the version and by the baseline."""

    time: float
    own: float
    old: float
    outcome: bool | None = None
    reported: float = math.inf


def _first(rows: Sequence[ComparedAnswer], version: int, baseline: int) -> list[_Patient]:
    """Return each patient once, in the order of their first answers. [1]"""
    found = dict[str, _Patient]()
    for one in rows:
        own, old = one.risks[version], one.risks[baseline]
        if own is not None and old is not None and one.patient not in found:
            found[one.patient] = _Patient(one.time, own, old)
        patient = found.get(one.patient)
        if patient is not None and one.outcome is not None and one.reported < patient.reported:
            patient.outcome, patient.reported = one.outcome, one.reported
    return list(found.values())


def _counted(due: Sequence[_Patient], longest: float, now: float) -> tuple[list[_Patient], int]:
    """Return the patients whose outcomes count now, and how many before them are left out. [3]"""
    counted, left_out = list[_Patient](), 0
    for one in due:
        if one.reported <= one.time + longest:
            counted.append(one)
        elif now > one.time + longest:
            left_out += 1
        else:
            break
    return counted, left_out


def _gain(one: _Patient) -> float:
    """Return g / log ``FARTHEST``. [2]"""
    old = _log_odds(one.old)
    own = min(max(_log_odds(one.own), old - _UNIT), old + _UNIT)
    sign = 1 if one.outcome else -1
    gain = (_log_of(sign * own) - _log_of(sign * old)) / _UNIT
    return min(max(gain, -1.0), 1.0)  # beyond them by rounding only


def _log_of(log_odds: float) -> float:
    """Return the logarithm of the probability with these log odds."""
    return -float(np.logaddexp(0, -log_odds))


def _log_odds(risk: float) -> float:
    bounded = min(max(risk, LEAST), MOST)
    return math.log(bounded / (1 - bounded))

"""What a comparison of versions shows: how far their risks are apart, and whose are nearer the
outcomes.

Both versions have scored the same patients, whoever saw which answer. For each patient, g is the
logarithm of p' / p: the probabilities that the other version and the baseline gave to what then
happened. Its mean, the difference of log losses, is above 0 if the other version is better; exp of
the mean says how much likelier than the baseline it found what happened, on average. It is looked
at after every outcome, so the test is one that holds at every look (``flo.scores.always_valid``):

    1. a patient counts once, with the first answer in which both versions stated a risk. A risk
       below ``LEAST``, or above 1 - ``LEAST``, counts as that;
    2. an outcome counts when its answer's follow-up is over and it has been reported;
    3. outcomes are taken in the order in which they came to count, so no later report changes what
       was looked at before;
    4. g is within the distance of the log odds of the patient's two risks. The largest distance
       among the first ``FIRST`` patients is the *cap*: whoever has a larger one counts as if it
       were the cap, so that g / cap is within -1 and 1. Until then nothing is said.

Each version of a comparison is called worse or better, wrongly, with a probability of at most
``ALPHA`` in all the time of the comparison. An outcome that care averted counts against the version
whose answer warned of it.
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
from flo.scores.always_valid import bounds, first_known

ALPHA = 0.05
FIRST = 100  # patients
LEAST = 0.001
_POINTS = 24  # of a plot
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
    over. ``gains``: g / ``cap`` of those whose outcome counts, in their order; none before the
    ``FIRST`` patients were scored. ``apart``: mean distance of the two risks.
    """

    version: int
    share: int
    answers: int
    shown: int
    without: int
    patients: int
    due: int
    gains: Floats
    cap: float
    apart: float

    @property
    def verdict(self) -> Verdict:
        """What is known of the version, beside the baseline."""
        if first_known(-self.gains, ALPHA / 2) is not None:
            return "worse"
        return "better" if first_known(self.gains, ALPHA / 2) is not None else "not known"

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
            found.append(Looked(place, *(_percent(self.cap * one) for one in several)))
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
    first = dict[str, tuple[ComparedAnswer, float, float]]()  # [1]
    without = 0
    for one in both:
        own, old = one.risks[version], one.risks[baseline]
        without += own is None and old is not None
        if own is not None and old is not None:
            first.setdefault(one.patient, (one, own, old))
    wait = timedelta(days=comparison.follow_up_days).total_seconds()
    due = [found for found in first.values() if found[0].time + wait <= now]
    apart = [_log_odds(own) - _log_odds(old) for _, own, old in first.values()]
    cap = max(map(abs, apart[:FIRST])) if len(apart) >= FIRST else 0.0
    counted = sorted(  # [2, 3]
        (max(one.time + wait, one.reported), one.time, _gain(own, old, one.outcome, cap))
        for one, own, old in due
        if one.outcome is not None and cap
    )
    return ComparedResult(
        version=version,
        share=share,
        answers=len(both),
        shown=sum(one.shown == version for one in rows),
        without=without,
        patients=len(first),
        due=len(due),
        gains=np.array([gain for *_, gain in counted], dtype=float),
        cap=cap,
        apart=float(np.mean([abs(own - old) for _, own, old in first.values()] or [0.0])),
    )


def _gain(own: float, old: float, outcome: bool, cap: float) -> float:
    """Return g / ``cap``, of a patient whose log odds are apart by ``cap`` at most. [4]"""
    own, old = _bounded(own), _bounded(old)
    log_ratio = math.log(own / old) if outcome else math.log((1 - own) / (1 - old))
    return log_ratio / max(cap, abs(_log_odds(own) - _log_odds(old)))


def _log_odds(risk: float) -> float:
    bounded = _bounded(risk)
    return math.log(bounded / (1 - bounded))


def _bounded(risk: float) -> float:
    return min(max(risk, LEAST), 1 - LEAST)

"""How right the risks are that a model states, on the held-out patients of a simulation: exact."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from flo.arrays import Floats
from flo.scores.metrics import Scores, exact_auc
from flo.study.classes import Classes
from flo.study.document import Study
from flo.study.quantity import Quantity
from flo.study.time_to_event import TimeToEvent


@dataclass(frozen=True)
class Judged:
    """How right a stated risk, or the expected value of a quantity, is among a test's patients.

    ``quality``: of a class the AUC against all others, of a quantity the share of variation that is
    explained (``Quantity.explained``); None if it is not known, or of a horizon. ``predicted``,
    ``observed``: means.
    """

    quality: float | None
    predicted: float
    observed: float


def judged(study: Study, test: Scores, stated: Floats) -> list[Judged]:
    """Return how right the stated risks (n, r) of a test are, for each of them.

    Of the time to an event the observed risks are those of the life table of the study's periods.
    """
    match study.data.outcome:
        case TimeToEvent() as outcome:
            observed = outcome.observed(test.labels)
            return [
                Judged(None, float(own.mean()), float(share))
                for own, share in zip(stated.T, observed, strict=True)
            ]
        case Quantity() as outcome:
            exact, expected = outcome.valued(test.labels), outcome.at_share(stated[:, 0])
            explained = outcome.explained(exact, expected)
            known = None if math.isnan(explained) else explained
            return [Judged(known, float(expected.mean()), float(exact.mean()))]
        case Classes() as outcome:
            sides = [(test.scores[:, n], test.labels == n) for n in range(outcome.codes)]
        case _:
            sides = [(test.scores, test.labels == 1)]
    found = []
    for (own, has), risk in zip(sides, stated.T, strict=True):
        some = has.any() and not has.all()
        auc = exact_auc(np.ascontiguousarray(own), has) if some else None
        found.append(Judged(auc, float(risk.mean()), float(has.mean())))
    return found


def means_of(tests: Sequence[list[Judged] | None]) -> list[Judged] | None:
    """Return the means over the tests that know something; None if none does."""
    found = []
    for several in zip(*(test for test in tests if test), strict=True):
        known = [one.quality for one in several if one.quality is not None]
        found.append(
            Judged(
                statistics.fmean(known) if known else None,
                statistics.fmean(one.predicted for one in several),
                statistics.fmean(one.observed for one in several),
            )
        )
    return found or None


def listed(
    names: Sequence[dict[str, Any]],
    stated: list[Judged] | None,
    finished: list[Judged] | None,
    quality: str | None = None,
) -> list[dict[str, Any]] | None:
    """Return what the card's risks and those finished at home are like, by their names.

    ``quality``: the key of ``Judged.quality``.
    """
    if stated is None:
        return None
    found = [name | _keys(one, quality, "") for name, one in zip(names, stated, strict=True)]
    for entry, one in zip(found, finished or (), strict=False):
        entry |= _keys(one, quality, "_finished")
        del entry["observed_finished"]
    return found


def _keys(one: Judged, quality: str | None, of: str) -> dict[str, Any]:
    told = {f"predicted{of}": one.predicted, f"observed{of}": one.observed}
    return told if quality is None else {f"{quality}{of}": one.quality, **told}

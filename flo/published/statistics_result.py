"""The signed result of a statistics study: its noisy sum, from which every table follows.

Anyone can compute all tables, curves and tests again from this file (``flo.statistics``), and no
figure of them is in it. ``NAME-RUN.statistics.json``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from flo.arrays import Floats
from flo.documents.document import Document, read_json
from flo.privacy.accounting.plan import Plan, combined_variance
from flo.privacy.releases import fisher_scoring, regressions, statistics
from flo.privacy.releases.fisher_scoring import Released
from flo.published.signed_result import SignedResult
from flo.study.document import MAX_STUDY_BYTES, Study
from flo.study.statistics import MOST_CELLS, ROUNDS, coefficient_count
from flo.study.terms import Identifier

MAX_RESULT_BYTES = 8 * MAX_STUDY_BYTES
LARGEST_VALUE = 1e12  # of a number of the sum
_SAME = 1e-6  # coefficients computed on two machines
_Value = Annotated[float, Field(ge=-LARGEST_VALUE, le=LARGEST_VALUE)]


_Hospitals = Annotated[tuple[Identifier, ...], Field(max_length=1000)]
_Values = Annotated[tuple[_Value, ...], Field(max_length=MOST_CELLS)]


class RoundSum(Document):
    """A round of regressions: its noisy sum in the unit of ``flo.privacy.releases.regressions``.

    ``asked``: the coefficients at which it was summed; they follow from the rounds before.
    """

    hospitals: _Hospitals
    values: _Values
    asked: _Values


class StatisticsResult(SignedResult):
    """The noisy sums of a statistics study.

    ``hospitals``: those whose releases were added. ``values``: the sum, (length,), in the unit of
    ``flo.privacy.releases.statistics``; both are empty if the study has regressions only.
    ``rounds``: of its regressions, fewer than planned if the run was cut short.
    """

    signed_as: ClassVar[str] = "statistics-result"
    what: ClassVar[str] = "these statistics"

    hospitals: _Hospitals
    values: _Values
    rounds: Annotated[tuple[RoundSum, ...], Field(max_length=ROUNDS)] = ()

    @model_serializer(mode="wrap")
    def _as_before_regressions(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave ``rounds`` out if there are none, so that earlier results' bytes are the same."""
        document: dict[str, Any] = dump(self)
        if not self.rounds:
            document.pop("rounds", None)
        return document

    def follows_from(self, study: Study) -> bool:
        """Return whether the sums can be of this study, and each round asked what follows."""
        fit = fits(study, self.values, self.hospitals, self.rounds)
        return fit and self._asked_what_follows(study)

    def noisy(self) -> Floats:
        """Return the noisy sum, (length,)."""
        return np.array(self.values)

    def variance(self, study: Study) -> float:
        """Return the variance of the noise in each coordinate, which follows from the study.

        0 if the study has regressions only.
        """
        return _variance(study, "statistics", self.hospitals) if self.values else 0.0

    def released(self, study: Study) -> list[Released]:
        """Return the rounds of the study's regressions, with the variance of their noise."""
        return [
            Released(
                np.array(one.values),
                np.array(one.asked),
                _variance(study, "regression", one.hospitals),
                frozenset(one.hospitals),
            )
            for one in self.rounds
        ]

    def _asked_what_follows(self, study: Study) -> bool:
        """Return whether each round asked at the coefficients that the rounds before give."""
        rounds = self.released(study)
        return all(
            np.allclose(
                rounds[n].asked, fisher_scoring.next_coefficients(study, rounds[:n]), _SAME, _SAME
            )
            for n in range(len(rounds))
        )

    def facts(self, study: Study) -> list[tuple[str, str]]:
        """Return what is to be known of the result besides its figures: (label, text)."""
        return [*self._took_part(), *self.about(study)]

    def _took_part(self) -> list[tuple[str, str]]:
        """Return the hospitals of the tables, and those of the rounds where they are others."""
        found = [("hospitals", ", ".join(self.hospitals))] if self.values else []
        sets = dict.fromkeys(one.hospitals for one in self.rounds)
        if list(sets) == [self.hospitals]:
            return found
        for hospitals in sets:
            of = [str(n) for n, one in enumerate(self.rounds, 1) if one.hospitals == hospitals]
            found.append((f"hospitals, regressions' round {', '.join(of)}", ", ".join(hospitals)))
        return found


def fits(
    study: Study,
    values: Sequence[float],
    hospitals: Sequence[str],
    rounds: Sequence[RoundSum],
) -> bool:
    """Return whether sums of these hospitals can be of this study."""
    asked = study.statistics
    if asked is None:
        return False
    planned = ROUNDS if "regression" in asked.purposes else 0
    coefficients = coefficient_count(asked, study.data)
    return (
        len(values) == statistics.length(study)
        and (study.may_sum(hospitals) if values else not hospitals)
        and len(rounds) <= planned
        and bool(values or len(rounds) > 0)
        and all(len(one.values) == regressions.length(study) for one in rounds)
        and all(len(one.asked) == coefficients for one in rounds)
        and all(study.may_sum(one.hospitals) for one in rounds)
    )


def _variance(study: Study, purpose: str, hospitals: Sequence[str]) -> float:
    return combined_variance(study, Plan.of(study).purpose(purpose), len(hospitals))


def read_result(path: Path) -> StatisticsResult:
    """Read a result without checking it. Raises UsageError or MessageError."""
    return read_json(StatisticsResult, path, limit=MAX_RESULT_BYTES)

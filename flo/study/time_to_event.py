"""An outcome: the time until an event, which some patients are not seen to have.

A patient was followed for a time that ended with the event (label 1) or without it (label 0:
censored). Horizons divide time into periods. A patient who has not had the event by the start of a
period has it within the period with a chance, the hazard, whose log odds are the model's score, the
same in every period (discrete-time survival; Cox 1972, Singer and Willett 1993). After training,
the evaluation's release says how hazards differ between periods
(``flo.privacy.releases.horizon_risks``).

A record's outcome is one number, its code: 2·p + e, where p counts the periods that the patient was
followed through without the event, and e is 1 if the event came in the period after them. Whoever
was followed through all of them has the last code. An event at a horizon belongs to the period
before it; who was last seen at a horizon was followed until then.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, field_validator

from flo.arrays import Floats
from flo.documents.document import Document
from flo.study.names import ColumnName, Text

MOST_HORIZONS, LONGEST_TIME = 8, 1e9
_CENSORED = 0.5  # of a period, for which those who were last seen within it were there
FEWEST_THROUGH, _MOST_LOST = 10, 0.1  # patients; share of those who were there


class TimeToEvent(Document):
    """The time from a record until the event, or until the patient was last seen without it.

    ``time``: the column with it, of numbers of at least 0, in ``unit``. ``horizons``: rising times
    at which the model states risks; what happens after the last is not used. ``expected``: the
    share of patients, 0.01 to 0.95, who are expected to have the event by then, were all followed;
    from public knowledge, never from these patients. Training starts there and steps accordingly;
    half or twice the truth is near enough.
    """

    kind: Literal["time-to-event"]
    time: ColumnName
    unit: Text
    horizons: Annotated[
        tuple[Annotated[float, Field(gt=0, le=LONGEST_TIME)], ...],
        Field(min_length=1, max_length=MOST_HORIZONS),
    ]
    expected: Annotated[float, Field(ge=0.01, le=0.95)]

    @field_validator("horizons")
    @classmethod
    def _rising(cls, horizons: tuple[float, ...]) -> tuple[float, ...]:
        if any(one >= other for one, other in pairwise(horizons)):
            raise ValueError("horizons must rise")
        return horizons

    @property
    def periods(self) -> int:
        """How many periods the horizons end."""
        return len(self.horizons)

    @property
    def codes(self) -> int:
        """How many codes there are: 0 .. codes - 1."""
        return 2 * self.periods + 1

    def coded(self, times: Floats, events: Floats) -> Floats:
        """Return the codes (n,) of times (n,) of at least 0 and of events (n,), 0 or 1."""
        ends = np.array(self.horizons)
        before = np.searchsorted(ends, times, side="left")  # horizons before the time
        had = (events == 1) & (before < self.periods)
        through = np.searchsorted(ends, times, side="right")
        through = np.where(events == 1, before, through)
        return np.asarray(np.where(had, 2 * before + 1, 2 * through), dtype=np.float64)

    @property
    def followed(self) -> Floats:
        """For how many periods somebody of each code was there to have the event, (codes,)."""
        code = np.arange(self.codes)
        part = np.where(code % 2 == 1, 1.0, _CENSORED)
        return np.where(code < self.codes - 1, code // 2 + part, float(self.periods))

    @property
    def had_event(self) -> Floats:
        """1 for each code of an event, else 0, (codes,)."""
        return np.asarray(np.arange(self.codes) % 2, dtype=np.float64)

    def observed(self, codes: Floats) -> Floats:
        """Return the risk by each horizon, (periods,), of patients with these codes (n,).

        By the life table (Cutler, Ederer 1958); a period in which nobody was there has no risk.
        """
        counts = np.bincount(codes.astype(np.int64), minlength=self.codes)
        period, code = np.arange(self.periods)[:, None], np.arange(self.codes)
        there = np.clip(self.followed - period, 0.0, 1.0) @ counts
        hazard = ((code == 2 * period + 1) @ counts) / np.maximum(there, 1e-9)
        return np.asarray(1 - np.cumprod(1 - hazard))

    def known_periods(self, codes: Floats) -> int:
        """Return in how many periods, from the first on, patients with these codes (n,) tell risks.

        In each of them ten or more were followed through it, or nearly nobody was lost within it.
        Where a hospital's follow-up ends before a horizon, all are lost, and nothing is known.
        """
        for period in range(self.periods):
            there, lost = (codes >= 2 * period).sum(), (codes == 2 * period).sum()
            through = (codes > 2 * period + 1).sum()
            if not there or (through < FEWEST_THROUGH and lost > _MOST_LOST * there):
                return period
        return self.periods

    @property
    def planned(self) -> Floats:
        """The expected share of each code, (codes,), if nobody is lost before the last horizon."""
        hazard = self._hazard
        shares = np.zeros(self.codes)
        shares[1::2] = hazard * (1 - hazard) ** np.arange(self.periods)
        shares[-1] = 1 - self.expected
        return shares

    @property
    def first_log_odds(self) -> float:
        """Log odds of a hazard that is the same in every period and reaches ``expected``."""
        return math.log(self._hazard) - math.log1p(-self._hazard)

    @property
    def _hazard(self) -> float:
        return -math.expm1(math.log1p(-self.expected) / self.periods)

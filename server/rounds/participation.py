"""Choice of the hospitals to ask in an attempt: rules of absence, without IO.

| a hospital | consequence |
|---|---|
| refused permanently (not approved, over budget, rolled back) | excluded for the rest of the run |
| missed a join or an attempt, or refused otherwise | out for the round, if enough remain |
| the same in ``MOST_MISSES`` rounds | excluded, as long as the floor allows |
| has a newer run key, or saw newer heads | joins again; a second time in a round is a miss |
| answered the attempt before our restore | no consequence; a second time in a round is a miss |
| is not connected | not asked until it is |

Where sums survive dropouts, an absence that cost no attempt is not a miss, unless it follows
``MOST_ABSENCES`` in a row.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection

from flo.study.document import Study

GONE_FOR_GOOD = frozenset({"not-approved", "over-budget", "rolled-back"})
JOIN_AGAIN = frozenset({"stale-key", "unconfirmed"})
FORGIVEN_ONCE = JOIN_AGAIN | {"conflict"}
MOST_MISSES = 2  # each failure costs all hospitals a retry
MOST_ABSENCES = 5  # in a row that cost only time
RETURN_SECONDS = 20.0


class ParticipationPolicy:
    """Absences and refusals of one run's hospitals; not stored, so a restart resets them."""

    def __init__(self, study: Study) -> None:
        self._hospitals = [hospital.id for hospital in study.hospitals]
        self._floor = study.cohort_floor
        self._gone: set[str] = set()
        self._out: set[str] = set()
        self._forgiven: set[str] = set()
        self._misses: Counter[str] = Counter()
        self._in_a_row: Counter[str] = Counter()

    def present(self, connected: Collection[str]) -> list[str]:
        """Return the hospitals to ask: those that are out are included only if needed."""
        there = [h for h in self._hospitals if h in connected and h not in self._gone]
        reliable = [hospital for hospital in there if hospital not in self._out]
        return reliable if len(reliable) >= self._floor else there

    @property
    def can_reach_the_floor(self) -> bool:
        """Whether enough hospitals are not excluded, connected or not."""
        return len(self._hospitals) - len(self._gone) >= self._floor

    def is_gone(self, hospital: str) -> bool:
        """Return whether this hospital is excluded for the rest of the run."""
        return hospital in self._gone

    def refused(self, hospital: str, code: str) -> None:
        """Record a refusal with this code; the module's table lists the consequences."""
        if code in GONE_FOR_GOOD:
            self._gone.add(hospital)
        elif code in FORGIVEN_ONCE and hospital not in self._forgiven:
            self._forgiven.add(hospital)
        else:
            self.missed(hospital)

    def missed(self, hospital: str) -> None:
        """Record that a hospital gave no usable answer; counted at most once per round."""
        if hospital in self._out:
            return
        self._out.add(hospital)
        self._misses[hospital] += 1
        left = len(self._hospitals) - len(self._gone | {hospital})
        if self._misses[hospital] >= MOST_MISSES and left >= self._floor:
            self._gone.add(hospital)

    def exclude(self, hospital: str) -> bool:
        """Exclude a hospital that has been proven wrong; return False if the floor forbids it."""
        if len(self._hospitals) - len(self._gone | {hospital}) < self._floor:
            return False
        self._gone.add(hospital)
        return True

    def absent(self, hospital: str) -> None:
        """Record an absence that cost no attempt: out for the round, and no miss.

        Whoever is absent ``MOST_ABSENCES`` times in a row makes all others wait each time, so
        further ones count as missed.
        """
        self._in_a_row[hospital] += 1
        if self._in_a_row[hospital] > MOST_ABSENCES:
            self.missed(hospital)
        self._out.add(hospital)

    def took_part(self, hospitals: Collection[str]) -> None:
        """Record who took part in a sum; their absences before are forgotten."""
        for hospital in hospitals:
            self._in_a_row[hospital] = 0

    def next_round(self) -> None:
        """Readmit hospitals that were out; misses of earlier rounds stay counted."""
        self._out.clear()
        self._forgiven.clear()


class ExpectedReturns:
    """Hospitals that were missing from a sum a moment ago, and are waited for before the next one.

    A killed agent is back within seconds. So the coordinator waits that long where one more dropout
    would cost an attempt, and no longer: the next round does without the hospital.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock, self._left = clock, dict[str, float]()

    def left(self, hospitals: Collection[str]) -> None:
        """Record that these hospitals were missing now."""
        self._left |= dict.fromkeys(hospitals, self._clock())

    def are_expected(self, absent: Collection[str]) -> bool:
        """Return whether one of those who are absent was asked for a sum just now."""
        since = self._clock() - RETURN_SECONDS
        return any(self._left.get(hospital, since) > since for hospital in absent)

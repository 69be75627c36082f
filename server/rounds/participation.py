"""Who is asked in an attempt: rules of absence, without IO.

| what a hospital did | consequence |
|---|---|
| refused for good (not approved, over budget, rolled back) | gone for the rest of the run |
| missed a call to join or an attempt, or refused otherwise | out for the round, if enough remain |
| the same in ``MOST_MISSES`` rounds | gone, as long as the floor allows |
| named a newer run key, or saw newer heads | joins again; a second time in a round is a miss |
| had answered the attempt before a restore of ours | nothing; a second time in a round is a miss |
| is not connected | not asked until it is |
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

from flo.study.document import Study

GONE_FOR_GOOD = frozenset({"not-approved", "over-budget", "rolled-back"})
JOIN_AGAIN = frozenset({"stale-key", "unconfirmed"})
FORGIVEN_ONCE = JOIN_AGAIN | {"conflict"}
MOST_MISSES = 2  # who fails more often costs the others their retries


class ParticipationPolicy:
    """What one run remembers of its hospitals; a restart of the coordinator forgives."""

    def __init__(self, study: Study) -> None:
        self._hospitals = [hospital.id for hospital in study.hospitals]
        self._floor = study.cohort_floor
        self._gone: set[str] = set()
        self._out: set[str] = set()
        self._forgiven: set[str] = set()
        self._misses: Counter[str] = Counter()

    def present(self, connected: Collection[str]) -> list[str]:
        """Whom to ask: without those who are out if that is enough, else with them."""
        there = [h for h in self._hospitals if h in connected and h not in self._gone]
        reliable = [hospital for hospital in there if hospital not in self._out]
        return reliable if len(reliable) >= self._floor else there

    @property
    def can_reach_the_floor(self) -> bool:
        """Whether enough could come, were they all connected."""
        return len(self._hospitals) - len(self._gone) >= self._floor

    def is_gone(self, hospital: str) -> bool:
        """Whether this hospital is asked nothing more in this run."""
        return hospital in self._gone

    def refused(self, hospital: str, code: str) -> None:
        """A hospital answered with this refusal code; the module's table says what follows."""
        if code in GONE_FOR_GOOD:
            self._gone.add(hospital)
        elif code in FORGIVEN_ONCE and hospital not in self._forgiven:
            self._forgiven.add(hospital)
        else:
            self.missed(hospital)

    def missed(self, hospital: str) -> None:
        """A hospital gave no usable answer; counted once a round, however often it happens."""
        if hospital in self._out:
            return
        self._out.add(hospital)
        self._misses[hospital] += 1
        left = len(self._hospitals) - len(self._gone | {hospital})
        if self._misses[hospital] >= MOST_MISSES and left >= self._floor:
            self._gone.add(hospital)

    def next_round(self) -> None:
        """Who was out may take part again; misses of earlier rounds stay counted."""
        self._out.clear()
        self._forgiven.clear()

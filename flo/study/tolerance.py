"""How many dropouts a study's secure sums survive: threshold, levels of noise, and their proof.

N hospitals take part, b of them may collude with the coordinator, and d may be missing from a sum.

*Threshold.* q = ⌊(N + b)/2⌋ + 1 hospitals must agree on the list of survivors, and as many must
reveal a share to open a secret. Two sets of q hospitals have 2q - N > b in common, so at least one
honest hospital. It signs one list and reveals one kind of share, so two lists are never both
agreed, and a secret never opens in two ways. A sum can be opened without d hospitals if d <= N - q.

*Levels.* The noise of a sum must be (σΔ)² from the honest survivors alone. If u of N hospitals are
missing, these are at least N - u - b, and each must have added the share S_u = (σΔ)²/(N - u - b).
Hospitals do not know u when they add noise. So each adds a base share and one component for each
higher *level* of missing hospitals, S_ℓ - S_(the level below). The components above the level of
the real u are removed from the sum (``flo.privacy.secure_sum.components``).
"""

from __future__ import annotations

from dataclasses import dataclass

MOST_THAT_SURVIVE = 128  # hospitals; sums of more survive no dropout
_SURVIVE_FROM = 4
_EVERY_LEVEL = 3  # with more dropouts than that, levels are 1/5, 1/2 and all of them


@dataclass(frozen=True)
class Tolerance:
    """N hospitals, of which b may collude and d may be missing from a sum."""

    hospitals: int
    colluders: int
    dropouts: int

    def __post_init__(self) -> None:
        if not (self.hospitals > self.colluders >= 0 and self.dropouts >= 0):
            raise ValueError(f"{self} is not a tolerance")
        if self.dropouts > most_dropouts(self.hospitals, self.colluders):
            raise ValueError(f"{self} survives fewer dropouts")

    @property
    def threshold(self) -> int:
        """q: how many hospitals must agree, and reveal shares."""
        return _threshold(self.hospitals, self.colluders)

    @property
    def levels(self) -> tuple[int, ...]:
        """Numbers of missing hospitals for which noise is made, ascending, from 0 to d."""
        d = self.dropouts
        chosen = range(1, d + 1) if d <= _EVERY_LEVEL else (-(-d // 5), -(-d // 2), d)
        return (0, *chosen)

    @property
    def last(self) -> int:
        """The place of the last level. A chain of seeds has one more than that."""
        return len(self.levels) - 1

    def level(self, present: int) -> int:
        """Return the place in ``levels`` of a sum of ``present`` hospitals.

        Raises:
            ValueError: more than d hospitals would be missing.
        """
        missing = self.hospitals - present
        for place, most in enumerate(self.levels):
            if missing <= most:
                return place
        raise ValueError(f"{missing} hospitals are missing, at most {self.dropouts} may be")

    def shares(self, level: int) -> int:
        """Return N - u - b for a place in ``levels``: the fewest honest shares of its noise."""
        return self.hospitals - self.levels[level] - self.colluders


def usual_dropouts(hospitals: int) -> int:
    """Return the dropouts that a study's sums survive unless it states another number."""
    return max(1, hospitals // 5) if hospitals >= _SURVIVE_FROM else 0


def most_dropouts(hospitals: int, colluders: int) -> int:
    """Return the most dropouts that a sum of so many hospitals and colluders can survive."""
    return max(0, hospitals - _threshold(hospitals, colluders))


def _threshold(hospitals: int, colluders: int) -> int:
    return (hospitals + colluders) // 2 + 1

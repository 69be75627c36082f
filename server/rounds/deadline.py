"""How long replies are waited for: the study's deadline, or less once rounds were seen to be fast.

A hospital whose machine hangs keeps its connection and costs every other one the whole wait, so
after a few rounds nobody is waited for longer than ten times the slowest of them.
"""

from __future__ import annotations

from collections import deque

_ROUNDS, _ENOUGH = 20, 5  # remembered; before they tell anything
_TIMES, _LEAST_SECONDS = 10.0, 10.0


class AdaptiveDeadline:
    """Of one run. ``deadline``: the study's, in seconds; it is never exceeded."""

    def __init__(self, deadline: float) -> None:
        self._deadline = deadline
        self._seen: dict[str, deque[float]] = {}

    def timeout(self, phase: str) -> float:
        """How long to wait in a round of this phase.

        Ten times the slowest of the last twenty, and at least ten seconds; the whole deadline
        before five were seen.
        """
        seen = self._seen.get(phase, ())
        if len(seen) < _ENOUGH:
            return self._deadline
        return min(self._deadline, max(_LEAST_SECONDS, _TIMES * max(seen)))

    def observe(self, phase: str, seconds: float) -> None:
        """A round of this phase was complete after ``timeout``."""
        self._seen.setdefault(phase, deque(maxlen=_ROUNDS)).append(seconds)

"""Timeout for replies: the study's deadline, or less once several rounds were fast.

A hospital whose machine hangs keeps its connection and makes all others wait. So after a few rounds
the wait is limited to ten times the slowest of them.
"""

from __future__ import annotations

from collections import deque

_ROUNDS, _ENOUGH = 20, 5  # rounds that are remembered; rounds needed for an estimate
_TIMES, _LEAST_SECONDS = 10.0, 10.0


class AdaptiveDeadline:
    """Deadline of one run. ``deadline``: the study's, in seconds, which is never exceeded."""

    def __init__(self, deadline: float) -> None:
        self._deadline = deadline
        self._seen: dict[str, deque[float]] = {}

    def timeout(self, phase: str) -> float:
        """Return how long to wait in a round of this phase; seconds.

        Ten times the slowest of the last twenty rounds, but at least ten seconds; the study's
        deadline until five rounds were observed, and never more than that.
        """
        seen = self._seen.get(phase, ())
        if len(seen) < _ENOUGH:
            return self._deadline
        return min(self._deadline, max(_LEAST_SECONDS, _TIMES * max(seen)))

    def observe(self, phase: str, seconds: float) -> None:
        """Record the duration of a completed round of this phase."""
        self._seen.setdefault(phase, deque(maxlen=_ROUNDS)).append(seconds)

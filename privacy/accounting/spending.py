"""ε of one patient after releases of several purposes of one study: rules without IO."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from flo.privacy.accounting.accounting import Releases, composed_epsilon
from flo.privacy.accounting.life_budget import CHARGES, SUB_LEDGERS
from flo.privacy.mechanisms.mechanisms import Mechanism


class Priced(Protocol):
    """A purpose as a study plans it or a ledger reserves it."""

    @property
    def mechanism(self) -> Mechanism:
        """How its releases are made."""


def spent(
    parts: Mapping[str, Priced],
    counts: Mapping[str, int],
    delta: float,
    epsilon: Callable[[Releases, float], float] = composed_epsilon,
) -> float:
    """Return one patient's ε after so many releases of each purpose; a missing count is 0.

    Purposes that touch the same patients compose. Training and evaluation touch disjoint patients,
    so the larger of the two counts.
    """
    return max(
        epsilon(
            tuple(
                (part.mechanism, counts.get(purpose, 0))
                for purpose, part in parts.items()
                if sub_ledger in CHARGES[purpose]
            ),
            delta,
        )
        for sub_ledger in SUB_LEDGERS
    )


def of_training(purposes: Iterable[str]) -> list[str]:
    """Return those purposes that touch patients who are trained on; all, if none does."""
    every = list(purposes)
    return [purpose for purpose in every if "training" in CHARGES[purpose]] or every


def first_releases(counts: Mapping[str, int], number: int) -> dict[str, int]:
    """Return the first ``number`` of these releases by purpose; ``counts`` in a run's order."""
    taken, left = dict[str, int](), number
    for purpose, count in counts.items():
        taken[purpose] = min(count, left)
        left -= taken[purpose]
    return taken

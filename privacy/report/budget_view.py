"""A life budget as its steward wants to see it: by study, over time, and what is left to spend.

Everything is a share of the life budget of one population's sub-ledger, from the ledger's rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from flo.privacy.accounting.life_budget import CHARGES, SUB_LEDGERS, LifetimeBudget
from flo.privacy.ledger.rows import Balance, LedgerRow

_TYPICAL = (0.1, 0.3, 0.5)
_NOTHING = 1e-3  # a share of the life budget that no useful study fits into


@dataclass(frozen=True)
class StudyUse:
    """What one approval takes, as shares of the life budget by sub-ledger."""

    study: str
    approved: str
    settled: bool
    releases: dict[str, tuple[int, int]]  # purpose -> made, reserved
    spent: dict[str, float]
    reserved: dict[str, float]


@dataclass(frozen=True)
class Moment:
    """Shares at one time: really spent, and spent or reserved."""

    time: str
    spent: dict[str, float]
    committed: dict[str, float]


@dataclass(frozen=True)
class Affordable:
    """What still fits into a sub-ledger: the largest ε, and how many studies of typical ε."""

    largest_epsilon: float
    studies: dict[float, int]


def by_study(rows: Iterable[LedgerRow], balance: Balance, population: str) -> list[StudyUse]:
    """Approvals in order; ``rows`` are the site's own, with their private parts."""
    life, uses = balance.lives[population], []
    for row in rows:
        held = balance.reservations.get(row.sequence)
        if held is None or held.population != population:
            continue
        spent, reserved = dict.fromkeys(SUB_LEDGERS, 0.0), dict.fromkeys(SUB_LEDGERS, 0.0)
        for purpose, part in held.parts.items():
            each = life.share(part.mechanism.rdp(life.order))
            for sub_ledger in CHARGES[purpose]:
                spent[sub_ledger] += each * held.released[purpose]
                reserved[sub_ledger] += each * (held.counted(purpose) - held.released[purpose])
        private = row.private or {}
        uses.append(
            StudyUse(
                f"{private.get('name', 'unnamed')} v{private.get('version', '?')}",
                row.public["time"],
                held.settled,
                {p: (held.released[p], held.parts[p].releases) for p in CHARGES if p in held.parts},
                spent,
                reserved,
            )
        )
    return uses


def over_time(rows: list[LedgerRow], population: str, points: int) -> list[Moment]:
    """Up to ``points`` moments, evenly over the ledger's rows, the last always among them."""
    step = max(1, -(-len(rows) // points))
    balance, moments = Balance(), []
    for number, row in enumerate(rows, start=1):
        balance.add(row)
        if population in balance.lives and (number % step == 0 or number == len(rows)):
            life = balance.lives[population]
            moments.append(
                Moment(
                    row.public["time"],
                    {s: life.share(balance.charged(population, s)) for s in SUB_LEDGERS},
                    {s: life.share(balance.committed(population, s)) for s in SUB_LEDGERS},
                )
            )
    return moments


def committed_since(
    rows: Iterable[LedgerRow],
    balance: Balance,
    population: str,
    since: datetime,
    order: int,
    sub_ledger: str,
) -> float:
    """Rényi cost at ``order`` of what was approved since then: reserved, or released if settled."""
    return math.fsum(
        balance.reservations[row.sequence].cost(sub_ledger, order)
        for row in rows
        if row.sequence in balance.reservations
        and balance.reservations[row.sequence].population == population
        and datetime.fromisoformat(row.public["time"]) >= since
    )


def affordable(life: LifetimeBudget, remaining: float) -> Affordable:
    """What fits into ``remaining`` Rényi budget; one study after another adds up plainly."""
    usable = life.share(remaining) >= _NOTHING
    return Affordable(
        life.largest_epsilon(remaining) if usable else 0.0,
        {epsilon: max(0, int(remaining / life.cost_of(epsilon))) for epsilon in _TYPICAL},
    )

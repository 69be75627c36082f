"""A life budget as its steward sees it: by study, over time, and what remains.

All numbers are shares of the life budget of one population's sub-ledger, from the ledger's rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from flo.privacy.accounting.life_budget import CHARGES, SUB_LEDGERS, LifetimeBudget
from flo.privacy.ledger.balance import Balance
from flo.privacy.ledger.rows import LedgerRow

_TYPICAL = (0.1, 0.3, 0.5)
_NOTHING = 1e-3  # a share of the life budget that no useful study fits into


@dataclass(frozen=True)
class StudyUse:
    """One approval's use of the life budget, as shares by sub-ledger."""

    study: str
    approved: str
    settled: bool
    releases: dict[str, tuple[int, int]]  # purpose -> made, reserved
    spent: dict[str, float]
    reserved: dict[str, float]


@dataclass(frozen=True)
class Moment:
    """Shares at one time: released, and released or reserved."""

    time: str
    spent: dict[str, float]
    committed: dict[str, float]


@dataclass(frozen=True)
class Affordable:
    """Remaining budget of a sub-ledger: the largest ε, and how many studies of typical ε fit."""

    largest_epsilon: float
    studies: dict[float, int]


def by_study(rows: Iterable[LedgerRow], balance: Balance, population: str) -> list[StudyUse]:
    """Return approvals in order; ``rows`` are the site's own, with their private parts."""
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
    """Return up to ``points`` moments, evenly over the ledger's rows, always with the last."""
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
    """Return the Rényi cost at ``order`` of approvals since a time.

    It is the cost of all reserved releases, or of the released ones if settled.
    """
    return math.fsum(
        held.cost(sub_ledger, order)
        for row in rows
        if (held := balance.reservations.get(row.sequence))
        and held.population == population
        and datetime.fromisoformat(row.public["time"]) >= since
    )


def affordable(life: LifetimeBudget, remaining: float) -> Affordable:
    """Return what fits into ``remaining`` Rényi budget; costs of several studies add up."""
    usable = life.share(remaining) >= _NOTHING
    return Affordable(
        life.largest_epsilon(remaining) if usable else 0.0,
        {epsilon: max(0, int(remaining / life.cost_of(epsilon))) for epsilon in _TYPICAL},
    )

"""Admission rules of a life budget: which reservations fit, and how many rows one can have caused.

Rules only: ``flo.privacy.ledger.ledger`` applies them inside its transaction to the sum of all its
rows. A cost is a sum of Rényi divergences at the ledger's own order and is compared with the rest
of R (``flo.privacy.accounting.life_budget``); no ε is added or calibrated here.

A study of schema 4 or later is charged to the generations that have room for it and opens one
(``flo.privacy.ledger.generations``). An older study has to fit into all of them.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Protocol

from flo.errors import BudgetError
from flo.keys.claims import LedgerHead
from flo.privacy.accounting.life_budget import SUB_LEDGERS
from flo.privacy.accounting.plan import Plan
from flo.privacy.ledger.balance import Balance
from flo.privacy.ledger.reservation import Reservation
from flo.privacy.ledger.rows import MOST_ROWS
from flo.study.document import Study

Charged = dict[str, list[int]]  # sub-ledger -> generations


class OwnLimit(Protocol):
    """A limit that a site sets in addition to the life budget."""

    def has_room(
        self, balance: Balance, population: str, sub_ledger: str, generation: int | None
    ) -> bool:
        """Return whether the study may be charged to a generation; None: to one that it opens."""

    def refuse(
        self, balance: Balance, population: str, sub_ledger: str, generation: int | None
    ) -> BudgetError:
        """Return the error that states the limit."""


@dataclass(frozen=True)
class Approved:
    """A study that this site approved.

    ``population``: None in approvals of FLO 0.2, which did not name it. ``worst_case``: charged as
    if the secure sum were broken.
    """

    study: Study
    population: str | None
    worst_case: bool


@dataclass(frozen=True)
class Restored:
    """Result of restoring a ledger.

    ``lost``: number of rows that it lost. ``studies``: digests of studies that were charged because
    the ledger did not contain them. ``exhausted``: populations all of whose generations have no
    budget left.
    """

    lost: int
    studies: tuple[str, ...]
    exhausted: tuple[str, ...]


def admitted(
    balance: Balance,
    plan: Plan,
    study: Study,
    population: str,
    limit: OwnLimit | None,
    allowed: Collection[int],
) -> Charged | None:
    """Return the generations that a new reservation is charged to; None: all, and none is opened.

    ``allowed``: the generations that it may be charged to (``not_counted``).

    Raises:
        BudgetError: the study's δ is larger than the ledger's, or its cost exceeds a life budget or
            ``limit``; the message states the remaining share and the largest ε that would fit.
    """
    life = balance.lives[population]
    if study.mechanism.delta > life.delta:
        raise BudgetError(
            f"the study's delta {study.mechanism.delta:g} is larger than the {life.delta:g} of "
            f"population {population!r}",
            hint="ask the coordinator for a study with that delta or less",
        )
    generations = balance.generations(population)

    def has_room(sub_ledger: str, generation: int) -> bool:
        cost = plan.cost(sub_ledger, life.order)
        # in this form NaN does not fit either
        fits = cost <= balance.remaining(population, sub_ledger, generation)
        own = limit is None or limit.has_room(balance, population, sub_ledger, generation)
        return fits and own

    if study.by_generation:
        for sub_ledger in SUB_LEDGERS:
            _require_life(life.renyi, balance, plan, study, population, sub_ledger)
            if limit and not limit.has_room(balance, population, sub_ledger, None):
                raise limit.refuse(balance, population, sub_ledger, None)
        return {s: [one for one in allowed if has_room(s, one)] for s in SUB_LEDGERS}
    for sub_ledger in SUB_LEDGERS:
        remaining = balance.remaining(population, sub_ledger)
        _require_life(remaining, balance, plan, study, population, sub_ledger)
        for one in generations or (None,):
            if limit and not limit.has_room(balance, population, sub_ledger, one):
                raise limit.refuse(balance, population, sub_ledger, one)
    return None


def not_counted(
    balance: Balance, study: Study, population: str, watching: Collection[int]
) -> Collection[int]:
    """Return the generations that a study may be charged to: all, unless it is a monitor's.

    A monitor counts whom no other period of its model counted: those of the generations that were
    opened since the first one, without those that a period was charged to which released here or
    is open. The first period is charged to the generation that it opens. ``watching``: rows of the
    reservations of this ledger that watch the same model, whatever their studies say of each other.
    All of it follows from rows, and from none that states a count of patients.
    """
    known = balance.generations(population)
    if study.monitor is None:
        return known
    rows = [row for row in watching if balance.reservations[row].population == population]
    counted = set[int]()
    for row in rows:
        held = balance.reservations[row]
        if not held.settled or any(map(held.made, held.parts)):
            counted |= held.generations["evaluation"]
    first = min(rows, default=balance.last + 1)
    return [one for one in known if one >= first and one not in counted]


def _require_life(
    remaining: float, balance: Balance, plan: Plan, study: Study, population: str, sub_ledger: str
) -> None:
    life = balance.lives[population]
    cost = plan.cost(sub_ledger, life.order)
    if cost <= remaining:
        return
    fits = life.largest_epsilon(remaining, study.mechanism.delta)
    raise BudgetError(
        f"the study's {sub_ledger} takes {life.share(cost):.1%} of the life budget of "
        f"population {population!r} (ε = {life.epsilon:g}, δ = {life.delta:g}), and "
        f"{max(0.0, life.share(remaining)):.1%} remains; the largest ε that would fit "
        f"is {fits:.4f}",
        hint="ask the coordinator for a study with that ε or less",
    )


def require_same_reservation(held: Reservation, plan: Plan, population: str) -> None:
    """Check that an open reservation matches the approval that wants to use it.

    Raises:
        BudgetError: it is of another population, or of other mechanisms or numbers of releases.
    """
    reserved = {name: (part.document, part.releases) for name, part in held.parts.items()}
    wanted = {
        name: (part.mechanism.as_document(), part.releases) for name, part in plan.purposes.items()
    }
    if held.population != population or reserved != wanted:
        raise BudgetError(
            f"this study already has a reservation for population {held.population!r}, from an "
            "approval that was interrupted, and this approval would reserve something else",
            hint="approve it with the same population and --as-if-broken as before, or refuse it: "
            "flo site refuse STUDY --reason ...",
        )


def reservation_row(population: str, plan: Plan, **more: Any) -> dict[str, Any]:
    """Return the public part of a reservation's row; ``more``: its generations, or ``lost``."""
    return {
        "kind": "reserve",
        "population": population,
        "parts": {
            name: {"mechanism": part.mechanism.as_document(), "releases": part.releases}
            for name, part in plan.purposes.items()
        },
        **more,
    }


def restored_row(head: LedgerHead | None, exhausted: Collection[str] = ()) -> dict[str, Any]:
    """Return the public part of a recovery's row: head of the lost rows, exhausted populations."""
    named = head.model_dump(mode="json") if head else None
    return {"kind": "restored", "head": named, "exhausted": sorted(exhausted)}


def rows_explained(held: Reservation, study: Study | None) -> int:
    """Return the largest number of rows that a reservation can cause.

    Counts its own row, its end's, and its releases'. Distributed noise is drawn again for each
    attempt, so each row is a release of its own. With local noise one release can be repeated in
    several rows. ``study`` None: the study was not shown, and the smaller number, as for
    distributed noise, is assumed.
    """
    once = study is None or study.mechanism.noise == "distributed"
    return 2 + (1 if once else MOST_ROWS) * held.size

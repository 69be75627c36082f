"""The gate of a life budget: what may be reserved, and what a reservation can have led to.

Rules only: ``flo.privacy.ledger`` asks them inside its transaction, on all of its rows added up. A
cost is a sum of Rényi divergences at the ledger's own order and is compared with what is left of R
(``flo.privacy.accounting.life_budget``); no ε is ever added or calibrated here.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from flo.errors import BudgetError
from flo.keys.claims import LedgerHead
from flo.privacy.accounting.life_budget import SUB_LEDGERS
from flo.privacy.accounting.plan import Plan
from flo.privacy.ledger.rows import MOST_ROWS, Balance, Reservation
from flo.study.document import Study


def exhausted_sub_ledger(balance: Balance, plan: Plan, population: str) -> str | None:
    """The first sub-ledger of a registered population that the plan does not fit into, if any."""
    order = balance.lives[population].order
    for sub_ledger in SUB_LEDGERS:
        # so written, NaN does not fit either
        if not plan.cost(sub_ledger, order) <= balance.remaining(population, sub_ledger):
            return sub_ledger
    return None


def require_fits(balance: Balance, plan: Plan, study: Study, population: str) -> None:
    """Before a study is reserved for a registered population.

    A recovery asks ``exhausted_sub_ledger`` alone: what it reserves anew passed the rule about δ
    when it was approved.

    Raises:
        BudgetError: its δ is larger than the ledger's, or it costs more than is left; says what
        remains and the largest ε that would fit.
    """
    life = balance.lives[population]
    if study.mechanism.delta > life.delta:
        raise BudgetError(
            f"the study's delta {study.mechanism.delta:g} is larger than this ledger's "
            f"{life.delta:g}"
        )
    sub_ledger = exhausted_sub_ledger(balance, plan, population)
    if sub_ledger is not None:
        cost, remaining = (
            plan.cost(sub_ledger, life.order),
            balance.remaining(population, sub_ledger),
        )
        fits = life.largest_epsilon(remaining, study.mechanism.delta)
        raise BudgetError(
            f"the study's {sub_ledger} takes {life.share(cost):.1%} of the life budget of "
            f"population {population!r} (ε = {life.epsilon:g}, δ = {life.delta:g}), and "
            f"{max(0.0, life.share(remaining)):.1%} remains; the largest ε that would fit "
            f"is {fits:.4f}",
            hint="ask the coordinator for a study with that ε or less",
        )


def require_same_reservation(held: Reservation, plan: Plan, population: str) -> None:
    """An open reservation is kept for what it was made for, and for nothing else.

    Raises:
        BudgetError: it is of another population, or of other mechanisms or numbers of releases.
    """
    reserved = {name: (part.document, part.releases) for name, part in held.parts.items()}
    wanted = {
        name: (plan.purpose(name).mechanism.as_document(), plan.purpose(name).releases)
        for name in plan.purposes
    }
    if held.population != population or reserved != wanted:
        raise BudgetError(
            f"this study has a reservation of population {held.population!r} already, made "
            "when an approval was cut off, and this one would be for something else",
            hint="approve it as it was begun (population, --as-if-broken), or refuse it: "
            "flo site refuse STUDY --reason ...",
        )


def reservation_row(population: str, plan: Plan) -> dict[str, Any]:
    """What a reservation's row shows to everyone."""
    return {
        "kind": "reserve",
        "population": population,
        "parts": {
            purpose: {
                "mechanism": plan.purpose(purpose).mechanism.as_document(),
                "releases": plan.purpose(purpose).releases,
            }
            for purpose in plan.purposes
        },
    }


def restored_row(head: LedgerHead | None, exhausted: Collection[str] = ()) -> dict[str, Any]:
    """What the row of a recovery shows: the head of the lost rows, populations that are used up."""
    named = head.model_dump(mode="json") if head else None
    return {"kind": "restored", "head": named, "exhausted": sorted(exhausted)}


def rows_explained(held: Reservation, study: Study | None) -> int:
    """The most rows of which a reservation is the reason: its own, its end's, its releases'.

    Distributed noise is drawn anew each time, so a release of it is one row; with local noise it
    may have gone out again and again. ``study`` None: not shown, and of its rows no more is
    believed than of one with distributed noise.
    """
    once = study is None or study.mechanism.noise == "distributed"
    return 2 + (1 if once else MOST_ROWS) * held.size

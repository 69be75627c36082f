"""Limit on ε in 365 days, set by the site's policy in addition to the ledger's life budget.

It counts for each generation of patients, as the life budget does.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from flo.clients.home.policy import Policy
from flo.errors import BudgetError
from flo.privacy.accounting.life_budget import LifetimeBudget
from flo.privacy.accounting.plan import Plan
from flo.privacy.ledger.balance import Balance
from flo.study.document import Study


@dataclass(frozen=True)
class YearlyLimit:
    """The last year's approvals plus this one, against the policy's ε per year.

    Works like the ledger's own check: the year's (ε, δ) is converted once, and costs are added at
    that one order (``flo.privacy.accounting.life_budget``).
    """

    budget: LifetimeBudget
    plan: Plan
    delta: float
    since: datetime

    def has_room(
        self, balance: Balance, population: str, sub_ledger: str, generation: int | None
    ) -> bool:
        """Return whether the study may be charged to a generation; None: to one that it opens."""
        cost = self.plan.cost(sub_ledger, self.budget.order)
        used = self._used(balance, population, sub_ledger, generation)
        return used + cost <= self.budget.renyi

    def refuse(
        self, balance: Balance, population: str, sub_ledger: str, generation: int | None
    ) -> BudgetError:
        """Return the error that states what was taken, and what would fit."""
        used = self._used(balance, population, sub_ledger, generation)
        share = self.budget.share(self.plan.cost(sub_ledger, self.budget.order))
        fits = self.budget.largest_epsilon(self.budget.renyi - used, self.delta)
        return BudgetError(
            f"largest_epsilon_a_year = {self.budget.epsilon:g} in the site's policy: "
            f"{self.budget.share(used):.1%} of it was taken in {sub_ledger} in the last 365 days, "
            f"and this study takes {share:.1%}; the largest ε that would fit is {fits:.4f}",
            hint="wait until earlier approvals are a year old, or ask the coordinator for a "
            "study with a smaller ε",
        )

    def _used(
        self, balance: Balance, population: str, sub_ledger: str, generation: int | None
    ) -> float:
        if generation is None:
            return 0.0
        return balance.committed_since(
            population, sub_ledger, generation, self.since, self.budget.order
        )


def yearly_limit(
    policy: Policy, study: Study, delta: float, *, if_broken: bool, now: datetime
) -> YearlyLimit | None:
    """Return the policy's yearly limit for a study; None if it has none.

    ``delta``: of the population's life. Raises BudgetError: no study fits into the year's ε.
    """
    epsilon = policy.largest_epsilon_a_year
    if epsilon is None:
        return None
    try:
        budget = LifetimeBudget.create(epsilon, delta)
    except ValueError as error:
        raise BudgetError(
            f"largest_epsilon_a_year = {epsilon:g} in the site's policy has no room for any study: "
            f"{error}"
        ) from error
    plan = Plan.charged(study, if_broken=if_broken)
    return YearlyLimit(budget, plan, study.mechanism.delta, a_year_before(now))


def a_year_before(moment: datetime) -> datetime:
    """Return the time since which reservations count towards ``largest_epsilon_a_year``."""
    return moment - timedelta(days=365)

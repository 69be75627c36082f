"""Limit on ε in 365 days, set by the site's policy in addition to the ledger's life budget."""

from __future__ import annotations

from datetime import datetime, timedelta

from flo.clients.home.policy import Policy
from flo.errors import BudgetError
from flo.privacy.accounting.life_budget import SUB_LEDGERS, LifetimeBudget
from flo.privacy.accounting.plan import Plan
from flo.privacy.ledger.ledger import Ledger
from flo.privacy.report.budget_view import committed_since
from flo.study.document import Study


def refuse_over_a_year(
    policy: Policy, ledger: Ledger, study: Study, population: str, *, if_broken: bool, now: datetime
) -> None:
    """Check the last year's approvals plus this one against the policy's ε per year.

    Works like the ledger's own check: the year's (ε, δ) is converted once, and costs are added at
    that one order (``flo.privacy.accounting.life_budget``). Raises BudgetError.
    """
    if policy.largest_epsilon_a_year is None:
        return
    balance, rows = ledger.balance(), list(ledger.rows())
    try:
        year = LifetimeBudget.create(policy.largest_epsilon_a_year, balance.lives[population].delta)
    except ValueError as error:
        raise BudgetError(
            f"largest_epsilon_a_year = {policy.largest_epsilon_a_year:g} in the site's policy has "
            f"no room for any study: {error}"
        ) from error
    plan = Plan.charged(study, if_broken=if_broken)
    since = a_year_before(now)
    for sub_ledger in SUB_LEDGERS:
        used = committed_since(rows, balance, population, since, year.order, sub_ledger)
        cost = plan.cost(sub_ledger, year.order)
        if not used + cost <= year.renyi:
            fits = year.largest_epsilon(year.renyi - used, study.mechanism.delta)
            raise BudgetError(
                f"largest_epsilon_a_year = {policy.largest_epsilon_a_year:g} in the site's policy: "
                f"{year.share(used):.1%} of it was taken in {sub_ledger} in the last 365 days, and "
                f"this study takes {year.share(cost):.1%}; the largest ε that would fit is "
                f"{fits:.4f}",
                hint="wait until earlier approvals are a year old, or ask the coordinator for a "
                "study with a smaller ε",
            )


def a_year_before(moment: datetime) -> datetime:
    """Return the time since which reservations count towards ``largest_epsilon_a_year``."""
    return moment - timedelta(days=365)

"""Approve a study, from the command line or the desk: people's approvals first, then the site's."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

from flo.clients.approvals.approve import NotAnnounced, approve, terms_of
from flo.clients.approvals.approvers import add_approver
from flo.clients.connection.coordinator_api import CoordinatorApi
from flo.clients.connection.offers import Offered
from flo.clients.data_process.encoding import Progress
from flo.clients.home.site_config import Population
from flo.clients.home.site_home import SiteHome
from flo.keys.identity import Identity


@dataclass(frozen=True)
class ApprovalOutcome:
    """``people``: names of people who approved with their own keys. ``needed``: by the policy.

    ``unnotified``: the error with which the coordinator could not be notified of an approval.
    """

    people: tuple[str, ...]
    needed: int
    approved: bool
    unnotified: NotAnnounced | None = None


def decide(
    home: SiteHome,
    connect: Callable[[], AbstractContextManager[CoordinatorApi]],
    offered: Offered,
    population: Population,
    *,
    if_broken: bool = False,
    person: Identity | None = None,
    progress: Progress = lambda done, of: None,
) -> ApprovalOutcome:
    """Add a person's approval; once there are enough, check, reserve, sign and notify.

    ``connect``: opens a connection, or returns one that is open; called once there are enough.
    ``progress``: of encoders.
    An approval that was made and could not be announced is repeated at no charge by another call.

    Raises what ``add_approver`` and ``approve`` raise, but for NotAnnounced. If one of the site's
    own checks fails, nothing is reserved.
    """
    terms = terms_of(home, offered.study, population, if_broken=if_broken)
    people = add_approver(home, offered.study, terms, person)
    names, needed = tuple(given.name for given in people), home.read_policy().approvers
    if people and len(people) < needed:
        return ApprovalOutcome(names, needed, approved=False)
    try:
        with connect() as api:
            approve(
                home,
                api,
                offered,
                population,
                if_broken=if_broken,
                people=people,
                progress=progress,
            )
    except NotAnnounced as error:
        return ApprovalOutcome(names, needed, approved=True, unnotified=error)
    return ApprovalOutcome(names, needed, approved=True)

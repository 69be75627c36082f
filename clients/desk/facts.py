"""Values for the desk's templates, read from the site's own records. No decisions.

About patients, these show only what ledger and policy hold. No function here reads a data file.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from flo.clients.approvals import participation, roster
from flo.clients.approvals.approve import shares
from flo.clients.approvals.fingerprints import AddressBook
from flo.clients.home.policy import Policy
from flo.clients.home.policy_file import EXPLAINED
from flo.clients.home.site_config import Population
from flo.clients.home.site_home import SiteHome
from flo.clients.inbox.review import review
from flo.keys.identity import format_fingerprint, parse_fingerprint
from flo.keys.roster import WitnessedRoster
from flo.pages import plots
from flo.privacy.accounting.life_budget import SUB_LEDGERS, LifetimeBudget
from flo.privacy.ledger.ledger import Ledger
from flo.privacy.ledger.rows import LedgerRow
from flo.privacy.report import budget_view
from flo.privacy.report.budget_view import Affordable, GenerationUse, Moment, Room, StudyUse
from flo.privacy.report.sheet import Section
from flo.study.document import Study

_MOST_MOMENTS, _MOST_RELEASES = 120, 200
_HEARD = 4  # last groups of four digits of a fingerprint, typed as they are heard: 64 bits


@dataclass(frozen=True)
class Partner:
    """Partner with unconfirmed fingerprint. ``begins``: all of it but the last groups."""

    hospital: str
    begins: str


@dataclass(frozen=True)
class RosterPartner:
    """Partner on the roster. ``here``: how this site knows its key, in words."""

    hospital: str
    here: str


@dataclass(frozen=True)
class Cost:
    """Shares of the life budget in one sub-ledger: the study's cost, and what is free."""

    sub_ledger: str
    takes: float
    free: float


@dataclass(frozen=True)
class Life:
    """Life budget of one population, for display."""

    name: str
    life: LifetimeBudget
    now: Moment
    fits: dict[str, Affordable]
    uses: list[StudyUse]
    plot: plots.Plane
    generations: list[GenerationUse]
    rooms: list[Room]


@dataclass(frozen=True)
class ReleaseLine:
    """One release: what was sent, when, for which study."""

    row: int
    time: str
    kind: str
    study: str
    purpose: str
    round: int
    attempt: int
    reply: str


@dataclass(frozen=True)
class Answer:
    """Result for a study of some ε. ``then``: largest ε after it, or now if it does not fit."""

    takes: float
    free: float
    fits: bool
    then: float


def sheet(home: SiteHome, study: Study, population: Population) -> list[Section]:
    """Return the review sheet, without the last groups of unconfirmed fingerprints.

    The steward must hear them by telephone, so the page with the input field must not show them.
    """
    hidden = {p: format_fingerprint(study.hospital(p).fingerprint) for p in strangers(home, study)}
    sections = review(home, study, population)
    for whole in hidden.values():
        sections = [
            Section(
                part.heading,
                tuple((label, text.replace(whole, _begins(whole))) for label, text in part.lines),
            )
            for part in sections
        ]
    return sections


def strangers(home: SiteHome, study: Study) -> list[str]:
    """Return partners whose key is not confirmed here. Raises as ``roster.unconfirmed``."""
    return roster.unconfirmed(home, study)


def partners(home: SiteHome, study: Study) -> list[Partner]:
    """Return ``strangers`` for display, without the last groups of their fingerprints."""
    return [
        Partner(name, _begins(format_fingerprint(study.hospital(name).fingerprint)))
        for name in strangers(home, study)
    ]


def is_what_was_heard(study: Study, hospital: str, typed: str) -> bool:
    """Return whether ``typed`` is the end of the fingerprint that the study names."""
    return parse_fingerprint(typed) == study.hospital(hospital).fingerprint[-4 * _HEARD :]


def roster_facts(home: SiteHome, fetched: WitnessedRoster) -> dict[str, Any]:
    """Return the roster for display: its digest, its log, and each partner with what is known."""
    confirmed, keys = AddressBook.load(home).confirmed, fetched.roster.keys
    vouchers = fetched.vouchers(confirmed)
    lines = [
        RosterPartner(name, roster.known_as(name, fetched.roster, confirmed, vouchers))
        for name in keys
        if name != home.read_config().hospital
    ]
    return {
        "roster": fetched.roster.digest,
        "log": fetched.roster.entries,
        "lines": lines,
        "elsewhere": vouchers.elsewhere,
        **{"digest": "", "checked": False, "saved": [], "away": ""},
    }


def costs(home: SiteHome, study: Study, population: Population, *, if_broken: bool) -> list[Cost]:
    """Return what the study takes of each sub-ledger of this population, and what is free.

    Reserves no budget. ``if_broken``: at the cost that holds if the secure sum is broken.
    """
    taken = shares(home, study, population, if_broken=if_broken)
    with closing(home.open_ledger()) as ledger:
        balance = ledger.balance()
    life = balance.lives[population.name]
    return [
        Cost(side, taken[side], life.share(max(0.0, balance.remaining(population.name, side))))
        for side in SUB_LEDGERS
    ]


def patients(home: SiteHome, study: Study, population: Population) -> list[tuple[str, str]]:
    """Return which known patients have budget for a study, by generation; [] if it needs all."""
    with closing(home.open_ledger()) as ledger:
        return participation.known_lines(ledger, study, population.name)


def lives(ledger: Ledger) -> list[Life]:
    """Return every population's budget, in order of registration."""
    rows, balance = list(ledger.rows()), ledger.balance()
    found = []
    for name, life in balance.lives.items():
        moments = [_birth(rows, name), *budget_view.over_time(rows, name, _MOST_MOMENTS)]
        fits = {
            side: budget_view.affordable(life, balance.remaining(name, side))
            for side in SUB_LEDGERS
        }
        uses = budget_view.by_study(rows, balance, name)
        sizes = ledger.generation_sizes(name)
        generations = budget_view.by_generation(rows, balance, name, sizes)
        rooms = budget_view.rooms(balance, name, sizes)
        plot = _over_time(moments)
        found.append(Life(name, life, moments[-1], fits, uses, plot, generations, rooms))
    return found


def would_take(ledger: Ledger, population: str, epsilon: float) -> Room | None:
    """Return in how many generations a study of that ε fits; None if patients have none."""
    balance = ledger.balance()
    if not any(balance.generations(population)):
        return None
    sizes = ledger.generation_sizes(population)
    return budget_view.room(balance, population, sizes, epsilon)


def would_fit(ledger: Ledger, population: str, epsilon: float) -> list[tuple[str, Answer]]:
    """Check, per sub-ledger, a full-batch study of that own ε at the budget's δ."""
    balance = ledger.balance()
    life = balance.lives[population]
    cost, found = life.cost_of(epsilon), []
    for side in SUB_LEDGERS:
        left = balance.remaining(population, side)
        fits = cost <= left
        then = life.largest_epsilon(left - cost) if fits else life.largest_epsilon(left)
        free = life.share(max(0.0, left))
        found.append((side, Answer(life.share(cost), free, fits, then)))
    return found


def releases(ledger: Ledger) -> tuple[list[ReleaseLine], int]:
    """Return the latest releases, newest first, and the number of all releases."""
    names, found = dict[int, str](), list[ReleaseLine]()
    for row in ledger.rows():
        public, private = row.public, row.private or {}
        if public["kind"] == "reserve":
            names[row.sequence] = f"{private.get('name', '')} v{private.get('version', '?')}"
        elif public["kind"] in ("release", "repeat"):
            found.append(
                ReleaseLine(
                    row.sequence,
                    public["time"],
                    "again, at no cost" if public["kind"] == "repeat" else "charged",
                    names.get(public["reservation"], "unnamed"),
                    public["purpose"],
                    private.get("round", 0),
                    private.get("attempt", 0),
                    public["reply"],
                )
            )
    return found[::-1][:_MOST_RELEASES], len(found)


def rules(policy: Policy) -> list[tuple[str, str, str]]:
    """Return (rule, value, meaning) for each rule of a policy."""
    values: dict[str, Any] = policy.model_dump(mode="json", exclude={"people", "schema_version"})
    return [
        (name, _value(values[name]), EXPLAINED[name][1]) for name in EXPLAINED if name in values
    ]


def _value(value: Any) -> str:
    if value is None:
        return "not limited"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return f"{value['begin']} to {value['end']}"
    return ", ".join(map(str, value)) or "none" if isinstance(value, list) else str(value)


def _birth(rows: list[LedgerRow], population: str) -> Moment:
    """Return the moment of registration, when the whole budget is unspent."""
    born = next(
        row.public["time"]
        for row in rows
        if row.public["kind"] == "birth" and row.public["population"] == population
    )
    nothing = dict.fromkeys(SUB_LEDGERS, 0.0)
    return Moment(born, nothing, nothing)


def _over_time(moments: list[Moment]) -> plots.Plane:
    """Plot budget spent or reserved, in percent of the life budget, since registration."""
    times = [datetime.fromisoformat(moment.time) for moment in moments]
    seconds = [(time - times[0]).total_seconds() for time in times]
    most = max(seconds[-1], 1.0)
    day = most > 2 * 86_400
    ticks = [(0.0, _tick(times[0], day)), (most, _tick(times[-1], day))]
    return plots.plane(
        [
            (side, [(s, 100 * m.committed[side]) for s, m in zip(seconds, moments, strict=True)])
            for side in SUB_LEDGERS
        ],
        most_across=most,
        least_top=100,
        limit=100,
        steps=True,
        across=ticks,
    )


def _tick(time: datetime, day: bool) -> str:
    return f"{time:%Y-%m-%d}" if day else f"{time:%H:%M:%S}"


def _begins(fingerprint: str) -> str:
    return " ".join([*fingerprint.split()[:-_HEARD], *["····"] * _HEARD])

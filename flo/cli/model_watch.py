"""``flo model watch|settle|plan``: monitors of a model at work, and what is done about alarms."""

from __future__ import annotations

from datetime import UTC, date, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from flo.cli import results
from flo.cli.site.steward import PersonKeyFile, person_key
from flo.cli.terminal.command import command
from flo.cli.terminal.options import SITE_FOLDER, SiteFolder

if TYPE_CHECKING:
    from flo.clients.watching.plan import WatchPlan
    from flo.clients.watching.shown import ShownWatch

app = typer.Typer()
Name = Annotated[str, typer.Argument(help="Name of a model that answers here.")]


class Action(StrEnum):
    """What a plan does about an alarm."""

    tell = "tell"
    finish = "finish"
    fall_back = "fall-back"
    stop = "stop"


@command(app)
def watch(
    name: Name,
    erase: Annotated[
        bool, typer.Option("--erase", help="Delete what the monitors counted; they begin anew.")
    ] = False,
    home: SiteFolder = SITE_FOLDER,
) -> results.WatchResult:
    """Say what the monitors of a model at work have found at this hospital."""
    from flo.cli.terminal.output import say
    from flo.clients.home.site_home import SiteHome
    from flo.clients.watching import models, plan_decisions
    from flo.clients.watching.shown import shown

    site = SiteHome.open(home)
    if erase:
        say(f"what the monitors of {models.erase(site, name)} counted is deleted")
        return results.WatchResult(name, 0, 100.0, "", 0, [], [])
    with models.opened_watch(site, name) as (title, opened):
        found = shown(opened.watch, datetime.now(UTC).date().toordinal())
        version, model = opened.watched.study.version, opened.watched.study.name
    _show(title, name, found)
    _show_plan(model, *plan_decisions.told(site, model))
    alarms = [
        results.AlarmLine(
            *(one.number, said.cause, said.words, said.advice),
            *(_day(one.since), _day(one.found)),
        )
        for one, said in found.alarms
    ]
    groups = [
        results.WatchedGroup(group, one.known, one.had, one.stated, score)
        for group, one, score in found.groups
    ]
    return results.WatchResult(
        name, version, found.health, found.learning, found.patients, alarms, groups
    )


def _show(title: str, name: str, found: ShownWatch) -> None:
    from rich.table import Table

    from flo.cli.terminal.output import console, plain, say
    from flo.clients.watching.naming import percent

    say(f"{title}: health {found.health:.0f} of 100; {found.patients:,} patients")
    if found.learning:
        say(f"what is usual here is still being counted: it needs {found.learning}")
    for alarm, said in found.alarms:
        say(plain(f"alarm {alarm.number}: {said.words}. {said.advice}"))
    if found.alarms:
        say(
            f"when the cause is mended: flo model settle {name} NUMBER --why REASON; if it is to "
            "stay: --as-usual"
        )
    if found.groups:
        table = Table("patients", "outcomes known", "had it", "stated", "score")
        for group, one, score in found.groups:
            counts = f"{one.known:,}", f"{one.had:,}", f"{one.stated:,.0f}", f"{score:.0f}"
            table.add_row(plain(group), *counts)
        console().print(table)
    table = Table("column", "typical before", "last week", "missing", "did not fit", "score")
    for column in found.columns:
        shares = [
            f"{percent(was)} → {percent(now)}" for was, now in (column.missing, column.refused)
        ]
        facts = plain(column.title), column.before, column.recent
        table.add_row(*facts, *shares, f"{column.score:.0f}")
    console().print(table)
    if found.across:
        say("all hospitals together, by signed results:")
    for label, text in found.across:
        say(plain(f"  {label}: {text}"))
    for ward, learning in found.wards:
        say(plain(f"{ward}: {'watched' if not learning else f'needs {learning}'}"))


def _show_plan(name: str, plan: WatchPlan | None, why: str) -> None:
    from flo.cli.terminal.output import plain, say

    if why:
        say(plain(f"alarms wait for a plan that can be read: {why}"))
    elif plan is None:
        say(f"alarms are told, and nothing else happens; flo model plan {name} decides otherwise")
    else:
        done = ", ".join(f"{one.about}: {one.action}" for one in plan.responses) or "tell"
        say(plain(f"plan of {plan.by}, {plan.time[:10]}: {done}"))


@command(app)
def settle(
    name: Name,
    number: Annotated[int, typer.Argument(min=1, help="Number of the alarm.")],
    why: Annotated[str, typer.Option(help="Reason, for the audit log. Name no patient.")],
    as_usual: Annotated[
        bool,
        typer.Option("--as-usual", help="What was found is to stay: count anew what is usual."),
    ] = False,
    home: SiteFolder = SITE_FOLDER,
) -> results.SettledResult:
    """End an alarm of a monitor: its cause is mended, or it is to stay."""
    from flo.cli.terminal.output import say
    from flo.clients.home.site_home import SiteHome
    from flo.clients.watching.models import opened_watch

    site = SiteHome.open(home)
    with opened_watch(site, name) as (title, opened):
        alarm = opened.settle(number, why, as_usual=as_usual)
    say(f"alarm {number} of {title} is settled; a server that runs knows it within seconds")
    if as_usual:
        say("what is usual is counted anew: nothing else of these answers is watched meanwhile")
    return results.SettledResult(name, number, alarm.key.kind, alarm.key.name)


@command(app)
def plan(
    name: Name,
    why: Annotated[str, typer.Option(help="Reason, kept with the plan. Name no patient.")],
    outcomes: Annotated[Action, typer.Option(help="If risks do not hold.")] = Action.tell,
    columns: Annotated[Action, typer.Option(help="If a column changed.")] = Action.tell,
    risks: Annotated[Action, typer.Option(help="If stated risks changed.")] = Action.tell,
    service: Annotated[Action, typer.Option(help="If answers or outcomes are late.")] = Action.tell,
    hospitals: Annotated[
        Action, typer.Option(help="If risks do not hold at all hospitals together.")
    ] = Action.tell,
    follow_up: Annotated[
        int, typer.Option(min=0, max=3650, help="Days after an answer until its outcome is known.")
    ] = 30,
    by: Annotated[
        str | None, typer.Option(help="Your name, if the policy names no people.")
    ] = None,
    person: PersonKeyFile = None,
    home: SiteFolder = SITE_FOLDER,
) -> results.PlanResult:
    """Decide what this hospital does by itself when a monitor raises an alarm.

    tell: say it. finish: also ask for a finish at home. fall-back: the version before answers
    again. stop: none answers.
    """
    from flo.cli.terminal.output import say
    from flo.clients.home.site_home import SiteHome
    from flo.clients.prediction.flag_decisions import who_decides
    from flo.clients.watching import plan_decisions
    from flo.clients.watching.models import watched_of

    site = SiteHome.open(home)
    title, watched = watched_of(site, name)
    named = who_decides(site, by, person_key(person))
    given = {"outcomes": outcomes, "columns": columns, "risks": risks, "service": service}
    given["hospitals"] = hospitals
    responses = {about: action.value.replace("-", " ") for about, action in given.items()}
    plan_decisions.refuse_finished(watched)
    plan_decisions.decide(site, watched.study.name, follow_up, responses, named, why)
    for about, action in responses.items():
        say(f"{about}: {action}")
    say(f"this holds for {title} and every other version, until another plan is decided")
    return results.PlanResult(name, follow_up, responses)


def _day(ordinal: int) -> str:
    return date.fromordinal(ordinal).isoformat()

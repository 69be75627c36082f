"""``flo model promote|rollback|withdraw|states``: which version of a model is in use.

``flo model approve`` is in ``flo.cli.model_registry``.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flo.cli import results
from flo.cli.model_deploy import On, roll_back_at
from flo.cli.terminal.command import command
from flo.cli.terminal.options import COORDINATOR_FOLDER

if TYPE_CHECKING:
    from flo.clients.home.site_home import SiteHome
    from flo.clients.prediction.versions import Versions
    from flo.published.model_states import ModelDecision

app = typer.Typer()
EitherFolder = Annotated[
    Path,
    typer.Option(
        envvar="FLO_COORDINATOR_HOME",
        help="The coordinator's folder or an access file; or a hospital's folder.",
    ),
]
Version = Annotated[str, typer.Argument(help="NAME:VERSION of a study with a published model.")]
Why = Annotated[str, typer.Option(help="Reason, which hospitals read. Name no patient.")]


@command(app)
def promote(
    version: Version, why: Why, home: EitherFolder = COORDINATOR_FOLDER
) -> results.VersionStateResult:
    """Make an approved version current; at a hospital: fetch it, and put it into use."""
    from flo.cli.terminal.output import say, working
    from flo.clients.connection.enrolment import connect
    from flo.clients.prediction import monitor_news, version_decisions

    site = site_at(home)
    if site is None:
        found = decided(home, version, "promote", why)
        say("hospitals use it once they promote it, too: flo model promote --home SITE")
        return found
    with working("fetching the model"), connect(site) as api:
        name, model = version_decisions.promote(site, api, version, why)
    say(f"version {model.version} of {name} is in use at this hospital")
    if alarm := monitor_news.alarm_of(site, model):
        say(f"{alarm}; this decision settles it here (flo model watch {name})")
    say(f"next: flo model predict {name} --data FILE --out FILE --home {home}")
    return results.VersionStateResult(name, model.version, model.card, "current")


@command(app)
def rollback(
    version: Annotated[
        str,
        typer.Argument(
            help="NAME:VERSION to go back from: the one that is in use; NAME with --on."
        ),
    ],
    why: Why,
    on: On = None,
    home: EitherFolder = COORDINATOR_FOLDER,
) -> results.VersionStateResult:
    """Withdraw the version in use, and put the one before it back.

    With --on: end the canary at that door, or let the version before answer there.
    """
    from flo.cli.terminal.output import say
    from flo.clients.prediction import version_decisions

    if on is not None:
        name = version.partition(":")[0]
        found = roll_back_at(home, on, name, why)
        return results.VersionStateResult(name, found.version, found.card, "live")
    site = site_at(home)
    if site is None:
        return decided(home, version, "rollback", why)
    name, model = version_decisions.rollback(site, version, why)
    say(f"version {model.version} of {name} is in use at this hospital again")
    return results.VersionStateResult(name, model.version, model.card, "current")


@command(app)
def withdraw(
    version: Version, why: Why, home: EitherFolder = COORDINATOR_FOLDER
) -> results.VersionStateResult:
    """Take a version out of use: here, and from a coordinator at all hospitals."""
    from flo.cli.terminal.output import say
    from flo.clients.prediction import version_decisions

    site = site_at(home)
    if site is None:
        return decided(home, version, "withdraw", why)
    name, model = version_decisions.withdraw(site, version, why)
    say(f"version {model.version} of {name} is withdrawn at this hospital")
    return results.VersionStateResult(name, model.version, model.card, "withdrawn")


@command(app)
def states(
    home: EitherFolder = COORDINATOR_FOLDER,
    begin_anew: Annotated[
        bool, typer.Option("--begin-anew", help="At a hospital: forget the coordinator's list.")
    ] = False,
) -> results.VersionsResult:
    """List the versions of models, which one is in use, and who decided why."""
    from flo.errors import UsageError

    site = site_at(home)
    if site is not None:
        return _states_of_site(site, begin_anew=begin_anew)
    if begin_anew:
        raise UsageError("--begin-anew is for a hospital's folder", hint="--home SITE")
    from rich.table import Table

    from flo.cli.coordinator.operator import call_once
    from flo.cli.terminal.output import console, plain, say

    table, lines, said = Table("model", "version", "state"), [], []
    for one in call_once(home, "GET", "models"):
        model, last = one["model"], one["decided"]
        facts = (one["name"], model["version"], model["card"], one["state"], None)
        lines.append(results.VersionLine(*facts))
        table.add_row(*map(plain, (one["name"], str(model["version"]), one["state"])))
        if last is not None:
            said.append(_said(lines[-1], last["time"], last["by"], last["why"]))
    console().print(table)
    for line in said:
        say(line)
    return results.VersionsResult(lines)


def _said(line: results.VersionLine, time: str, by: str, why: str) -> str:
    """Return who decided last on a version, when and why."""
    from flo.cli.terminal.output import plain

    return plain(f"{line.name}:{line.version}: {time[:16].replace('T', ' ')}, {by}: {why}")


def _states_of_site(site: SiteHome, *, begin_anew: bool) -> results.VersionsResult:
    """List what this site has, also if the coordinator is away or what it shows is refused."""
    from rich.table import Table

    from flo.cli.terminal.output import console, plain, say
    from flo.clients.connection.enrolment import connect
    from flo.clients.prediction import version_news, versions
    from flo.errors import FloError

    refused: FloError | None = None
    if begin_anew:
        with connect(site) as api:
            found = version_news.begin_anew(site, api)
    else:
        try:
            with connect(site) as api:
                found = version_news.ask(site, api)
        except FloError as error:
            refused, found = error, versions.read(site)
    table, lines, said = Table("model", "version", "coordinator", "here"), [], []
    for name in found.names:
        for line, last in _lines(found, name):
            lines.append(line)
            table.add_row(*map(plain, (name, str(line.version), line.state, line.here or "")))
            said.append(_said(line, last.time, last.by, last.why))
    console().print(table)
    for told in said:
        say(told)
    if refused is not None:
        say(f"this is what the site knew at {found.seen[:16] or 'first'}")
        raise refused
    return results.VersionsResult(lines)


def _lines(found: Versions, name: str) -> list[tuple[results.VersionLine, ModelDecision]]:
    """Return the versions of a model, each with the decision that counts at this hospital."""
    theirs, own = found.of(name)
    lines = []
    for model in found.known_versions(name):
        withdrawn = found.withdrawal(name, model.study)
        here = "withdrawn" if withdrawn else "in use" if found.current(name) == model else ""
        last = withdrawn or own.last_on(model.study) or theirs.last_on(model.study)
        assert last is not None
        state = theirs.state_of(model.study)
        facts = (name, model.version, model.card, state, here)
        lines.append((results.VersionLine(*facts), last))
    return lines


def site_at(home: Path) -> SiteHome | None:
    """Return the hospital's folder; None if this is a coordinator's folder or an access file."""
    from flo.clients.home.site_home import SiteHome

    return SiteHome.open(home) if SiteHome(home).config_path.exists() else None


def decided(home: Path, wanted: str, step: str, why: str) -> results.VersionStateResult:
    """Tell the coordinator to take a step; say what state the version has after it."""
    from flo.cli.coordinator.operator import Operator
    from flo.cli.terminal.output import say
    from flo.documents import canonical
    from flo.documents.document import parse
    from flo.published.model_states import ModelStates
    from flo.study.reference import Known, which

    with Operator(home) as operator:
        listed = operator.call("GET", "models")
        known = [
            Known(one["name"], one["model"]["version"], one["model"]["study"], one["state"])
            for one in listed
        ]
        digest = which(known, wanted, "published model here")
        body = canonical.encode({"why": why})
        answer = operator.call("POST", f"studies/{digest}/model/{step}", body=body)
    last = parse(ModelStates, answer, "the coordinator's decisions").decisions[-1]
    say(f"version {last.model.version} of {answer['name']} is {last.state}")
    if step in ("rollback", "withdraw"):
        say("hospitals whose agent runs know it within a minute; tell the others by telephone")
    return results.VersionStateResult(
        answer["name"], last.model.version, last.model.card, last.state
    )

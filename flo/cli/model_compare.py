"""``flo model shadow|canary|compare|outcomes``: versions on the patients of the version in use."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flo.cli import results
from flo.cli.model_deploy import On, canary_at
from flo.cli.terminal.command import command
from flo.cli.terminal.options import SITE_FOLDER, SiteFolder

if TYPE_CHECKING:
    from flo.clients.comparison.result import ComparedResult
    from flo.clients.comparison.terms import Comparison
    from flo.clients.home.site_home import SiteHome

app = typer.Typer()
Version = Annotated[str, typer.Argument(help="NAME:VERSION that the coordinator approved.")]
Why = Annotated[str, typer.Option(help="Reason, for the audit log. Name no patient.")]
FollowUp = Annotated[
    int | None,
    typer.Option(min=0, max=3650, help="Days after an answer until its outcome counts: 30."),
]


@command(app)
def shadow(
    version: Version, why: Why, follow_up: FollowUp = None, home: SiteFolder = SITE_FOLDER
) -> results.ComparisonResult:
    """Let a version score the patients of the version in use; nobody sees its answers."""
    return _decided(home, version, 0, why, follow_up)


@command(app)
def canary(
    version: Version,
    why: Why,
    share: Annotated[
        int | None, typer.Option(min=1, max=90, help="Percent of patients who get its answers.")
    ] = None,
    off: Annotated[bool, typer.Option("--off", help="Take the version out again.")] = False,
    follow_up: FollowUp = None,
    on: On = None,
    home: SiteFolder = SITE_FOLDER,
) -> results.ComparisonResult:
    """Let a version answer for a share of the patients, compared with the version in use.

    With --on: for a share of the requests at that door, without a comparison.
    """
    from flo.cli.terminal.output import say
    from flo.clients.comparison import decisions
    from flo.clients.home.site_home import SiteHome
    from flo.errors import UsageError

    if off == (share is not None):
        raise UsageError(
            "a canary needs a share of the patients, or ends",
            hint="--share PERCENT, or --off",
        )
    if on is not None:
        if share is None:
            raise UsageError(
                "what answers at a door is ended by a command of its own",
                hint=f"flo model rollback NAME --on {on.value}",
            )
        found = canary_at(home, on, version, share, why)
        return results.ComparisonResult(version.partition(":")[0], {found.version: share})
    if share is not None:
        return _decided(home, version, share, why, follow_up)
    rest = decisions.end(SiteHome.open(home), version, why)
    say(f"{version} is compared no more; a server that runs obeys within about a second")
    if rest is None:
        say("outcomes can still be reported; flo model compare NAME --erase deletes what is kept")
        return results.ComparisonResult("", {})
    return _result(rest)


def _decided(
    home: Path, version: str, share: int, why: str, follow_up: int | None
) -> results.ComparisonResult:
    from flo.cli.terminal.output import say, working
    from flo.clients.comparison import decisions
    from flo.clients.connection.enrolment import connect
    from flo.clients.home.site_home import SiteHome
    from flo.clients.serving import local

    site = SiteHome.open(home)
    with working("fetching the model"), connect(site) as api:
        found = decisions.compare(site, api, version, share, why, follow_up)
    for one in found.versions:
        who = f"answers for {one.share} % of the patients" if one.share else "is in shadow"
        say(f"version {one.model.version} of {found.name} {who}")
    rest = 100 - sum(one.share for one in found.versions)
    say(f"version {found.baseline.version} is in use, and answers for {rest} %")
    if local.status(home) is None:
        say("no server runs now: flo model serve")
    say(
        f"outcomes count {found.follow_up_days} days after an answer: flo model outcomes FILE. "
        f"next: flo model compare {found.name} --home {home}"
    )
    return _result(found)


def _result(found: Comparison) -> results.ComparisonResult:
    return results.ComparisonResult(
        found.name, {one.model.version: one.share for one in found.versions}
    )


@command(app)
def outcomes(
    file: Annotated[
        Path, typer.Argument(help="CSV with the columns id, of an answer, and outcome: 0 or 1.")
    ],
    home: SiteFolder = SITE_FOLDER,
) -> results.OutcomesResult:
    """Report what became of patients, by the ids of answers, for monitors and comparisons."""
    from flo.cli.terminal.output import say
    from flo.clients.comparison.outcomes_file import read_outcomes
    from flo.clients.home.site_home import SiteHome
    from flo.clients.records.compared_answers import comparisons
    from flo.clients.records.outcome_reports import report

    site = SiteHome.open(home)
    found = report(site, comparisons(site), read_outcomes(file), time.time())
    say(f"{found.new} outcomes are kept; {found.known} were known")
    if found.elsewhere:
        say(f"{len(found.elsewhere)} are about answers of which nothing is kept, and are not kept")
    if found.contradicting:
        say(
            f"{len(found.contradicting)} contradict what was reported before, which stays; the "
            f"first: {found.contradicting[0]}"
        )
    return results.OutcomesResult(
        found.new, found.known, len(found.contradicting), len(found.elsewhere)
    )


@command(app)
def compare(
    name: Annotated[str, typer.Argument(help="Name of a model.")],
    erase: Annotated[
        bool, typer.Option("--erase", help="End the comparison and delete what is kept of it.")
    ] = False,
    home: SiteFolder = SITE_FOLDER,
) -> results.ComparedResult:
    """Say what the outcomes show of versions that are compared on this hospital's patients."""
    from flo.cli.terminal.output import say
    from flo.clients.comparison import decisions
    from flo.clients.comparison.judged import judged
    from flo.clients.home.site_home import SiteHome
    from flo.clients.records import compared_answers
    from flo.clients.serving import feedback
    from flo.errors import UsageError

    site = SiteHome.open(home)
    if erase:
        decisions.erase(site, name)
        say(f"what was kept of the comparison of {name} is deleted")
        return results.ComparedResult(name, 0, [], {})
    comparison = decisions.latest(site, name)
    if comparison is None:
        raise UsageError(
            f"no versions of {name} are compared here", hint="flo model shadow NAME:VERSION"
        )
    found, rows = judged(site, comparison)
    said = feedback.counted(site, {one.id: one.shown for one in rows})
    _show(site, comparison, found, said)
    if len(rows) >= compared_answers.MOST_ANSWERS:
        say(f"{len(rows):,} answers are kept, which is the limit: no later answer is compared")
    lines = []
    for one in found:
        last = one.looks()[-1] if len(one.gains) else None
        interval = None if last is None else (last.gain, last.low, last.high)
        lines.append(
            results.ComparedLine(
                *(one.version, one.share, one.answers, one.shown, one.without, one.patients),
                *(one.due, len(one.gains), one.apart, interval, one.verdict),
            )
        )
    kept = {f"{version} {outcome}": count for (version, outcome), count in sorted(said.items())}
    return results.ComparedResult(name, comparison.baseline.version, lines, kept)


def _show(
    home: SiteHome,
    comparison: Comparison,
    found: list[ComparedResult],
    said: dict[tuple[int, str], int],
) -> None:
    from rich.table import Table

    from flo.cli.terminal.output import console, plain, say
    from flo.clients.comparison import decisions
    from flo.clients.comparison.words import in_words

    began = datetime.fromisoformat(comparison.began).astimezone(UTC)
    over = "" if decisions.running(home, comparison.name) == comparison else "; it is over"
    say(
        f"{comparison.name}: compared with version {comparison.baseline.version} since "
        f"{began:%Y-%m-%d}{over}"
    )
    table = Table("version", "share", "scored", "answered", "no risk", "patients", "outcomes")
    for one in found:
        table.add_row(
            str(one.version),
            f"{one.share} %" if one.share else "shadow",
            *(f"{count:,}" for count in (one.answers, one.shown, one.without, one.patients)),
            f"{len(one.gains):,} of {one.due:,} due",
        )
    console().print(table)
    for one in found:
        for line in in_words(comparison, one):
            say(plain(f"version {one.version}: {line}"))
    for (version, outcome), count in sorted(said.items()):
        say(plain(f"cards of version {version} that clinicians {outcome}: {count:,}"))

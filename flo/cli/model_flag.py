"""``flo model flag``: from which risk on this hospital flags patients, decided by a person."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flo.cli import results
from flo.cli.model import path_of, trusted_coordinators
from flo.cli.site.steward import PersonKeyFile, person_key
from flo.cli.terminal.command import command
from flo.cli.terminal.options import SITE_FOLDER, SiteFolder

if TYPE_CHECKING:
    from flo.clients.prediction.flag_judge import Judged
    from flo.published.model_card import PublishedModel

app = typer.Typer()


@command(app)
def flag(
    model: Annotated[
        str,
        typer.Argument(help="NAME.safetensors or its card; or the name of a model in use here."),
    ],
    why: Annotated[str, typer.Option(help="Reason, kept with the rule. Name no patient.")],
    threshold: Annotated[
        float | None, typer.Option(help="Risk from which on a patient is flagged.")
    ] = None,
    group: Annotated[
        str | None, typer.Option(help="Column whose groups get thresholds of their own.")
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="With --group: patients with outcomes who took no part in the study."),
    ] = None,
    id_column: Annotated[str, typer.Option(help="Column of ids in --data.")] = "patient_id",
    by: Annotated[
        str | None, typer.Option(help="Your name, if the policy names no people.")
    ] = None,
    person: PersonKeyFile = None,
    sign: Annotated[bool, typer.Option("--sign", help="Put the rule into force.")] = False,
    off: Annotated[bool, typer.Option("--off", help="Flag nobody any more.")] = False,
    home: SiteFolder = SITE_FOLDER,
) -> results.FlagRuleResult:
    """Decide from which risk on `flo model predict` flags a patient at this hospital."""
    from flo.cli.terminal.output import plain, say
    from flo.clients.home.site_home import SiteHome
    from flo.clients.prediction import flag_rule
    from flo.clients.prediction.flag_judge import judge
    from flo.errors import UsageError
    from flo.published.fairness import refuse_threshold
    from flo.published.model_card import PublishedModel

    site = SiteHome.open(home)
    opened = PublishedModel.open(path_of(home, model), *trusted_coordinators(home, None))
    key = person_key(person)
    if off:
        flag_rule.withdraw(site, opened, flag_rule.who_decides(site, by, key), why)
        say(f"nobody is flagged by {opened.title} here any more")
        return results.FlagRuleResult(opened.card.digest, False, None, None, {})
    if threshold is None:
        raise UsageError("no --threshold was given", hint="--threshold RISK, such as 0.2; or --off")
    if (group is None) != (data is None):
        raise UsageError(
            "--group and --data belong together: thresholds by group are judged on patients with "
            "outcomes who took no part in the study",
            hint="give both, or none of them",
        )
    refuse_threshold(opened, threshold)
    groups = _by_group(opened, threshold, group) if group else {}
    named = flag_rule.who_decides(site, by, key)
    rule = flag_rule.rule_for(opened, threshold, groups, group, named, why)
    if data is not None:
        judged = judge(opened, rule, data, id_column)
        _show(judged, groups)
        judged.refuse_unproven()
        say(
            "[bold yellow]thresholds by group may be unlawful[/], also if they are meant well; "
            "some who are found today would be missed"
        )
    if sign:
        rule = flag_rule.decide(site, rule, key)
        say(plain(f"signed by {named}: flo model predict writes who is flagged, by {opened.title}"))
    else:
        say("nothing is changed yet; to put the rule into force: the same command with --sign")
    return results.FlagRuleResult(rule.card, sign, threshold, group, groups)


def _by_group(model: PublishedModel, threshold: float, column: str) -> dict[str, float]:
    """Return the thresholds of a column's groups. Raises UsageError: none are stated."""
    from flo.errors import UsageError
    from flo.published.fairness import fairness

    found = fairness(model, threshold, by_group=True).adjusted
    one = next((one for one in found if one.column == column), None)
    if one is None:
        raise UsageError(
            f"no thresholds by {column} are stated: its groups do not surely differ, or the "
            "thresholds would cost too much",
            hint=f"flo model fairness --threshold {threshold:g} --thresholds says what is known",
        )
    return one.groups


def _show(judged: Judged, groups: dict[str, float]) -> None:
    """Show what the thresholds of the groups would do to the patients of a file."""
    from rich.table import Column, Table

    from flo.cli.terminal.output import console, plain, say

    say(f"[bold yellow]NOT PRIVATE[/]: among the {judged.records} records of this file; stays here")
    table = Table(
        Column("group", overflow="fold"), "flag from", "with outcome", "found", "without", "alarmed"
    )
    for one in judged.groups:
        table.add_row(
            plain(one.group),
            f"{groups[one.group]:.3f}",
            str(one.ill),
            f"{one.found[0]} → {one.found[1]}",
            str(one.well),
            f"{one.alarmed[0]} → {one.alarmed[1]}",
        )
    console().print(table)
    say(f"classified rightly: {judged.right[0]} → {judged.right[1]} of {judged.records}")

"""``flo model flag``: from which risk on this hospital flags patients, decided by a person."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flo.cli import results
from flo.cli.model import path_of, refuse_forbidden, trusted_coordinators
from flo.cli.site.steward import PersonKeyFile, person_key
from flo.cli.terminal.command import command
from flo.cli.terminal.options import SITE_FOLDER, SiteFolder
from flo.documents import canonical

if TYPE_CHECKING:
    from flo.clients.home.site_home import SiteHome
    from flo.clients.prediction.flag_judge import Judged
    from flo.clients.prediction.flag_rule import FlagRule
    from flo.published.model_card import PublishedModel

app = typer.Typer()
_NOTHING = "nothing is changed yet; to decide: the same command with --sign"


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
    from flo.clients.prediction import flag_decisions
    from flo.errors import UsageError
    from flo.published.model_card import PublishedModel

    site, path = SiteHome.open(home), path_of(home, model)
    opened = PublishedModel.open(path, *trusted_coordinators(home, None))
    key = person_key(person) if sign else None
    named = flag_decisions.who_decides(site, by, key) if sign else by or "nobody yet"
    if off:
        if threshold is not None or group is not None or data is not None:
            raise UsageError(
                "--off ends a rule, and takes no --threshold, --group and --data",
                hint="leave them out",
            )
        if sign:
            flag_decisions.withdraw(site, opened, named, why)
            say(f"nobody is flagged by {opened.title} here any more")
        else:
            say(_NOTHING)
        return results.FlagRuleResult(opened.card.digest, sign, None, None, {})
    if threshold is None:
        raise UsageError("no --threshold was given", hint="--threshold RISK, such as 0.2; or --off")
    refuse_forbidden(home, path, opened)
    rule = flag_decisions.rule_for(opened, threshold, named, why)
    if group is not None or data is not None:
        rule = _judged(site, opened, rule, group, data, id_column)
    if sign:
        rule = flag_decisions.decide(site, rule, key)
        how = "with a key of their own" if key else "and this hospital's key signed it"
        say(plain(f"decided by {named}, {how}: flo model predict writes who is flagged"))
    else:
        say(_NOTHING)
    risks = {one.group: one.risk for one in rule.groups}
    return results.FlagRuleResult(rule.card, sign, threshold, group, risks)


def _judged(
    site: SiteHome,
    model: PublishedModel,
    rule: FlagRule,
    group: str | None,
    data: Path | None,
    id_column: str,
) -> FlagRule:
    """Return the rule with the thresholds of a column's groups that the patients of a file judged.

    Raises UsageError, RefusedError: nobody may use them.
    """
    from flo.cli.terminal.output import plain, say
    from flo.clients.prediction import flag_decisions
    from flo.clients.prediction.flag_judge import file_to_judge, judge
    from flo.errors import RefusedError, UsageError
    from flo.privacy.patients.split import keyed_hash

    if group is None or data is None:
        raise UsageError(
            "--group and --data belong together: thresholds by group are judged on patients with "
            "outcomes who took no part in the study",
            hint="give both, or none of them",
        )
    groups = _by_group(model, rule.threshold, group)
    checked = file_to_judge(site, model.study, data, id_column)
    file = keyed_hash(site.open_patients_key(), canonical.digest(data.read_bytes()))
    rule = flag_decisions.rule_for(
        model, rule.threshold, rule.by, rule.why, column=group, groups=groups, judged=file
    )
    rule = rule.with_common(judge(model, rule, checked).few)
    judged = judge(model, rule, checked)
    _show(judged, rule)
    try:
        judged.refuse_unproven()
    except RefusedError:
        flag_decisions.enter_judged(site, rule, passed=False)
        raise
    flag_decisions.enter_judged(site, rule, passed=True)
    if judged.few:
        say(plain(f"too few ill here, so the common threshold: {', '.join(judged.few)}"))
    say(
        "[bold yellow]thresholds by group may be unlawful[/], also if they are meant well; some "
        "who are found with one threshold would be missed"
    )
    return rule


def _by_group(model: PublishedModel, threshold: float, column: str) -> dict[str, float]:
    """Return the thresholds of a column's groups. Raises UsageError: none are stated."""
    from flo.errors import UsageError
    from flo.published.fairness import fairness

    known = model.study.evaluation.subgroups
    if column not in known:
        raise UsageError(
            f"--group {column!r} is no subgroup of the study's evaluation; it has: "
            f"{', '.join(known) or 'none'}",
            hint="leave out --group for one threshold for all",
        )
    found = fairness(model, threshold, by_group=True).adjusted
    one = next((one for one in found if one.column == column), None)
    if one is None:
        raise UsageError(
            f"no thresholds by {column} are stated: its groups do not surely differ, or the "
            "thresholds would cost too much",
            hint=f"flo model fairness --threshold {threshold:g} --thresholds says what is known",
        )
    if len(one.groups) != len(one.before[0].rates):
        raise UsageError(
            f"--group {column}: it has a code that is called missing, and missing values, too, so "
            "two groups have one name",
            hint="leave out --group for one threshold for all",
        )
    return one.groups


def _show(judged: Judged, rule: FlagRule) -> None:
    """Show what the thresholds of the groups would do to the patients of a file."""
    from rich.table import Column, Table

    from flo.cli.terminal.output import console, plain, say

    say(f"[bold yellow]NOT PRIVATE[/]: {judged.patients} patients of this file; it stays here")
    table = Table(
        *(Column("group", overflow="fold"), "flag from", "with outcome", "found"),
        *("without", "falsely flagged"),
        title=f"one threshold of {rule.threshold:g} → thresholds by {plain(rule.column or '')}",
    )
    for one, limit in zip(judged.groups, rule.groups, strict=True):
        table.add_row(
            plain(one.group),
            f"{limit.risk:.3f}",
            str(one.ill),
            f"{one.found[0]} → {one.found[1]}",
            str(one.well),
            f"{one.alarmed[0]} → {one.alarmed[1]}",
        )
    console().print(table)
    say(f"classified rightly: {judged.right[0]} → {judged.right[1]} of {judged.patients}")

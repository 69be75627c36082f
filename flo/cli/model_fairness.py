"""``flo model fairness``: for whom a published model fails, at no cost in privacy."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flo.cli import results
from flo.cli.model import CoordinatorFingerprint, ModelFile, trusted_coordinators
from flo.cli.terminal.command import command
from flo.cli.terminal.options import SITE_FOLDER, SiteFolder

app = typer.Typer()


@command(app)
def fairness(
    model: ModelFile,
    threshold: Annotated[float, typer.Option(help="Risk from which on a patient is flagged.")],
    page: Annotated[
        Path | None, typer.Option(help="Also write a page for an ethics committee (HTML).")
    ] = None,
    thresholds: Annotated[
        bool, typer.Option("--thresholds", help="Also state thresholds of each group.")
    ] = False,
    home: SiteFolder = SITE_FOLDER,
    coordinator: CoordinatorFingerprint = None,
) -> results.FairnessResult:
    """Say which groups are flagged how often, where they differ, and where nobody can tell."""
    from rich.table import Column, Table

    from flo.cli.terminal.output import console, plain, say
    from flo.published.fairness import fairness as look
    from flo.published.fairness import in_words
    from flo.published.fairness_page import render
    from flo.published.model_card import PublishedModel
    from flo.storage.files import write_public

    opened = PublishedModel.open(model, *trusted_coordinators(home, coordinator))
    found = look(opened, threshold, by_group=thresholds)
    for gap in found.gaps:
        table = Table(Column(gap.column, overflow="fold"), gap.kind, "90 % interval", "patients")
        for rate in gap.rates:
            value = "too few to say" if rate.value is None else f"{rate.value:.3f}"
            ends = f"{rate.low:.3f} to {rate.high:.3f}"
            many = "fewer than 50" if rate.patients < 50 else f"about {rate.patients:.0f}"
            table.add_row(plain(rate.group), value, ends, many)
        console().print(table)
        say(plain(f"{gap.column}, {gap.kind}: {in_words(gap)}"))
    for one in found.adjusted:
        risks = ", ".join(f"{group} {risk:.3f}" for group, risk in one.groups.items())
        say(plain(f"{one.column}: thresholds that would bring the groups closer: {risks}"))
        for was, now in zip(one.before[0].rates, one.after[0].rates, strict=True):
            if was.value is not None and now.value is not None:
                say(plain(f"  {was.group}: found {was.value:.3f}, then {now.value:.3f}"))
        say(
            f"of all patients, {max(one.cost[0], 0):.4f} would be classified rightly no more, at "
            f"most {max(one.cost[1], 0):.4f}; by the numbers that chose them, so expect less"
        )
    if thresholds:
        say("thresholds by group may be unlawful; nothing is changed")
        if not found.adjusted:
            say("none are stated: no column differs, or they would cost too much")
    if page:
        write_public(page, render(opened, found).encode())
        say(f"written: {page}")
    return results.FairnessResult(
        opened.study.digest,
        threshold,
        [
            results.GroupGap(
                *(gap.column, gap.kind, gap.differ, gap.low, gap.high),
                {rate.group: (rate.value, rate.low, rate.high) for rate in gap.rates},
            )
            for gap in found.gaps
        ],
        {one.column: one.groups for one in found.adjusted},
    )

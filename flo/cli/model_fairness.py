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
    found = look(opened, threshold)
    for gap in found.gaps:
        table = Table(Column(gap.column, overflow="fold"), gap.kind, "90 % interval", "patients")
        for rate in gap.rates:
            shown = ("too few to say", "")
            if rate.value is not None:
                shown = (f"{rate.value:.3f}", f"{rate.low:.3f} to {rate.high:.3f}")
            table.add_row(plain(rate.group), *shown, f"about {rate.patients:.0f}")
        console().print(table)
        say(plain(f"{gap.column}, {gap.kind}: {in_words(gap)}"))
    for one in found.adjusted:
        (before, right), (after, then) = one.curve[0], one.curve[-1]
        risks = ", ".join(f"{group} {risk:.3f}" for group, risk in one.groups.items())
        told = f"{one.column}: about equally many would be found with the thresholds {risks}"
        say(plain(told))
        say(
            f"that would change the difference from {before:.3f} to {after:.3f} and the share "
            f"classified rightly from {right:.3f} to {then:.3f}, by the numbers that chose them. "
            "Thresholds by group may be unlawful; nothing is changed"
        )
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

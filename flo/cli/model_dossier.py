"""``flo model dossier``: all that is known of a published model, on one page for a committee."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flo.cli.model import CoordinatorFingerprint, ModelFile, decisions_on, trusted_coordinators
from flo.cli.terminal.command import command
from flo.cli.terminal.options import SITE_FOLDER, SiteFolder
from flo.cli.terminal.results import FileWrittenResult

app = typer.Typer()


@command(app)
def dossier(
    model: ModelFile,
    threshold: Annotated[float, typer.Option(help="Risk from which on a patient is flagged.")],
    out: Annotated[Path, typer.Option(help="Where to write the page (HTML).")],
    home: SiteFolder = SITE_FOLDER,
    coordinator: CoordinatorFingerprint = None,
) -> FileWrittenResult:
    """Write a model's dossier: evaluation, gates, groups, what moves the score, decisions."""
    from flo.cli.terminal.output import say
    from flo.published.dossier import render
    from flo.published.gate_passed import beside
    from flo.published.model_card import PublishedModel
    from flo.storage.files import write_public

    trusted = trusted_coordinators(home, coordinator)
    opened = PublishedModel.open(model, *trusted)
    gates = beside(model, opened.card)
    page = render(opened, threshold, gates, trusted, decisions_on(home, opened))
    write_public(out, page.encode())
    say(f"written: {out}")
    return FileWrittenResult(str(out))

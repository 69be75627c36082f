"""``flo model finish``: a published model, refitted on this hospital's own patients."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from flo.cli import results
from flo.cli.model import ModelFile, refuse_forbidden
from flo.cli.terminal.command import command
from flo.cli.terminal.options import SITE_FOLDER, SiteFolder

if TYPE_CHECKING:
    from rich.table import Table

    from flo.clients.records.finished_model import FinishedModel, LocalFit

app = typer.Typer()


@command(app)
def finish(model: ModelFile, home: SiteFolder = SITE_FOLDER) -> results.FinishedResult:
    """Calibrate and refit a published model on this hospital's patients. Nothing is sent."""
    from flo.cli.terminal.output import console, say, working
    from flo.clients.home.site_home import SiteHome
    from flo.clients.prediction.finish import finish as run
    from flo.clients.records.finished_model import NOT_PRIVATE
    from flo.published.model_card import PublishedModel

    opened = SiteHome.open(home)
    published = PublishedModel.open(model, *opened.read_coordinator().fingerprints)
    refuse_forbidden(home, model, published)
    with working("finishing") as status:
        made = run(opened, model, published, status.update)
    say(f"[bold yellow]NOT PRIVATE[/]: {made.name} is {NOT_PRIVATE}")
    console().print(_fits(made))
    console().print(_calibration(made))
    say(_gain_in_words(made))
    say(
        f"refitted on {made.trained} patients, compared on {made.tested} others; the published "
        f"weights were scaled by {made.slope:.2f}"
    )
    say(f"next: flo model predict {made.name} --data FILE --out FILE --home {home}")
    return results.FinishedResult(made.name)


def _gain_in_words(made: FinishedModel) -> str:
    """Return what this hospital has of taking part, and whether it may be chance."""
    from flo.scores.metrics import FEWEST_FOR_INTERVAL

    if made.gain is None:
        return f"gain over alone: fewer than {FEWEST_FOR_INTERVAL} held-out patients of a class"
    low, middle, high = made.gain
    chance = ", which contains 0: it may be chance" if low <= 0 <= high else ""
    return f"gain over alone {middle:+.3f} AUC (95 % interval {low:+.3f} to {high:+.3f}{chance})"


def _fits(made: FinishedModel) -> Table:
    """Return a table of how well the three models fit this hospital's held-out patients."""
    from rich.table import Table

    table = Table("model", "AUC (95 % interval)", "Brier", "mean risk", "observed")
    for name, fit in made.fits.items():
        table.add_row(
            name,
            _auc(fit),
            f"{fit.brier:.3f}",
            f"{fit.predicted:.1%}",
            f"{fit.observed:.1%}",
        )
    return table


def _calibration(made: FinishedModel) -> Table:
    """Return a table of predicted and observed risk, in groups of rising risk."""
    from rich.table import Table

    names = (f"{name}: risk, observed" for name in made.fits)
    table = Table("records by rising risk", *names)
    curves = [fit.curve for fit in made.fits.values()]
    for points in zip(*curves, strict=True):
        table.add_row(str(points[0][2]), *(f"{risk:.0%}, {share:.0%}" for risk, share, _ in points))
    return table


def _auc(fit: LocalFit) -> str:
    if fit.auc is None:
        return "one class only"
    if fit.low is None or fit.high is None:
        return f"{fit.auc:.3f} (too few patients)"
    return f"{fit.auc:.3f} ({fit.low:.3f} to {fit.high:.3f})"

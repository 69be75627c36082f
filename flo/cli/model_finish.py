"""``flo model finish``: a published model, refitted on this hospital's own patients."""

from __future__ import annotations

from itertools import zip_longest
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
    both = zip(made.published.risks, made.finished.risks, strict=True)
    for number, (one, finished) in enumerate(both):
        if one.observed is None or finished.predicted is None:
            say(f"risk {one.of}: this hospital's patients were not followed so long")
        if one.observed is not None:
            console().print(_calibration(made, number, one.of))
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
    return (
        f"gain over alone {middle:+.3f} {made.measure} (95 % interval {low:+.3f} to "
        f"{high:+.3f}{chance})"
    )


def _fits(made: FinishedModel) -> Table:
    """Return a table of how well the three models fit this hospital's held-out patients."""
    from rich.table import Table

    named = [f"{one.of}: " if one.of and not made.values else "" for one in made.finished.risks]
    table = Table("", *made.fits)
    table.add_row(f"{made.measure} (95 % interval)", *(_auc(fit) for fit in made.fits.values()))
    error, mean = ("typical error", "mean value") if made.values else ("Brier", "mean risk")
    for number, name in enumerate(named):
        risks = [fit.risks[number] for fit in made.fits.values()]
        errors = [f"{one.error:.3g}" for one in risks if one.error is not None]
        if errors:
            table.add_row(f"{name}{error}", *errors)
        table.add_row(f"{name}{mean}", *(_shown(made, one.predicted, one.of) for one in risks))
        observed = _shown(made, risks[0].observed, risks[0].of)
        table.add_row(f"{name}observed", *[observed] * len(risks))
    return table


def _calibration(made: FinishedModel, number: int, of: str) -> Table:
    """Return a table of what is predicted and observed, in groups that rise in it."""
    from rich.table import Table

    foreseen = "value" if made.values else "risk"
    names = (f"{name}: {foreseen}, observed" for name in made.fits)
    title = f"value in {of}" if made.values else f"risk: {of}" if of else None
    table = Table(f"records by rising {foreseen}", *names, title=title)
    curves = [fit.risks[number].curve for fit in made.fits.values()]
    for points in zip_longest(*curves):
        cells = [
            f"{_shown(made, point[0])}, {_shown(made, point[1])}" if point else "-"
            for point in points
        ]
        records = next(point[2] for point in points if point)
        table.add_row(str(records), *cells)
    return table


def _shown(made: FinishedModel, value: float | None, unit: str = "") -> str:
    """Return a risk in percent, or a value, with its ``unit`` if there is one; "-" if unknown."""
    if value is None:
        return "-"
    if made.values:
        return f"{value:.3g} {unit}".rstrip()
    return f"{value:.1%}" if unit or value < 0.1 else f"{value:.0%}"


def _auc(fit: LocalFit) -> str:
    if fit.auc is None:
        return "one class only"
    if fit.low is None or fit.high is None:
        return f"{fit.auc:.3f} (too few patients)"
    return f"{fit.auc:.3f} ({fit.low:.3f} to {fit.high:.3f})"

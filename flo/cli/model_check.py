"""``flo model check``: does this installation score as the coordinator did?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flo.cli import results
from flo.cli.model import CoordinatorFingerprint, ModelFile, trusted_coordinators
from flo.cli.terminal.command import command
from flo.cli.terminal.options import SITE_FOLDER, SiteFolder

if TYPE_CHECKING:
    from flo.published.drift import Drift
    from flo.published.golden import Case

app = typer.Typer()
_SHOWN = 5  # differing cases of each way


@command(app)
def check(
    model: ModelFile,
    onnx: Annotated[
        Path | None, typer.Option(help="An ONNX file of this model to check, too.")
    ] = None,
    against: Annotated[
        Path | None, typer.Option(help="The model in use: does this one differ beyond noise?")
    ] = None,
    home: SiteFolder = SITE_FOLDER,
    coordinator: CoordinatorFingerprint = None,
) -> results.ModelCheckedResult:
    """Score made-up patients in every way this machine can; compare with the signed card."""
    from rich.table import Table

    from flo.cli.terminal.output import console, plain, say, working
    from flo.clients.prediction.scoring_ways import every_way, golden_cases
    from flo.errors import TrustError, UsageError
    from flo.published.drift import drift
    from flo.published.model_card import PublishedModel

    trusted = trusted_coordinators(home, coordinator)
    opened = PublishedModel.open(model, *trusted)
    if opened.card.golden is None:
        raise UsageError(
            "this card states no golden cases, so nothing can be compared",
            hint=(
                "the coordinator does not have the numbers of its frozen layers"
                if opened.study.frozen_file
                else "cards of studies with schema_version 4 state them"
            ),
        )
    exported = _read(onnx) if onnx else None
    with working("scoring made-up patients"):
        found = golden_cases(opened, every_way(opened, exported))
    table = Table("way of scoring", "golden cases", "as published")
    for way, cases in found.items():
        differ = sum(not case.same for case in cases)
        table.add_row(plain(way), str(len(cases)), f"[red]{differ} differ[/]" if differ else "all")
    console().print(table)
    for way, cases in found.items():
        for case in [case for case in cases if not case.same][:_SHOWN]:
            say(f"{way}: {_in_words(case)}")
    moved = drift(opened, PublishedModel.open(against, *trusted)) if against else None
    if moved:
        for line in drift_in_words(moved):
            say(line)
    lines = [
        results.ScoringWay(way, len(cases), [case.name for case in cases if not case.same])
        for way, cases in found.items()
    ]
    if any(line.differ for line in lines):
        raise TrustError(
            "this installation does not score as the coordinator did; do not use the model here",
            hint="install the FLO that the coordinator uses, or send it these lines",
        )
    ratio = moved.ratio if moved else None
    return results.ModelCheckedResult(opened.study.digest, opened.card.run, lines, ratio)


def drift_in_words(found: Drift) -> list[str]:
    """Return what a comparison with the model in use says, line by line."""
    more = "more" if found.is_beyond_noise else "not more"
    said = [
        f"the log odds of {found.cases} made-up patients differ by {found.ratio:.2f} times what "
        f"noise explains: {more} than the limit {found.limit:.2f}. Noise alone moves them by about "
        f"{found.noise:.2g}"
    ]
    if found.is_beyond_noise:
        said += [
            f"  {one.case}: by {one.value:+.2f}, where noise has the deviation {one.deviation:.2f}"
            for one in found.largest
        ]
        said.append("something else than noise has changed: look for it before anybody uses this")
    return said


def _in_words(case: Case) -> str:
    what = "risk" if case.of_risk else "log odds"
    return f"{case.name}: {what} {case.found:.12g} here, {case.stated:.12g} on the card"


def _read(path: Path) -> bytes:
    from flo.errors import UsageError
    from flo.published.model_card import MAX_MODEL_BYTES

    if not path.is_file() or path.stat().st_size > MAX_MODEL_BYTES:
        raise UsageError(f"{path} is missing, or larger than {MAX_MODEL_BYTES} bytes")
    return path.read_bytes()

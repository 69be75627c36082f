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
    from flo.published.golden import Case

app = typer.Typer()
_SHOWN = 5  # differing cases of each way


@command(app)
def check(
    model: ModelFile,
    onnx: Annotated[
        Path | None, typer.Option(help="An ONNX file of this model to check, too.")
    ] = None,
    home: SiteFolder = SITE_FOLDER,
    coordinator: CoordinatorFingerprint = None,
) -> results.ModelCheckedResult:
    """Score made-up patients in every way this machine can; compare with the signed card."""
    from rich.table import Table

    from flo.cli.terminal.output import console, plain, say, working
    from flo.clients.prediction.scoring_ways import every_way, golden_cases
    from flo.errors import TrustError, UsageError
    from flo.published.model_card import PublishedModel

    opened = PublishedModel.open(model, *trusted_coordinators(home, coordinator))
    if opened.card.golden is None:
        raise UsageError(
            "this card states no golden cases, so nothing can be compared",
            hint="cards of studies with schema_version 4 state them",
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
    lines = [
        results.ScoringWay(way, len(cases), [case.name for case in cases if not case.same])
        for way, cases in found.items()
    ]
    if any(line.differ for line in lines):
        raise TrustError(
            "this installation does not score as the coordinator did; do not use the model here",
            hint="install the FLO that the coordinator uses, or send it these lines",
        )
    return results.ModelCheckedResult(opened.study.digest, opened.card.run, lines)


def _in_words(case: Case) -> str:
    what = "risk" if case.of_risk else "log odds"
    return f"{case.name}: {what} {case.found:.6g} here, {case.stated:.6g} on the card"


def _read(path: Path) -> bytes:
    from flo.errors import UsageError
    from flo.published.model_card import MAX_MODEL_BYTES

    if not path.is_file() or path.stat().st_size > MAX_MODEL_BYTES:
        raise UsageError(f"{path} is missing, or larger than {MAX_MODEL_BYTES} bytes")
    return path.read_bytes()

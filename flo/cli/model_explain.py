"""``flo model explain``: what moves a model's scores, with what noise leaves of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flo.cli import results
from flo.cli.model import (
    CoordinatorFingerprint,
    path_of,
    refuse_forbidden,
    trusted_coordinators,
)
from flo.cli.terminal.command import command
from flo.cli.terminal.options import SITE_FOLDER, SiteFolder

if TYPE_CHECKING:
    from flo.published.explanation import Column as ExplainedColumn
    from flo.published.model_card import PublishedModel

app = typer.Typer()


@command(app)
def explain(
    model: Annotated[
        str,
        typer.Argument(help="NAME.safetensors or its card; or the name of a model in use here."),
    ],
    columns: Annotated[int, typer.Option(min=1, help="How many columns to show.")] = 12,
    data: Annotated[
        Path | None, typer.Option(help="Patients of yours: what moves the scores among them?")
    ] = None,
    patient: Annotated[
        str | None, typer.Option(help="Only this patient of --data: why this risk?")
    ] = None,
    id_column: Annotated[str, typer.Option(help="Column of ids in --data.")] = "patient_id",
    home: SiteFolder = SITE_FOLDER,
    coordinator: CoordinatorFingerprint = None,
) -> results.ExplainedResult:
    """Say which columns move a model's scores, in which direction, and where noise hides it."""
    from flo.clients.prediction.scoring_ways import refuse_other_scores
    from flo.errors import UsageError
    from flo.published.explanation import effects
    from flo.published.model_card import PublishedModel

    if patient is not None and data is None:
        raise UsageError("--patient is a patient of a file", hint="--data FILE that has it")
    path = path_of(home, model)
    opened = PublishedModel.open(path, *trusted_coordinators(home, coordinator))
    if data is not None:  # patients are scored
        refuse_forbidden(home, path, opened)
        refuse_other_scores(opened)
    found = effects(opened)
    if data is None:
        _show_effects(opened, found[:columns])
    elif patient is None:
        _show_cohort(opened, data, id_column, columns)
    else:
        _show_patient(opened, data, id_column, patient, columns)
    return results.ExplainedResult(
        opened.study.digest,
        opened.card.run,
        [
            results.ExplainedColumn(
                one.name,
                one.title,
                one.importance,
                [(e.where, e.value, *e.interval) for e in one.effects],
            )
            for one in found
        ],
    )


def _show_effects(model: PublishedModel, found: Sequence[ExplainedColumn]) -> None:
    """Show what columns add, beside the average patient."""
    from rich.table import Column, Table

    from flo.cli.terminal.output import console, plain, say
    from flo.published.explanation import CERTAIN

    table = Table(
        Column("column", overflow="fold"), "moves by", Column("where", overflow="fold"), "effect"
    )
    for one in found:
        for number, effect in enumerate(one.effects):
            first = number == 0
            table.add_row(
                plain(one.title) if first else "",
                f"{one.importance:.2f}" if first else "",
                plain(effect.where),
                effect.in_words,
            )
    console().print(table)
    say(
        f"log odds of {model.study.data.label}, beside the average patient as far as noise lets "
        "one know; moves by: the mean over made-up patients, less one deviation of noise. An "
        "interval holds the effect without noise in about 95 % of runs"
    )
    say(
        f"no direction is stated within {CERTAIN:g} deviations of noise. An effect says what the "
        "model does, and not what causes the outcome"
    )


def _show_cohort(model: PublishedModel, data: Path, id_column: str, columns: int) -> None:
    """Show what moves the scores of a file's patients; it is in no result that can be passed on."""
    from rich.table import Column, Table

    from flo.cli.terminal.output import console, plain, say
    from flo.clients.prediction.cohort_reasons import cohort_reasons

    found, records = cohort_reasons(model, data, id_column)
    table = Table(Column("column", overflow="fold"), "moves by", "surely raises", "surely lowers")
    for one in found[:columns]:
        shares = (f"{100 * share:.0f} %" for share in (one.raises, one.lowers))
        table.add_row(plain(one.column), f"{one.moves_by:.2f}", *shares)
    say(f"[bold yellow]NOT PRIVATE[/]: among the {records} records of this file; it stays here")
    console().print(table)
    say("share of the records whose risk the column raises or lowers, beyond noise")


def _show_patient(
    model: PublishedModel, data: Path, id_column: str, patient: str, columns: int
) -> None:
    """Show why one patient has this risk; it is in no result that can be passed on."""
    from rich.table import Column, Table

    from flo.cli.terminal.output import console, plain, say
    from flo.clients.prediction.reasons import of_patient
    from flo.study.wording import can_change

    found = of_patient(model, data, id_column, patient)
    risk = f"risk {found.risk}" if found.risk else "only the rank of this risk is known"
    say(f"[bold yellow]NOT PRIVATE[/]: record {found.record} of this file: {risk}")
    table = Table(Column("column", overflow="fold"), "beside the average patient")
    for one in found.columns[:columns]:
        table.add_row(plain(one.name), one.in_words)
    if found.columns:
        console().print(table)
    else:
        say("noise hides the direction of all columns but one at most, so none is stated")
    for words in found.if_changed:
        say(plain(f"what if: {words}"))
    if found.if_changed:
        say("a what-if is the model's answer for another patient; not what a treatment does")
    elif can_change(model.study.data):
        say(
            "what if: nothing is stated. This risk or the one after a change is not known well "
            "enough, noise hides the change, or the patient has no value that care can change so"
        )

"""``flo bench``: table of FLO's costs on this machine, as ratios."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from flo.cli import results
from flo.cli.terminal.command import STANDARD_OUTPUT, JsonFile, write_json

GROUPS = (
    *("rounds", "end-to-end", "step", "noise", "secure-sum", "aggregate", "ledger", "simulate"),
    *("gate", "seal", "start", "serve"),
)


def bench(
    groups: Annotated[
        list[str] | None, typer.Argument(metavar="[GROUP]...", help=f"{', '.join(GROUPS)}.")
    ] = None,
    device: Annotated[str, typer.Option(help="Device for training steps: cpu or cuda.")] = "cpu",
    quick: Annotated[bool, typer.Option(help="Measure fewer and smaller cases.")] = False,
    json_file: JsonFile = None,
    plot: Annotated[Path | None, typer.Option(help="Also write a chart to this SVG file.")] = None,
) -> None:
    """Measure FLO's costs on this machine, as ratios to references in the same run."""
    from rich.table import Table

    from flo.bench.plot import svg
    from flo.cli.terminal.output import console, working
    from flo.clients.data_process.trainer import choose_device
    from flo.errors import UsageError

    for group in groups or []:
        if group not in GROUPS:
            raise UsageError(f"no group {group!r}; there are {', '.join(GROUPS)}")
    if "step" in (groups or GROUPS):
        choose_device(device)
    rows = []
    with working("measuring") as status:
        for group in groups or GROUPS:
            status.update(group)
            for row in _rows(group, device, quick=quick):
                rows.append(row)
                if json_file != STANDARD_OUTPUT:  # now: the next row may take minutes and fail
                    write_json(json_file, results.MeasuredResult(rows))
                status.update(f"{group}: {row['name']} took {row['ratio']:.2f} × {row['how']}")
    table = Table(box=None)
    for name in ("group", "name", "flo", "reference", "ratio", "unit", "runs", "how"):
        table.add_column(name, no_wrap=name not in ("name", "how"))
    for row in rows:
        table.add_row(*(f"{v:.3g}" if isinstance(v, float) else str(v) for v in row.values()))
    console().print(table)
    if plot:
        plot.write_text(svg(rows), encoding="utf-8")
    if json_file == STANDARD_OUTPUT:
        write_json(json_file, results.MeasuredResult(rows))


def _rows(group: str, device: str, *, quick: bool) -> Iterator[dict[str, Any]]:
    from flo.bench import (
        aggregate,
        end_to_end,
        gate,
        ledger,
        others,
        rounds,
        seal,
        secure_sum,
        serve,
        simulate,
        step,
    )

    known: dict[str, Callable[[], Iterator[dict[str, Any]]]] = {
        "rounds": lambda: rounds.rows(quick=quick),
        "end-to-end": lambda: end_to_end.rows(quick=quick),
        "step": lambda: step.rows(device),
        "noise": others.noise,
        "secure-sum": lambda: secure_sum.rows(quick=quick),
        "aggregate": lambda: aggregate.rows(quick=quick),
        "ledger": lambda: ledger.rows(quick=quick),
        "simulate": lambda: simulate.rows(quick=quick),
        "gate": lambda: gate.rows(quick=quick),
        "seal": seal.rows,
        "serve": lambda: serve.rows(quick=quick),
        "start": lambda: others.start([""] if quick else ["", *every_command()]),
    }
    return known[group]()


def every_command() -> dict[str, Any]:
    """Return Click's command for the words of each command, such as ``site run``; sorted."""
    from flo.cli import app

    found, waiting = dict[str, Any](), [("", typer.main.get_command(app))]
    while waiting:
        words, command = waiting.pop()
        inner = getattr(command, "commands", None)
        if inner is None:
            found[words] = command
        else:
            waiting += [(f"{words} {name}".strip(), child) for name, child in inner.items()]
    return dict(sorted(found.items()))

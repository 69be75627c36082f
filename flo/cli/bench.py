"""``flo bench``: table of FLO's costs on this machine, as ratios."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flo.cli import results
from flo.cli.terminal.command import STANDARD_OUTPUT, JsonFile, write_json

if TYPE_CHECKING:
    from flo.bench.index_rules import Index, Measured

GROUPS = (
    *("rounds", "end-to-end", "step", "noise", "secure-sum", "aggregate", "ledger", "simulate"),
    *("gate", "seal", "start", "serve"),
)


def bench(
    groups: Annotated[
        list[str] | None,
        typer.Argument(metavar="[GROUP]...", help=f"{', '.join(GROUPS)}; or index."),
    ] = None,
    device: Annotated[str, typer.Option(help="Device for training steps: cpu or cuda.")] = "cpu",
    quick: Annotated[bool, typer.Option(help="Measure fewer and smaller cases.")] = False,
    json_file: JsonFile = None,
    plot: Annotated[Path | None, typer.Option(help="Also write a chart to this SVG file.")] = None,
    month: Annotated[
        float, typer.Option(min=0.01, max=1e9, help="index: the coordinator's dollars a month.")
    ] = 128.0,
    home: Annotated[
        Path | None, typer.Option(help="index: folder of the installation, for its evidence.")
    ] = None,
    against: Annotated[
        list[Path] | None, typer.Option(help="index: another deployment's file.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="index: write what was measured to this file.")
    ] = None,
) -> None:
    """Measure FLO's costs on this machine, as ratios to references in the same run."""
    if groups == ["index"]:
        write_json(json_file, index(month, home, against or [], out))
        return
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


def index(
    month: float, home: Path | None, against: list[Path], out: Path | None
) -> results.IndexResult:
    """Measure this deployment's efficiency index, and show it.

    Raises TrustError: the evidence of ``home`` has problems; there is no index then.
    """
    from flo.bench.index import measure, to_bytes
    from flo.bench.index_rules import REFERENCE, first_of, index_of, read_measured
    from flo.cli.terminal.output import say, working

    reference, others = read_measured(REFERENCE), [read_measured(path) for path in against]
    evidence = _evidence(home)
    with working("measuring; some seven minutes") as status:
        found = measure("this deployment", month, status.update)
    if out is not None:
        out.write_bytes(to_bytes(found))
    shown = index_of(found, reference)
    shares = first_of([found, *others]) if others else {}
    show_index(found, reference, shown, shares)
    say(evidence)
    return results.IndexResult(
        *(shown.index, shown.low, shown.high, shown.scores, shown.wins, shares, evidence)
    )


def _evidence(home: Path | None) -> str:
    """Return what is shown of an installation's duties. Raises TrustError: something is wrong."""
    from flo.errors import TrustError
    from flo.infra.evidence.facts import collect
    from flo.infra.evidence.requirements import ROWS

    if home is None:
        return "evidence: not looked at; --home FOLDER names the installation"
    facts = collect(home)
    if facts.problems:
        raise TrustError(
            f"no index: {len(facts.problems)} verifications of {home} fail, such as: "
            f"{facts.problems[0]}",
            hint="flo audit evidence shows all; an index of a broken installation says nothing",
        )
    shown = sum(bool(one.proof(facts)) for one in ROWS)
    return f"evidence: nothing fails in {home}; {shown} of {len(ROWS)} duties are shown"


def show_index(
    found: Measured, reference: Measured, shown: Index, shares: dict[str, float]
) -> None:
    """Show scores, index, interval and weightings."""
    from statistics import median

    from rich.table import Table

    from flo.bench.index_rules import INPUTS
    from flo.cli.terminal.output import console, plain, say

    table = Table("input", caption=plain(f"reference: {reference.name}, {reference.machine}"))
    for name in ("here", "reference", "score"):
        table.add_column(name, justify="right")
    for name, what in INPUTS.items():
        values = (f"{median(one.values[name]):.3g}" for one in (found, reference))
        table.add_row(what, *values, f"{shown.scores[name]:.2f}")
    table.add_section()
    table.add_row("[bold]index[/]", "", "", f"[bold]{shown.index:.2f}[/]")
    console().print(table)
    say(
        f"index {shown.index:.2f}, 90 % interval {shown.low:.2f} to {shown.high:.2f}; better than "
        f"the reference by {shown.wins:.0%} of all weightings of the inputs"
    )
    for name, share in shares.items():
        say(plain(f"first of these by {share:.0%} of all weightings: {name}"))


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

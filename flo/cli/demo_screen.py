"""The last screen of ``flo demo``."""

from __future__ import annotations

import contextlib
import shutil
import sys
from pathlib import Path
from typing import Any

from rich.table import Table

from flo.cli.terminal.output import console, say
from flo.clients.records.finished_model import FinishedModel
from flo.documents.text import of_auc
from flo.privacy.report.wording import TRUST


def show_last_screen(
    result: dict[str, Any],
    summary: dict[str, Any],
    report: Path,
    data: Path,
    hospitals: list[str],
    finished: dict[str, FinishedModel | None],
) -> None:
    """Show what the demo trained, what it cost, and which commands come next."""
    out = console()
    table = Table("hospital", "declared size", "ε released", "δ", "releases")
    for name, site in result["sites"].items():
        spent = (f"{site['epsilon']:.4f}", f"{site['delta']:g}")
        table.add_row(name, str(site["declared_size"]), *spent, str(site["rounds"]))
    out.print(table)
    if away := sorted(set(hospitals) - set(result["sites"])):
        say(f"[yellow]no extract from {', '.join(away)}[/]: its agent sends it when it runs again")
    if result["auc"] is None:
        out.print(f"[bold red]no evaluation: the study is {result['status']}[/]")
    else:
        said = of_auc(result["auc"], *result["auc_interval"])
        out.print(f"[bold]noisy AUC {said}[/] (90 % interval: noise and sampling)")
    say(f"trust model: {TRUST[result['trust_model'].split()[0]]}")
    out.print(
        f"{result['rounds']} rounds, {result['seconds_per_round']:.2f} s each (median), "
        f"{result['seconds_from_launch']:.0f} s from launch to verified report, "
        f"{result['seconds_total']:.0f} s in all"
    )
    if finished:
        out.print(_gains(finished))
        say("[bold yellow]NOT PRIVATE[/]: a finished model and its AUC stay in the hospital")
        say("so few patients show no small gain; cross-validated: flo simulate STUDY --compare")
    model = (summary["result"] or {}).get("model")
    say(f"model:  {model}")
    directory, first = report.parent, next(iter(result["sites"]), "")
    say(
        f"[bold]use it:[/] {command_name()} model predict {model} "
        f"--data {data / first}.csv --out {directory / 'scores.csv'} "
        f"--home {directory / 'sites' / first}"
    )
    say(f"report: {result['report']}")
    say(f"[bold]verify it yourself:[/] {command_name()} audit verify {report}")


def _gains(finished: dict[str, FinishedModel | None]) -> Table:
    """Return a table of what each hospital has of taking part, on its own held-out patients."""
    table = Table("held out at", "patients", "AUC finished", "alone", "gain (95 % interval)")
    for name, made in finished.items():
        one, other = (made.finished.auc, made.alone.auc) if made else (None, None)
        if made is None:
            table.add_row(name, "-", "-", "-", "too few patients to finish a model")
        elif one is None or other is None:
            table.add_row(name, str(made.tested), "-", "-", "one class only")
        elif made.gain is None:
            aucs = f"{one:.3f}", f"{other:.3f}"
            table.add_row(name, str(made.tested), *aucs, "too few patients of a class")
        else:
            low, gain, high = made.gain
            said = f"{gain:+.3f} ({low:+.3f} to {high:+.3f})"
            table.add_row(name, str(made.tested), f"{one:.3f}", f"{other:.3f}", said)
    return table


def command_name() -> str:
    """Return how to call this ``flo`` from the current folder."""
    script = Path(sys.executable).parent / "flo"
    with contextlib.suppress(ValueError):
        return str(script.relative_to(Path.cwd()))
    return "flo" if shutil.which("flo") else str(script)

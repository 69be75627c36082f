"""The ``flo`` command. Imports are inside commands, so that ``flo --help`` is fast."""

from __future__ import annotations

import copy
import functools
import io
import sys
from typing import Annotated

import click
import typer
from typer.main import get_command

from flo import __version__
from flo.cli import (
    audit,
    aws,
    bench,
    coordinator,
    doctor,
    lab,
    model,
    model_check,
    model_compare,
    model_deploy,
    model_dossier,
    model_explain,
    model_fairness,
    model_finish,
    model_flag,
    model_gate,
    model_monitor,
    model_registry,
    model_serve,
    model_trace,
    model_versions,
    model_watch,
    site,
    study,
    study_draft,
    study_statistics,
)
from flo.cli.terminal.command import command

app = typer.Typer(
    name="flo",
    help="Hospitals train one model together and prove what it cost in privacy.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
)


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"FLO {__version__}")
        raise typer.Exit


@app.callback()
def about(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Hospitals train one model together and prove what it cost in privacy."""


def _add_group(name: str, summary: str, *parts: typer.Typer) -> None:
    group = typer.Typer(no_args_is_help=True)
    for part in parts:
        group.add_typer(part)  # without a name: its commands become the group's
    app.add_typer(group, name=name, help=summary)


_add_group(
    "study",
    "Write, explain, launch and watch studies; read their statistics.",
    study_draft.app,
    study.app,
    study_statistics.app,
)
_add_group("coordinator", "Run the coordinator.", *coordinator.PARTS)
_add_group("site", "A hospital's site: enrol, approve, run, budget.", *site.PARTS)
_add_group("audit", "Reports, audit logs, evidence: make and verify.", audit.app)
_add_group(
    "model",
    "Published models: list, fetch, put into use, finish, predict.",
    model.app,
    model_check.app,
    model_compare.app,
    model_deploy.app,
    model_dossier.app,
    model_explain.app,
    model_fairness.app,
    model_trace.app,
    model_gate.app,
    model_monitor.app,
    model_finish.app,
    model_flag.app,
    model_serve.app,
    model_versions.app,
    model_watch.app,
    model_registry.app,
)
_add_group("aws", "A coordinator in an AWS account: deploy it, let it sleep.", *aws.PARTS)
for alone in (lab.simulate, lab.demo, lab.data, doctor.doctor):
    command(app)(alone)
app.command()(bench.bench)


@functools.cache
def built(word: str = "") -> click.Command:
    """Return the command line; if ``word`` names a group, with this group only.

    To build all of it takes a tenth of a second.
    """
    part = copy.copy(app)
    if groups := [group for group in app.registered_groups if group.name == word]:
        part.registered_groups, part.registered_commands = groups, []
    return get_command(part)


def main() -> None:
    """Run the command line; an expected failure prints its fix and exits with its code."""
    from flo.cli.terminal.output import explain

    for stream in (sys.stdout, sys.stderr):  # Windows redirects output in an encoding without ε
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8")
    try:
        built(sys.argv[1] if len(sys.argv) > 1 else "")()
    except Exception as error:  # noqa: BLE001 - the last resort, so that no traceback is shown
        sys.exit(explain(error))

"""The ``flo`` command. Imports stay inside commands, so that ``flo --help`` answers at once."""

from __future__ import annotations

import io
import sys
from typing import Annotated

import typer

from flo import __version__
from flo.cli import audit, aws, bench, coordinator, doctor, lab, model, site, study
from flo.cli import backups as _registers_backups  # noqa: F401
from flo.cli import connect as _registers_sources  # noqa: F401
from flo.cli import hospital as _registers_commands  # noqa: F401 - and those of steward
from flo.cli import pages as _registers_pages  # noqa: F401
from flo.cli import registry as _registers_more  # noqa: F401
from flo.cli import unit as _registers_units  # noqa: F401
from flo.cli.command import command

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


app.add_typer(study.app, name="study", help="Write, explain, launch and watch studies.")
app.add_typer(coordinator.app, name="coordinator", help="Run the coordinator.")
app.add_typer(site.app, name="site", help="A hospital's site: enrol, approve, run, budget.")
app.add_typer(audit.app, name="audit", help="Reports, audit logs, evidence: make and verify.")
app.add_typer(model.app, name="model", help="Published models: look, fetch, predict.")
app.add_typer(aws.app, name="aws", help="A consortium's AWS account, by one template.")
for alone in (lab.simulate, lab.demo, lab.data, doctor.doctor):
    command(app)(alone)
app.command()(bench.bench)


def main() -> None:
    """Run the command line; every expected failure ends in its exit code and the way out."""
    from flo.cli.screen import explain

    for stream in (sys.stdout, sys.stderr):  # Windows hands on files in an encoding without ε
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8")
    try:
        app()
    except Exception as error:  # noqa: BLE001 - the last resort, so that no traceback is shown
        sys.exit(explain(error))

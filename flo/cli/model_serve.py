"""``flo model serve``: models answer the hospital's record system; and what they answered."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Annotated

import typer

from flo.cli.terminal.command import command
from flo.cli.terminal.options import SITE_FOLDER, Quiet, ServiceUser, SiteFolder, Verbose
from flo.cli.terminal.results import UnitResult

app = typer.Typer()


@app.command()
def serve(
    home: SiteFolder = SITE_FOLDER,
    draft: Annotated[
        bool, typer.Option("--draft", help="Only write serve.toml, to be completed.")
    ] = False,
    verbose: Verbose = 0,
    quiet: Quiet = False,
) -> None:
    """Answer the record system with the models that serve.toml names, until stopped."""
    from flo.cli.terminal.output import explain, say
    from flo.clients.home.site_home import SiteHome
    from flo.clients.serving.settings import read_serve_config
    from flo.clients.serving.supervisor import Supervisor, open_sockets
    from flo.host.logs import start_logging

    site = SiteHome.open(home)
    if draft:
        _write_draft(home)
        return
    config = read_serve_config(home)
    start_logging(home / "log" / "serve.jsonl", verbosity=-1 if quiet else verbose)
    supervisor = Supervisor(site, config, open_sockets(site, config), explain)
    say(f"models answer at {config.url} once they are loaded: {', '.join(sorted(config.models))}")
    raise typer.Exit(supervisor.run())


def _write_draft(home: Path) -> None:
    from flo.cli.terminal.output import say
    from flo.clients.home.site_home import SiteHome
    from flo.clients.prediction import versions
    from flo.clients.serving.settings import DRAFT, DRAFT_MODEL, FILE
    from flo.errors import UsageError
    from flo.storage.files import write_private

    path, found = home / FILE, versions.read(SiteHome.open(home))
    if path.exists():
        raise UsageError(f"{path} exists already", hint="edit it")
    names = [name for name in found.names if found.current(name)] or ["NAME"]
    models = "".join(DRAFT_MODEL.format(name=name) for name in names)
    write_private(path, DRAFT.format(host=socket.getfqdn(), models=models).encode())
    say(f"{path}: complete it, then: flo model serve --home {home}")


@command(app, "unit")
def serve_unit(home: SiteFolder = SITE_FOLDER, user: ServiceUser = "flo") -> UnitResult:
    """Print a systemd unit for the server of this site's models."""
    from flo.cli.terminal.output import verbatim
    from flo.clients.home.site_home import SiteHome
    from flo.infra.systemd.units import unit

    SiteHome.open(home)
    return UnitResult(verbatim(unit("model", home, user)))

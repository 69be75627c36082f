"""``flo site desk``, and the emergency stop: ``flo site stop`` and ``resume``."""

from __future__ import annotations

from typing import Annotated

import typer

from flo.cli.site import results
from flo.cli.terminal.command import command
from flo.cli.terminal.options import SITE_FOLDER, SiteFolder

app = typer.Typer()


@app.command()
def desk(
    home: SiteFolder = SITE_FOLDER,
    port: Annotated[int, typer.Option(min=0, max=65_535, help="0 takes any free port.")] = 0,
) -> None:
    """Open the steward's desk on this machine: inbox, decisions, budget, log, stop button."""
    from flo.cli.terminal.output import say
    from flo.clients.desk.serve import serve_desk
    from flo.clients.home.site_home import SiteHome
    from flo.host.logs import start_logging

    opened = SiteHome.open(home)
    start_logging(home / "log" / "desk.jsonl", verbosity=-1)
    say(f"desk of {opened.read_config().hospital}; Ctrl-C ends only the desk, not the agent")

    def show_link(link: str) -> None:
        say(f"open this link in your browser; it works once: {link}")

    serve_desk(opened, port, show_link)


@command(app)
def stop(home: SiteFolder = SITE_FOLDER) -> results.HaltedResult:
    """Stop everything: no more data leave this hospital until `flo site resume`."""
    from flo.cli.terminal.output import say
    from flo.clients.home.emergency_stop import halt
    from flo.clients.home.site_home import SiteHome

    made, but = halt(SiteHome.open(home))
    say(f"[bold red]everything is stopped[/] since {made.time}; no more data leave this hospital")
    if but:
        say(f"[yellow]but:[/] {but}")
    say("approvals and reservations are kept; to resume: flo site resume")
    return results.HaltedResult(made.time)


@command(app)
def resume(home: SiteFolder = SITE_FOLDER) -> results.HaltedResult:
    """Resume a site that was stopped."""
    from flo.cli.terminal.output import say
    from flo.clients.home.emergency_stop import resume
    from flo.clients.home.site_home import SiteHome

    resume(SiteHome.open(home))
    say("resumed: the agent answers approved studies again")
    return results.HaltedResult(None)

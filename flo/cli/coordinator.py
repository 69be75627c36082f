"""``flo coordinator ...``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True)
Home = Annotated[
    Path, typer.Option(envvar="FLO_COORDINATOR_HOME", help="The coordinator's folder.")
]
DEFAULT_HOME = Path("coordinator")


@app.command()
def init(
    home: Home = DEFAULT_HOME,
    host: Annotated[
        str, typer.Option(envvar="FLO_HOST", help="Name or address that hospitals dial.")
    ] = "127.0.0.1",
    bind: Annotated[str, typer.Option(help="Address to listen on for hospitals.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(envvar="FLO_PORT", help="Port for hospitals.")] = 9443,
    private_port: Annotated[
        int, typer.Option(envvar="FLO_PRIVATE_PORT", help="Port for operators, loopback only.")
    ] = 9444,
) -> None:
    """Make the coordinator's keys, certificate authority and configuration."""
    from flo.cli.screen import say
    from flo.identity import spoken
    from flo.server.home import CoordinatorConfig, CoordinatorHome
    from flo.settings import parse

    config = parse(
        CoordinatorConfig,
        {"host": host, "bind": bind, "port": port, "private_port": private_port},
        "coordinator configuration",
    )
    made = CoordinatorHome.create(home, config)
    say(f"coordinator made in {home}")
    say(f"fingerprint, to read out to hospitals: {spoken(made.identity().fingerprint)}")
    say(f"next: flo coordinator serve --home {home}")


@app.command()
def serve(
    home: Home = DEFAULT_HOME,
    verbose: Annotated[int, typer.Option("-v", count=True, help="More on the screen.")] = 0,
    quiet: Annotated[bool, typer.Option("-q", help="Errors only on the screen.")] = False,
) -> None:
    """Serve hospitals and operators until stopped; continues runs that were under way."""
    from flo.logs import start_logging
    from flo.server.coordinator import serve as serve_until_stopped
    from flo.server.home import CoordinatorHome

    opened = CoordinatorHome.open(home)
    start_logging(home / "log" / "coordinator.jsonl", verbosity=-1 if quiet else verbose)
    serve_until_stopped(opened)


@app.command()
def invite(
    hospital: Annotated[str, typer.Argument(help="Id of the hospital, such as cleveland.")],
    out: Annotated[Path | None, typer.Option(help="Where to write the invitation.")] = None,
    home: Home = DEFAULT_HOME,
) -> None:
    """Write a one-time invitation for a hospital; pass it on like a password."""
    from pydantic import TypeAdapter, ValidationError

    from flo.cli.screen import say
    from flo.errors import UsageError
    from flo.files import write_private
    from flo.server.home import CoordinatorHome
    from flo.server.home import invite as make_invitation
    from flo.study import Identifier

    try:
        TypeAdapter(Identifier).validate_python(hospital)
    except ValidationError as error:
        raise UsageError(
            f"{hospital!r} is not a hospital id",
            hint="lower-case letters, digits and hyphens, such as va-long-beach",
        ) from error
    path = out or Path(f"{hospital}.invitation.json")
    write_private(path, make_invitation(CoordinatorHome.open(home), hospital))
    say(f"{path} opens enrolment once, within 7 days")


@app.command()
def revoke(
    hospital: Annotated[str, typer.Argument(help="Id of the hospital.")],
    home: Home = DEFAULT_HOME,
) -> None:
    """Refuse a hospital from its next request on; its data and ledger are its own."""
    from flo.cli.screen import say
    from flo.errors import UsageError
    from flo.server.home import CoordinatorHome

    store = CoordinatorHome.open(home).store()
    if not store.revoke(hospital):
        raise UsageError(f"hospital {hospital!r} is not enrolled here")
    store.add_event(None, "revoked", hospital=hospital)
    store.close()
    say(f"{hospital} is refused from its next request on")


@app.command()
def hospitals(home: Home = DEFAULT_HOME) -> None:
    """List enrolled hospitals with their fingerprints."""
    from rich.table import Table

    from flo.cli.screen import console
    from flo.identity import spoken
    from flo.server.home import CoordinatorHome

    store = CoordinatorHome.open(home).store()
    table = Table("hospital", "fingerprint", "status")
    for member in store.members():
        status = "revoked" if member.revoked else "enrolled"
        table.add_row(member.id, spoken(member.fingerprint), status)
    store.close()
    console().print(table)

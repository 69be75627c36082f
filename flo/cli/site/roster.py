"""``flo site roster``: one call with all hospitals instead of one with each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from flo.cli.site import results
from flo.cli.terminal.command import command
from flo.cli.terminal.options import SITE_FOLDER, SiteFolder

if TYPE_CHECKING:
    from flo.clients.home.site_home import SiteHome
    from flo.protocol.roster import WitnessedRoster

app = typer.Typer()
_Names = Annotated[
    list[str] | None,
    typer.Option(
        "--heard",
        help="Hospital whose steward said on the call that this roster holds its key; repeat it, "
        "or --heard all.",
    ),
]


@command(app)
def roster(
    digest: Annotated[
        str | None, typer.Argument(help="The roster's digest, as it was read out on the call.")
    ] = None,
    heard: _Names = None,
    not_heard: Annotated[
        list[str] | None, typer.Option(help="Hospital that --heard all does not include; repeat.")
    ] = None,
    home: SiteFolder = SITE_FOLDER,
    begin_anew: Annotated[
        bool, typer.Option("--begin-anew", help="Forget the roster that this site has fetched.")
    ] = False,
) -> results.RosterResult:
    """Show every hospital's key, and confirm them on one call: see `docs/roster.md`."""
    from flo.cli.terminal.output import say, working
    from flo.clients.approvals import roster as rosters
    from flo.clients.connection.enrolment import connect
    from flo.clients.home.site_home import SiteHome
    from flo.errors import UsageError
    from flo.keys.identity import format_fingerprint

    if (heard or not_heard) and digest is None:
        raise UsageError(
            "--heard and --not-heard need the digest that was read out",
            hint='flo site roster "DIGEST" --heard all',
        )
    opened = SiteHome.open(home)
    if begin_anew:
        rosters.begin_anew(opened)
    with working("fetching the roster"), connect(opened) as api:
        fetched = rosters.fetch(opened, api)
        if digest is not None:
            rosters.check_spoken(fetched.roster, digest)
        if digest is not None and heard:
            partners = [n for n in fetched.roster.keys if n != opened.read_config().hospital]
            names = partners if heard == ["all"] else heard
            fetched = rosters.confirm(opened, api, digest, set(names) - set(not_heard or ()))
    result = _shown(opened, fetched)
    say(f"digest of the roster: {format_fingerprint(result.roster)}")
    if digest is None:
        say("on the call: one person reads it out; everyone enters it: flo site roster DIGEST")
    elif not heard:
        say("[bold]this is the roster that this site fetched; say on the call:[/] it holds my key")
        say("then enter whom you heard say so: flo site roster DIGEST --heard all")
    return result


def _shown(home: SiteHome, fetched: WitnessedRoster) -> results.RosterResult:
    """Show each hospital of the roster, and how its key is known here."""
    from rich.table import Table

    from flo.cli.terminal.output import console, say
    from flo.clients.approvals.fingerprints import AddressBook
    from flo.clients.approvals.roster import known_as
    from flo.keys.identity import format_fingerprint

    own, keys = home.read_config().hospital, fetched.roster.keys
    confirmed = AddressBook.load(home).confirmed
    vouchers = fetched.vouchers(confirmed)
    table, lines = Table("hospital", "fingerprint", "here"), list[results.RosterLine]()
    for name, key in keys.items():
        by = sorted(vouchers.by_key.get((name, key), ()))
        here = "this hospital" if name == own else known_as(name, key, confirmed, vouchers)
        table.add_row(name, format_fingerprint(key), here)
        lines.append(results.RosterLine(name, key, confirmed.get(name) == key, by))
    console().print(table)
    if vouchers.elsewhere:
        say(
            f"[bold red]other rosters:[/] {', '.join(vouchers.elsewhere)} signed a digest that "
            "this roster never had, so what they confirmed does not count; ask them by telephone"
        )
    return results.RosterResult(fetched.roster.digest, lines, list(vouchers.elsewhere))

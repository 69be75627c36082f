"""``flo site roster``: one call with all hospitals instead of one with each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from flo.cli.site import results
from flo.cli.terminal.command import command
from flo.cli.terminal.options import SITE_FOLDER, SiteFolder, Yes

if TYPE_CHECKING:
    from flo.clients.home.site_home import SiteHome
    from flo.keys.roster import WitnessedRoster

app = typer.Typer()
_Heard = Annotated[
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
    heard: _Heard = None,
    not_heard: Annotated[
        list[str] | None, typer.Option(help="Hospital that --heard all does not include; repeat.")
    ] = None,
    home: SiteFolder = SITE_FOLDER,
    begin_anew: Annotated[
        bool, typer.Option("--begin-anew", help="Forget the roster that this site has fetched.")
    ] = False,
    yes: Yes = False,
) -> results.RosterResult:
    """Show every hospital's key, and confirm them on one call: see `docs/roster.md`."""
    from flo.cli.terminal.output import confirmed, say, working
    from flo.clients.approvals import roster as rosters
    from flo.clients.connection.enrolment import connect
    from flo.clients.home.site_home import SiteHome
    from flo.errors import RefusedError
    from flo.keys.identity import format_fingerprint

    _refuse_incomplete(digest, heard, not_heard)
    opened = SiteHome.open(home)
    if begin_anew:
        if not confirmed("Forget the roster that this site has fetched?", yes):
            raise RefusedError("nothing was forgotten", hint="--yes forgets it without asking")
        rosters.begin_anew(opened)
    with connect(opened) as api:
        with working("fetching the roster"):
            fetched = rosters.fetch(opened, api)
        if digest is not None:
            rosters.check_spoken(fetched.roster, digest)
        if digest is not None and heard:
            names = _names(opened, fetched, heard, not_heard or [])
            if not confirmed(
                f"Confirm {len(names)} hospitals: did each of these say that the roster which was "
                f"read out holds its key? {', '.join(names)}",
                yes,
            ):
                raise RefusedError("nobody was confirmed", hint="--yes confirms without asking")
            fetched = rosters.confirm(opened, api, digest, names)
    result = _shown(opened, fetched)
    say(f"digest of the roster: {format_fingerprint(result.roster)}")
    if digest is None:
        say("on the call: one person reads it out; everyone enters it: flo site roster DIGEST")
    elif not heard:
        say("[bold]say on the call:[/] the roster that was read out holds my key")
        say("then enter whom you heard say so: flo site roster DIGEST --heard NAME --heard NAME")
    return result


def _refuse_incomplete(
    digest: str | None, heard: list[str] | None, not_heard: list[str] | None
) -> None:
    from flo.errors import UsageError

    if (heard or not_heard) and digest is None:
        raise UsageError(
            "--heard and --not-heard need the digest that was read out",
            hint='flo site roster "DIGEST" --heard all',
        )
    if not_heard and heard != ["all"]:
        raise UsageError("--not-heard needs --heard all")


def _names(
    home: SiteHome, fetched: WitnessedRoster, heard: list[str], not_heard: list[str]
) -> list[str]:
    """Return whom the steward heard. A key that was replaced must be named."""
    from flo.clients.approvals.fingerprints import AddressBook
    from flo.clients.approvals.roster import other_keys
    from flo.errors import UsageError

    if heard != ["all"]:
        return sorted(set(heard))
    own, keys = home.read_config().hospital, fetched.roster.keys
    if unknown := sorted(set(not_heard) - set(keys)):
        raise UsageError(f"no hospital of this name is on the roster: {', '.join(unknown)}")
    names = [name for name in keys if name not in (own, *not_heard)]
    replaced = set(other_keys(fetched.roster, AddressBook.load(home).confirmed)) & set(names)
    if replaced:
        raise UsageError(
            f"another key than the one confirmed here: {', '.join(sorted(replaced))}",
            hint="ask these hospitals why; then name each one that you heard: --heard NAME",
        )
    return names


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
        here = (
            "this hospital" if name == own else known_as(name, fetched.roster, confirmed, vouchers)
        )
        table.add_row(name, format_fingerprint(key), here)
        lines.append(results.RosterLine(name, key, confirmed.get(name) == key, by))
    console().print(table)
    if vouchers.elsewhere:
        say(
            f"[bold red]other rosters:[/] {', '.join(vouchers.elsewhere)} signed a digest that "
            "this roster never had, so what they confirmed does not count; ask them by telephone"
        )
    return results.RosterResult(fetched.roster.digest, lines, list(vouchers.elsewhere))

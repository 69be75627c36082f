"""``flo site backup|restore|recover`` and ``flo coordinator backup|restore``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flo.cli import coordinator, results, site
from flo.cli.command import command

if TYPE_CHECKING:
    from flo.privacy.ledger import Restored

Out = Annotated[Path, typer.Argument(help="The file to write.")]
File = Annotated[Path, typer.Argument(help="What `backup` wrote.")]


@command(site.app, "backup")
def site_backup(out: Out, home: site.Home = site.DEFAULT_HOME) -> results.BackupWritten:
    """Write this site's folder, ledger and keys into one file that a passphrase opens."""
    from flo.cli.screen import say, working
    from flo.clients.home import SiteHome
    from flo.clients.recover import back_up
    from flo.keystore import passphrase

    opened = SiteHome.open(home)
    secret = passphrase(f"passphrase for {out}", new=True)
    with working("copying"):
        count = back_up(opened, out, secret)
    say(f"{out} holds {count} files; frozen patients and kept replies are not among them")
    kept = opened.config.keystore.path
    if kept is not None:
        say(f"keep a copy of {kept} too: it is not in this file")
    say("make one after every study: what a restored ledger lost is charged in full")
    return results.BackupWritten(str(out), count, str(kept) if kept else None)


@command(site.app, "restore")
def site_restore(file: File, home: site.Home = site.DEFAULT_HOME) -> results.SiteRecovered:
    """Unpack a backup into a new folder, then charge what may have happened since it was made."""
    from flo.cli.screen import say, working
    from flo.clients.enrol import connect
    from flo.clients.home import SiteHome
    from flo.clients.recover import recover, restore
    from flo.errors import NetworkError, TrustError
    from flo.keystore import passphrase

    secret = passphrase(f"passphrase for {file}", new=False)
    with working("opening"):
        header = restore(file, home, secret)
    say(f"{home} is as it was at {header.made}; nothing opens its ledger yet")
    opened = SiteHome.open(home)
    try:
        with working("asking the coordinator what it saw since"), connect(opened) as api:
            restored = recover(opened, api)
    except (NetworkError, TrustError) as error:
        say(f"not recovered yet: {error}")
        say("if the certificate was renewed since: flo site enrol INVITATION, a new one")
        say(f"then: flo site recover --home {home}")
        raise typer.Exit(type(error).exit_code) from error
    return _told(restored)


@command(site.app, "recover")
def site_recover(home: site.Home = site.DEFAULT_HOME) -> results.SiteRecovered:
    """Charge in full whatever this ledger may have lost, and open it again."""
    from flo.cli.screen import working
    from flo.clients.enrol import connect
    from flo.clients.home import SiteHome
    from flo.clients.recover import recover

    opened = SiteHome.open(home)
    with working("asking the coordinator what it saw since"), connect(opened) as api:
        restored = recover(opened, api)
    return _told(restored)


def _told(restored: Restored) -> results.SiteRecovered:
    from flo.cli.screen import plain, say

    say(f"{restored.lost} rows of the ledger were lost, as far as others saw")
    say("every study that was under way is charged in full and goes on without this site")
    for digest in restored.studies:
        say(f"approved since the backup, charged in full: {digest[:12]}")
    for population in restored.exhausted:
        say(f"[bold red]nothing is left[/] of the budget of population {plain(population)}")
    say("[bold]policy and opt-outs are those of the backup[/]: read the policy (flo site policy),")
    say("enter whoever opted out since (flo site opt-out), then: flo site policy --sign")
    say("flo site budget shows what remains; flo site run goes on")
    return results.SiteRecovered(restored.lost, list(restored.studies), list(restored.exhausted))


@command(coordinator.app, "backup")
def coordinator_backup(
    out: Out, home: coordinator.Home = coordinator.DEFAULT_HOME
) -> results.BackupWritten:
    """Write the coordinator's folder, keys and runs into one file that a passphrase opens."""
    from flo import backup
    from flo.cli.screen import say, working
    from flo.keystore import passphrase
    from flo.server.home import NOT_BACKED_UP, CoordinatorHome

    opened = CoordinatorHome.open(home)
    secret = passphrase(f"passphrase for {out}", new=True)
    with working("copying"):
        count = backup.write(
            out, "coordinator", "coordinator", opened.directory, NOT_BACKED_UP, secret
        )
    with opened.recording() as store:
        store.add_event(None, "backed-up", files=count)
    say(f"{out} holds {count} files")
    kept = opened.config.keystore.path
    if kept is not None:
        say(f"keep a copy of {kept} too: it is not in this file")
    return results.BackupWritten(str(out), count, str(kept) if kept else None)


@command(coordinator.app, "restore")
def coordinator_restore(
    file: File, home: coordinator.Home = coordinator.DEFAULT_HOME
) -> results.CoordinatorRestored:
    """Unpack a backup into a new folder; `flo coordinator serve` goes on from there."""
    from flo import backup
    from flo.cli.screen import say, working
    from flo.keystore import passphrase
    from flo.server.home import CoordinatorHome

    secret = passphrase(f"passphrase for {file}", new=False)
    with working("opening"):
        found = backup.read(file, "coordinator", secret)
        backup.unpack(found, home, ("models",))
    with CoordinatorHome.open(home).recording() as store:
        store.end_all_invitations()
        store.add_event(None, "restored", made=found.header.made)
        let_in = [member.id for member in store.members() if not member.revoked]
    say(f"{home} is as it was at {found.header.made}; invitations of then open nothing")
    say(f"[bold]let in again[/]: {', '.join(let_in) or 'no hospital'}")
    say("revoke whoever was revoked since, before you serve: flo coordinator revoke HOSPITAL")
    say("hospitals that enrolled or renewed since need a new invitation (flo coordinator invite)")
    say("studies offered since are not known here: launch a new version, the old one has its run")
    say("sites say in their logs that a backup was restored; a run goes on from its state of then")
    say(f"next: flo coordinator serve --home {home}")
    return results.CoordinatorRestored(str(home), found.header.made, let_in)

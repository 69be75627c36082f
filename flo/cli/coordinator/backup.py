"""``flo coordinator backup|restore``."""

from __future__ import annotations

import typer

from flo.cli.coordinator import results
from flo.cli.terminal.command import command
from flo.cli.terminal.options import COORDINATOR_FOLDER, BackupFile, BackupOut, CoordinatorFolder
from flo.cli.terminal.results import BackupWrittenResult

app = typer.Typer()


@command(app, "backup")
def coordinator_backup(
    out: BackupOut, home: CoordinatorFolder = COORDINATOR_FOLDER
) -> BackupWrittenResult:
    """Back up the coordinator's folder, keys and runs into one file, sealed by a passphrase."""
    from flo.cli.terminal.output import say, working
    from flo.keys import backup
    from flo.keys.keystore import passphrase
    from flo.server.home.coordinator_home import NOT_BACKED_UP, CoordinatorHome

    opened = CoordinatorHome.open(home)
    secret = passphrase(f"passphrase for {out}", new=True)
    with working("copying"):
        count = backup.write(
            out, "coordinator", "coordinator", opened.directory, NOT_BACKED_UP, secret
        )
    with opened.recording() as store:
        store.add_event(None, "backed-up", files=count)
    say(f"{out} holds {count} files")
    kept = opened.read_config().keystore.path
    if kept is not None:
        say(f"keep a copy of {kept} too: it is not in this file")
    return BackupWrittenResult(str(out), count, str(kept) if kept else None)


@command(app, "restore")
def coordinator_restore(
    file: BackupFile, home: CoordinatorFolder = COORDINATOR_FOLDER
) -> results.CoordinatorRestoredResult:
    """Unpack a backup into a new folder; `flo coordinator serve` continues from it."""
    from flo.cli.terminal.output import say, working
    from flo.keys import backup
    from flo.keys.keystore import passphrase
    from flo.server.home.coordinator_home import CoordinatorHome

    secret = passphrase(f"passphrase for {file}", new=False)
    with working("opening"):
        found = backup.read(file, "coordinator", secret)
        backup.unpack(found, home, ("models",))
    with CoordinatorHome.open(home).recording() as store:
        store.end_all_invitations()
        store.add_event(None, "restored", made=found.header.made)
        let_in = [member.id for member in store.members() if not member.revoked]
    say(f"{home} is restored to {found.header.made}; earlier invitations are no longer valid")
    say(f"[bold]hospitals that are admitted again[/]: {', '.join(let_in) or 'none'}")
    say("hospitals revoked after the backup: flo coordinator revoke HOSPITAL, before you serve")
    say("hospitals that enrolled or renewed after it: new invitation (flo coordinator invite)")
    say("studies offered after it are unknown here: launch each of them as a new version")
    say("sites log that a backup was restored; runs continue from their state in the backup")
    say(f"next: flo coordinator serve --home {home}")
    return results.CoordinatorRestoredResult(str(home), found.header.made, let_in)

"""``flo site backup|restore|recover``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flo.cli.site import results
from flo.cli.terminal.command import command
from flo.cli.terminal.options import SITE_FOLDER, BackupFile, BackupOut, OfPopulation, SiteFolder
from flo.cli.terminal.results import BackupWrittenResult

if TYPE_CHECKING:
    from flo.privacy.ledger.admission import Restored

app = typer.Typer()


@command(app, "backup")
def site_backup(out: BackupOut, home: SiteFolder = SITE_FOLDER) -> BackupWrittenResult:
    """Back up this site's folder, ledger and keys into one file, sealed by a passphrase."""
    from flo.cli.terminal.output import say, working
    from flo.clients.home.site_home import SiteHome
    from flo.clients.maintenance.recover import back_up
    from flo.keys.keystore import passphrase

    opened = SiteHome.open(home)
    secret = passphrase(f"passphrase for {out}", new=True)
    with working("copying"):
        count = back_up(opened, out, secret)
    say(f"{out} contains {count} files, without the patients' snapshots and stored replies")
    kept = opened.read_config().keystore.path
    if kept is not None:
        say(f"keep a copy of {kept} too: it is not in this file")
    say("make a backup after every study: rows missing after a restore are charged in full")
    return BackupWrittenResult(str(out), count, str(kept) if kept else None)


@command(app, "restore")
def site_restore(file: BackupFile, home: SiteFolder = SITE_FOLDER) -> results.SiteRecoveredResult:
    """Unpack a backup into a new folder, then charge what may have been released since."""
    from flo.cli.terminal.output import say, working
    from flo.clients.connection.enrolment import connect
    from flo.clients.home.site_home import SiteHome
    from flo.clients.maintenance.recover import recover, restore
    from flo.errors import NetworkError, TrustError
    from flo.keys.keystore import passphrase

    secret = passphrase(f"passphrase for {file}", new=False)
    with working("opening"):
        header = restore(file, home, secret)
    say(f"{home} is restored to {header.made}; its ledger stays closed until it is recovered")
    opened = SiteHome.open(home)
    try:
        with working("asking the coordinator which ledger rows it saw"), connect(opened) as api:
            restored = recover(opened, api)
    except (NetworkError, TrustError) as error:
        say(f"not recovered yet: {error}")
        say("if the certificate was renewed after the backup: flo site enrol NEW_INVITATION")
        say(f"then: flo site recover --home {home}")
        raise typer.Exit(type(error).exit_code) from error
    return _show(restored)


@command(app, "recover")
def site_recover(home: SiteFolder = SITE_FOLDER) -> results.SiteRecoveredResult:
    """Charge in full the rows that this ledger may have lost, and open it again."""
    from flo.cli.terminal.output import working
    from flo.clients.connection.enrolment import connect
    from flo.clients.home.site_home import SiteHome
    from flo.clients.maintenance.recover import recover

    opened = SiteHome.open(home)
    with working("asking the coordinator which ledger rows it saw"), connect(opened) as api:
        restored = recover(opened, api)
    return _show(restored)


@command(app, "new-patients")
def new_patients(
    file: Annotated[Path, typer.Argument(help="Text file: one patient id a line.")],
    home: SiteFolder = SITE_FOLDER,
    population: OfPopulation = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> results.NewPatientsResult:
    """After a recovery: sign that these ids have no record older than it.

    A recovered ledger takes every id that it does not know for a patient of a study that it lost,
    with no more budget than is left to those. The ids of this list get a budget of their own.
    """
    from flo.cli.terminal.output import confirmed, say
    from flo.clients.home.site_home import SiteHome
    from flo.clients.patients.later_patients import add_later_patients, read_ids
    from flo.errors import RefusedError

    opened = SiteHome.open(home)
    chosen, ids = opened.read_config().population(population), read_ids(file)
    say(f"{len(ids)} ids; each must have its first record at this hospital after the recovery")
    if not confirmed("Do you sign that?", yes):
        raise RefusedError("nothing was stored", hint="--yes signs without asking")
    listed = add_later_patients(opened, chosen, ids)
    say(f"signed; {listed} ids of population {chosen.name} are on the list")
    return results.NewPatientsResult(chosen.name, listed)


def _show(restored: Restored) -> results.SiteRecoveredResult:
    from flo.cli.terminal.output import plain, say

    say(f"{restored.lost} rows of the ledger were lost, as far as the other parties know")
    say("every study that was running is charged in full and continues without this site")
    for digest in restored.studies:
        say(f"approved since the backup, charged in full: {digest[:12]}")
    for population in restored.exhausted:
        say(f"[bold red]no budget is left[/] for population {plain(population)}")
    say("[bold]policy and opt-outs are those of the backup[/]: read the policy (flo site policy),")
    say("enter later opt-outs again (flo site opt-out), then: flo site policy --sign")
    say("flo site budget shows the remaining budget; flo site run starts the agent")
    return results.SiteRecoveredResult(
        restored.lost, list(restored.studies), list(restored.exhausted)
    )

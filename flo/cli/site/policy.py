"""``flo site ...``: a hospital's policy, its approvers, and its patients' opt-outs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flo.cli.site import results
from flo.cli.site.steward import PersonKeyFile, person_key
from flo.cli.terminal.command import command
from flo.cli.terminal.options import SITE_FOLDER, SiteFolder

if TYPE_CHECKING:
    from flo.clients.home.site_home import SiteHome

app = typer.Typer()


@command(app)
def policy(
    home: SiteFolder = SITE_FOLDER,
    sign: Annotated[bool, typer.Option("--sign", help="Make policy.toml current.")] = False,
    person: PersonKeyFile = None,
) -> results.PolicyShownResult:
    """Show this site's policy; sign policy.toml after you have edited it."""
    from flo.cli.terminal.output import plain, say
    from flo.clients.home.policy_file import read_edited
    from flo.clients.home.policy_file import sign as put_in_force
    from flo.clients.home.site_home import SiteHome
    from flo.errors import TrustError

    opened = SiteHome.open(home)
    if sign and put_in_force(opened.directory, opened.open_identity(), person_key(person)) is None:
        say("signed; the current policy needs more people: flo site policy --sign --person KEY")
        waiting = read_edited(opened.directory / "policy.toml")
        return results.PolicyShownResult(waiting.digest, False, waiting.model_dump(mode="json"))
    found, refused = read_edited(opened.directory / "policy.toml"), None
    try:
        found = opened.read_policy()
    except TrustError as error:
        refused = error
    for name, value in found.model_dump(mode="json").items():
        if name != "people":
            shown = "not limited" if value is None else str(value)
            say(f"{name} = {plain(shown)}")
    for someone in found.people:
        say(f"may approve: {someone.name}, {someone.role}")
    if refused is not None:  # shown first: it must be read before it is signed
        raise refused
    say(f"in force, digest {found.digest[:12]}; {home / 'policy.toml'} is signed")
    return results.PolicyShownResult(found.digest, True, found.model_dump(mode="json"))


@command(app)
def person(
    name: Annotated[str, typer.Argument(help="The person's name, as approvals show it.")],
    out: Annotated[Path, typer.Option(help="Where to write the person's key.")],
    role: Annotated[
        str, typer.Option(help="steward, data protection officer, ethics committee or physician.")
    ] = "steward",
) -> results.PersonKeyResult:
    """Create a person's own key for approvals, protected by a passphrase."""
    from flo.cli.terminal.output import plain, say
    from flo.clients.approvals.approvers import new_key
    from flo.keys.keystore import passphrase

    made = new_key(out, passphrase(f"passphrase for {out}", new=True))
    say(f"{out} is the key of {name}; keep it and its passphrase secret")
    say("add this to policy.toml, then: flo site policy --sign")
    public = made.public.hex()
    say(plain(f'\n[[people]]\nname = "{name}"\nrole = "{role}"\npublic = "{public}"'))
    return results.PersonKeyResult(str(out), name, role, public)


@command(app, "opt-out")
def opt_out(
    home: SiteFolder = SITE_FOLDER,
    begin_a_new_list: Annotated[
        bool,
        typer.Option(
            "--begin-a-new-list",
            help="Only if the list is lost: its patients take part until you enter them again.",
        ),
    ] = False,
) -> results.OptedOutResult:
    """Ask for a patient's id; exclude the patient from the next round on and from later studies."""
    from flo.cli.terminal.output import say
    from flo.clients.home.site_home import SiteHome
    from flo.clients.patients.opt_outs import begin_a_new_list as begin
    from flo.clients.patients.opt_outs import finished_of
    from flo.clients.patients.opt_outs import opt_out as take_out

    opened = SiteHome.open(home)
    if begin_a_new_list:
        begin(opened)
        say("created an empty list; enter every patient of the old list again")
        return results.OptedOutResult(0, known=True)
    patient = _patient_id()
    deleted, changed = finished_of(opened, patient), take_out(opened, patient)
    say(f"the patient was removed from {len(changed)} studies and is excluded from later ones")
    if deleted:
        say(f"finished models that held the patient's records were deleted: {', '.join(deleted)}")
        say("  flo model finish makes them again without the patient")
    return results.OptedOutResult(len(changed), _is_known(opened, patient))


@command(app)
def erase(home: SiteFolder = SITE_FOLDER) -> results.ErasedResult:
    """Ask for a patient's id; opt them out, and record what they contributed to which models."""
    from rich.table import Table

    from flo.cli.terminal.output import console, plain, say
    from flo.clients.home.site_home import SiteHome
    from flo.clients.patients.erasure import erase as record

    opened, patient = SiteHome.open(home), _patient_id()
    made, path = record(opened, patient)
    table = Table("study", "digest", "as", "releases", "ε at most", "δ", "odds change by at most")
    for part in made.contributions:
        table.add_row(
            plain(f"{part.name} v{part.version}"),
            part.study[:12],
            "trained on" if part.side == "training" else "evaluated on",
            str(part.releases),
            f"{part.epsilon:.4f}",
            f"{part.delta:g}",
            f"× {part.factor:.2f}",
        )
    if made.contributions:
        console().print(table)
    else:
        say("no study that was approved here contains this id")
    known = _is_known(opened, patient)
    if made.unknown:
        say(f"unknown for {len(made.unknown)} studies that were approved before FLO stored ids")
    say(made.said)
    say(f"signed record, without the patient's id: {path}")
    contributions = [part.model_dump(mode="json") for part in made.contributions]
    return results.ErasedResult(str(path), known, contributions, list(made.unknown))


def _is_known(home: SiteHome, patient: str) -> bool | None:
    """Check whether a data file contains the id; warn if not. The request is already applied."""
    from flo.cli.terminal.output import plain, say
    from flo.clients.patients.opt_outs import id_in_data
    from flo.errors import FloError

    try:
        known = id_in_data(home, patient)
    except FloError as error:
        say(f"[yellow]could not look for this id in the data files:[/] {plain(str(error))}")
        say("to check again once the data can be read: flo site opt-out with the same id")
        return None
    if not known:
        say("[yellow]no data file here contains this id:[/] check its spelling")
    return known


def _patient_id() -> str:
    """Prompt for the id: an argument would appear in the shell's history and the process list."""
    return str(typer.prompt("the patient's id, as in the data file"))

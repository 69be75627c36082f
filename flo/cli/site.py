"""``flo site ...``"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from flo.clients.approval import Offered
    from flo.clients.coordinator_api import CoordinatorApi
    from flo.clients.home import SiteHome

app = typer.Typer(no_args_is_help=True)
Home = Annotated[Path, typer.Option(envvar="FLO_SITE_HOME", help="The site's folder.")]
DEFAULT_HOME = Path("site")


@app.command()
def init(
    hospital: Annotated[str, typer.Argument(help="Id of this hospital, as in its invitation.")],
    data: Annotated[Path, typer.Option(help="CSV or Parquet file with the patients.")],
    declared_size: Annotated[int, typer.Option(help="Public, rounded number of patients.")],
    home: Home = DEFAULT_HOME,
    id_column: Annotated[str, typer.Option(help="Column with the patient id.")] = "patient_id",
    epsilon: Annotated[float, typer.Option(help="Life budget of these patients.")] = 0.9,
    hold_out: Annotated[float, typer.Option(help="Share never trained on, for life.")] = 0.3,
    consent: Annotated[
        bool, typer.Option("--consent-to-epsilon-of-one-or-more", help="Policy: allow ε ≥ 1.")
    ] = False,
) -> None:
    """Make this hospital's keys, its ledger, and the life budget of its patients."""
    from flo.cli.screen import say
    from flo.clients.home import SiteHome, make_config
    from flo.identity import spoken
    from flo.study import largest_delta

    config = make_config(
        hospital,
        file=data,
        id_column=id_column,
        epsilon=epsilon,
        declared_size=declared_size,
        hold_out=hold_out,
        consent=consent,
    )
    made = SiteHome.create(home, config)
    size = config.populations[0].declared_size
    say(f"site of {hospital} made in {home}; declared size {size}")
    say(f"life budget: ε = {epsilon:g} at δ = {largest_delta(size):g}, for good")
    say(f"fingerprint, to read out: {spoken(made.identity().fingerprint)}")
    say(f"next: flo site enrol INVITATION --home {home}")


@app.command()
def population(home: Home = DEFAULT_HOME) -> None:
    """Register populations that were added to site.toml; their budgets are fixed from then on."""
    from flo.cli.screen import say
    from flo.clients.home import SiteHome

    added = SiteHome.open(home).register_populations()
    say(f"registered: {', '.join(added)}" if added else "nothing new in site.toml")


@app.command()
def enrol(
    invitation: Annotated[Path, typer.Argument(help="The file the coordinator gave you.")],
    home: Home = DEFAULT_HOME,
) -> None:
    """Get a certificate for this site's key; the key stays here."""
    from flo.cli.screen import say, working
    from flo.clients.enrol import enrol as use_invitation
    from flo.clients.home import SiteHome
    from flo.identity import spoken

    with working("enrolling"):
        done = use_invitation(SiteHome.open(home), invitation)
    say(f"{done.hospital} is enrolled. Compare by telephone before you approve anything:")
    say(f"  ours:        {spoken(done.own)}")
    say(f"  coordinator: {spoken(done.coordinator)}")


@app.command()
def confirm(
    partners: Annotated[
        list[str] | None, typer.Argument(help="HOSPITAL=FINGERPRINT, as it was read out to you.")
    ] = None,
    home: Home = DEFAULT_HOME,
) -> None:
    """Keep partners' fingerprints that you compared by telephone; alone, list them."""
    from flo.cli.screen import say
    from flo.clients.address_book import AddressBook, parse_entries
    from flo.clients.home import SiteHome
    from flo.identity import spoken

    opened = SiteHome.open(home)
    book = AddressBook.load(opened)
    if partners:
        book = book.confirm(opened, parse_entries(partners))
    for hospital, fingerprint in sorted(book.confirmed.items()):
        say(f"{hospital}: {spoken(fingerprint)}")
    if not book.confirmed:
        say("no partner's fingerprint was compared yet: flo site confirm HOSPITAL=FINGERPRINT")


@app.command()
def approve(
    study: Annotated[str | None, typer.Argument(help="Name or digest; may be left out.")] = None,
    home: Home = DEFAULT_HOME,
    population: Annotated[str | None, typer.Option(help="Which population takes part.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Approve without asking again.")] = False,
    wait: Annotated[float, typer.Option(help="Seconds to wait for a study to be offered.")] = 0,
    if_broken: Annotated[
        bool,
        typer.Option(
            "--as-if-broken",
            help="Without comparing fingerprints: charge ε as if the secure sum were broken.",
        ),
    ] = False,
) -> None:
    """Read a study, check the data on this screen, and approve: one approval, one reservation."""
    from flo.cli.screen import confirmed, console, say, show_sheet, working
    from flo.clients.address_book import AddressBook, refuse_strangers
    from flo.clients.approval import approve as sign
    from flo.clients.approval import choose
    from flo.clients.enrol import connect
    from flo.clients.home import SiteHome
    from flo.errors import RefusedError
    from flo.privacy.sheet import sections

    opened = SiteHome.open(home)
    chosen = opened.config.population(population)
    out = console()
    with connect(opened) as api:
        with working("asking the coordinator for studies"):
            offered = choose(_wait_for_offers(opened, api, wait), study)
        ledger = opened.ledger()
        life = ledger.balance().lives[chosen.name]
        ledger.close()
        unconfirmed = AddressBook.load(opened).unconfirmed(offered.study, opened.config.hospital)
        show_sheet(sections(offered.study, life, unconfirmed), out)
        refuse_strangers(offered.study, unconfirmed, if_broken=if_broken)
        if not confirmed("\nApprove this study and reserve its whole cost?", yes):
            raise RefusedError("not approved; nothing was spent", hint="--yes approves at once")
        with working("checking the data and reserving the budget"):
            sign(opened, api, offered, chosen, if_broken=if_broken)
    say(f"\napproved {offered.study.name} ({offered.study.digest[:12]}); budget reserved")


@app.command()
def inbox(home: Home = DEFAULT_HOME) -> None:
    """List the studies that name this hospital, and what was decided about each here."""
    from rich.table import Table

    from flo.cli.screen import console, plain, working
    from flo.clients.approval import approval_path, known_studies, refusal_path, withdrawal_path
    from flo.clients.enrol import connect
    from flo.clients.home import SiteHome
    from flo.study import from_canonical

    opened = SiteHome.open(home)
    with working("asking the coordinator for studies"), connect(opened) as api:
        known = known_studies(api)
    table = Table("study", "version", "digest", "ε", "at the coordinator", "here")
    for item in known:
        study = from_canonical(item.study.encode())
        waiting = "waiting for you" if item.status == "offered" else "not approved"
        decided = {
            "withdrawn": withdrawal_path(opened, study.digest),
            "approved": approval_path(opened, study.digest),
            "refused": refusal_path(opened, study.digest),
        }
        here = next((word for word, path in decided.items() if path.exists()), waiting)
        table.add_row(
            plain(study.name),
            str(study.version),
            study.digest[:12],
            f"{study.largest_epsilon:g}",
            plain(item.status),
            here,
        )
    console().print(table)


@app.command()
def refuse(
    study: Annotated[str, typer.Argument(help="Name or digest of a study on offer.")],
    reason: Annotated[str, typer.Option(help="For the coordinator to read; no patient data.")],
    home: Home = DEFAULT_HOME,
) -> None:
    """Say no to a study; nothing is spent, and you may still approve it later."""
    from flo.cli.screen import say
    from flo.clients.approval import choose, offered_studies
    from flo.clients.decisions import refuse as sign
    from flo.clients.enrol import connect
    from flo.clients.home import SiteHome

    opened = SiteHome.open(home)
    with connect(opened) as api:
        coordinator = bytes.fromhex(opened.coordinator.public)
        chosen = choose(offered_studies(api, coordinator), study).study
        sign(opened, api, chosen.digest, reason)
    say(f"refused {chosen.name} ({chosen.digest[:12]}); the coordinator was told")


@app.command()
def withdraw(
    study: Annotated[str, typer.Argument(help="Digest of an approved study, or its start.")],
    reason: Annotated[str, typer.Option(help="For the coordinator to read; no patient data.")],
    home: Home = DEFAULT_HOME,
) -> None:
    """End an approval: the agent refuses the study's next message; the ledger keeps the past."""
    from flo.cli.screen import say
    from flo.clients.decisions import withdraw as sign
    from flo.clients.enrol import connect
    from flo.clients.home import SiteHome

    opened = SiteHome.open(home)
    digest = _approved(home, study)
    with connect(opened) as api:
        told = sign(opened, api, digest, reason)
    say(f"withdrawn: {digest[:12]}; nothing more is released, and what was not used is free again")
    if not told:
        say("[yellow]the coordinator could not be told;[/] it learns it from the agent's refusal")


def _approved(home: Path, start: str) -> str:
    """Digest of the approved study that begins so. Raises UsageError."""
    from flo.errors import UsageError

    found = [p.stem for p in (home / "approved").glob("*.json") if p.stem.startswith(start)]
    found = [name for name in found if "." not in name]
    if len(found) != 1:
        raise UsageError(f"{len(found)} approved studies begin with {start!r}")
    return found[0]


def _wait_for_offers(opened: SiteHome, api: CoordinatorApi, seconds: float) -> list[Offered]:
    import time

    from flo.clients.approval import offered_studies

    end = time.monotonic() + seconds
    coordinator = bytes.fromhex(opened.coordinator.public)
    while True:
        offers = offered_studies(api, coordinator)
        if offers or time.monotonic() > end:
            return offers
        time.sleep(0.2)


@app.command()
def run(
    home: Home = DEFAULT_HOME,
    device: Annotated[
        str | None, typer.Option(envvar="FLO_DEVICE", help="auto, cpu or cuda.")
    ] = None,
    verbose: Annotated[int, typer.Option("-v", count=True, help="More on the screen.")] = 0,
    quiet: Annotated[bool, typer.Option("-q", help="Errors only on the screen.")] = False,
) -> None:
    """Run the agent: dial out, train what is approved, keep the ledger; until stopped."""
    from flo.clients.agent import Agent
    from flo.clients.home import SiteHome
    from flo.errors import UsageError
    from flo.logs import start_logging
    from flo.settings import choose

    opened = SiteHome.open(home)
    wanted = choose(device, opened.config.device, "auto")
    if wanted not in ("auto", "cpu", "cuda"):
        raise UsageError(f"device {wanted!r} is not one of auto, cpu, cuda")
    start_logging(home / "log" / "agent.jsonl", verbosity=-1 if quiet else verbose)
    Agent(opened, wanted).run()


@app.command()
def budget(
    home: Home = DEFAULT_HOME,
    json_file: Annotated[Path | None, typer.Option("--json", help="Numbers as JSON.")] = None,
) -> None:
    """Draw each population's life budget: spent, reserved, free, over time, and what still fits."""
    from flo.cli.budget import show
    from flo.clients.home import SiteHome

    ledger = SiteHome.open(home).ledger()
    show(ledger, json_file)
    ledger.close()


@app.command()
def extract(
    study: Annotated[str, typer.Argument(help="Digest of an approved study, or its start.")],
    out: Annotated[Path, typer.Option(help="Where to write the signed extract.")],
    home: Home = DEFAULT_HOME,
) -> None:
    """Sign an extract of the ledger for one study, for the auditor."""
    from flo.cli.screen import say
    from flo.clients.extract import make_extract
    from flo.clients.home import SiteHome
    from flo.files import write_public

    opened = SiteHome.open(home)
    digest = _approved(home, study)
    ledger = opened.ledger()
    write_public(out, make_extract(opened, ledger, digest))
    ledger.close()
    say(f"signed extract in {out}")

"""``flo site ...``: a steward's decisions about studies and partners."""

from __future__ import annotations

from contextlib import closing, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flo.cli.site import results
from flo.cli.terminal.command import command
from flo.cli.terminal.options import SITE_FOLDER, DryRun, OfPopulation, SiteFolder
from flo.cli.terminal.results import FileWrittenResult

if TYPE_CHECKING:
    from flo.clients.connection.coordinator_api import CoordinatorApi
    from flo.clients.connection.offers import Offered
    from flo.clients.home.site_home import SiteHome
    from flo.keys.identity import Identity
    from flo.study.document import Study

app = typer.Typer()
AnyStudyName = Annotated[
    str | None,
    typer.Argument(help="NAME:VERSION or digest of a study; optional if there is only one."),
]
PersonKeyFile = Annotated[
    Path | None, typer.Option("--person", help="Your own key file, if the policy names people.")
]


@command(app)
def confirm(
    partners: Annotated[
        list[str] | None, typer.Argument(help="HOSPITAL=FINGERPRINT, as it was read out to you.")
    ] = None,
    forget: Annotated[
        str | None, typer.Option(help="Hospital whose key is no longer confirmed.")
    ] = None,
    home: SiteFolder = SITE_FOLDER,
) -> results.PartnersResult:
    """Store partners' fingerprints that you compared by telephone; without any, list them."""
    from flo.cli.terminal.output import say
    from flo.clients.approvals.fingerprints import AddressBook, parse_entries
    from flo.clients.home.site_home import SiteHome
    from flo.keys.identity import format_fingerprint

    opened = SiteHome.open(home)
    book = AddressBook.load(opened)
    if partners:
        book = AddressBook.confirm(opened, parse_entries(partners))
    if forget is not None:
        book = AddressBook.forget(opened, forget)
    for hospital, fingerprint in sorted(book.confirmed.items()):
        say(f"{hospital}: {format_fingerprint(fingerprint)}")
    if not book.confirmed:
        say("no partner's fingerprint was compared yet: flo site confirm HOSPITAL=FINGERPRINT")
    return results.PartnersResult(dict(book.confirmed))


@command(app)
def inbox(home: SiteFolder = SITE_FOLDER) -> results.InboxResult:
    """List the studies that name this hospital, and this site's decision on each."""
    from dataclasses import asdict

    from rich.table import Table

    from flo.cli.terminal.output import console, plain, working
    from flo.clients.connection.enrolment import connect
    from flo.clients.home.site_home import SiteHome
    from flo.clients.inbox.inbox import listed

    opened = SiteHome.open(home)
    with working("asking the coordinator for studies"), connect(opened) as api:
        known = listed(opened, api)
    table = Table("study", "version", "digest", "ε", "coordinator", "here")
    for item in known:
        table.add_row(
            plain(item.name),
            str(item.version),
            item.digest[:12],
            f"{item.epsilon:g}",
            plain(item.status),
            item.here,
        )
    console().print(table)
    return results.InboxResult([results.InboxLine(**asdict(item)) for item in known])


@command(app)
def review(
    study: AnyStudyName = None,
    home: SiteFolder = SITE_FOLDER,
    population: OfPopulation = None,
    html: Annotated[Path | None, typer.Option(help="Write a page to read or print.")] = None,
) -> results.SheetResult:
    """Show a study in plain language: data that leave, cost, changes, our rules."""
    from flo.cli.terminal.output import console, say, show_sheet, working
    from flo.clients.connection.enrolment import connect
    from flo.clients.connection.offers import choose
    from flo.clients.home.site_home import SiteHome
    from flo.clients.inbox.review import page
    from flo.clients.inbox.review import review as sheet
    from flo.storage.files import write_private

    opened = SiteHome.open(home)
    chosen = opened.read_config().population(population)
    with connect(opened) as api, working("asking the coordinator for studies"):
        offered = choose(_wait_for_offers(opened, api, 0), study)
        parts = sheet(opened, offered.study, chosen)
    show_sheet(parts, console())
    if html is not None:
        write_private(html, page(opened, offered.study, chosen).encode())
        say(f"\nthe same as a page: {html}")
    opened.record("reviewed", offered.study.digest)
    listed = [
        {"heading": part.heading, "lines": [list(line) for line in part.lines]} for part in parts
    ]
    written = str(html) if html else None
    return results.SheetResult(offered.study.name, offered.study.digest, listed, written)


@command(app)
def approve(
    study: AnyStudyName = None,
    home: SiteFolder = SITE_FOLDER,
    population: OfPopulation = None,
    yes: Annotated[
        bool,
        typer.Option(
            "--yes", help="Do not ask; only for a study reviewed here or named by its digest."
        ),
    ] = False,
    wait: Annotated[float, typer.Option(help="Seconds to wait for a study to be offered.")] = 0,
    if_broken: Annotated[
        bool,
        typer.Option(
            "--as-if-broken",
            help="Skip comparing fingerprints; charge ε as if the secure sum were broken.",
        ),
    ] = False,
    person: PersonKeyFile = None,
    dry_run: DryRun = False,
) -> results.ApprovalResult:
    """Show a study, check the data, and approve it: one approval, one budget reservation."""
    from flo.cli.terminal.output import (
        confirmed,
        console,
        encoding_shown,
        say,
        show_sheet,
        working,
    )
    from flo.clients.approvals import roster
    from flo.clients.approvals.approve import dry_run_approval, shares
    from flo.clients.approvals.decide import decide
    from flo.clients.approvals.fingerprints import refuse_strangers
    from flo.clients.connection.enrolment import connect
    from flo.clients.connection.offers import choose
    from flo.clients.home.site_home import SiteHome
    from flo.clients.inbox.review import review as sheet
    from flo.errors import RefusedError

    opened = SiteHome.open(home)
    chosen = opened.read_config().population(population)
    with connect(opened) as api:
        with working("asking the coordinator for studies"):
            offered = choose(_wait_for_offers(opened, api, wait), study)
            roster.refuse_rewritten(opened, api)
        if yes and not dry_run:
            _refuse_unread(opened, offered.study, study)
        unconfirmed = roster.unconfirmed(opened, offered.study)
        show_sheet(sheet(opened, offered.study, chosen), console())
        refuse_strangers(offered.study, unconfirmed, if_broken=if_broken)
        takes = shares(opened, offered.study, chosen, if_broken=if_broken)
        named = (offered.study.name, offered.study.digest)
        if dry_run:
            with working("checking the data and the budget"):
                lines = dry_run_approval(opened, api, offered, chosen, if_broken=if_broken)
            _show_patients(lines)
            say("\nthe data fit, the policy allows it, the budget has room; nothing was reserved")
            needed = opened.read_policy().approvers
            return results.ApprovalResult(*named, False, True, takes, [], needed)
        if not yes and offered.study.by_generation:
            with working("checking the data and the budget"):
                _show_patients(dry_run_approval(opened, api, offered, chosen, if_broken=if_broken))
        if not confirmed("\nApprove this study and reserve its whole cost?", yes):
            raise RefusedError(
                "not approved; nothing was spent", hint="--yes approves without asking"
            )
        own_key, digest = person_key(person), offered.study.digest[:12]
        with working("checking the data and reserving the budget") as status:
            done = decide(
                opened,
                lambda: nullcontext(api),
                offered,
                chosen,
                if_broken=if_broken,
                person=own_key,
                progress=encoding_shown(status),
            )
    if done.unnotified is not None:
        raise done.unnotified
    if done.approved:
        say(f"\napproved {offered.study.name} ({digest}); budget reserved")
    else:
        names = ", ".join(done.people)
        say(f"\n{names} approved {digest}; the policy requires {done.needed} people")
        say(f"nothing is reserved yet; next: flo site approve {digest} --person KEY")
    yes_of = list(done.people)
    return results.ApprovalResult(*named, done.approved, False, takes, yes_of, done.needed)


def _show_patients(lines: list[tuple[str, str]]) -> None:
    from flo.cli.terminal.output import console, show_sheet
    from flo.privacy.report.sheet import Section

    if lines:
        show_sheet([Section("Which of our patients would take part", tuple(lines))], console())


def _refuse_unread(home: SiteHome, study: Study, named: str | None) -> None:
    """Refuse ``--yes`` for a study that was neither reviewed here nor named by its digest: another
    study may have been offered under the same name meanwhile."""
    from flo.errors import RefusedError
    from flo.study.reference import is_digest

    with closing(home.open_audit_log()) as log:
        read, _ = log.latest(1, study=study.digest, kind="reviewed")
    if not read and not is_digest(named, study.digest):
        called = f"{study.name}:{study.version}"
        raise RefusedError(
            f"{called} ({study.digest[:12]}) was not reviewed here; nothing was approved or spent",
            hint=f"flo site review {called}; or name it by the digest of the study that you read",
        )


@command(app)
def refuse(
    study: Annotated[str, typer.Argument(help="NAME:VERSION or digest of a study on offer.")],
    reason: Annotated[str, typer.Option(help="For the coordinator to read; no patient data.")],
    home: SiteFolder = SITE_FOLDER,
) -> results.DecidedResult:
    """Refuse a study; this spends no budget, and you may still approve it later."""
    from flo.cli.terminal.output import say
    from flo.clients.approvals.decline import refuse as sign
    from flo.clients.connection.enrolment import connect
    from flo.clients.connection.offers import choose
    from flo.clients.home.site_home import SiteHome

    opened = SiteHome.open(home)
    with connect(opened) as api:
        chosen = choose(_wait_for_offers(opened, api, 0), study).study
        sign(opened, api, chosen.digest, reason)
    say(f"refused {chosen.name} ({chosen.digest[:12]}); the coordinator was notified")
    return results.DecidedResult(chosen.digest, "refused", notified=True)


@command(app)
def withdraw(
    study: Annotated[str, typer.Argument(help="NAME:VERSION or digest of an approved study.")],
    reason: Annotated[str, typer.Option(help="For the coordinator to read; no patient data.")],
    home: SiteFolder = SITE_FOLDER,
) -> results.DecidedResult:
    """End an approval: the agent refuses the study's next message; past charges remain."""
    from flo.cli.terminal.output import say
    from flo.clients.approvals.decline import withdraw as sign
    from flo.clients.connection.enrolment import connect
    from flo.clients.home.site_home import SiteHome

    opened = SiteHome.open(home)
    digest = approved_digest(opened, study)
    with connect(opened) as api:
        notified = sign(opened, api, digest, reason)
    say(f"withdrawn: {digest[:12]}; no more releases; the unused budget is free again")
    if not notified:
        say("[yellow]could not notify the coordinator;[/] the agent's next refusal informs it")
    return results.DecidedResult(digest, "withdrawn", notified)


@command(app)
def extract(
    study: Annotated[str, typer.Argument(help="Digest of an approved study, or its start.")],
    out: Annotated[Path, typer.Option(help="Where to write the signed extract.")],
    home: SiteFolder = SITE_FOLDER,
) -> FileWrittenResult:
    """Sign an extract of the ledger for one study, for the auditor."""
    from flo.cli.terminal.output import say
    from flo.clients.home.site_home import SiteHome
    from flo.clients.records.extract import make_extract
    from flo.storage.files import write_public

    opened = SiteHome.open(home)
    digest = approved_digest(opened, study)
    with closing(opened.open_ledger()) as ledger:
        write_public(out, make_extract(opened, ledger, digest))
    say(f"signed extract in {out}")
    return FileWrittenResult(str(out))


def approved_digest(home: SiteHome, wanted: str) -> str:
    """Return the digest of the approved study that ``wanted`` names. Raises UsageError."""
    from flo.clients.records.approval import readable
    from flo.study.reference import Known, which

    known = [
        Known.of(approved.read_study()) if approved else Known("unreadable", 0, digest)
        for digest, approved in readable(home)
    ]
    return which(known, wanted, "study approved here")


def person_key(path: Path | None) -> Identity | None:
    """Load a person's key and read its passphrase (``passphrase``); None for no file."""
    from flo.clients.approvals.approvers import load_key
    from flo.keys.keystore import passphrase

    return None if path is None else load_key(path, passphrase(f"passphrase for {path}", new=False))


def _wait_for_offers(opened: SiteHome, api: CoordinatorApi, seconds: float) -> list[Offered]:
    import time

    from flo.clients.connection.offers import offered_studies

    end = time.monotonic() + seconds
    while True:
        offers = offered_studies(api, opened.read_coordinator())
        if offers or time.monotonic() > end:
            return offers
        time.sleep(0.2)

"""``flo audit ...``"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flo.cli import results
from flo.cli.terminal.command import command
from flo.cli.terminal.options import EncodersFolder, StudyFile
from flo.cli.terminal.results import FileWrittenResult

if TYPE_CHECKING:
    from flo.privacy.releases.calibration import Calibration

app = typer.Typer()
_NOT_SHOWN = ("reply", "run", "calibration")  # frequent or long facts; the export has them
Place = Annotated[
    Path, typer.Option("--home", help="A site's folder, a coordinator's, or an access file.")
]


@command(app)
def report(
    extracts: Annotated[
        list[Path],
        typer.Argument(help="Signed extracts, one per hospital; and coordinator_heads.json."),
    ],
    out: Annotated[Path, typer.Option(help="Folder for report.json and report.html.")] = Path(),
    card: Annotated[
        Path | None, typer.Option(help="The model's card, for its risks on the page.")
    ] = None,
    prv: Annotated[
        bool, typer.Option("--prv", help="Also state ε by Opacus' accountant; takes seconds.")
    ] = False,
) -> results.PagesWrittenResult:
    """Combine signed ledger extracts into report.json and a readable report.html."""
    from flo.cli.terminal.output import say, working
    from flo.errors import UsageError
    from flo.privacy.accounting.plan import Plan
    from flo.privacy.report.page import render
    from flo.privacy.report.report import build, read_heads, study_of
    from flo.storage.files import write_public

    for path in extracts:
        if not path.is_file():
            raise UsageError(f"no extract at {path}")
    given = [path.read_bytes() for path in extracts]
    heads = [(data, read_heads(data)) for data in given]
    kept = {h: head for _, found in heads if found for h, head in found.items()}
    with working("recomputing every ε"):
        document = build([data for data, found in heads if found is None], kept)
        third = Plan.of(study_of(document)).epsilon_prv if prv else None
        if prv and third is None:
            raise UsageError("Opacus does not load on this system", hint="leave out --prv")
        page = render(document, _calibration(card, document), prv=third)
    out.mkdir(parents=True, exist_ok=True)
    write_public(out / "report.json", document)
    write_public(out / "report.html", page.encode())
    say(f"{out / 'report.json'} and {out / 'report.html'} written")
    say(f"anyone can check it offline: flo audit verify {out / 'report.json'}")
    return results.PagesWrittenResult(str(out / "report.json"), str(out / "report.html"))


def _calibration(path: Path | None, report: bytes) -> Calibration | None:
    """Return the calibration of a card that this report's coordinator signed.

    Raises TrustError if it is another study's, or states another life budget than the report.
    """
    from flo.errors import TrustError
    from flo.privacy.report.facts import largest_life
    from flo.published.model_card import read_card

    if path is None:
        return None
    facts, card = json.loads(report)["facts"], read_card(path)
    if card.check(facts["study"]["coordinator"]).digest != facts["study"]["digest"]:
        raise TrustError(f"{path} is the card of another study than the extracts are of")
    life = largest_life(facts)
    if card.life and not facts["without_extract"] and card.life.model_dump() != life:
        raise TrustError(
            f"{path} states a life budget of ε = {card.life.epsilon:g}, δ = {card.life.delta:g}, "
            f"and the extracts ε = {life['epsilon']:g}, δ = {life['delta']:g}"
        )
    return card.risks_of_yes_or_no


@command(app)
def verify(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE...", help="A report, or exported audit logs, or evidence."),
    ],
) -> results.VerifiedResult:
    """Check reports, audit logs and evidence offline; fail on any changed byte and say where.

    Each of several logs is also checked against the others' countersignatures of it.
    """
    from flo.audit import chain
    from flo.documents import canonical
    from flo.errors import UsageError
    from flo.infra.evidence import pack
    from flo.privacy.report.report import MAX_REPORT_BYTES, MOST_VALUES

    logs, others = [], []
    for path in files:
        if not path.is_file():
            raise UsageError(f"no file at {path}")
        data = path.read_bytes()
        limit = max(MAX_REPORT_BYTES, chain.MAX_EXPORT_BYTES)
        document = canonical.decode(data, limit=limit, what=str(path), values=MOST_VALUES)
        if chain.is_export(document):
            logs.append(data)
        else:
            others.append((pack.is_evidence(document), data))
    reports = [_verified_report(data) for is_evidence, data in others if not is_evidence]
    evidence = [_verified_evidence(data) for is_evidence, data in others if is_evidence]
    return results.VerifiedResult(reports, _verified_logs(logs) if logs else [], evidence)


def _verified_report(data: bytes) -> dict[str, Any]:
    from flo.cli.terminal.output import say, working
    from flo.keys.identity import format_fingerprint
    from flo.privacy.report.report import verify as check

    with working("recomputing"):
        facts = check(data)
    say(f"[bold green]verified[/]: study {facts['study']['name']}, digest")
    say(f"  {facts['study']['digest']}")
    for site in facts["hospitals"]:
        say(
            f"  {site['hospital']}: ε = {site['epsilon_released']:.4f} released of "
            f"{site['epsilon_charged']:.4f}, δ = {site['delta']:g}, "
            f"{len(site['releases'])} releases, "
            f"witnessed by {', '.join(site['witnessed_by']) or 'no partner'}"
        )
        say(f"    key {format_fingerprint(site['fingerprint'])}")
    say(f"  coordinator's key {format_fingerprint(facts['study']['coordinator'])}")
    say("Compare the keys by telephone: the report proves what these keys signed.")
    kept = ("hospital", "fingerprint", "epsilon_charged", "epsilon_released", "delta")
    return {
        "study": facts["study"]["name"],
        "digest": facts["study"]["digest"],
        "coordinator": facts["study"]["coordinator"],
        "hospitals": [{name: site[name] for name in kept} for site in facts["hospitals"]],
    }


def _verified_logs(documents: list[bytes]) -> list[dict[str, Any]]:
    from dataclasses import asdict

    from flo.audit.chain import verify as check
    from flo.cli.terminal.output import plain, say, working
    from flo.keys.identity import format_fingerprint

    with working("checking chains and signatures"):
        found = check(documents)
    for log in found:
        say(
            f"[bold green]unbroken[/]: audit log of {plain(log.owner)}, {log.entries} entries, "
            f"{log.first[:19]} to {log.last[:19]}"
        )
        say(f"  key {format_fingerprint(log.fingerprint)}")
        for seen in log.countersigned:
            key = f"key {format_fingerprint(seen.fingerprint)}"
            signer = f"the log of {plain(seen.by)}" if seen.by else key
            say(f"  countersigned up to entry {seen.number} by {signer}")
        if not log.countersigned:
            say("  not countersigned by another party yet")
    if len(found) == 1:
        say("A truncated log is detected only with the other party's log: verify both together.")
    return [asdict(log) for log in found]


def _verified_evidence(data: bytes) -> dict[str, Any]:
    from flo.cli.terminal.output import plain, say
    from flo.infra.evidence import pack
    from flo.keys.identity import format_fingerprint

    body = pack.verify(data)
    shown = sum(1 for row in body["rows"] if row["shown"])
    say(
        f"[bold green]signature valid[/]: evidence of {plain(body['owner'])}, "
        f"{plain(body['made'][:19])}, {shown} of {len(body['rows'])} rows shown"
    )
    say(f"  key {format_fingerprint(body['fingerprint'])}")
    return {"owner": body["owner"], "made": body["made"], "shown": shown, "rows": len(body["rows"])}


@command(app)
def log(
    home: Place,
    study: Annotated[str | None, typer.Option(help="Only this study: start of its digest.")] = None,
    kind: Annotated[str | None, typer.Option(help="Only this kind of entry.")] = None,
    last: Annotated[int, typer.Option(min=1, help="How many of the latest.")] = 50,
) -> results.LogShownResult:
    """Show the latest entries of an audit log, oldest first."""
    from rich.table import Table

    from flo.audit.chain import read_export
    from flo.cli.terminal.output import console, plain, say

    export = read_export(_export(home))
    chosen = [
        entry
        for entry in export.entries
        if (study is None or (entry.study or "").startswith(study))
        and (kind is None or entry.kind == kind)
    ][-last:]
    table = Table("#", "time (UTC)", "what", "study", "facts", box=None)
    for entry in chosen:
        facts = " ".join(
            f"{name}={_short(value)}"
            for name, value in entry.facts.items()
            if name not in _NOT_SHOWN
        )
        shown = facts if len(facts) < 200 else facts[:199] + "…"
        study_shown = (entry.study or "")[:12]
        table.add_row(
            str(entry.number), entry.time[:19], plain(entry.kind), study_shown, plain(shown)
        )
    console().print(table)
    say(f"{len(export.entries)} entries in the audit log of {plain(export.owner)}")
    entries = [
        entry.model_dump(mode="json", include={"number", "time", "kind", "study", "facts"})
        for entry in chosen
    ]
    return results.LogShownResult(export.owner, len(export.entries), entries)


@command(app)
def export(
    home: Place, out: Annotated[Path, typer.Option(help="Where to write the log.")]
) -> FileWrittenResult:
    """Write a whole audit log to a file that anyone can verify offline."""
    from flo.cli.terminal.output import say
    from flo.storage.files import write_private

    write_private(out, _export(home))
    say(f"audit log in {out}; check it with the other party's: flo audit verify {out} OTHER")
    return FileWrittenResult(str(out))


@command(app)
def evidence(
    home: Place,
    out: Annotated[Path, typer.Option(help="Folder for evidence.json and evidence.html.")] = Path(),
) -> results.EvidenceWrittenResult:
    """Write an evidence pack: HIPAA and GDPR requirements, mechanisms, and proof found here."""
    from flo.cli.terminal.output import console, plain, say, working
    from flo.infra.evidence import pack
    from flo.storage.files import write_private

    with working("collecting"):
        document = pack.make(home)
        page = pack.render(document)
    out.mkdir(parents=True, exist_ok=True)
    write_private(out / "evidence.json", document)
    write_private(out / "evidence.html", page.encode())
    body = pack.verify(document)
    missing = [row["reference"] for row in body["rows"] if not row["shown"]]
    shown = len(body["rows"]) - len(missing)
    say(f"{out / 'evidence.json'} and {out / 'evidence.html'} written and signed")
    say(f"{shown} of {len(body['rows'])} rows have evidence from this installation")
    for reference in missing:
        console().print(f"  no evidence for: {plain(reference)}")
    say("This is evidence for your own assessment, not a certificate.")
    pages = (str(out / "evidence.json"), str(out / "evidence.html"))
    return results.EvidenceWrittenResult(*pages, shown, missing)


def _short(value: object) -> str:
    """Shorten digests, keys and signatures to 12 digits; the export has them in full."""
    text = str(value)
    long = len(text) > 40 and all(letter in "0123456789abcdef" for letter in text)
    return f"{text[:12]}…" if long else text


def _export(place: Path) -> bytes:
    """Export the audit log of a site's or a coordinator's folder, or through an access file."""
    from contextlib import closing

    from flo.cli.coordinator.operator import Operator
    from flo.clients.home.site_home import SiteHome
    from flo.errors import UsageError
    from flo.server.home.coordinator_home import CoordinatorHome, sign_events

    if place.is_file():
        with Operator(place) as operator:
            return operator.fetch("GET", "audit").content
    if SiteHome(place).config_path.exists():
        site = SiteHome.open(place)
        with closing(site.open_audit_log()) as log:
            return log.export(site.read_config().hospital)
    if not CoordinatorHome(place).config_path.exists():
        raise UsageError(f"{place} is not a site's folder, a coordinator's, or an access file")
    coordinator = CoordinatorHome.open(place)
    with closing(coordinator.open_store()) as store, closing(coordinator.open_audit_log()) as log:
        sign_events(store, log)
        return log.export("coordinator")


@command(app)
def attack(study: StudyFile, encoders: EncodersFolder = None) -> results.AttackedResult:
    """Attack the trainer on made-up patients: a lower bound on ε to find bugs, not a proof."""
    from dataclasses import asdict

    from rich.table import Table

    from flo.cli.terminal.output import console, plain, say, working
    from flo.clients.data_process.encoding import learn_frozen
    from flo.errors import TrustError
    from flo.lab.attack import attack as run
    from flo.lab.release_checks import checks
    from flo.study.loading import load

    loaded = load(study)
    learn_frozen(loaded, encoders)
    with working("making up patients") as status:
        found = run(loaded, progress=status.update)
        checked = list(checks(loaded, progress=status.update))
    table = Table("of", "check", "found", "p", "")
    for one in checked:
        verdict = "[bold red]FAILED[/]" if one.failed else "passed" if one.seen else "not seen"
        table.add_row(one.of, one.name, plain(one.said), f"{one.p:.2g}", verdict)
    console().print(table)
    say(
        f"{found.right} of {found.guesses} guesses about {found.canaries} made-up patients were "
        f"right ({found.right / found.guesses:.1%}; 50 % is chance)"
    )
    say(
        f"ε is at least {found.lower_bound:.3f} ({found.confidence:.0%} confidence, "
        f"one-run audit of the training rounds); claimed for them is {found.claimed:.3f}"
    )
    failed = [f"{one.name} ({one.of})" for one in checked if one.failed]
    if found.broken or failed:
        what = f"failed: {'; '.join(failed)}" if failed else "the attack refutes the claimed ε"
        raise TrustError(
            f"{what}: this trainer leaks more than it claims",
            hint="do not run studies with it; reinstall FLO and report this",
        )
    say("no bug found. This cannot certify an ε below 1: only the proof and the ledger can.")
    each = [results.ReleaseCheckLine(**asdict(one)) for one in checked]
    return results.AttackedResult(checks=each, **asdict(found))

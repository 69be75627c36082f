"""``flo audit ...``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True)


@app.command()
def report(
    extracts: Annotated[list[Path], typer.Argument(help="Signed extracts, one per hospital.")],
    out: Annotated[Path, typer.Option(help="Folder for report.json and report.html.")] = Path(),
) -> None:
    """Join signed ledger extracts into report.json and a report.html that people can read."""
    from flo.cli.screen import say, working
    from flo.errors import UsageError
    from flo.files import write_public
    from flo.privacy.report import build
    from flo.privacy.report_page import render

    for path in extracts:
        if not path.is_file():
            raise UsageError(f"no extract at {path}")
    with working("recomputing every ε"):
        document = build([path.read_bytes() for path in extracts])
        page = render(document)
    out.mkdir(parents=True, exist_ok=True)
    write_public(out / "report.json", document)
    write_public(out / "report.html", page.encode())
    say(f"{out / 'report.json'} and {out / 'report.html'} written")
    say(f"anyone can check it offline: flo audit verify {out / 'report.json'}")


@app.command()
def verify(
    report_file: Annotated[Path, typer.Argument(metavar="REPORT", help="A report.json.")],
) -> None:
    """Recompute every ε, signature and chain of a report, offline; fails on any changed byte."""
    from flo.cli.screen import say, working
    from flo.errors import UsageError
    from flo.identity import spoken
    from flo.privacy.report import verify as check

    if not report_file.is_file():
        raise UsageError(f"no report at {report_file}")
    with working("recomputing"):
        facts = check(report_file.read_bytes())
    say(f"[bold green]verified[/]: study {facts['study']['name']}, digest")
    say(f"  {facts['study']['digest']}")
    for site in facts["hospitals"]:
        say(
            f"  {site['hospital']}: ε = {site['epsilon_released']:.4f} released of "
            f"{site['epsilon_charged']:.4f}, δ = {site['delta']:g}, "
            f"{len(site['releases'])} releases, "
            f"witnessed by {', '.join(site['witnessed_by']) or 'no partner'}"
        )
        say(f"    key {spoken(site['fingerprint'])}")
    say(f"  coordinator's key {spoken(facts['study']['coordinator'])}")
    say("Compare the keys by telephone: the report proves what these keys signed.")


@app.command()
def attack(
    study: Annotated[Path, typer.Argument(help="A study in TOML.")],
    json_file: Annotated[Path | None, typer.Option("--json", help="Numbers as JSON.")] = None,
) -> None:
    """Attack the trainer on made-up patients: a lower bound on ε that catches bugs, no proof."""
    from dataclasses import asdict

    from flo.attack import attack as run
    from flo.cli.screen import say, working, write_json
    from flo.errors import TrustError
    from flo.study import load

    loaded = load(study)
    with working("making up patients") as status:
        found = run(loaded, progress=status.update)
    write_json(json_file, {"schema_version": 1, "private": False, **asdict(found)})
    say(
        f"{found.right} of {found.guesses} guesses about {found.canaries} made-up patients were "
        f"right ({found.right / found.guesses:.1%}; 50 % is chance)"
    )
    say(
        f"ε is at least {found.lower_bound:.3f} ({found.confidence:.0%} confidence, "
        f"one-run audit); claimed is {found.claimed:.3f}"
    )
    if found.broken:
        raise TrustError(
            "the attack refutes the claimed ε: this trainer leaks more than it says",
            hint="do not run studies with it; reinstall FLO and report this",
        )
    say("no bug found. This cannot certify an ε below 1: only the proof and the ledger can.")

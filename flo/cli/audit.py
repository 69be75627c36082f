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
            f"{site['epsilon_designed']:.4f}, δ = {site['delta']:g}, "
            f"{site['releases_training']} + {site['releases_evaluation']} releases, "
            f"witnessed by {', '.join(site['witnessed_by']) or 'no partner'}"
        )
        say(f"    key {spoken(site['fingerprint'])}")
    say(f"  coordinator's key {spoken(facts['study']['coordinator'])}")
    say("Compare the keys by telephone: the report proves what these keys signed.")

"""``flo site map`` and ``flo site inspect``: map and check a hospital's data before a study."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flo.cli.site import results
from flo.cli.terminal.command import command
from flo.cli.terminal.options import SITE_FOLDER, OfPopulation, SiteFolder

if TYPE_CHECKING:
    from flo.clients.home.site_home import SiteHome
    from flo.study.document import Study

app = typer.Typer()
StudyOrFile = Annotated[
    str, typer.Argument(help="A study on offer here (name or digest), or its TOML file.")
]


@command(app, "map")
def map_fields(
    document: StudyOrFile,
    home: SiteFolder = SITE_FOLDER,
    population: OfPopulation = None,
    fields: Annotated[
        bool, typer.Option("--fields", help="List the source's fields; write no mapping.")
    ] = False,
) -> results.MappedResult:
    """Draft mapping.toml, which maps our fields to the columns of a study, for review."""
    from rich.table import Column, Table

    from flo.cli.terminal.output import console, plain, say, working
    from flo.clients.home.site_home import SiteHome
    from flo.clients.mapping.draft import draft, fields_of
    from flo.clients.mapping.mapping_file import FILE

    opened = SiteHome.open(home)
    chosen = opened.read_config().population(population)
    if fields:
        with working(f"looking through {chosen.place}"):
            offers = fields_of(chosen)
        table = Table(Column("field", overflow="fold"), "what it is", "unit")
        for offer in offers:
            table.add_row(plain(offer.field), plain(offer.text), plain(offer.unit))
        console().print(table)
        return results.MappedResult(None, {offer.field: None for offer in offers}, [])
    wanted = _study(opened, document)
    with working(f"looking through {chosen.place}"):
        found = draft(opened, wanted, chosen)
    table = Table(
        "column of the study",
        Column("our field", overflow="fold"),
        Column("look at", overflow="fold"),
    )
    for name, one in found.items():
        field = plain(", ".join(one.mapped.fields)) if one.mapped else "[bold red]not found[/]"
        table.add_row(plain(name), field, plain(one.remark))
    console().print(table)
    path, open_ = opened.directory / FILE, [n for n, one in found.items() if one.mapped is None]
    say(f"mapping written to {path}: review every line, then check the result:")
    say(f"next: flo site inspect {document} --home {home}")
    if open_:
        say(f"[yellow]columns without a field:[/] {', '.join(open_)}")
        say(f"to list all fields: flo site map {document} --fields --home {home}")
    mapped = {
        name: ", ".join(one.mapped.fields) if one.mapped else None for name, one in found.items()
    }
    return results.MappedResult(str(path), mapped, open_)


@command(app, "inspect")
def inspect_data(
    document: StudyOrFile,
    home: SiteFolder = SITE_FOLDER,
    population: OfPopulation = None,
    html: Annotated[Path | None, typer.Option(help="Also write a page with plots.")] = None,
) -> results.InspectedResult:
    """Check our data as an approval would: fit, findings, plots. Does not store or send data.

    Exits with 0 if the data fit the study, else with 3.
    """
    from rich.table import Table

    from flo.cli.terminal.output import console, plain, say, working
    from flo.clients.home.site_home import SiteHome
    from flo.clients.mapping.inspect import inspect
    from flo.clients.quality.inspection import page
    from flo.pages.templates import now
    from flo.storage.files import write_private

    opened = SiteHome.open(home)
    chosen = opened.read_config().population(population)
    wanted = _study(opened, document)
    with working(f"reading {chosen.place}") as status:
        seen = inspect(opened, wanted, chosen, lambda n: status.update(f"{n:,} records read"))
    say(f"{seen.records} records of {seen.patients} patients, {seen.positive:.1%} {seen.dark}")
    if seen.day:
        say(f"the records are {seen.day}")
    for one in seen.columns:
        if one.when:
            say(f"event used for {plain(one.name)}: {one.when}")
    table = Table("column", "the study says", "missing", "least", "middle", "most")
    for one in seen.columns:
        numbers = [f"{one.numbers[n]:g}" for n in (0, 2, 4)] if one.numbers else ["", "", ""]
        table.add_row(plain(one.name), plain(one.rule), f"{one.missing:.1%}", *numbers)
    console().print(table)
    for finding in seen.in_nobodys_way:
        why = seen.accepted.get(finding.name)
        say(f"worth knowing: {plain(str(finding))}" + (f" (accepted: {plain(why)})" if why else ""))
    for name in seen.unused:
        say(f"[yellow]accepted in mapping.toml, but not found in the data:[/] {plain(name)}")
    for finding in seen.in_the_way:
        say(f"[bold red]in the way:[/] {plain(str(finding))}")
        if finding.level == "to accept":
            say(
                f"  if this is correct, accept it in mapping.toml under "
                f'\\[studies.{wanted.name}.accepted]: "{plain(finding.name)}" = "why"'
            )
    if not seen.in_the_way:
        say("[bold green]the data fit the study[/]; no data were stored or sent")
    if html is not None:
        text = page(seen, wanted.name, chosen.place, now())
        write_private(html, text.encode())
        say(f"page with plots, for this hospital only: {html}")
    return results.InspectedResult(
        wanted.name,
        seen.records,
        seen.patients,
        [results.DataFindingLine(f.column, f.rule, f.count, f.level) for f in seen.in_the_way],
        [results.DataFindingLine(f.column, f.rule, f.count, f.level) for f in seen.in_nobodys_way],
        str(html) if html else None,
    )


def _study(home: SiteHome, wanted: str) -> Study:
    """Load a study from a file or from the coordinator, which learns of the request."""
    from flo.cli.terminal.output import working
    from flo.clients.connection.enrolment import connect
    from flo.clients.connection.offers import choose, offered_studies
    from flo.errors import UsageError
    from flo.study.loading import load

    if Path(wanted).is_file():
        return load(Path(wanted))
    if Path(wanted).suffix:
        raise UsageError(f"the study file {wanted} does not exist")
    with connect(home) as api, working("asking the coordinator for studies"):
        return choose(offered_studies(api, home.read_coordinator()), wanted).study

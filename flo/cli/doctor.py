"""``flo doctor``: checks whether a round could run from here, and says how to fix problems."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flo.cli.terminal.options import COORDINATOR_FOLDER, SITE_FOLDER
from flo.cli.terminal.results import CheckedResult, DoctorFindingLine

if TYPE_CHECKING:
    from flo.host.diagnostics import Finding

_MARKS = {
    "ok": "[green]ok     [/]",
    "warning": "[yellow]warning[/]",
    "broken": "[bold red]broken [/]",
}
_HOMES = ((SITE_FOLDER, "site.toml"), (COORDINATOR_FOLDER, "coordinator.toml"))


def doctor(
    folder: Annotated[
        Path | None,
        typer.Argument(help="A site's or coordinator's folder; if left out, the one here."),
    ] = None,
) -> CheckedResult:
    """Inspect this machine and a site or coordinator on it, and say how to fix what is broken.

    Changes no state, spends no budget, releases no data. Exits with 0 if a round can run, else 3.
    """
    from flo.cli.terminal.output import plain, say, working
    from flo.host.diagnostics import could_run

    place, found = folder or _here(), []
    with working("checking"):
        for finding in _look_at(place, given=folder is not None):
            found.append(finding)
            say(f"{_MARKS[finding.state]} {finding.subject}: {plain(finding.message)}")
            if finding.fix:
                say(f"        [bold]fix:[/] {plain(finding.fix)}")
    broken = dict.fromkeys(finding.subject for finding in found if finding.state == "broken")
    if broken:
        say(f"[bold red]no round can run:[/] fix {', '.join(broken)} first")
    elif (place / "site.toml").exists() or (place / "coordinator.toml").exists():
        say("[bold]a round can run[/]")
    else:
        say("[bold]this machine meets all requirements[/]")
    listed = [DoctorFindingLine(one.subject, one.state, one.message, one.fix) for one in found]
    return CheckedResult(str(place), could_run(found), listed)


def _here() -> Path:
    """Return the default site or coordinator folder if it exists, else the current folder."""
    for place, configuration in _HOMES:
        if (place / configuration).exists():
            return place
    return Path()


def _look_at(place: Path, *, given: bool) -> Iterator[Finding]:
    from flo.errors import UsageError
    from flo.host.diagnostics import Finding, looked_at, machine

    is_site, is_coordinator = ((place / configuration).exists() for _, configuration in _HOMES)
    if given and not (is_site or is_coordinator):
        raise UsageError(
            f"{place} is neither a site's folder nor a coordinator's",
            hint="without a folder, flo doctor checks only this machine",
        )
    yield from machine(place)
    if is_site or is_coordinator:
        own = looked_at(place)
        yield own
        if own.state == "broken":
            return  # its contents cannot be checked
    if is_site:
        from flo.clients.home.site_home import SiteHome
        from flo.clients.maintenance.doctor import site

        yield from site(SiteHome.open(place))
    elif is_coordinator:
        from flo.server.home.coordinator_home import CoordinatorHome
        from flo.server.maintenance.doctor import coordinator

        yield from coordinator(CoordinatorHome.open(place))
    else:
        yield Finding(
            "folder",
            "warning",
            "no site and no coordinator here: only this machine was checked",
            "name its folder, or create one: flo site init, flo coordinator init",
        )

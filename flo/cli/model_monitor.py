"""``flo model monitor`` and ``drift``: whether a model still fits at its hospitals together."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flo.cli import results
from flo.cli.model import CoordinatorFingerprint, ModelFile, trusted_coordinators
from flo.cli.terminal.command import command
from flo.cli.terminal.options import COORDINATOR_FOLDER, CoordinatorFolder
from flo.cli.terminal.results import FileWrittenResult

if TYPE_CHECKING:
    from flo.published.monitor_result import MonitorResult

app = typer.Typer()


@command(app)
def monitor(
    model: ModelFile,
    new_patients: Annotated[
        int,
        typer.Option(min=10, help="About how many patients are new in a period, at each hospital."),
    ],
    period: Annotated[
        int, typer.Option(min=1, max=240, help="Which period of the model's series it is.")
    ] = 1,
    epsilon: Annotated[float, typer.Option(help="ε of a period, for each of its patients.")] = 0.5,
    tolerance: Annotated[
        float,
        typer.Option(min=1.05, max=2, help="Outcomes may have so many times the stated odds."),
    ] = 1.25,
    false_alarm_periods: Annotated[
        int, typer.Option(min=12, max=1200, help="A false alarm once in so many periods, at most.")
    ] = 60,
    home: CoordinatorFolder = COORDINATOR_FOLDER,
    coordinator: CoordinatorFingerprint = None,
    out: Annotated[Path, typer.Option(help="Where to write the study.")] = Path("monitor.toml"),
) -> FileWrittenResult:
    """Draft a period in which hospitals count whether outcomes are as a model states."""
    import tomli_w

    from flo.cli.terminal.output import say
    from flo.errors import UsageError
    from flo.published.model_card import PublishedModel
    from flo.study.monitor_draft import draft

    if out.exists():
        raise UsageError(f"{out} already exists", hint="choose another --out, or move the file")
    opened = PublishedModel.open(model, *trusted_coordinators(home, coordinator))
    study = draft(
        opened.card.digest,
        opened.study,
        epsilon=epsilon,
        new_patients=new_patients,
        period=period,
        tolerance=tolerance,
        false_alarm_periods=false_alarm_periods,
    )
    out.write_text(tomli_w.dumps(study), encoding="utf-8")
    name = f"{study['name']}:{period}"
    say(f"{out} written: it asks about patients who are new since the period before")
    say(f"next: flo study check {out}, then flo study launch {out}, then flo model drift {name}")
    return FileWrittenResult(str(out))


@command(app)
def drift(
    study: Annotated[
        str, typer.Argument(help="The latest period, or a folder of NAME.monitor.json files.")
    ],
    home: CoordinatorFolder = COORDINATOR_FOLDER,
    coordinator: CoordinatorFingerprint = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the signed files; not written if left out.")
    ] = None,
) -> results.DriftResult:
    """Check all signed periods of a monitor, and say whether outcomes still are as stated."""
    from flo.cli.terminal.output import console, say, show_sheet
    from flo.errors import UsageError
    from flo.keys.identity import fingerprint
    from flo.privacy.report.sheet import Section
    from flo.published.monitor_result import MONITOR, read_monitor
    from flo.published.monitor_series import series
    from flo.published.monitor_words import rows, shown, table
    from flo.storage.files import write_public

    fetched = not Path(study).is_dir()
    if fetched:
        given = _fetched(home, study)
    else:
        given = [read_monitor(path) for path in sorted(Path(study).glob(f"*{MONITOR}"))]
        if not given:
            raise UsageError(f"{study} has no file that ends in {MONITOR}")
    if fetched and home.is_file() and coordinator is None:  # by an access file: TLS proved whose
        trusted = {fingerprint(bytes.fromhex(one.coordinator)) for one in given}
    else:
        trusted = set(trusted_coordinators(home, coordinator))
    found = series(given, *trusted)
    last = found.last
    lines = tuple(
        (f"period {number}", f"{odds}; health {health} ({day})")
        for number, day, odds, health in table(found)
    )
    sheet = [
        Section("Outcomes across hospitals", tuple(rows(found))),
        Section("By period", lines),
        Section("About the latest", tuple(last.result.about(last.study))),
    ]
    show_sheet(sheet, console())
    if out:
        out.mkdir(parents=True, exist_ok=True)
        for one in given:
            checked = one.check(*trusted)
            path = out / f"{checked.name}-{one.run}{MONITOR}"
            write_public(path, one.to_bytes())
            say(f"written: {path}")
    return results.DriftResult(
        last.study.digest,
        last.number,
        bool(found.alarms),
        shown(found.health),
        [one.number for one in found.alarms],
        list(found.missing),
    )


def _fetched(home: Path, study: str) -> list[MonitorResult]:
    """Return the signed results of a series from the coordinator."""
    from flo.cli.coordinator.operator import Operator
    from flo.cli.study import find
    from flo.published.monitor_result import from_list

    digest = find(home, study)["digest"]
    with Operator(home) as operator:
        return from_list(operator.fetch("GET", f"studies/{digest}/monitor").content)

"""``flo model trace``: from a file of scores back to study, approval and ledger."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flo.cli import results
from flo.cli.terminal.command import command
from flo.cli.terminal.options import SITE_FOLDER, SiteFolder

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flo.clients.prediction.trace import Trace
    from flo.privacy.ledger.rows import LedgerRow
    from flo.privacy.report.sheet import Section

app = typer.Typer()


@command(app)
def trace(
    scores: Annotated[Path, typer.Argument(help="A file that `flo model predict` wrote.")],
    home: SiteFolder = SITE_FOLDER,
) -> results.TracedResult:
    """Say which model scored a file, and what this hospital approved and paid for it."""
    from flo.cli.terminal.output import console, show_sheet
    from flo.clients.home.site_home import SiteHome
    from flo.clients.prediction.trace import trace as find

    found = find(SiteHome.open(home), scores)
    show_sheet(_sections(found), console())
    record = found.record
    return results.TracedResult(
        *(record.scores, record.study, record.run, record.card, record.code),
        found.approval is not None,
        [row.sequence for row in found.rows],
    )


def _sections(found: Trace) -> list[Section]:
    from flo.privacy.report.sheet import Section

    record = found.record
    return [
        Section(
            "The scores",
            (
                ("file", f"{record.records} records, unchanged since {record.made}"),
                ("SHA-256", record.scores),
                ("code that scored", record.code),
            ),
        ),
        Section(
            "The model",
            (
                ("run", record.run),
                ("card", record.card),
                ("tensors", record.file),
                *([("finished here as", record.finished)] if record.finished else []),
                *([("flagged by rule", record.rule)] if record.rule else []),
                *(
                    (f"{one.state} since", f"{one.time[:16]}, {one.by}: {one.why}")
                    for one in found.decided
                ),
            ),
        ),
        *_approval(found),
        _ledger("Ledger of this hospital", found.rows),
        *(
            _ledger(f"Ledger, for {title}, which it learnt from", rows)
            for title, rows in found.earlier
        ),
    ]


def _approval(found: Trace) -> list[Section]:
    from flo.privacy.report.sheet import Section

    digest = found.record.study
    if found.approval is None:
        none = "none: this hospital took no part in the study"
        return [Section("The study", (("digest", digest), ("approval here", none)))]
    study, decision = found.approval.read_study(), found.approval.read_decision()
    return [
        Section(
            "The study",
            (
                ("name", f"{study.name}, version {study.version}"),
                ("purpose", study.purpose),
                ("digest", digest),
                ("hospitals", ", ".join(hospital.id for hospital in study.hospitals)),
            ),
        ),
        Section(
            "Approval of this hospital",
            (
                ("time", decision.time),
                ("population", found.approval.population),
                ("ε of the ledger", f"{found.approval.epsilon:.4f}"),
                ("code approved", decision.code or "not stated"),
                ("SHA-256", _digest(found.approval.decision)),
            ),
        ),
    ]


def _ledger(title: str, rows: Sequence[LedgerRow]) -> Section:
    """Return rows of the ledger, by kind and purpose."""
    from flo.privacy.report.sheet import Section

    by = dict[str, list[int]]()
    for row in rows:
        kind, purpose = row.public["kind"], row.public.get("purpose")
        by.setdefault(f"{kind}, {purpose}" if purpose else kind, []).append(row.sequence)
    if not by:
        return Section(title, (("rows", "none: this hospital took no part"),))
    lines = tuple((what, f"{len(found)}: rows {_ranges(found)}") for what, found in by.items())
    return Section(title, (*lines, (f"hash of row {rows[-1].sequence}", rows[-1].hash)))


def _ranges(rows: list[int]) -> str:
    """Return rising numbers in short, such as ``3-7, 9``."""
    parts = list[list[int]]()
    for row in rows:
        if parts and row == parts[-1][-1] + 1:
            parts[-1].append(row)
        else:
            parts.append([row])
    return ", ".join(f"{p[0]}-{p[-1]}" if len(p) > 1 else str(p[0]) for p in parts)


def _digest(text: str) -> str:
    from flo.documents import canonical

    return canonical.digest(text.encode())

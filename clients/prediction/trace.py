"""From a file of scores back to what made it: model, study, approval, and rows of the ledger.

``flo model predict`` writes a *record* beside the scores: their digest, that of the model's signed
card, and that of the installed code. ``flo model trace`` checks it, and finds what this hospital
has of the model's making. The record is not signed: who can change the scores and the record can
make both up. Everything that it leads to is signed.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from flo.clients.home.site_home import SiteHome
from flo.clients.prediction import versions
from flo.clients.prediction.finish import FinishedAtHome
from flo.clients.prediction.flag_rule import FlagRule
from flo.clients.records import approval
from flo.clients.records.approval import Approval
from flo.clients.records.finished_model import Name
from flo.documents import canonical
from flo.documents.document import Document, read_json
from flo.errors import RefusedError, TrustError, UsageError
from flo.host.environment import code_digest
from flo.keys.claims import Digest
from flo.privacy.ledger.rows import LedgerRow
from flo.published.model_card import PublishedModel
from flo.published.model_states import ModelDecision
from flo.storage.files import write_private
from flo.study.terms import Identifier

RECORD = ".record.json"  # ending of a record, after the whole name of the scores
_LIMIT = 1 << 16


class PredictionRecord(Document):
    """The model and the code that scored a file.

    ``scores``, ``card``, ``file`` (the tensors), ``code``: SHA-256 of each.
    ``finished``: name of the finished model that scored, if it was one. ``rule``: of the signed
    rule by which patients were flagged, if there was one.
    """

    schema_version: Literal[1] = 1
    made: Annotated[str, Field(max_length=40)]
    scores: Digest
    records: Annotated[int, Field(ge=0)]
    study: Digest
    run: Identifier
    card: Digest
    file: Digest
    finished: Name | None = None
    rule: Digest | None = None
    code: Digest


@dataclass(frozen=True)
class Trace:
    """What this hospital approved and paid for the model that scored a file.

    ``approval``: None if this hospital took no part. ``rows``: of its ledger, for the study.
    ``earlier``: (title of a study, rows) for the studies that the model learnt from before.
    ``decided``: the last decisions on the model, of the coordinator and of this hospital.
    """

    record: PredictionRecord
    approval: Approval | None
    rows: tuple[LedgerRow, ...]
    earlier: tuple[tuple[str, tuple[LedgerRow, ...]], ...]
    decided: tuple[ModelDecision, ...]


def record_path(scores: Path) -> Path:
    """Return the path of the record beside a file of scores."""
    return scores.with_name(scores.name + RECORD)


def write_record(
    model: PublishedModel | FinishedAtHome,
    out: Path,
    scores: bytes,
    n: int,
    rule: FlagRule | None,
) -> None:
    """Write the record of n records' scores beside their file ``out``."""
    finished = model.finished.name if isinstance(model, FinishedAtHome) else None
    published = model.model if isinstance(model, FinishedAtHome) else model
    record = PredictionRecord(
        made=datetime.now(UTC).isoformat(timespec="seconds"),
        scores=canonical.digest(scores),
        records=n,
        study=published.study.digest,
        run=published.card.run,
        card=published.card.digest,
        file=published.card.file,
        finished=finished,
        rule=rule.digest if rule else None,
        code=code_digest(),
    )
    write_private(record_path(out), record.to_bytes())


def trace(home: SiteHome, scores: Path) -> Trace:
    """Return what made a file of scores, from its record and this site's approval and ledger.

    Raises:
        UsageError: the scores or their record are missing. TrustError: the scores were changed
        since, or an approval or the ledger was.
    """
    path = record_path(scores)
    for wanted in (scores, path):
        if not wanted.is_file():
            raise UsageError(
                f"{wanted} is missing",
                hint="`flo model predict` writes both; keep them together",
            )
    record = read_json(PredictionRecord, path, limit=_LIMIT)
    if canonical.digest(scores.read_bytes()) != record.scores:
        raise TrustError(
            f"{scores.name} was changed since it was written on {record.made}",
            hint="predict again; a spreadsheet may have saved it in its own form",
        )
    try:
        found = approval.read(home, record.study)
    except RefusedError:
        found = None  # a model of other hospitals
    with closing(home.open_ledger()) as ledger:
        rows = [row for row in ledger.rows() if row.private is not None]
    lineage = found.read_study().lineage if found is not None else ()
    return Trace(
        record,
        found,
        _of(rows, record.study),
        tuple((one.title, _of(rows, one.study)) for one in lineage),
        versions.read(home).last_on(record.study),
    )


def _of(rows: Iterable[LedgerRow], study: str) -> tuple[LedgerRow, ...]:
    return tuple(row for row in rows if row.private and row.private.get("study") == study)

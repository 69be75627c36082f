"""The coordinator's durable state: studies, approvals, events, heads, extracts.

Modules of their own define the tables of hospitals, runs and drafts. Flower's own state is in
memory and is rebuilt from here after a restart. This module stores and reads; it does not decide.
"""

from __future__ import annotations

import functools
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from flo.documents import canonical
from flo.keys.claims import LedgerHead
from flo.server.store.drafts import DraftTables
from flo.server.store.hospitals import MemberTables
from flo.server.store.model_tables import ModelTables
from flo.server.store.run_tables import RunTables
from flo.server.store.tables import now
from flo.study.document import Study
from flo.study.loading import from_canonical

RunPlace = Literal["here", "sagemaker"]
_SELECT_OFFER = "SELECT document, signature, status, place FROM studies"


@dataclass(frozen=True)
class Offer:
    """A signed study. ``status``: offered, running, paused, done, stopped or ended.

    ``place``: where its runs are executed.
    """

    study: Study
    signature: str
    status: str
    place: RunPlace = "here"


class Store(MemberTables, RunTables, DraftTables, ModelTables):
    """All tables. Several processes may share the file. Each call is one transaction."""

    def add_study(self, study: Study, signature: str, place: RunPlace = "here") -> None:
        """Store a signed study as offered; if it is on offer already, change only its place."""
        self._write(
            "INSERT INTO studies (digest, document, signature, status, created, place)"
            " VALUES (?, ?, ?, 'offered', ?, ?) ON CONFLICT (digest) DO UPDATE SET"
            " place = excluded.place WHERE status = 'offered'",
            study.digest,
            study.canonical_bytes,
            signature,
            now(),
            place,
        )

    def offers(self) -> list[Offer]:
        """Return all studies, the oldest first."""
        return [_offer(row) for row in self._all(_SELECT_OFFER + " ORDER BY created")]

    def offer(self, digest: str) -> Offer | None:
        """Return the study with this digest; None if it does not exist."""
        row = self._one(_SELECT_OFFER + " WHERE digest = ?", digest)
        return _offer(row) if row else None

    def set_status(self, digest: str, status: str) -> None:
        """Set a study's status; the caller checks that the transition is allowed."""
        self._write("UPDATE studies SET status = ? WHERE digest = ?", status, digest)

    def add_approval(
        self, study: str, hospital: str, document: bytes, signature: str, sequence: int
    ) -> bool:
        """Store an approval. Return False unless it is newer than the hospital's last decline.

        ``sequence``: of the ledger head in the approval.
        """
        with self._transaction():
            said_no = self._db.execute(
                "SELECT 1 FROM declined WHERE study = ? AND hospital = ? AND sequence >= ?",
                (study, hospital, sequence),
            ).fetchone()
            if said_no:
                return False
            row = (study, hospital, document.decode(), signature)
            self._db.execute("INSERT OR REPLACE INTO approvals VALUES (?, ?, ?, ?)", row)
            self._db.execute("INSERT OR REPLACE INTO given VALUES (?, ?, ?, ?)", row)
        return True

    def drop_approval(self, study: str, hospital: str, sequence: int) -> None:
        """Store a refusal or withdrawal. ``sequence``: of the ledger head in it."""
        with self._transaction():
            self._db.execute(
                "DELETE FROM approvals WHERE study = ? AND hospital = ?", (study, hospital)
            )
            self._db.execute(
                "INSERT INTO declined VALUES (?, ?, ?) ON CONFLICT (study, hospital) DO UPDATE SET"
                " sequence = max(sequence, excluded.sequence)",
                (study, hospital, sequence),
            )

    def given(self, hospital: str, after: str, most: int) -> list[tuple[str, str, str]]:
        """Return a hospital's approvals: study, decision and signature, by study digest.

        Includes approvals by its earlier keys, and withdrawn ones: a hospital that restores a
        backup needs them.
        """
        return [
            (bytes(row[0]).decode(), row[1], row[2])
            for row in self._all(
                "SELECT studies.document, given.document, given.signature FROM given"
                " JOIN studies ON studies.digest = given.study"
                " WHERE hospital = ? AND study > ? ORDER BY study LIMIT ?",
                hospital,
                after,
                most,
            )
        ]

    def approvals(self, study: str) -> list[str]:
        """Return the hospitals whose approval is in force."""
        rows = self._all("SELECT hospital FROM approvals WHERE study = ? ORDER BY hospital", study)
        return [row[0] for row in rows]

    # -- events, heads, extracts -----------------------------------------------------------------

    def add_event(self, study: str | None, kind: str, **facts: object) -> None:
        """Append an event of a study, or of the coordinator (None). Public facts only."""
        self._write(
            "INSERT INTO events (study, time, kind, facts) VALUES (?, ?, ?, ?)",
            study,
            now(),
            kind,
            canonical.encode(facts).decode(),
        )

    def events(self, study: str, after: int = 0) -> list[dict[str, Any]]:
        """Return up to 1000 events of a study after number ``after``, in order."""
        rows = self._all(
            "SELECT number, time, kind, facts FROM events WHERE study = ? AND number > ?"
            " ORDER BY number LIMIT 1000",
            study,
            after,
        )
        return [_event(row) for row in rows]

    def events_after(self, number: int) -> list[tuple[int, str, str, str | None, dict[str, Any]]]:
        """Return up to 1000 events after ``number``: (number, time, kind, study, facts)."""
        rows = self._all(
            "SELECT number, time, kind, study, facts FROM events WHERE number > ?"
            " ORDER BY number LIMIT 1000",
            number,
        )
        return [(row[0], row[1], row[2], row[3], json.loads(row[4])) for row in rows]

    def count_events(self, study: str | None = None) -> Counter[str]:
        """Return the number of events of each kind: of a study, or (None) of all."""
        rows = self._all(
            "SELECT kind, count(*) FROM events WHERE ?1 IS NULL OR study = ?1 GROUP BY kind", study
        )
        return Counter(dict(rows))

    def last_event(self, study: str, kind: str) -> dict[str, Any] | None:
        """Return the facts of the latest event of a kind, if any."""
        row = self._one(
            "SELECT facts FROM events WHERE study = ? AND kind = ? ORDER BY number DESC LIMIT 1",
            study,
            kind,
        )
        return json.loads(row[0]) if row else None

    def last_time(self, study: str, kind: str) -> datetime | None:
        """Return when the latest event of a kind was; None if there was none."""
        row = self._one("SELECT max(time) FROM events WHERE study = ? AND kind = ?", study, kind)
        return datetime.fromisoformat(row[0]) if row and row[0] else None

    def latest_events(self, study: str, most: int) -> list[dict[str, Any]]:
        """Return up to ``most`` events of a study, the latest first."""
        rows = self._all(
            "SELECT number, time, kind, facts FROM events WHERE study = ?"
            " ORDER BY number DESC LIMIT ?",
            study,
            most,
        )
        return [_event(row) for row in rows]

    def last_facts(self, study: str, kind: str, *, by: str) -> dict[str, dict[str, Any]]:
        """Return the facts of the latest event of a kind for each value of the fact ``by``."""
        rows = self._all(
            "SELECT facts FROM events WHERE study = ? AND kind = ? ORDER BY number", study, kind
        )
        return {str(facts[by]): facts for facts in (json.loads(row[0]) for row in rows)}

    def last_event_number(self) -> int:
        """Return the number of the last event; 0 if there is none."""
        row = self._one("SELECT coalesce(max(number), 0) FROM events")
        return int(row[0]) if row else 0

    def keep_head(self, hospital: str, head: LedgerHead, study: str | None = None) -> None:
        """Store a head if it is higher than the stored one; the caller has checked its signature.

        ``study``: the study whose run received it, for that study's report.
        """
        shown = (hospital, head.sequence, head.hash, head.signature, head.public)
        with self._transaction():
            self._write(
                "INSERT INTO heads VALUES (?, ?, ?, ?, ?) ON CONFLICT (hospital) DO UPDATE SET"
                " sequence = excluded.sequence, hash = excluded.hash,"
                " signature = excluded.signature, public = excluded.public"
                " WHERE excluded.sequence > heads.sequence",
                *shown,
            )
            if study is not None:
                self._write(
                    "INSERT INTO study_heads VALUES (?, ?, ?, ?, ?, ?)"
                    " ON CONFLICT (study, hospital) DO UPDATE SET"
                    " sequence = excluded.sequence, hash = excluded.hash,"
                    " signature = excluded.signature, public = excluded.public"
                    " WHERE excluded.sequence > study_heads.sequence",
                    study,
                    *shown,
                )

    def heads(self) -> dict[str, LedgerHead]:
        """Return hospital -> the highest head seen of its ledger."""
        return _heads(self._all("SELECT hospital, sequence, hash, signature, public FROM heads"))

    def study_heads(self, study: str) -> dict[str, LedgerHead]:
        """Return hospital -> the highest head that its agent sent in the run of this study."""
        rows = self._all(
            "SELECT hospital, sequence, hash, signature, public FROM study_heads WHERE study = ?",
            study,
        )
        return _heads(rows)

    def add_extract(self, study: str, hospital: str, document: bytes) -> None:
        """Store a hospital's extract, replacing an earlier one; the caller has checked it."""
        self._write("INSERT OR REPLACE INTO extracts VALUES (?, ?, ?)", study, hospital, document)

    def extracts(self, study: str) -> dict[str, bytes]:
        """Return hospital -> its latest extract for this study, as received."""
        rows = self._all("SELECT hospital, document FROM extracts WHERE study = ?", study)
        return {row[0]: bytes(row[1]) for row in rows}


def _heads(rows: Sequence[tuple[Any, ...]]) -> dict[str, LedgerHead]:
    return {
        row[0]: LedgerHead(sequence=row[1], hash=row[2], signature=row[3], public=row[4])
        for row in rows
    }


def _event(row: tuple[Any, ...]) -> dict[str, Any]:
    return {"number": row[0], "time": row[1], "kind": row[2], "facts": json.loads(row[3])}


def _offer(row: tuple[Any, ...]) -> Offer:
    return Offer(_study(bytes(row[0])), row[1], row[2], row[3])


@functools.lru_cache(maxsize=512)
def _study(document: bytes) -> Study:
    """Parse a study, cached: the console's pages read all studies at each update."""
    return from_canonical(document)

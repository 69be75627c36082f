"""The coordinator's durable state: studies, approvals, events, heads, extracts.

Its members and runs, which belong to it, have files of their own.

Flower's own state lives in memory and is rebuilt from here after a restart. This module stores and
finds; it decides nothing.
"""

from __future__ import annotations

import functools
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from flo.documents import canonical
from flo.keys.claims import LedgerHead
from flo.server.store.drafts import DraftTables
from flo.server.store.hospitals import MemberTables
from flo.server.store.run_tables import RunTables
from flo.server.store.tables import now
from flo.study.document import Study, from_canonical

RunPlace = Literal["here", "sagemaker"]
_SELECT_OFFER = "SELECT document, signature, status, place FROM studies"


@dataclass(frozen=True)
class Offer:
    """A signed study and how far it is: offered, running, paused, done, stopped or ended.

    ``place``: where its runs are carried out.
    """

    study: Study
    signature: str
    status: str
    place: RunPlace = "here"


class Store(MemberTables, RunTables, DraftTables):
    """All tables together. Each call is one transaction; several processes may share the file."""

    def add_study(self, study: Study, signature: str, place: RunPlace = "here") -> None:
        """Keep a signed study as offered; offered again, only its place may change."""
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
        """All studies, the oldest first."""
        return [_offer(row) for row in self._all(_SELECT_OFFER + " ORDER BY created")]

    def offer(self, digest: str) -> Offer | None:
        """The study with this digest; None if there is none."""
        row = self._one(_SELECT_OFFER + " WHERE digest = ?", digest)
        return _offer(row) if row else None

    def set_status(self, digest: str, status: str) -> None:
        """How far the study is; the caller knows which step may follow which."""
        self._write("UPDATE studies SET status = ? WHERE digest = ?", status, digest)

    def add_approval(
        self, study: str, hospital: str, document: bytes, signature: str, sequence: int
    ) -> bool:
        """``sequence``: of the ledger head in it. False if it is no newer than a no of theirs."""
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
        """The hospital said no, or no longer, when its ledger's head was this one."""
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
        """Approvals that a hospital ever gave: study, decision and signature, by study digest.

        By whatever key it had then, and also those that it withdrew: a hospital that restores a
        backup has to know them.
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
        """Hospitals that approve, as things stand."""
        rows = self._all("SELECT hospital FROM approvals WHERE study = ? ORDER BY hospital", study)
        return [row[0] for row in rows]

    # -- events, heads, extracts -----------------------------------------------------------------

    def add_event(self, study: str | None, kind: str, **facts: object) -> None:
        """Append an event: of a study, or (None) of the coordinator. Public facts only."""
        self._write(
            "INSERT INTO events (study, time, kind, facts) VALUES (?, ?, ?, ?)",
            study,
            now(),
            kind,
            canonical.encode(facts).decode(),
        )

    def events(self, study: str, after: int = 0) -> list[dict[str, Any]]:
        """The next 1000 events of a study at most, behind number ``after``, in their order."""
        rows = self._all(
            "SELECT number, time, kind, facts FROM events WHERE study = ? AND number > ?"
            " ORDER BY number LIMIT 1000",
            study,
            after,
        )
        return [_event(row) for row in rows]

    def events_after(self, number: int) -> list[tuple[int, str, str, str | None, dict[str, Any]]]:
        """Up to 1000 events behind ``number``: (number, time, kind, study, facts)."""
        rows = self._all(
            "SELECT number, time, kind, study, facts FROM events WHERE number > ?"
            " ORDER BY number LIMIT 1000",
            number,
        )
        return [(row[0], row[1], row[2], row[3], json.loads(row[4])) for row in rows]

    def count_events(self, study: str | None = None) -> Counter[str]:
        """How many there are of each kind: of a study, or of all there is."""
        rows = self._all(
            "SELECT kind, count(*) FROM events WHERE ?1 IS NULL OR study = ?1 GROUP BY kind", study
        )
        return Counter(dict(rows))

    def last_event(self, study: str, kind: str) -> dict[str, Any] | None:
        """The facts of the latest of a kind."""
        row = self._one(
            "SELECT facts FROM events WHERE study = ? AND kind = ? ORDER BY number DESC LIMIT 1",
            study,
            kind,
        )
        return json.loads(row[0]) if row else None

    def latest_events(self, study: str, most: int) -> list[dict[str, Any]]:
        """The latest of a study's events, the latest first."""
        rows = self._all(
            "SELECT number, time, kind, facts FROM events WHERE study = ?"
            " ORDER BY number DESC LIMIT ?",
            study,
            most,
        )
        return [_event(row) for row in rows]

    def last_facts(self, study: str, kind: str, *, by: str) -> dict[str, dict[str, Any]]:
        """The facts of the latest events of a kind, by what they say under ``by``."""
        rows = self._all(
            "SELECT facts FROM events WHERE study = ? AND kind = ? ORDER BY number", study, kind
        )
        return {str(facts[by]): facts for facts in (json.loads(row[0]) for row in rows)}

    def last_event_number(self) -> int:
        """Number of the last event of all; 0 if there is none."""
        row = self._one("SELECT coalesce(max(number), 0) FROM events")
        return int(row[0]) if row else 0

    def keep_head(self, hospital: str, head: LedgerHead, study: str | None = None) -> None:
        """Keep the head if it is higher than the kept one; the caller has checked its signature.

        ``study``: in whose run it was shown, for that study's report.
        """
        shown = (hospital, head.sequence, head.hash, head.signature, head.public)
        self._write(
            "INSERT INTO heads VALUES (?, ?, ?, ?, ?) ON CONFLICT (hospital) DO UPDATE SET"
            " sequence = excluded.sequence, hash = excluded.hash, signature = excluded.signature,"
            " public = excluded.public WHERE excluded.sequence > heads.sequence",
            *shown,
        )
        if study is not None:
            self._write(
                "INSERT INTO study_heads VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (study, hospital) DO"
                " UPDATE SET sequence = excluded.sequence, hash = excluded.hash,"
                " signature = excluded.signature, public = excluded.public"
                " WHERE excluded.sequence > study_heads.sequence",
                study,
                *shown,
            )

    def heads(self) -> dict[str, LedgerHead]:
        """Hospital -> the highest head seen of its ledger."""
        return _heads(self._all("SELECT hospital, sequence, hash, signature, public FROM heads"))

    def study_heads(self, study: str) -> dict[str, LedgerHead]:
        """Hospital -> the highest head that its agent showed in the run of this study."""
        rows = self._all(
            "SELECT hospital, sequence, hash, signature, public FROM study_heads WHERE study = ?",
            study,
        )
        return _heads(rows)

    def add_extract(self, study: str, hospital: str, document: bytes) -> None:
        """Keep an extract in place of the hospital's earlier one; the caller has checked it."""
        self._write("INSERT OR REPLACE INTO extracts VALUES (?, ?, ?)", study, hospital, document)

    def extracts(self, study: str) -> dict[str, bytes]:
        """Hospital -> its latest extract for this study, as it came."""
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
    """Each is read once: pages ask for all of them again and again."""
    return from_canonical(document)

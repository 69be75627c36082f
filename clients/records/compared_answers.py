"""What versions that are compared said of the same patients, and what became of those patients.

One file for each comparison (``flo.clients.comparison``), in this hospital only, of rows as in
``answer_rows``. Sealed are an answer's id, who asked, when, which version's answer was sent, and
the risk that each version stated. The file also has the versions that were shown to be worse.
``erase`` deletes all of it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from flo.clients.home.site_home import SiteHome
from flo.clients.records.answer_rows import (
    FOLDER,
    AnswerRows,
    erase_file,
)
from flo.errors import FloError
from flo.storage.database import unusable, writing

MOST_ANSWERS = 1_000_000  # of a comparison; later ones are not kept
_TABLES = """
CREATE TABLE IF NOT EXISTS answers
    (name TEXT PRIMARY KEY, patient TEXT NOT NULL, sealed BLOB NOT NULL) STRICT;
CREATE INDEX IF NOT EXISTS of_patient ON answers (patient);
CREATE TABLE IF NOT EXISTS outcomes (name TEXT PRIMARY KEY, sealed BLOB NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS worse (study TEXT PRIMARY KEY) STRICT;
"""
_LOST = "flo model compare NAME --erase; the comparison begins anew then"


@dataclass(frozen=True)
class ComparedAnswer:
    """``patient``: keyed hash. ``caller``: who asked. ``time``, ``reported``: seconds since 1970.
    ``shown``: the version whose answer was sent. ``risks``: by version; None where it stated none.
    ``outcome``: whether the patient came to have label 1; None if that is not known, and
    ``reported`` is 0 then.
    """

    id: str
    patient: str
    caller: str
    time: float
    shown: int
    risks: Mapping[int, float | None]
    outcome: bool | None = None
    reported: float = 0.0


class ComparedAnswers(AnswerRows):
    """The rows of one comparison."""

    def __init__(self, home: SiteHome, comparison: str) -> None:
        """Open or create. ``comparison``: its id.

        Raises TrustError, UsageError: the file is damaged or cannot be used.
        """
        key, path = f"compared {comparison}", path_of(home, comparison)
        super().__init__(home, path, key, _TABLES, _LOST)

    def add(self, rows: Sequence[ComparedAnswer]) -> None:
        """Keep answers, flushed together; none beyond ``MOST_ANSWERS``."""
        kept = rows[: max(0, MOST_ANSWERS - self.count)]
        with writing(self._db):
            self._db.executemany(
                "INSERT OR IGNORE INTO answers VALUES (?, ?, ?)",
                [self._values(one) for one in kept],
            )
        self.count += len(kept)

    def rows(self, without: Iterable[str] = ()) -> Iterator[ComparedAnswer]:
        """Yield all answers with their outcomes, the earliest first.

        ``without``: keyed hashes of patients whose rows are deleted first, because they opted out.
        Raises TrustError: a row was changed.
        """
        self.forget(without)
        query = (
            "SELECT a.name, a.patient, a.sealed, o.sealed FROM answers a "
            "LEFT JOIN outcomes o ON o.name = a.name"
        )
        found = [self._row(*one) for one in self._db.execute(query)]
        yield from sorted(found, key=lambda one: one.time)

    def worse(self) -> set[str]:
        """Return the studies whose models were shown to be worse; nothing takes that back."""
        return {study for (study,) in self._db.execute("SELECT study FROM worse")}

    def call_worse(self, studies: Iterable[str]) -> None:
        """Keep that these studies' models were shown to be worse."""
        with writing(self._db):
            self._db.executemany(
                "INSERT OR IGNORE INTO worse VALUES (?)", [(one,) for one in studies]
            )

    def _values(self, row: ComparedAnswer) -> tuple[str, str, bytes]:
        name = self._name(row.id)
        facts = [row.id, row.caller, row.time, row.shown, dict(row.risks)]
        return name, row.patient, self._sealed(f"{name} {row.patient}", facts)

    def _row(self, name: str, patient: str, sealed: bytes, told: bytes | None) -> ComparedAnswer:
        id_, caller, time, shown, risks = self._opened(f"{name} {patient}", sealed)
        outcome, reported = (None, 0.0) if told is None else self._opened(f"outcome {name}", told)
        by_version = {int(version): risk for version, risk in risks.items()}
        return ComparedAnswer(id_, patient, caller, time, shown, by_version, outcome, reported)


def path_of(home: SiteHome, comparison: str) -> Path:
    """Return the path of a comparison's file."""
    return home.directory / FOLDER / f"compared-{comparison}.sqlite"


def erase(home: SiteHome, comparison: str) -> None:
    """Delete a comparison's file, with what SQLite keeps beside it."""
    erase_file(path_of(home, comparison))


def comparisons(home: SiteHome) -> list[str]:
    """Return the ids of the comparisons whose rows this site has."""
    found = (home.directory / FOLDER).glob("compared-*.sqlite")
    return sorted(path.stem.removeprefix("compared-") for path in found)


def forget_patients(home: SiteHome, patients: Sequence[str]) -> None:
    """Delete the rows of patients in every comparison, by keyed hash.

    A file that is damaged is deleted as a whole: nothing can be compared by it, and nobody can say
    whose rows it has.
    """
    for comparison in comparisons(home):
        try:
            with closing(ComparedAnswers(home, comparison)) as answers:
                answers.forget(patients)
        except (FloError, sqlite3.DatabaseError) as error:
            if isinstance(error, sqlite3.OperationalError):
                raise unusable(path_of(home, comparison), error) from error
            erase(home, comparison)

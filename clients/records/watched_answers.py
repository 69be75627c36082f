"""What monitors of a model keep: counts by day, and answers until their outcomes were counted.

One file for each version of a model that answers here (``flo.clients.watching``), in this hospital
only; its answers are rows as in ``answer_rows``. Sealed are of an answer the id, who asked, the
stated risk and the groups that the patient counts for; all counts; and the state of the monitors.
Which day an answer was given, and on which day a patient last counted, by keyed hash, are not.
"""

from __future__ import annotations

import hmac
import sqlite3
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flo.clients.home.site_home import SiteHome
from flo.clients.records.answer_rows import FOLDER, AnswerRows, erase_file
from flo.errors import FloError
from flo.storage.database import unusable, writing

MOST_ANSWERS = 1_000_000  # that wait for their outcomes; later ones are counted, and not kept
_TABLES = """
CREATE TABLE IF NOT EXISTS answers (name TEXT PRIMARY KEY, patient TEXT NOT NULL,
    sealed BLOB NOT NULL, day INTEGER NOT NULL) STRICT;
DROP INDEX IF EXISTS of_patient;  -- a page to write for each answer, for opt-outs, which are rare
CREATE INDEX IF NOT EXISTS of_day ON answers (day);
CREATE TABLE IF NOT EXISTS outcomes (name TEXT PRIMARY KEY, sealed BLOB NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS counted (patient TEXT, fits INTEGER, day INTEGER NOT NULL,
    PRIMARY KEY (patient, fits)) STRICT;
CREATE TABLE IF NOT EXISTS days (series TEXT, day INTEGER, sealed BLOB NOT NULL,
    PRIMARY KEY (series, day)) STRICT;
CREATE TABLE IF NOT EXISTS state (one INTEGER PRIMARY KEY CHECK (one = 1),
    revision INTEGER NOT NULL, sealed BLOB NOT NULL) STRICT;
"""
_LOST = "flo model watch NAME --erase; the monitors begin anew then"
_EPOCH, _SECONDS_OF_A_DAY = 719_163, 86_400  # ordinal of 1970-01-01


@dataclass(frozen=True)
class WatchedAnswer:
    """``patient``: keyed hash. ``day``: an ordinal, of UTC. ``risk``: that was stated. ``groups``:
    that the patient counts for. ``outcome``: None if it is not known; ``reported``: the day."""

    id: str
    patient: str
    caller: str
    day: int
    risk: float
    groups: tuple[str, ...]
    outcome: bool | None = None
    reported: int = 0


class WatchedAnswers(AnswerRows):
    """The file of one watched version. All that is written belongs into ``changing``."""

    OF_PATIENTS = ("answers", "counted")

    def __init__(self, home: SiteHome, watch: str) -> None:
        """Open or create. ``watch``: its id.

        Raises TrustError, UsageError: the file is damaged or cannot be used.
        """
        self._path = path_of(home, watch)
        super().__init__(home, self._path, f"watched {watch}", _TABLES, _LOST)
        self._inode = self._path.stat().st_ino
        self._counted: dict[str, dict[bool, int]] | None = None  # patient -> fits -> day

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Run a transaction; other processes wait. After an error, nothing is taken as known."""
        try:
            with writing(self._db):
                yield
        except BaseException:
            self._counted = None
            raise

    def revision(self) -> int:
        """Return how often the state was written."""
        return int(self._db.execute("SELECT coalesce(max(revision), 0) FROM state").fetchone()[0])

    def state(self) -> dict[str, Any] | None:
        """Return the monitors' state; None if there is none."""
        found = self._db.execute("SELECT sealed FROM state").fetchone()
        return None if found is None else dict(self._opened("state", found[0]))

    def write_state(self, state: dict[str, Any]) -> None:
        """Replace the monitors' state."""
        values = self.revision() + 1, self._sealed("state", state)
        self._db.execute("INSERT OR REPLACE INTO state VALUES (1, ?, ?)", values)

    def days(self) -> Iterator[tuple[str, int, list[list[int]]]]:
        """Yield series, day and counts of all days that are kept."""
        for series, day, sealed in self._db.execute("SELECT * FROM days ORDER BY day"):
            name, counts = self._opened(f"day {series} {day}", sealed)
            yield name, day, counts

    def write_day(self, name: str, day: int, counts: list[list[int]]) -> None:
        """Replace the counts of a series and day."""
        series = self._series(name)
        sealed = self._sealed(f"day {series} {day}", [name, counts])
        self._db.execute("INSERT OR REPLACE INTO days VALUES (?, ?, ?)", (series, day, sealed))

    def drop_days(self, before: int) -> None:
        """Delete the counts of earlier days."""
        self._db.execute("DELETE FROM days WHERE day < ?", (before,))

    def counted(self, patient: str, day: int) -> set[bool]:
        """Return whether the records of a patient that counted after a day could be scored."""
        if self._counted is None:  # in memory: patients come in no order, and each is looked up
            self._counted = {}
            for who, fits, last in self._db.execute("SELECT patient, fits, day FROM counted"):
                self._counted.setdefault(who, {})[bool(fits)] = last
        return {fits for fits, last in self._counted.get(patient, {}).items() if last > day}

    def count_patients(self, several: Collection[tuple[str, bool]], day: int) -> None:
        """Keep that patients counted, each with a record that could be scored or not."""
        self._db.executemany(
            "INSERT OR REPLACE INTO counted VALUES (?, ?, ?)",
            [(patient, fits, day) for patient, fits in several],
        )
        if self._counted is not None:
            for patient, fits in several:
                self._counted.setdefault(patient, {})[fits] = day

    def add(self, rows: Sequence[WatchedAnswer]) -> None:
        """Keep answers; none beyond ``MOST_ANSWERS``."""
        kept = rows[: max(0, MOST_ANSWERS - self.count)]
        values = []
        for row in kept:
            name = self._name(row.id)
            facts = [row.id, row.caller, row.risk, list(row.groups)]
            sealed = self._sealed(f"{name} {row.patient}", facts)
            values.append((name, row.patient, sealed, row.day))
        self._db.executemany("INSERT OR IGNORE INTO answers VALUES (?, ?, ?, ?)", values)
        self.count += len(kept)

    def of_day(self, day: int) -> list[WatchedAnswer]:
        """Return the answers of a day, with their outcomes.

        Raises TrustError: a row was changed.
        """
        query = (
            "SELECT a.name, a.patient, a.sealed, a.day, o.sealed FROM answers a "
            "LEFT JOIN outcomes o ON o.name = a.name WHERE a.day = ?"
        )
        return [self._row(*one) for one in self._db.execute(query, (day,))]

    def unknown(self, day: int) -> int:
        """Return of how many answers of a day the outcome is not known."""
        query = (
            "SELECT count(*) FROM answers a LEFT JOIN outcomes o ON o.name = a.name "
            "WHERE a.day = ? AND o.name IS NULL"
        )
        return int(self._db.execute(query, (day,)).fetchone()[0])

    def is_there(self) -> bool:
        """Return whether the file that is open is still that of the folder."""
        try:
            return self._path.stat().st_ino == self._inode
        except FileNotFoundError:
            return False

    def drop(self, before: int, counted: int) -> None:
        """Delete answers of earlier days, whose outcomes were counted; and who last counted before
        the day ``counted``."""
        self._db.execute(
            "DELETE FROM outcomes WHERE name IN (SELECT name FROM answers WHERE day < ?)", (before,)
        )
        self.count -= self._db.execute("DELETE FROM answers WHERE day < ?", (before,)).rowcount
        if self._db.execute("DELETE FROM counted WHERE day < ?", (counted,)).rowcount:
            self._counted = None

    def _series(self, name: str) -> str:
        return hmac.digest(self._key, f"series {name}".encode(), "sha256").hex()

    def _row(
        self, name: str, patient: str, sealed: bytes, day: int, told: bytes | None
    ) -> WatchedAnswer:
        id_, caller, risk, groups = self._opened(f"{name} {patient}", sealed)
        outcome, reported = None, 0
        if told is not None:
            outcome, seconds = self._opened(f"outcome {name}", told)
            reported = day_of(seconds)
        return WatchedAnswer(id_, patient, caller, day, risk, tuple(groups), outcome, reported)


def day_of(seconds: float) -> int:
    """Return the day (an ordinal, of UTC) of a time in seconds since 1970."""
    return _EPOCH + int(seconds // _SECONDS_OF_A_DAY)


def path_of(home: SiteHome, watch: str) -> Path:
    """Return the path of a watch's file."""
    return home.directory / FOLDER / f"watch-{watch}.sqlite"


def watches(home: SiteHome) -> list[str]:
    """Return the ids of the watches of this site."""
    found = (home.directory / FOLDER).glob("watch-*.sqlite")
    return sorted(path.stem.removeprefix("watch-") for path in found)


def erase(home: SiteHome, watch: str) -> None:
    """Delete a watch's file."""
    erase_file(path_of(home, watch))


def forget_watched(home: SiteHome, patients: Sequence[str]) -> None:
    """Delete the rows of patients in every watch, by keyed hash.

    A file that is damaged is deleted as a whole, as of comparisons.
    """
    for watch in watches(home):
        try:
            with closing(WatchedAnswers(home, watch)) as answers:
                answers.forget(patients)
        except (FloError, sqlite3.DatabaseError) as error:
            if isinstance(error, sqlite3.OperationalError):
                raise unusable(path_of(home, watch), error) from error
            erase(home, watch)

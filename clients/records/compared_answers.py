"""What versions that are compared said of the same patients, and what became of those patients.

One file for each comparison (``flo.clients.comparison``), in this hospital only. A row is named by
a keyed hash of an answer's id, and has the keyed hash of the patient. Sealed with a key of the site
are the id, who asked, when, which version's answer was sent, and the risk that each version stated;
so is an outcome. The file also has the versions that were shown to be worse. An opt-out deletes the
patient's rows; ``erase`` deletes all of them.
"""

from __future__ import annotations

import hmac
import json
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from flo.clients.home.site_home import SiteHome
from flo.errors import FloError, TrustError
from flo.storage.database import open_database, unusable, writing
from flo.storage.files import make_private_directory

FOLDER = "answers"
MOST_ANSWERS = 1_000_000  # of a comparison; later ones are not kept
_TABLES = """
CREATE TABLE IF NOT EXISTS answers
    (name TEXT PRIMARY KEY, patient TEXT NOT NULL, sealed BLOB NOT NULL) STRICT;
CREATE INDEX IF NOT EXISTS of_patient ON answers (patient);
CREATE TABLE IF NOT EXISTS outcomes (name TEXT PRIMARY KEY, sealed BLOB NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS worse (study TEXT PRIMARY KEY) STRICT;
"""
_NONCE, _AT_ONCE = 12, 1000


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


@dataclass(frozen=True)
class Reported:
    """How many outcomes were ``new``, how many agreed with what is known, and the ids of those that
    contradict it, and of answers that no comparison has."""

    new: int
    known: int
    contradicting: tuple[str, ...]
    elsewhere: tuple[str, ...]


class ComparedAnswers:
    """The rows of one comparison: for one thread at a time, and several processes."""

    def __init__(self, home: SiteHome, comparison: str) -> None:
        """Open or create. ``comparison``: its id.

        Raises TrustError, UsageError: the file is damaged or cannot be used.
        """
        make_private_directory(home.directory / FOLDER)
        key = hmac.digest(home.open_patients_key(), f"compared {comparison}".encode(), "sha256")
        self._cipher, self._key = AESGCM(key), hmac.digest(key, b"names", "sha256")
        path = path_of(home, comparison)
        self._db = open_database(path, _TABLES, schema=1, what="compared answers")
        try:
            self._db.execute("PRAGMA secure_delete = ON")
            (self.count,) = self._db.execute("SELECT count(*) FROM answers").fetchone()
        except sqlite3.Error as error:
            self._db.close()
            raise unusable(path, error) from error

    def add(self, rows: Sequence[ComparedAnswer]) -> None:
        """Keep answers, flushed together; none beyond ``MOST_ANSWERS``."""
        kept = rows[: max(0, MOST_ANSWERS - self.count)]
        with writing(self._db):
            self._db.executemany(
                "INSERT OR IGNORE INTO answers VALUES (?, ?, ?)",
                [self._values(one) for one in kept],
            )
        self.count += len(kept)

    def report(
        self, outcomes: Mapping[str, bool], now: float, caller: str | None = None
    ) -> Reported:
        """Keep what became of patients, by the ids of answers. What was reported first stays.

        ``caller``: who reports, and may report on what they asked only; None: the hospital itself.
        """
        new, known, contradicting, elsewhere = 0, 0, list[str](), list[str]()
        several = iter(outcomes.items())
        while part := list(islice(several, _AT_ONCE)):
            with writing(self._db):
                for id_, outcome in part:
                    name = self._name(id_)
                    if not self._is_of(name, caller):
                        elsewhere.append(id_)
                        continue
                    before = self._outcome(name)
                    if before is None:
                        sealed = self._sealed(f"outcome {name}", [outcome, now])
                        self._db.execute("INSERT INTO outcomes VALUES (?, ?)", (name, sealed))
                        new += 1
                    elif before == outcome:
                        known += 1
                    else:
                        contradicting.append(id_)
        return Reported(new, known, tuple(contradicting), tuple(elsewhere))

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

    def forget(self, patients: Iterable[str]) -> None:
        """Delete all rows of patients, by keyed hash, also from SQLite's own log."""
        several = [(one,) for one in patients]
        if not several:
            return
        with writing(self._db):
            self._db.executemany(
                "DELETE FROM outcomes WHERE name IN (SELECT name FROM answers WHERE patient = ?)",
                several,
            )
            gone = self._db.executemany("DELETE FROM answers WHERE patient = ?", several).rowcount
        if gone:
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def worse(self) -> set[str]:
        """Return the studies whose models were shown to be worse; nothing takes that back."""
        return {study for (study,) in self._db.execute("SELECT study FROM worse")}

    def call_worse(self, studies: Iterable[str]) -> None:
        """Keep that these studies' models were shown to be worse."""
        with writing(self._db):
            self._db.executemany(
                "INSERT OR IGNORE INTO worse VALUES (?)", [(one,) for one in studies]
            )

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def _name(self, id_: str) -> str:
        return hmac.digest(self._key, id_.encode(), "sha256").hex()

    def _values(self, row: ComparedAnswer) -> tuple[str, str, bytes]:
        name = self._name(row.id)
        facts = [row.id, row.caller, row.time, row.shown, dict(row.risks)]
        return name, row.patient, self._sealed(f"{name} {row.patient}", facts)

    def _is_of(self, name: str, caller: str | None) -> bool:
        query = self._db.execute("SELECT patient, sealed FROM answers WHERE name = ?", (name,))
        found = query.fetchone()
        if found is None or caller is None:
            return found is not None
        return bool(self._opened(f"{name} {found[0]}", found[1])[1] == caller)

    def _outcome(self, name: str) -> bool | None:
        query = self._db.execute("SELECT sealed FROM outcomes WHERE name = ?", (name,))
        found = query.fetchone()
        return None if found is None else bool(self._opened(f"outcome {name}", found[0])[0])

    def _row(self, name: str, patient: str, sealed: bytes, told: bytes | None) -> ComparedAnswer:
        id_, caller, time, shown, risks = self._opened(f"{name} {patient}", sealed)
        outcome, reported = (None, 0.0) if told is None else self._opened(f"outcome {name}", told)
        by_version = {int(version): risk for version, risk in risks.items()}
        return ComparedAnswer(id_, patient, caller, time, shown, by_version, outcome, reported)

    def _sealed(self, about: str, facts: Any) -> bytes:
        nonce = os.urandom(_NONCE)
        return nonce + self._cipher.encrypt(nonce, json.dumps(facts).encode(), about.encode())

    def _opened(self, about: str, sealed: bytes) -> Any:
        try:
            opened = self._cipher.decrypt(sealed[:_NONCE], sealed[_NONCE:], about.encode())
        except (InvalidTag, ValueError) as error:
            raise TrustError(
                "a row of a comparison was changed, or is of another site",
                hint="flo model compare NAME --erase; the comparison begins anew then",
            ) from error
        return json.loads(opened)


def path_of(home: SiteHome, comparison: str) -> Path:
    """Return the path of a comparison's file."""
    return home.directory / FOLDER / f"compared-{comparison}.sqlite"


def erase(home: SiteHome, comparison: str) -> None:
    """Delete a comparison's file, with what SQLite keeps beside it."""
    path = path_of(home, comparison)
    for end in ("", "-wal", "-shm"):
        path.with_name(path.name + end).unlink(missing_ok=True)


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


def report(
    home: SiteHome,
    several: Iterable[str],
    outcomes: Mapping[str, bool],
    now: float,
    caller: str | None = None,
) -> Reported:
    """Keep what became of patients, in each of ``several`` comparisons that has their answers.

    ``caller``: as ``ComparedAnswers.report``. Raises TrustError, UsageError: a file cannot be used.
    """
    new, known, contradicting, rest = 0, 0, list[str](), dict(outcomes)
    for comparison in several:
        if not path_of(home, comparison).exists():  # erased
            continue
        with closing(ComparedAnswers(home, comparison)) as answers:
            try:
                found = answers.report(rest, now, caller)
            except sqlite3.Error as error:
                raise unusable(path_of(home, comparison), error) from error
        new, known = new + found.new, known + found.known
        contradicting += found.contradicting
        rest = {id_: rest[id_] for id_ in found.elsewhere}
    return Reported(new, known, tuple(contradicting), tuple(rest))

"""What versions that are compared said of the same patients, and what became of those patients.

One file for each comparison (``flo.clients.comparison``), in this hospital only. A row has the id
of an answer, the keyed hash of the patient, and, sealed with a key of the site: when, which
version's answer was sent, and the risk that each version stated. An outcome is sealed in the same
way. An opt-out deletes the patient's rows; ``erase`` deletes all of them.
"""

from __future__ import annotations

import hmac
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from flo.clients.home.site_home import SiteHome
from flo.errors import TrustError
from flo.storage.database import open_database, writing
from flo.storage.files import make_private_directory

FOLDER = "answers"
MOST_ANSWERS = 1_000_000  # of a comparison; later ones are not kept
_TABLES = """
CREATE TABLE IF NOT EXISTS answers
    (id TEXT PRIMARY KEY, patient TEXT NOT NULL, sealed BLOB NOT NULL) STRICT;
CREATE INDEX IF NOT EXISTS of_patient ON answers (patient);
CREATE TABLE IF NOT EXISTS outcomes (id TEXT PRIMARY KEY, sealed BLOB NOT NULL) STRICT;
"""
_NONCE = 12


@dataclass(frozen=True)
class ComparedAnswer:
    """``patient``: keyed hash. ``time``, ``reported``: seconds since 1970. ``shown``: the version
    whose answer was sent. ``risks``: by version; None where it stated none. ``outcome``: whether
    the patient came to have label 1; None if that is not known, and ``reported`` is 0 then.
    """

    id: str
    patient: str
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
    """The rows of one comparison. Threads and processes may use it at the same time."""

    def __init__(self, home: SiteHome, comparison: str) -> None:
        """Open or create. ``comparison``: its id. Raises TrustError: the file is damaged."""
        make_private_directory(home.directory / FOLDER)
        key = hmac.digest(home.open_patients_key(), f"compared {comparison}".encode(), "sha256")
        self._cipher = AESGCM(key)
        path = path_of(home, comparison)
        self._db = open_database(path, _TABLES, schema=1, what="compared answers")
        self._db.execute("PRAGMA secure_delete = ON")
        (self._count,) = self._db.execute("SELECT count(*) FROM answers").fetchone()

    def add(self, rows: Sequence[ComparedAnswer]) -> None:
        """Keep answers, flushed together; none beyond ``MOST_ANSWERS``."""
        kept = rows[: max(0, MOST_ANSWERS - self._count)]
        with writing(self._db):
            self._db.executemany(
                "INSERT OR IGNORE INTO answers VALUES (?, ?, ?)",
                [(one.id, one.patient, self._sealed(_about(one), _facts(one))) for one in kept],
            )
        self._count += len(kept)

    def report(self, outcomes: Mapping[str, bool], now: float) -> Reported:
        """Keep what became of patients, by the ids of answers. What was reported first stays."""
        new, known, contradicting, elsewhere = 0, 0, list[str](), list[str]()
        with writing(self._db):
            for id_, outcome in outcomes.items():
                before = self._outcome(id_)
                if before is not None:
                    known += before == outcome
                    contradicting += [] if before == outcome else [id_]
                elif self._has(id_):
                    sealed = self._sealed(f"outcome {id_}", [outcome, now])
                    self._db.execute("INSERT INTO outcomes VALUES (?, ?)", (id_, sealed))
                    new += 1
                else:
                    elsewhere.append(id_)
        return Reported(new, known, tuple(contradicting), tuple(elsewhere))

    def rows(self, without: Iterable[str] = ()) -> Iterator[ComparedAnswer]:
        """Yield all answers with their outcomes, the earliest first.

        ``without``: keyed hashes of patients whose rows are deleted first, because they opted out.
        Raises TrustError: a row was changed.
        """
        self.forget(without)
        query = (
            "SELECT a.id, a.patient, a.sealed, o.sealed FROM answers a "
            "LEFT JOIN outcomes o ON o.id = a.id"
        )
        yield from sorted(
            (self._row(*found) for found in self._db.execute(query)), key=lambda one: one.time
        )

    def forget(self, patients: Iterable[str]) -> None:
        """Delete all rows of patients, by keyed hash."""
        several = [(one,) for one in patients]
        if not several:
            return
        with writing(self._db):
            self._db.executemany(
                "DELETE FROM outcomes WHERE id IN (SELECT id FROM answers WHERE patient = ?)",
                several,
            )
            self._db.executemany("DELETE FROM answers WHERE patient = ?", several)

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def _outcome(self, id_: str) -> bool | None:
        query = self._db.execute("SELECT sealed FROM outcomes WHERE id = ?", (id_,))
        found = query.fetchone()
        return None if found is None else bool(self._opened(f"outcome {id_}", found[0])[0])

    def _has(self, id_: str) -> bool:
        found = self._db.execute("SELECT 1 FROM answers WHERE id = ?", (id_,))
        return found.fetchone() is not None

    def _row(self, id_: str, patient: str, sealed: bytes, told: bytes | None) -> ComparedAnswer:
        time, shown, risks = self._opened(f"{id_} {patient}", sealed)
        outcome, reported = (None, 0.0) if told is None else self._opened(f"outcome {id_}", told)
        by_version = {int(version): risk for version, risk in risks.items()}
        return ComparedAnswer(id_, patient, time, shown, by_version, outcome, reported)

    def _sealed(self, about: str, facts: Any) -> bytes:
        nonce = os.urandom(_NONCE)
        return nonce + self._cipher.encrypt(nonce, json.dumps(facts).encode(), about.encode())

    def _opened(self, about: str, sealed: bytes) -> Any:
        try:
            opened = self._cipher.decrypt(sealed[:_NONCE], sealed[_NONCE:], about.encode())
        except InvalidTag as error:
            raise TrustError(
                "a row of a comparison was changed, or is of another site",
                hint="flo model compare NAME --erase; the comparison begins anew then",
            ) from error
        return json.loads(opened)


def _about(row: ComparedAnswer) -> str:
    return f"{row.id} {row.patient}"


def _facts(row: ComparedAnswer) -> list[Any]:
    return [row.time, row.shown, dict(row.risks)]


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
    """Delete the rows of patients in every comparison, by keyed hash."""
    for comparison in comparisons(home):
        with closing(ComparedAnswers(home, comparison)) as answers:
            answers.forget(patients)


def report(home: SiteHome, outcomes: Mapping[str, bool], now: float) -> Reported:
    """Keep what became of patients, in every comparison that has their answers."""
    new, known, contradicting, rest = 0, 0, list[str](), dict(outcomes)
    for comparison in comparisons(home):
        with closing(ComparedAnswers(home, comparison)) as answers:
            found = answers.report(rest, now)
        new, known = new + found.new, known + found.known
        contradicting += found.contradicting
        rest = {id_: rest[id_] for id_ in found.elsewhere}
    return Reported(new, known, tuple(contradicting), tuple(rest))

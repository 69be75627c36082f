"""A file of answers whose outcomes are waited for: a base of ``compared_answers`` and
``watched_answers``.

A row is named by a keyed hash of an answer's id, and has the keyed hash of the patient. All else is
sealed with a key of the site, and so is an outcome. An opt-out deletes the patient's rows.
"""

from __future__ import annotations

import hmac
import json
import os
import sqlite3
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, Literal

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from flo.clients.home.site_home import SiteHome
from flo.errors import TrustError
from flo.storage.database import open_database, unusable, writing
from flo.storage.files import make_private_directory

FOLDER = "answers"
_NONCE, _AT_ONCE = 12, 1000
_CACHE_KIB, _PAGES = 64_000, 8000  # of SQLite; pages of 4 KiB
_JSON = json.JSONEncoder(check_circular=False)
# Whether an outcome is kept now, was known, contradicts what was reported before, or is about an
# answer that is not here.
Fate = Literal["new", "known", "contradicting", "elsewhere"]
_ORDER: tuple[Fate, ...] = ("contradicting", "new", "known", "elsewhere")


@dataclass(frozen=True)
class Reported:
    """How many outcomes were ``new``, how many agreed with what is known, and the ids of those that
    contradict it, and of answers of which nothing is kept."""

    new: int
    known: int
    contradicting: tuple[str, ...]
    elsewhere: tuple[str, ...]

    @classmethod
    def of(cls, fates: Mapping[str, Fate]) -> Reported:
        """Count what became of each outcome, by the answer's id."""
        by_fate = {fate: tuple(i for i, one in fates.items() if one == fate) for fate in _ORDER}
        return cls(
            len(by_fate["new"]),
            len(by_fate["known"]),
            by_fate["contradicting"],
            by_fate["elsewhere"],
        )


class AnswerRows:
    """For one thread at a time, and several processes.

    ``tables``: has ``answers`` (name, patient, sealed) and ``outcomes`` (name, sealed), and may
    have more; ``OF_PATIENTS``: those with rows of patients. ``key``: words from which the key of
    the file follows. ``lost``: what to do if a row was changed.
    """

    OF_PATIENTS: ClassVar[tuple[str, ...]] = ("answers",)

    def __init__(self, home: SiteHome, path: Path, key: str, tables: str, lost: str) -> None:
        """Open or create. Raises TrustError, UsageError: the file is damaged or cannot be used."""
        make_private_directory(path.parent)
        secret = hmac.digest(home.open_patients_key(), key.encode(), "sha256")
        self._cipher, self._key = AESGCM(secret), hmac.digest(secret, b"names", "sha256")
        self._lost = lost
        self._db = open_database(path, tables, schema=1, what="answers")
        try:
            self._db.execute("PRAGMA secure_delete = ON")
            # Names and patients are in the order of their hashes, so a batch writes to pages all
            # over the file: they are kept in memory, and copied from the log seldom.
            self._db.execute(f"PRAGMA cache_size = {-_CACHE_KIB}")
            self._db.execute(f"PRAGMA wal_autocheckpoint = {_PAGES}")
            (self.count,) = self._db.execute("SELECT count(*) FROM answers").fetchone()
        except sqlite3.Error as error:
            self._db.close()
            raise unusable(path, error) from error

    def report(
        self, outcomes: Mapping[str, bool], now: float, caller: str | None = None
    ) -> dict[str, Fate]:
        """Keep what became of patients, by the ids of answers; return what became of each report.

        What was reported first stays. ``caller``: who reports, and may report on what they asked
        only; None: the hospital itself. ``now``: seconds since 1970.
        """
        fates, several = dict[str, Fate](), iter(outcomes.items())
        while part := list(islice(several, _AT_ONCE)):
            with writing(self._db):
                for id_, outcome in part:
                    fates[id_] = self._keep(self._name(id_), outcome, now, caller)
        return fates

    def _keep(self, name: str, outcome: bool, now: float, caller: str | None) -> Fate:
        if not self._is_of(name, caller):
            return "elsewhere"
        before = self._outcome(name)
        if before is not None:
            return "known" if before[0] == outcome else "contradicting"
        sealed = self._sealed(f"outcome {name}", [outcome, now])
        self._db.execute("INSERT INTO outcomes VALUES (?, ?)", (name, sealed))
        return "new"

    def forget(self, patients: Iterable[str]) -> None:
        """Delete all rows of patients, by keyed hash, also from SQLite's own log."""
        several = [(one,) for one in patients]
        if not several:
            return
        with writing(self._db):
            self._db.execute("CREATE TEMP TABLE gone (patient TEXT PRIMARY KEY) STRICT")
            self._db.executemany("INSERT OR IGNORE INTO gone VALUES (?)", several)
            self._db.execute(
                "DELETE FROM outcomes WHERE name IN"
                " (SELECT name FROM answers WHERE patient IN (SELECT patient FROM gone))"
            )
            ours = "WHERE patient IN (SELECT patient FROM gone)"
            gone = sum(
                self._db.execute(f"DELETE FROM {table} {ours}").rowcount  # noqa: S608 - our words
                for table in self.OF_PATIENTS
            )
            self._db.execute("DROP TABLE gone")
        if gone:
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def _name(self, id_: str) -> str:
        return hmac.digest(self._key, id_.encode(), "sha256").hex()

    def _is_of(self, name: str, caller: str | None) -> bool:
        query = self._db.execute("SELECT patient, sealed FROM answers WHERE name = ?", (name,))
        found = query.fetchone()
        if found is None or caller is None:
            return found is not None
        return bool(self._opened(f"{name} {found[0]}", found[1])[1] == caller)

    def _outcome(self, name: str) -> list[Any] | None:
        """Return outcome and time of an answer; None if it is not known."""
        query = self._db.execute("SELECT sealed FROM outcomes WHERE name = ?", (name,))
        found = query.fetchone()
        return None if found is None else self._opened(f"outcome {name}", found[0])

    def _sealed(self, about: str, facts: Any) -> bytes:
        nonce = os.urandom(_NONCE)
        return nonce + self._cipher.encrypt(nonce, _JSON.encode(facts).encode(), about.encode())

    def _opened(self, about: str, sealed: bytes) -> Any:
        try:
            opened = self._cipher.decrypt(sealed[:_NONCE], sealed[_NONCE:], about.encode())
        except (InvalidTag, ValueError) as error:
            raise TrustError(
                "a row of kept answers was changed, or is of another site", hint=self._lost
            ) from error
        return json.loads(opened)


def erase_file(path: Path) -> None:
    """Delete a file of answers, with what SQLite keeps beside it."""
    for end in ("", "-wal", "-shm"):
        path.with_name(path.name + end).unlink(missing_ok=True)


def merged(several: Iterable[Mapping[str, Fate]]) -> dict[str, Fate]:
    """Return what became of outcomes that were reported to several files."""
    found = dict[str, Fate]()
    for fates in several:
        for id_, fate in fates.items():
            found[id_] = min(found.get(id_, fate), fate, key=_ORDER.index)
    return found


def report_to(rows: AnswerRows, path: Path, *given: Any) -> dict[str, Fate]:
    """As ``AnswerRows.report``, and close it. Raises TrustError, UsageError: it cannot be used."""
    with closing(rows):
        try:
            return rows.report(*given)
        except sqlite3.Error as error:
            raise unusable(path, error) from error

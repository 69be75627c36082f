"""Entries of an audit log: append-only, hash-chained, signed, in SQLite.

``flo.audit.log`` adds what other parties see of the log and sign.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from flo.audit.chain import ZERO_HASH, Entry, LogHead, chained
from flo.documents import canonical
from flo.errors import MessageError, TrustError
from flo.keys.claims import row_statement
from flo.keys.identity import Signer, fingerprint
from flo.storage.database import open_database, writing

_LONGEST_FACTS = 16_384
_TABLES = """
CREATE TABLE IF NOT EXISTS entries (
  number INTEGER PRIMARY KEY, time TEXT NOT NULL, kind TEXT NOT NULL, study TEXT,
  facts TEXT NOT NULL, salt TEXT NOT NULL, source INTEGER UNIQUE, hash TEXT NOT NULL,
  signature TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS witnessed (
  signer TEXT PRIMARY KEY, number INTEGER NOT NULL, head TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS receipts (
  signer TEXT PRIMARY KEY, number INTEGER NOT NULL, receipt TEXT NOT NULL) STRICT;
CREATE INDEX IF NOT EXISTS by_kind ON entries (kind, number);
"""
_COLUMNS = ("number", "time", "kind", "study", "facts", "salt", "hash", "signature")
_ENTRY = f"SELECT {', '.join(_COLUMNS)} FROM entries"  # noqa: S608 - our own names


def require_file(path: Path) -> None:
    """Check that the log exists: it is the only record of the current policy and of opt-outs.

    Raises:
        TrustError: it is missing.
    """
    if not path.exists():
        raise TrustError(
            f"the audit log {path} is missing; only it shows the current policy and opt-outs",
            hint="restore it from the newest backup",
        )


def _file_at(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_dev, found.st_ino


class AuditEntries:
    """One party's entries, flushed on every commit. Several processes may share the file."""

    def __init__(
        self,
        path: Path,
        identity: Signer,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """Open or create. Raises TrustError if the last entry is not signed by ``identity``."""
        self._identity, self._clock, self._lock = identity, clock, threading.RLock()
        self._db = open_database(path, _TABLES, schema=1, what="audit log")
        self._path, self._file = path, _file_at(path)
        self._db.execute("INSERT OR IGNORE INTO meta VALUES ('owner', ?)", (identity.public.hex(),))
        last = self._one("SELECT kind, number, hash, signature FROM entries ORDER BY number DESC")
        follows = last and last[0] == "key-replaced" and self.owner == identity.public.hex()
        if last and not follows:
            head = LogHead(
                number=last[1], hash=last[2], signature=last[3], public=identity.public.hex()
            )
            head.check(identity.fingerprint)

    def require_same_file(self) -> None:
        """Check that the open file is still the one at its path. Raises TrustError if not."""
        require_file(self._path)
        if _file_at(self._path) != self._file:
            raise TrustError(
                f"the audit log {self._path} was replaced by another file while it was open",
                hint="stop FLO on this folder, find out who replaced the file, and start again",
            )

    def close(self) -> None:
        """Close this connection; appended entries are on disk already."""
        self._db.close()

    @property
    def owner(self) -> str:
        """Public key (DER, hexadecimal) that must sign the next entry."""
        found = self._one("SELECT value FROM meta WHERE name = 'owner'")
        return str(found[0]) if found else ""

    # -- entries ---------------------------------------------------------------------------------

    def append(self, kind: str, study: str | None = None, **facts: Any) -> None:
        """Sign one entry and flush it to disk."""
        with self._writing():
            self._insert(self._now(), kind, study, facts, None)

    def append_from(self, outbox: list[tuple[int, str, str, str | None, dict[str, Any]]]) -> None:
        """Append outbox entries (source number, time, kind, study, facts), each at most once."""
        with self._writing():
            (last,) = self._db.execute("SELECT coalesce(max(source), 0) FROM entries").fetchone()
            for source, time, kind, study, facts in outbox:
                if source > last:
                    self._insert(time, kind, study, facts, source)

    def last_source(self) -> int:
        """Return the source number of the latest entry from an outbox; 0 if there is none."""
        found = self._one("SELECT coalesce(max(source), 0) FROM entries")
        return int(found[0]) if found else 0

    def entries(self) -> Iterator[Entry]:
        """Return all entries, in order."""
        with self._lock:
            rows = self._db.execute(_ENTRY + " ORDER BY number").fetchall()
        return map(_entry, rows)

    def last(self, kind: str) -> Entry | None:
        """Return the latest entry of a kind."""
        row = self._one(_ENTRY + " WHERE kind = ? ORDER BY number DESC LIMIT 1", kind)
        return _entry(row) if row else None

    def latest(
        self, most: int, *, study: str | None = None, kind: str | None = None
    ) -> tuple[list[Entry], int]:
        """Return the latest ``most`` entries, newest first, and the number of all entries.

        ``study``: only studies whose digest starts with this; ``kind``: only this kind.
        """
        chosen = (
            "WHERE (?1 IS NULL OR substr(study, 1, length(?1)) = ?1) AND kind = ifnull(?2, kind)"
        )
        with self._lock:
            rows = self._db.execute(
                f"{_ENTRY} {chosen} ORDER BY number DESC LIMIT ?3", (study, kind, most)
            ).fetchall()
            (count,) = self._db.execute("SELECT count(*) FROM entries").fetchone()
        return list(map(_entry, rows)), int(count)

    # -- inside ----------------------------------------------------------------------------------

    def _after(self, number: int, most: int) -> list[Entry]:
        """Return up to ``most`` entries after entry ``number``, in order."""
        with self._lock:
            rows = self._db.execute(
                _ENTRY + " WHERE number > ? ORDER BY number LIMIT ?", (number, most)
            ).fetchall()
        return list(map(_entry, rows))

    def _insert(
        self, time: str, kind: str, study: str | None, facts: dict[str, Any], source: int | None
    ) -> None:
        if self.owner != self._identity.public.hex():
            raise TrustError(
                "this audit log has a newer key, and this key can no longer add entries",
                hint="if flo coordinator replace-key was interrupted, run it again",
            )
        text = canonical.encode(facts).decode()
        if len(text) > _LONGEST_FACTS:  # such as a report of many hospitals: log its digest
            facts = {"digest": canonical.digest(text.encode()), "bytes": len(text)}
            text = canonical.encode(facts).decode()
        row = self._one("SELECT number, hash FROM entries ORDER BY number DESC LIMIT 1")
        number, previous = (row[0] + 1, row[1]) if row else (1, ZERO_HASH)
        entry = Entry(
            number=number,
            time=time,
            kind=kind,
            study=study,
            facts=facts,
            salt=secrets.token_hex(16),
            hash=ZERO_HASH,
            signature="0",
        )
        hash_ = chained(previous, entry.digest)
        signature = self._identity.sign("audit-entry", row_statement(number, hash_))
        self._db.execute(
            "INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (number, time, kind, study, text, entry.salt, source, hash_, signature),
        )
        if kind == "key-replaced":
            self._db.execute("UPDATE meta SET value = ? WHERE name = 'owner'", (facts["new"],))

    def _own(self) -> set[str]:
        """Return the fingerprints of the keys that signed this log's entries."""
        with self._lock:
            rows = self._db.execute(
                "SELECT facts FROM entries WHERE kind = 'key-replaced'"
            ).fetchall()
        earlier = {fingerprint(bytes.fromhex(parsed(text)["old"])) for (text,) in rows}
        return {self._identity.fingerprint, *earlier}

    def _signer_of(self, number: int) -> str:
        """Return the key that signed an entry.

        It is the ``old`` key of the first replacement at or after the entry, else the current key.
        """
        row = self._one(
            "SELECT facts FROM entries WHERE kind = 'key-replaced' AND number >= ?"
            " ORDER BY number LIMIT 1",
            number,
        )
        return str(parsed(row[0])["old"]) if row else self._identity.public.hex()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        with self._lock, writing(self._db):
            yield

    def _one(self, statement: str, *values: object) -> tuple[Any, ...] | None:
        with self._lock:
            found: tuple[Any, ...] | None = self._db.execute(statement, values).fetchone()
            return found

    def _now(self) -> str:
        return self._clock().isoformat(timespec="milliseconds")


def _entry(row: tuple[Any, ...]) -> Entry:
    stored = dict(zip(_COLUMNS, row, strict=True))
    try:
        return Entry.model_validate(stored | {"facts": parsed(stored["facts"])})
    except (ValidationError, MessageError) as error:
        raise TrustError(f"this log: entry {stored['number']} was edited") from error


def parsed(text: str) -> Any:
    """Return the content of a stored JSON text. Raises MessageError if it is damaged."""
    return canonical.decode(text.encode(), limit=1 << 20, what="audit log")

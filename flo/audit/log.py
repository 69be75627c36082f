"""The audit log of a coordinator or site: append-only, hash-chained, signed.

An entry states the time, the kind of event, the study, and public facts about it. There is an entry
for every enrolment, token, decision, message, refusal, use of a key and change of a budget. Entries
contain no patient data and no secret; callers log codes, digests, counts and names of hospitals and
people. ``flo.audit.chain`` defines the chain and how other parties check it.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from flo.audit.chain import (
    MOST_DIGESTS,
    ZERO_HASH,
    Entry,
    Export,
    LogExtension,
    LogHead,
    Receipt,
    chained,
    check_entry,
)
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


def existing(path: Path, identity: Signer) -> AuditLog:
    """Open the existing log of a folder. Raises TrustError if it is missing."""
    require_file(path)
    return AuditLog(path, identity)


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


class AuditLog:
    """One party's log in SQLite, flushed on every commit. Several processes may share it."""

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

    def checked(self, number: int, hash_: str, *, most: int) -> tuple[int, str]:
        """Check up to ``most`` entries after entry ``number``, whose hash was ``hash_``.

        Returns number and hash of the last checked entry. Raises TrustError at an invalid one.
        """
        with self._lock:
            if number and self._one("SELECT hash FROM entries WHERE number = ?", number) != (
                hash_,
            ):
                raise TrustError(f"this log: entry {number}, checked before, was edited or removed")
            rows = self._db.execute(
                _ENTRY + " WHERE number > ? ORDER BY number LIMIT ?", (number, most)
            ).fetchall()
            (last,) = self._db.execute("SELECT coalesce(max(number), 0) FROM entries").fetchone()
            seen = max((receipt.number for receipt in self.receipts()), default=0)
        if seen > last:
            raise TrustError(
                f"this log: truncated, it ends at entry {last} but entry {seen} was countersigned"
            )
        for entry in map(_entry, rows):
            check_entry(entry, "this log", number + 1, hash_, self._signer_of(number + 1))
            number, hash_ = entry.number, entry.hash
        return number, hash_

    # -- the other side --------------------------------------------------------------------------

    def last_seen(self, signers: Collection[str]) -> int:
        """Return the last entry that was seen of the logs of these keys; 0 if none."""
        return max((h.number for h in self.witnessed() if h.fingerprint in signers), default=0)

    def growth(self, signers: Collection[str], *, most: int | None = None) -> LogExtension | None:
        """Return the entries added since the last receipt by a key of these fingerprints, or None.

        At most ``MOST_DIGESTS`` entries; the next call returns more. ``most``: the last entry that
        the other party reports having seen, if it is lower than its last receipt.
        """
        with self._lock:
            after = self.signed_by(signers)
            after = after if most is None else min(after, most)
            rows = self._db.execute(
                _ENTRY + " WHERE number > ? ORDER BY number LIMIT ?", (after, MOST_DIGESTS)
            ).fetchall()
            if not rows:
                return None
            entries = [_entry(row) for row in rows]
            last = entries[-1]
            head = LogHead(
                number=last.number,
                hash=last.hash,
                signature=last.signature,
                public=self._signer_of(last.number),
            )
        return LogExtension(
            head=head, after=after, digests=tuple(entry.digest for entry in entries)
        )

    def signed_by(self, signers: Collection[str]) -> int:
        """Return the last entry that a key of these fingerprints gave a receipt for; 0 if none."""
        return max((receipt.number for receipt in self._standing(signers)), default=0)

    def _standing(self, signers: Collection[str]) -> Iterator[Receipt]:
        """Yield these keys' receipts for entries of this log; others are for a log that was cut."""
        for receipt in self.receipts():
            row = self._one("SELECT hash FROM entries WHERE number = ?", receipt.number)
            if receipt.fingerprint in signers and row == (receipt.hash,):
                yield receipt

    def cosign(self, growth: LogExtension, earlier: Collection[str] = ()) -> Receipt:
        """Store another party's head and sign a receipt for it.

        The caller checks that the head's key is that party's. ``earlier``: fingerprints of its
        earlier keys.

        Raises:
            TrustError: the head does not extend the last one seen: that log was cut or forked.
        """
        head = growth.head
        head.check(head.fingerprint)
        with self._writing():
            kept = [h for h in self.witnessed() if h.fingerprint in (head.fingerprint, *earlier)]
            last = max(kept, key=lambda head: head.number, default=None)
            number, hash_ = (last.number, last.hash) if last else (0, ZERO_HASH)
            if not growth.grew_from(number, hash_):
                raise TrustError(
                    f"this audit log was truncated or forked: entry {number} was seen with hash "
                    f"{hash_[:12]}, and the log up to entry {head.number} does not extend it"
                )
            self._db.execute(
                "INSERT OR REPLACE INTO witnessed VALUES (?, ?, ?)",
                (head.fingerprint, head.number, _text(head)),
            )
        return Receipt.given(self._identity, head)

    def keep_receipt(self, receipt: Receipt, signer: str) -> None:
        """Store another party's receipt for our head, if it is newer than the stored one.

        Raises:
            TrustError: it is not by ``signer``, not for this log, or for an entry that is not here.
        """
        receipt.check(signer)
        row = self._one("SELECT hash FROM entries WHERE number = ?", receipt.number)
        if receipt.owner not in self._own() or row is None or row[0] != receipt.hash:
            raise TrustError("the receipt is for an audit entry that is not in this log")
        with self._writing():
            self._db.execute(
                "INSERT INTO receipts VALUES (?, ?, ?) ON CONFLICT (signer) DO UPDATE SET"
                " number = excluded.number, receipt = excluded.receipt"
                " WHERE excluded.number > receipts.number",
                (signer, receipt.number, _text(receipt)),
            )

    def receipts(self) -> list[Receipt]:
        """Return the latest receipt of each other party."""
        return [Receipt.model_validate(d) for d in self._documents("receipts", "receipt")]

    def witnessed(self) -> list[LogHead]:
        """Return the latest head seen of each other party's log."""
        return [LogHead.model_validate(d) for d in self._documents("witnessed", "head")]

    def export(self, owner: str) -> bytes:
        """Return the whole log as one canonical, signed document."""
        with self._lock:
            unsigned = Export(
                owner=owner,
                public=self._identity.public.hex(),
                entries=tuple(self.entries()),
                receipts=tuple(self.receipts()),
                witnessed=tuple(self.witnessed()),
                signature="0",
            )
        signature = self._identity.sign("audit-export", unsigned.statement())
        signed = unsigned.model_copy(update={"signature": signature})
        return signed.to_bytes()

    # -- inside ----------------------------------------------------------------------------------

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
        earlier = {fingerprint(bytes.fromhex(_document(text)["old"])) for (text,) in rows}
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
        return str(_document(row[0])["old"]) if row else self._identity.public.hex()

    def _documents(self, table: str, column: str) -> list[Any]:
        with self._lock:
            rows = self._db.execute(
                f"SELECT {column} FROM {table} ORDER BY signer"  # noqa: S608 - our own names
            ).fetchall()
        return [_document(text) for (text,) in rows]

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
        return Entry.model_validate(stored | {"facts": _document(stored["facts"])})
    except (ValidationError, MessageError) as error:
        raise TrustError(f"this log: entry {stored['number']} was edited") from error


def _document(text: str) -> Any:
    return canonical.decode(text.encode(), limit=1 << 20, what="audit log")


def _text(claim: LogHead | Receipt) -> str:
    return claim.to_bytes().decode()

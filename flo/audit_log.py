"""The audit log: append-only, hash-chained, signed, one at the coordinator and one at each site.

An entry says when, what kind of thing happened, in which study, and public facts about it: every
enrolment, token, decision, message, refusal, use of a key and change of a budget. It holds no
patient data and no secret; callers log codes, digests, counts and names of hospitals and people.

    hash = SHA-256(previous hash, number, time, kind, study, facts)        signed by the owner's key

An owner that changes its key enters ``key-replaced`` (public keys ``old`` and ``new``) with the old
one and goes on with the new one.

A chain alone shows edits, not a cut at its end or a second chain. So each side *countersigns* the
other's head (``Receipt``), both keep what they countersigned (``witnessed``), and whoever holds two
logs sees whether one of them was cut or forked. ``verify`` does all of that offline.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from flo import canonical
from flo.claims import LARGEST_COUNT, Claim, Digest, row_statement
from flo.errors import TrustError, UsageError
from flo.identity import Identity, fingerprint
from flo.identity import verify as verify_signature
from flo.settings import Document, parse

ZERO_HASH = "0" * 64
MAX_EXPORT_BYTES = 256 << 20
_LONGEST_FACTS = 4096
_TABLES = """
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
INSERT OR IGNORE INTO meta VALUES ('schema', '1');
CREATE TABLE IF NOT EXISTS entries (
  number INTEGER PRIMARY KEY, time TEXT NOT NULL, kind TEXT NOT NULL, study TEXT,
  facts TEXT NOT NULL, source INTEGER UNIQUE, hash TEXT NOT NULL, signature TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS witnessed (
  signer TEXT PRIMARY KEY, number INTEGER NOT NULL, head TEXT NOT NULL) STRICT;
"""

Kind = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z-]{0,39}$")]


class LogHead(Claim):
    """ "My audit log has this many entries and ends in this hash." """

    number: Annotated[int, Field(ge=1, le=LARGEST_COUNT)]
    hash: Digest

    def check(self, signer: str) -> None:
        """Raises TrustError unless the key of fingerprint ``signer`` signed this claim."""
        self._check(signer, "audit-entry", row_statement(self.number, self.hash))


class Receipt(Claim):
    """ "I have seen this head of the log of the key with this fingerprint." """

    owner: Digest
    number: Annotated[int, Field(ge=1, le=LARGEST_COUNT)]
    hash: Digest

    @classmethod
    def given(cls, identity: Identity, head: LogHead) -> Receipt:
        statement = _receipt_statement(head.fingerprint, head.number, head.hash)
        return cls(
            owner=head.fingerprint,
            number=head.number,
            hash=head.hash,
            public=identity.public.hex(),
            signature=identity.sign("audit-receipt", statement),
        )

    def check(self, signer: str) -> None:
        """Raises TrustError unless the key of fingerprint ``signer`` gave this receipt."""
        statement = _receipt_statement(self.owner, self.number, self.hash)
        self._check(signer, "audit-receipt", statement)


class Entry(Document):
    """One entry, as it is kept and exported."""

    number: Annotated[int, Field(ge=1, le=LARGEST_COUNT)]
    time: Annotated[str, StringConstraints(max_length=40)]
    kind: Kind
    study: Digest | None
    facts: dict[str, Any]
    hash: Digest
    signature: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{1,300}$")]

    def follows(self, previous: str) -> bool:
        """Whether this entry's hash is that of its content behind ``previous``."""
        return self.hash == _chain(
            previous, self.number, self.time, self.kind, self.study, self.facts
        )


class Export(Document):
    """A whole log in a file: ``owner`` names whose it is, ``witnessed`` heads of other logs."""

    schema_version: Literal[1] = 1
    log: Literal["audit"] = "audit"
    owner: Annotated[str, StringConstraints(max_length=63)]
    public: Annotated[str, StringConstraints(pattern=r"^([0-9a-f]{2}){1,200}$")]
    entries: tuple[Entry, ...]
    witnessed: tuple[LogHead, ...]


@dataclass(frozen=True)
class Verified:
    """What ``verify`` found to hold."""

    owner: str
    fingerprint: str
    entries: int
    first: str
    last: str
    countersigned: int
    """Number of the last entry that another party countersigned; 0 if none."""


class AuditLog:
    """One party's log in SQLite, flushed on every commit. Several processes may share it."""

    def __init__(
        self,
        path: Path,
        identity: Identity,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """Open or create. Raises TrustError if the last entry is not signed by ``identity``."""
        created = not path.exists()
        self._identity, self._clock, self._lock = identity, clock, threading.RLock()
        self._db = sqlite3.connect(path, isolation_level=None, timeout=30, check_same_thread=False)
        if created:
            path.chmod(0o600)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")
        self._db.executescript(_TABLES)
        (schema,) = self._db.execute("SELECT value FROM meta WHERE name = 'schema'").fetchone()
        if schema != "1":
            raise UsageError(f"{path} has audit log schema {schema}; this version reads 1")
        self._db.execute("INSERT OR IGNORE INTO meta VALUES ('owner', ?)", (identity.public.hex(),))
        head = self.head()
        last = self._one("SELECT kind FROM entries ORDER BY number DESC LIMIT 1")
        follows = last == ("key-replaced",) and self.owner == identity.public.hex()
        if head is not None and not follows:
            head.check(identity.fingerprint)

    def close(self) -> None:
        self._db.close()

    def append(self, kind: str, study: str | None = None, **facts: Any) -> None:
        """Sign one entry and flush it to the disk."""
        with self._writing():
            self._insert(self._now(), kind, study, facts, None)

    def append_from(self, outbox: list[tuple[int, str, str, str | None, dict[str, Any]]]) -> None:
        """Take over (source number, time, kind, study, facts) entries, each at most once."""
        with self._writing():
            (last,) = self._db.execute("SELECT coalesce(max(source), 0) FROM entries").fetchone()
            for source, time, kind, study, facts in outbox:
                if source > last:
                    self._insert(time, kind, study, facts, source)

    @property
    def owner(self) -> str:
        """Whose next entry it is: the key (DER, hexadecimal) that made it or followed by now."""
        found = self._one("SELECT value FROM meta WHERE name = 'owner'")
        return str(found[0]) if found else ""

    def last_source(self) -> int:
        """Source number of the latest entry that was taken over; 0 if none."""
        found = self._one("SELECT coalesce(max(source), 0) FROM entries")
        return int(found[0]) if found else 0

    def head(self) -> LogHead | None:
        """The signed last entry; None for an empty log."""
        row = self._one("SELECT number, hash, signature FROM entries ORDER BY number DESC LIMIT 1")
        if row is None:
            return None
        public = self._identity.public.hex()
        return LogHead(number=row[0], hash=row[1], signature=row[2], public=public)

    def entries(self, *, after: int = 0, study: str | None = None) -> Iterator[Entry]:
        """Entries behind ``after``, of one study if asked for."""
        with self._lock:
            rows = self._db.execute(
                "SELECT number, time, kind, study, facts, hash, signature FROM entries"
                " WHERE number > ? AND (? IS NULL OR study = ?) ORDER BY number",
                (after, study, study),
            ).fetchall()
        for number, time, kind, of, facts, hash_, signature in rows:
            yield Entry(
                number=number,
                time=time,
                kind=kind,
                study=of,
                facts=canonical.decode(facts.encode(), limit=1 << 20, what="audit facts"),
                hash=hash_,
                signature=signature,
            )

    def countersign(self, head: LogHead) -> Receipt:
        """Keep another party's head and sign a receipt for it; the caller knows whose key it is.

        Raises:
            TrustError: an older head, or another one at the same height: its log was cut or forked.
        """
        head.check(head.fingerprint)
        with self._writing():
            kept = self._witnessed(head.fingerprint)
            if kept is not None and (
                head.number < kept.number or (head.number == kept.number and head.hash != kept.hash)
            ):
                raise TrustError(
                    f"this audit log was cut or forked: entry {kept.number} was seen before, ending"
                    f" in {kept.hash[:12]}, and now it shows entry {head.number}"
                )
            self._db.execute(
                "INSERT OR REPLACE INTO witnessed VALUES (?, ?, ?)",
                (head.fingerprint, head.number, canonical.encode(head.model_dump()).decode()),
            )
        return Receipt.given(self._identity, head)

    def keep_receipt(self, receipt: Receipt, signer: str) -> None:
        """Enter another party's receipt for a head of ours.

        Raises:
            TrustError: it is not by ``signer``, not ours, or about an entry that is not here.
        """
        receipt.check(signer)
        row = self._one("SELECT hash FROM entries WHERE number = ?", receipt.number)
        if receipt.owner != self._identity.fingerprint or row is None or row[0] != receipt.hash:
            raise TrustError("a receipt for an audit entry that is not in this log")
        self.append("countersigned", **receipt.model_dump(mode="json"))

    def export(self, owner: str) -> bytes:
        """The whole log as one canonical document."""
        with self._lock:
            heads = self._db.execute("SELECT head FROM witnessed ORDER BY signer").fetchall()
        export = Export(
            owner=owner,
            public=self._identity.public.hex(),
            entries=tuple(self.entries()),
            witnessed=tuple(
                LogHead.model_validate(
                    canonical.decode(text.encode(), limit=65_536, what="witnessed head")
                )
                for (text,) in heads
            ),
        )
        return canonical.encode(export.model_dump(mode="json"))

    # -- inside ----------------------------------------------------------------------------------

    def _insert(
        self, time: str, kind: str, study: str | None, facts: dict[str, Any], source: int | None
    ) -> None:
        if self.owner != self._identity.public.hex():
            raise TrustError(
                "this audit log goes on under another key",
                hint="if a replacement of the coordinator's key was cut off, finish it: "
                "flo coordinator replace-key",
            )
        text = canonical.encode(facts).decode()
        if len(text) > _LONGEST_FACTS:  # a report of many hospitals: named by its digest
            facts = {"digest": canonical.digest(text.encode()), "bytes": len(text)}
            text = canonical.encode(facts).decode()
        row = self._one("SELECT number, hash FROM entries ORDER BY number DESC LIMIT 1")
        number, previous = (row[0] + 1, row[1]) if row else (1, ZERO_HASH)
        hash_ = _chain(previous, number, time, kind, study, facts)
        signature = self._identity.sign("audit-entry", row_statement(number, hash_))
        self._db.execute(
            "INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (number, time, kind, study, text, source, hash_, signature),
        )
        if kind == "key-replaced":
            self._db.execute("UPDATE meta SET value = ? WHERE name = 'owner'", (facts["new"],))

    def _witnessed(self, signer: str) -> LogHead | None:
        row = self._one("SELECT head FROM witnessed WHERE signer = ?", signer)
        if row is None:
            return None
        document = canonical.decode(row[0].encode(), limit=65_536, what="witnessed head")
        return LogHead.model_validate(document)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    def _one(self, statement: str, *values: object) -> tuple[Any, ...] | None:
        with self._lock:
            found: tuple[Any, ...] | None = self._db.execute(statement, values).fetchone()
            return found

    def _now(self) -> str:
        return self._clock().isoformat(timespec="milliseconds")


def verify(documents: list[bytes]) -> list[Verified]:
    """Check exported logs, each by itself and against what the others witnessed of it.

    Raises:
        TrustError: names whose log, and the entry at which it was edited, cut or forked.
        MessageError, UsageError: a document is not an export.
    """
    exports = [read_export(document) for document in documents]
    for export in exports:
        _check_chain(export)
    for export in exports:
        _check_witnesses(export, exports)
    return [_summary(export) for export in exports]


def is_export(document: Any) -> bool:
    """Whether parsed JSON claims to be an exported audit log."""
    return isinstance(document, dict) and document.get("log") == "audit"


def read_export(document: bytes) -> Export:
    """An export's content, unchecked. Raises MessageError or UsageError for another shape."""
    what = "audit log"
    return parse(Export, canonical.decode(document, limit=MAX_EXPORT_BYTES, what=what), what)


def _owners(export: Export) -> list[str]:
    """Public keys of the log's owner, one after the other."""
    replaced = [str(e.facts.get("old")) for e in export.entries if e.kind == "key-replaced"]
    return [*replaced, export.public]


def _fingerprints(export: Export) -> set[str]:
    try:
        return {fingerprint(bytes.fromhex(public)) for public in _owners(export)}
    except ValueError as error:
        raise TrustError(f"audit log of {export.owner}: a replaced key is no key") from error


def _check_chain(export: Export) -> None:
    previous, owners = ZERO_HASH, iter(_owners(export))
    public = next(owners)
    whose = f"audit log of {export.owner}"
    for number, entry in enumerate(export.entries, start=1):
        if entry.number != number:
            raise TrustError(f"{whose}: entry {number} was cut out, or moved")
        if not entry.follows(previous):
            raise TrustError(f"{whose}: entry {number} was edited, or one before it cut out")
        try:
            statement = row_statement(number, entry.hash)
            verify_signature(bytes.fromhex(public), "audit-entry", statement, entry.signature)
        except (TrustError, ValueError) as error:
            raise TrustError(f"{whose}: entry {number} is not signed by its owner") from error
        if entry.kind == "key-replaced":
            public = next(owners)
            if entry.facts.get("new") != public:
                raise TrustError(f"{whose}: entry {number} names another key than the one after it")
        if entry.kind == "countersigned":
            _check_receipt(export, entry)
        previous = entry.hash
    if export.entries and export.entries[-1].kind == "key-replaced":
        raise TrustError(
            f"{whose}: ends with a new key that has signed nothing, so it may be a stranger's"
        )


def _check_receipt(export: Export, entry: Entry) -> None:
    """A receipt that the log holds about itself: for an entry before it, as it is here."""
    receipt = parse(Receipt, entry.facts, f"audit log of {export.owner}, entry {entry.number}")
    receipt.check(receipt.fingerprint)
    seen = export.entries[receipt.number - 1] if receipt.number < entry.number else None
    owners = _fingerprints(export)
    if receipt.fingerprint in owners:
        raise TrustError(f"audit log of {export.owner}: entry {entry.number} is its own receipt")
    if receipt.owner not in owners or seen is None or seen.hash != receipt.hash:
        raise TrustError(
            f"audit log of {export.owner}: forked before entry {entry.number}, whose countersigned "
            f"entry {receipt.number} is another one"
        )


def _check_witnesses(export: Export, exports: list[Export]) -> None:
    owners = _fingerprints(export)
    for other in exports:
        for head in other.witnessed:
            if head.fingerprint not in owners:
                continue
            head.check(head.fingerprint)
            if head.number > len(export.entries):
                raise TrustError(
                    f"audit log of {export.owner}: cut behind entry {len(export.entries)}; "
                    f"{other.owner} countersigned entry {head.number}"
                )
            if export.entries[head.number - 1].hash != head.hash:
                raise TrustError(
                    f"audit log of {export.owner}: forked at or before entry {head.number}; "
                    f"{other.owner} countersigned another one"
                )
        if other is not export and _fingerprints(other) & owners:
            for one, two in zip(export.entries, other.entries, strict=False):
                if one.hash != two.hash:
                    raise TrustError(
                        f"audit log of {export.owner}: two logs of one key differ from entry "
                        f"{one.number} on: it was forked"
                    )


def _summary(export: Export) -> Verified:
    seen = [e.facts["number"] for e in export.entries if e.kind == "countersigned"]
    return Verified(
        owner=export.owner,
        fingerprint=fingerprint(bytes.fromhex(export.public)),
        entries=len(export.entries),
        first=export.entries[0].time if export.entries else "",
        last=export.entries[-1].time if export.entries else "",
        countersigned=max(seen, default=0),
    )


def _chain(
    previous: str, number: int, time: str, kind: str, study: str | None, facts: dict[str, Any]
) -> str:
    return canonical.digest(canonical.encode([previous, number, time, kind, study, facts]))


def _receipt_statement(owner: str, number: int, hash_: str) -> bytes:
    return canonical.encode([owner, number, hash_])

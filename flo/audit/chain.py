"""Rules of audit logs: the hash chain of entries, other parties' receipts, and verification.

    digest = SHA-256(number, time, kind, study, facts, salt)
    hash   = SHA-256(previous hash, digest)                    signed by the log's owner

An owner that changes its key appends ``key-replaced`` (public keys ``old`` and ``new``), signed
with the old key, and signs later entries with the new one.

A chain alone shows edits, but neither a truncated end nor a second chain. Each party therefore
stores the last head that it saw of the other's log. It signs a newer head (``Receipt``) only if
that head extends the stored one (``LogExtension``). An extension contains digests, not entries; the
salt prevents guessing them. A verifier that has a log and the heads that another party saw of it
detects truncation and forks. ``verify`` does all of that offline.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from flo.documents import canonical
from flo.documents.document import Document, parse
from flo.errors import TrustError
from flo.keys.claims import LARGEST_COUNT, Claim, Digest, PublicKey, Signature, row_statement
from flo.keys.identity import Signer, fingerprint
from flo.keys.identity import verify as verify_signature

ZERO_HASH = "0" * 64
MAX_EXPORT_BYTES = 512 << 20
MOST_DIGESTS = 2000

Kind = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z-]{0,39}$")]
Number = Annotated[int, Field(ge=1, le=LARGEST_COUNT)]
EntryTime = Annotated[str, StringConstraints(pattern=r"^[0-9T:.+-]{19,40}$")]
Owner = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]


class LogHead(Claim):
    """Signed head of an audit log: its number of entries, and the hash of the last one."""

    number: Number
    hash: Digest

    def check(self, signer: str) -> None:
        """Raise TrustError unless the key of fingerprint ``signer`` signed this claim."""
        self._check(signer, "audit-entry", row_statement(self.number, self.hash))


class LogExtension(Document):
    """A head, and the digests of the entries after entry ``after`` up to it."""

    head: LogHead
    after: Annotated[int, Field(ge=0, le=LARGEST_COUNT)]
    digests: Annotated[tuple[Digest, ...], Field(max_length=MOST_DIGESTS)]

    def grew_from(self, number: int, hash_: str) -> bool:
        """Return whether the log at this head extends one that ended in this entry."""
        if not self.after <= number <= self.head.number == self.after + len(self.digests):
            return False
        for digest in self.digests[number - self.after :]:
            hash_ = chained(hash_, digest)
        return hash_ == self.head.hash


class Receipt(Claim):
    """Signed statement of having seen this head of the log of key ``owner`` (a fingerprint)."""

    owner: Digest
    number: Number
    hash: Digest

    @classmethod
    def given(cls, identity: Signer, head: LogHead) -> Receipt:
        """Sign a receipt for a head; the caller has checked the head's signature."""
        statement = _receipt_statement(head.fingerprint, head.number, head.hash)
        return cls(
            owner=head.fingerprint,
            number=head.number,
            hash=head.hash,
            public=identity.public.hex(),
            signature=identity.sign("audit-receipt", statement),
        )

    def check(self, signer: str) -> None:
        """Raise TrustError unless the key of fingerprint ``signer`` gave this receipt."""
        statement = _receipt_statement(self.owner, self.number, self.hash)
        self._check(signer, "audit-receipt", statement)


class Entry(Document):
    """One entry, as it is stored and exported."""

    number: Number
    time: EntryTime
    kind: Kind
    study: Digest | None
    facts: dict[str, Any]
    salt: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]
    hash: Digest
    signature: Signature

    @property
    def digest(self) -> str:
        """Digest that the chain covers; includes the salt."""
        parts = [self.number, self.time, self.kind, self.study, self.facts, self.salt]
        return canonical.digest(canonical.encode(parts))


class Export(Document):
    """A whole log in a signed file; ``owner`` is the name of its party.

    ``receipts``: the latest receipt of each other party. ``witnessed``: heads of other logs.
    """

    schema_version: Literal[1] = 1
    log: Literal["audit"] = "audit"
    owner: Owner
    public: PublicKey
    entries: tuple[Entry, ...]
    receipts: tuple[Receipt, ...]
    witnessed: tuple[LogHead, ...]
    signature: Signature

    def statement(self) -> bytes:
        """Return the bytes that the owner signs: all fields but the signature."""
        return canonical.encode(self.model_dump(mode="json", exclude={"signature"}))

    def keys(self) -> Iterator[str]:
        """Yield the public keys of the log's owner, oldest first."""
        for entry in self.entries:
            if entry.kind == "key-replaced":
                yield str(entry.facts.get("old"))
        yield self.public

    @property
    def fingerprints(self) -> frozenset[str]:
        """Fingerprints of all keys that the owner had. Raises TrustError if one is malformed."""
        try:
            return frozenset(fingerprint(bytes.fromhex(public)) for public in self.keys())
        except ValueError as error:
            raise TrustError(f"audit log of {self.owner}: an earlier key is malformed") from error


@dataclass(frozen=True)
class Cosigned:
    """A receipt's summary. ``by``: name of the signer, if its log was passed too."""

    fingerprint: str
    by: str | None
    number: int


@dataclass(frozen=True)
class VerifiedLog:
    """Result of ``verify`` for one log."""

    owner: str
    fingerprint: str
    entries: int
    first: str
    last: str
    countersigned: tuple[Cosigned, ...]


def chained(previous: str, digest: str) -> str:
    """Return the hash of the entry with this digest that follows hash ``previous``."""
    return canonical.digest(canonical.encode([previous, digest]))


def verify(documents: list[bytes]) -> list[VerifiedLog]:
    """Check exported logs, each on its own and against the heads that the others saw of it.

    Raises:
        TrustError: names the log's owner, and the entry at which it was edited, cut or forked.
        MessageError, UsageError: a document is not an export.
    """
    exports = [read_export(document) for document in documents]
    for export in exports:
        _check_chain(export)
        _check_receipts(export)
        _check_signature(export)
    for export in exports:
        _check_witnesses(export, exports)
    return [_summary(export, exports) for export in exports]


def is_export(document: Any) -> bool:
    """Return whether parsed JSON claims to be an exported audit log."""
    return isinstance(document, dict) and document.get("log") == "audit"


def read_export(document: bytes) -> Export:
    """Parse an export without checking it. Raises MessageError or UsageError for another shape."""
    what, values = "audit log", MAX_EXPORT_BYTES // 32
    found = canonical.decode_canonical(document, limit=MAX_EXPORT_BYTES, what=what, values=values)
    return parse(Export, found, what)


def _check_signature(export: Export) -> None:
    """Check the export's signature; called last, so that the error for an edited entry names it."""
    try:
        public = bytes.fromhex(export.public)
        verify_signature(public, "audit-export", export.statement(), export.signature)
    except TrustError as error:
        raise TrustError(
            f"audit log of {export.owner}: truncated at its end, or edited outside its entries"
        ) from error


def _check_chain(export: Export) -> None:
    whose = f"audit log of {export.owner}"
    previous, keys = ZERO_HASH, export.keys()
    public = next(keys)
    for number, entry in enumerate(export.entries, start=1):
        check_entry(entry, whose, number, previous, public)
        if entry.kind == "key-replaced":
            public = next(keys)
            if entry.facts.get("new") != public:
                raise TrustError(f"{whose}: entry {number} names a key that is not the next one")
        previous = entry.hash
    if export.entries and export.entries[-1].kind == "key-replaced":
        raise TrustError(
            f"{whose}: ends with a new key that has not signed an entry, so its owner is unknown"
        )


def check_entry(entry: Entry, whose: str, number: int, previous: str, public: str) -> None:
    """Raise TrustError unless ``public`` signed it as entry ``number`` after hash ``previous``."""
    if entry.number != number:
        raise TrustError(f"{whose}: entry {number} is missing, or not in its place")
    if entry.hash != chained(previous, entry.digest):
        raise TrustError(f"{whose}: entry {number} was edited, or one before it removed")
    try:
        statement = row_statement(number, entry.hash)
        verify_signature(bytes.fromhex(public), "audit-entry", statement, entry.signature)
    except (TrustError, ValueError) as error:
        raise TrustError(f"{whose}: entry {number} is not signed by its owner") from error


def _check_receipts(export: Export) -> None:
    for receipt in export.receipts:
        receipt.check(receipt.fingerprint)
        if receipt.owner not in export.fingerprints or receipt.fingerprint in export.fingerprints:
            raise TrustError(
                f"audit log of {export.owner}: a receipt is by its own key, or for another log"
            )
        _compare(export, receipt.number, receipt.hash, f"key {receipt.fingerprint[:12]}")


def _check_witnesses(export: Export, exports: list[Export]) -> None:
    for other in exports:
        for head in other.witnessed:
            if head.fingerprint in export.fingerprints:
                head.check(head.fingerprint)
                _compare(export, head.number, head.hash, other.owner)
        if other is not export and other.fingerprints & export.fingerprints:
            for one, two in zip(export.entries, other.entries, strict=False):
                if one.hash != two.hash:
                    raise TrustError(
                        f"audit log of {export.owner}: two logs of one key differ from entry "
                        f"{one.number} on: it was forked"
                    )


def _compare(export: Export, number: int, hash_: str, seen_by: str) -> None:
    if number > len(export.entries):
        raise TrustError(
            f"audit log of {export.owner}: truncated after entry {len(export.entries)}; {seen_by} "
            f"countersigned entry {number}",
            hint="if it was exported before that, export it again, after the other, and repeat",
        )
    if export.entries[number - 1].hash != hash_:
        raise TrustError(
            f"audit log of {export.owner}: forked at or before entry {number}; {seen_by} "
            "countersigned a different one"
        )


def _summary(export: Export, exports: list[Export]) -> VerifiedLog:
    names = {key: other.owner for other in exports for key in other.fingerprints}
    return VerifiedLog(
        owner=export.owner,
        fingerprint=fingerprint(bytes.fromhex(export.public)),
        entries=len(export.entries),
        first=export.entries[0].time if export.entries else "",
        last=export.entries[-1].time if export.entries else "",
        countersigned=tuple(
            Cosigned(r.fingerprint, names.get(r.fingerprint), r.number) for r in export.receipts
        ),
    )


def _receipt_statement(owner: str, number: int, hash_: str) -> bytes:
    return canonical.encode([owner, number, hash_])

"""The rules of audit logs: entries that hang together, what others sign of them, and the check.

    digest = SHA-256(number, time, kind, study, facts, salt)
    hash   = SHA-256(previous hash, digest)                    signed by the log's owner

An owner that changes its key enters ``key-replaced`` (public keys ``old`` and ``new``) with the old
one and goes on with the new one.

A chain alone shows edits, not a cut at its end or a second chain. So the other side keeps the last
head that it saw, and signs a newer one (``Receipt``) only if it *grew* out of that one
(``LogExtension``, which shows digests, not entries: the salt keeps them from being guessed).
Whoever holds a log and what another party saw of it finds a cut or a fork; ``verify`` does all of
that offline.
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
    """ "My audit log has this many entries and ends in this hash." """

    number: Number
    hash: Digest

    def check(self, signer: str) -> None:
        """Raises TrustError unless the key of fingerprint ``signer`` signed this claim."""
        self._check(signer, "audit-entry", row_statement(self.number, self.hash))


class LogExtension(Document):
    """A head, and the digests of the entries that lead to it from entry ``after`` on."""

    head: LogHead
    after: Annotated[int, Field(ge=0, le=LARGEST_COUNT)]
    digests: Annotated[tuple[Digest, ...], Field(max_length=MOST_DIGESTS)]

    def grew_from(self, number: int, hash_: str) -> bool:
        """Whether a log that ended in this entry could have become this one."""
        if not self.after <= number <= self.head.number == self.after + len(self.digests):
            return False
        for digest in self.digests[number - self.after :]:
            hash_ = chained(hash_, digest)
        return hash_ == self.head.hash


class Receipt(Claim):
    """ "I have seen this head of the log of the key with this fingerprint." """

    owner: Digest
    number: Number
    hash: Digest

    @classmethod
    def given(cls, identity: Signer, head: LogHead) -> Receipt:
        """Sign for a head; the caller has checked that it is the log's."""
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
        """What the chain covers of the entry, its salt included."""
        parts = [self.number, self.time, self.kind, self.study, self.facts, self.salt]
        return canonical.digest(canonical.encode(parts))


class Export(Document):
    """A whole log in a file, signed: ``owner`` names whose it is.

    ``receipts``: what others signed of it, the latest of each. ``witnessed``: heads of other logs.
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
        """What the owner signs: everything but the signature."""
        return canonical.encode(self.model_dump(mode="json", exclude={"signature"}))

    def keys(self) -> Iterator[str]:
        """Public keys of the log's owner, one after the other."""
        for entry in self.entries:
            if entry.kind == "key-replaced":
                yield str(entry.facts.get("old"))
        yield self.public

    @property
    def fingerprints(self) -> frozenset[str]:
        """Of all keys that the owner had. Raises TrustError if one is no key."""
        try:
            return frozenset(fingerprint(bytes.fromhex(public)) for public in self.keys())
        except ValueError as error:
            raise TrustError(f"audit log of {self.owner}: a replaced key is no key") from error


@dataclass(frozen=True)
class Cosigned:
    """``by``: the name on the log of whoever signed, if that log was given too."""

    fingerprint: str
    by: str | None
    number: int


@dataclass(frozen=True)
class VerifiedLog:
    """What ``verify`` found to hold."""

    owner: str
    fingerprint: str
    entries: int
    first: str
    last: str
    countersigned: tuple[Cosigned, ...]


def chained(previous: str, digest: str) -> str:
    """The hash of an entry with this digest behind the hash of the one before it."""
    return canonical.digest(canonical.encode([previous, digest]))


def verify(documents: list[bytes]) -> list[VerifiedLog]:
    """Check exported logs, each by itself and against what the others saw of it.

    Raises:
        TrustError: names whose log, and the entry at which it was edited, cut or forked.
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
    """Whether parsed JSON claims to be an exported audit log."""
    return isinstance(document, dict) and document.get("log") == "audit"


def read_export(document: bytes) -> Export:
    """An export's content, unchecked. Raises MessageError or UsageError for another shape."""
    what = "audit log"
    return parse(
        Export,
        canonical.decode_canonical(
            document, limit=MAX_EXPORT_BYTES, what=what, values=MAX_EXPORT_BYTES // 32
        ),
        what,
    )


def _check_signature(export: Export) -> None:
    """Last, so that an edited entry is named by its number."""
    try:
        public = bytes.fromhex(export.public)
        verify_signature(public, "audit-export", export.statement(), export.signature)
    except TrustError as error:
        raise TrustError(
            f"audit log of {export.owner}: cut at its end, or edited outside its entries"
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
                raise TrustError(f"{whose}: entry {number} names another key than the one after it")
        previous = entry.hash
    if export.entries and export.entries[-1].kind == "key-replaced":
        raise TrustError(
            f"{whose}: ends with a new key that has signed nothing, so it may be a stranger's"
        )


def check_entry(entry: Entry, whose: str, number: int, previous: str, public: str) -> None:
    """Raises TrustError unless it is entry ``number`` behind hash ``previous``, signed so."""
    if entry.number != number:
        raise TrustError(f"{whose}: entry {number} was cut out, or moved")
    if entry.hash != chained(previous, entry.digest):
        raise TrustError(f"{whose}: entry {number} was edited, or one before it cut out")
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
                f"audit log of {export.owner}: a receipt that is its own, or for another log"
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
            f"audit log of {export.owner}: cut behind entry {len(export.entries)}; {seen_by} "
            f"countersigned entry {number}",
            hint="unless it was exported before that: export it once more, after the other, and "
            "verify again",
        )
    if export.entries[number - 1].hash != hash_:
        raise TrustError(
            f"audit log of {export.owner}: forked at or before entry {number}; {seen_by} "
            "countersigned another one"
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

"""The audit log of a coordinator or site: append-only, hash-chained, signed.

An entry states the time, the kind of event, the study, and public facts about it. There is an entry
for every enrolment, token, decision, message, refusal, use of a key and change of a budget. Entries
contain no patient data and no secret; callers log codes, digests, counts and names of hospitals and
people. ``flo.audit.chain`` defines the chain and how other parties check it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from flo.audit.chain import (
    MOST_DIGESTS,
    ZERO_HASH,
    Export,
    LogExtension,
    LogHead,
    Receipt,
    check_entry,
)
from flo.audit.entries import AuditEntries, parsed, require_file
from flo.errors import TrustError
from flo.keys.identity import Signer


def existing(path: Path, identity: Signer) -> AuditLog:
    """Open the existing log of a folder. Raises TrustError if it is missing."""
    require_file(path)
    return AuditLog(path, identity)


class AuditLog(AuditEntries):
    """One party's log: its entries, and what other parties saw of it and signed."""

    def checked(self, number: int, hash_: str, *, most: int) -> tuple[int, str]:
        """Check up to ``most`` entries after entry ``number``, whose hash was ``hash_``.

        Returns number and hash of the last checked entry. Raises TrustError at an invalid one.
        """
        with self._lock:
            if number and self._one("SELECT hash FROM entries WHERE number = ?", number) != (
                hash_,
            ):
                raise TrustError(f"this log: entry {number}, checked before, was edited or removed")
            entries = self._after(number, most)
            (last,) = self._db.execute("SELECT coalesce(max(number), 0) FROM entries").fetchone()
            seen = max((receipt.number for receipt in self.receipts()), default=0)
        if seen > last:
            raise TrustError(
                f"this log: truncated, it ends at entry {last} but entry {seen} was countersigned"
            )
        for entry in entries:
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
            entries = self._after(after, MOST_DIGESTS)
            if not entries:
                return None
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

    def _documents(self, table: str, column: str) -> list[Any]:
        with self._lock:
            rows = self._db.execute(
                f"SELECT {column} FROM {table} ORDER BY signer"  # noqa: S608 - our own names
            ).fetchall()
        return [parsed(text) for (text,) in rows]


def _text(claim: LogHead | Receipt) -> str:
    return claim.to_bytes().decode()

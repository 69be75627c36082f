"""Ledger rows as values: their content, how they are chained, and their sum.

Rules only; ``flo.privacy.ledger.store`` stores the rows. A row has a *public* part (kind,
mechanism, counts: enough to recompute every cost) and a *private* part (study, run and round),
bound by a salted commitment. The chain hash covers the public part and the commitment, so an
extract can hide other studies' names and still be recomputed from the first row to the last.

    hash = SHA-256(previous hash, sequence, SHA-256(public), SHA-256(salt, private))

``Balance.add`` enforces the budget rules on every row, so a ledger that breaks one does not open
and a report that shows one does not verify.

Kinds: ``birth`` (a population and its life budget), ``reserve`` (an approval), ``release`` (one
attempt, charged), ``repeat`` (the same noisy bits sent again, charge 0), ``settle`` (a study ended;
its unused releases are freed), ``restored`` (the rows before come from a backup: every open
reservation counts as released in full, ``head`` is the last row that others saw and this ledger
lost, and ``exhausted`` populations have no budget left; rounded towards more privacy spent).

A ``reserve`` row opens a generation of patients, whose number is the row's own
(``flo.privacy.ledger.generations``). Its ``generations`` name, for each sub-ledger, the earlier
ones that it is charged to; ``born`` is a salted digest of the patients whom it gives a
generation. A row without ``generations`` opens none and is charged to all that exist: it is of an
earlier version, of a study of schema 1 to 3, or, with ``lost``, an approval that a restored ledger
did not contain.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Any

from flo.documents import canonical
from flo.errors import TrustError
from flo.protocol.messages import MAX_ATTEMPTS

ZERO_HASH = "0" * 64
MOST_ROWS = MAX_ATTEMPTS  # per release: itself, and its repeats in later attempts


@dataclass(frozen=True)
class LedgerRow:
    """One row. ``private`` and ``salt`` are None where an extract hides them."""

    sequence: int
    public: dict[str, Any]
    private: dict[str, Any] | None
    salt: str | None
    commitment: str
    hash: str
    signature: str

    @classmethod
    def chained(
        cls,
        previous: str,
        sequence: int,
        public: dict[str, Any],
        private: dict[str, Any],
        salt: str,
    ) -> LedgerRow:
        """Create a row that follows ``previous``; the caller signs it."""
        commitment = _commit(canonical.encode(private), salt)
        chain = _chain(previous, sequence, canonical.encode(public), commitment)
        return cls(sequence, public, private, salt, commitment, chain, "")

    def hidden(self) -> LedgerRow:
        """Return the same row without its private part."""
        return replace(self, private=None, salt=None)

    def check(self, previous: str, sequence: int) -> None:
        """Raise TrustError unless this row follows ``previous`` at ``sequence``."""
        try:
            public = canonical.encode(self.public)
            private = None if self.private is None else canonical.encode(self.private)
        except (ValueError, TypeError) as error:
            raise TrustError(f"ledger row {sequence} was edited") from error
        self.check_bytes(previous, sequence, public, private)

    def check_bytes(
        self, previous: str, sequence: int, public: bytes, private: bytes | None
    ) -> None:
        """Run ``check`` on the canonical bytes of both parts, for callers that have them."""
        if self.sequence != sequence:
            raise TrustError(f"ledger row {sequence} is missing or out of order")
        try:
            kept = private is None or _commit(private, self.salt or "") == self.commitment
            follows = _chain(previous, sequence, public, self.commitment) == self.hash
        except (ValueError, TypeError) as error:
            raise TrustError(f"ledger row {sequence} was edited") from error
        if not kept:
            raise TrustError(f"ledger row {sequence} was edited (private part)")
        if not follows:
            raise TrustError(f"ledger row {sequence} was edited, or a row before it is missing")

    def as_document(self) -> dict[str, Any]:
        """Return the row's form in an extract; ``private`` and ``salt`` are null where hidden."""
        return dict(vars(self))


def count_in(value: Any) -> int:
    """Return a row's number of releases. Raises ValueError unless it is an integer >= 0."""
    if type(value) is not int or value < 0:
        raise ValueError("a number of releases must be a whole number of 0 or more")
    return value


def _commit(private: bytes, salt: str) -> str:
    return hashlib.sha256(bytes.fromhex(salt) + private).hexdigest()


def _chain(previous: str, sequence: int, public: bytes, commitment: str) -> str:
    inner = hashlib.sha256(public).digest()
    place = sequence.to_bytes(8, "big")
    return hashlib.sha256(
        bytes.fromhex(previous) + place + inner + bytes.fromhex(commitment)
    ).hexdigest()


@dataclass(frozen=True)
class Released:
    """A stored release row: the request that it answered and the reply that it names.

    ``reply``: digest of the noisy bits that were charged. ``sent``: digest of the bytes that were
    sent, which differs where local noise was masked afterwards.
    """

    sequence: int
    model: str
    cohort: str
    reply: str
    sent: str

"""Signed rows of a ledger: append-only, hash-chained, shared by several processes.

``flo.privacy.ledger.ledger`` decides what may be written; ``flo.privacy.ledger.store`` has the
file, and ``flo.privacy.ledger.balance`` the sum of rows.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flo.errors import TrustError, UsageError
from flo.keys.claims import LedgerHead, row_statement
from flo.keys.identity import Identity, verify
from flo.privacy.ledger.balance import Balance, lost_head, number_after
from flo.privacy.ledger.rows import ZERO_HASH, LedgerRow
from flo.privacy.ledger.store import LedgerFile, request_fields


class SignedRows:
    """Rows of one site's ledger, their chain and sum, and heads of it that others show."""

    def __init__(self, path: Path, identity: Identity) -> None:
        """Open (or create) the ledger at ``path`` and check its whole chain and last signature.

        The chain covers every row's content, so the last row's signature covers them all.

        Raises:
            TrustError: a row was edited, removed or reordered, or another key signed the last one.
        """
        self._identity = identity
        self._file = LedgerFile(path)
        self._balance = Balance()
        self._reserved: dict[int, str] = {}  # number of a reserve row -> digest of its study
        self._watching: dict[int, str] = {}  # the same -> card of the model that it watches
        self._born: dict[int, str] = {}  # number of a row -> digest of those it gave a generation
        self._last: LedgerRow | None = None
        try:
            self._catch_up()
            self._check_last_signature()
        except BaseException:  # also on interrupt: the file must not stay open
            self._file.close()
            raise

    def close(self) -> None:
        """Close the file; committed rows are on disk already."""
        self._file.close()

    # -- reading ---------------------------------------------------------------------------------

    def balance(self) -> Balance:
        """Return the sum of all current rows."""
        self._catch_up()
        return self._balance

    def head(self) -> LedgerHead:
        """Return the signed last row. Raises UsageError for an empty ledger."""
        self._catch_up()
        if self._last is None:
            raise UsageError("the ledger is empty", hint="register a population first")
        return LedgerHead(
            sequence=self._last.sequence,
            hash=self._last.hash,
            signature=self._last.signature,
            public=self._identity.public.hex(),
        )

    def rows(self) -> Iterator[LedgerRow]:
        """Yield all rows from the first one, each checked against the chain."""
        return self._file.rows(0, ZERO_HASH)

    # -- heads -----------------------------------------------------------------------------------

    def holds(self, head: LedgerHead) -> bool:
        """Return whether a row of this ledger has this number and hash. Checks no signature."""
        return self._file.hash_at(head.sequence) == head.hash

    def confirm(self, seen: LedgerHead) -> None:
        """Check a head of this ledger that another party stored.

        Raises:
            TrustError: that party saw rows that this ledger does not have: it was rolled back.
        """
        if self.holds(seen) or self._balance.is_lost(seen):
            return
        seen.check(self._identity.fingerprint)
        self._file.witness(seen)  # ``restore`` needs it
        raise TrustError(
            f"this ledger was rolled back or forked: others saw its row {seen.sequence} with hash "
            f"{seen.hash[:12]}, which is not in it",
            hint="restore the newest copy of the ledger; if there is none, flo site recover "
            "charges everything that may be missing. Until then this site releases no results",
        )

    def witness(self, head: LedgerHead) -> None:
        """Store the highest head seen of a partner; the caller has checked its signature."""
        self._file.witness(head)

    def witnessed(self) -> dict[str, LedgerHead]:
        """Return fingerprint -> the highest head seen of it."""
        return self._file.witnessed()

    def lost_head(self, seen: LedgerHead | None) -> LedgerHead | None:
        """Return the highest head of this ledger beyond its rows that another party saw, or None.

        ``seen``: a head that is shown now. Raises TrustError if one is not of this ledger, or is of
        another copy.
        """
        own = self._identity.fingerprint
        known = [head for head in (seen, self.witnessed().get(own)) if head is not None]
        for head in known:
            head.check(own)
            is_here = self._file.hash_at(head.sequence) == head.hash or self._balance.is_lost(head)
            if head.sequence <= self._balance.last and not is_here:
                raise TrustError(
                    f"row {head.sequence} of this ledger differs from the row {head.sequence} that "
                    "others saw: two copies of it were in use",
                    hint="use the other copy if it still exists; this copy cannot be repaired",
                )
        beyond = [head for head in known if head.sequence > self._balance.last]
        return max(beyond, key=lambda head: head.sequence, default=None)

    # -- writing ---------------------------------------------------------------------------------

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        try:
            with self._file.writing():
                self._catch_up()
                yield
        except BaseException:  # also on interrupt: the balance may hold undone rows
            self._balance, self._last = Balance(), None
            self._reserved.clear()
            self._watching.clear()
            self._born.clear()
            self._catch_up()
            raise

    def _append(
        self, public: dict[str, Any], private: dict[str, Any], request: str | None = None
    ) -> int:
        public = {"time": datetime.now(UTC).isoformat(timespec="seconds"), **public}
        private = private | request_fields(request)
        sequence = number_after(self._balance.last, public)
        row = LedgerRow.chained(self._tip(), sequence, public, private, os.urandom(16).hex())
        statement = row_statement(sequence, row.hash)
        row = replace(row, signature=self._identity.sign("ledger-row", statement))
        self._file.insert(row, request)
        self._take(row)
        return sequence

    def _check_last_signature(self) -> None:
        if self._last is not None:
            statement = row_statement(self._last.sequence, self._last.hash)
            verify(self._identity.public, "ledger-row", statement, self._last.signature)

    def _tip(self) -> str:
        """Return the hash to which the next row is chained."""
        return self._last.hash if self._last else ZERO_HASH

    def _catch_up(self) -> None:
        """Check and add the rows that another process has appended.

        Raises:
            TrustError: the file was replaced by an older one while in use, or edited.
        """
        if self._last is not None and self._file.hash_at(self._last.sequence) != self._last.hash:
            raise TrustError("the ledger file was replaced or rolled back while it was in use")
        for row in self._file.rows(self._balance.last, self._tip()):
            self._take(row)

    def _take(self, row: LedgerRow) -> None:
        head = lost_head(row.public)
        if head is not None:
            head.check(self._identity.fingerprint)
        self._balance.add(row)
        if row.public["kind"] == "reserve":
            private = row.private or {}
            self._reserved[row.sequence] = private["study"]
            if "watches" in private:
                self._watching[row.sequence] = private["watches"]
            if "born" in row.public:
                self._born[row.sequence] = row.public["born"]
        self._last = row

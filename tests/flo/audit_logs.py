"""Audit logs for tests: two parties, a clock of their own, and what an owner could do to a log."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from flo.audit.chain import ZERO_HASH, LogHead, VerifiedLog, chained, verify
from flo.audit.log import AuditLog
from flo.documents import canonical
from flo.keys.claims import row_statement
from flo.keys.identity import Identity

NORTH, COORDINATOR, STRANGER, NEXT = (Identity.new() for _ in range(4))
STUDY = "a" * 64
BEGAN = datetime(2026, 11, 24, 12, tzinfo=UTC)
Json = dict[str, Any]


def clock(began: datetime = BEGAN) -> Callable[[], datetime]:
    """A clock that goes on by a second with every look."""
    seconds = iter(range(1_000_000))
    return lambda: began + timedelta(seconds=next(seconds))


@contextmanager
def opened(path: Path, identity: Identity = NORTH) -> Iterator[AuditLog]:
    with closing(AuditLog(path, identity, clock())) as log:
        yield log


def exported(log: AuditLog, owner: str) -> Json:
    document: Json = canonical.decode(log.export(owner), limit=1 << 24, what="export")
    return document


def check(*documents: Json) -> list[VerifiedLog]:
    return verify([canonical.encode(document) for document in documents])


def meet(site: AuditLog, coordinator: AuditLog) -> None:
    """Each side countersigns what the other's log grew by, as an agent and its coordinator do."""
    for ours, theirs, us, them in (
        (site, coordinator, NORTH, COORDINATOR),
        (coordinator, site, COORDINATOR, NORTH),
    ):
        growth = ours.growth({them.fingerprint})
        if growth is not None:
            ours.keep_receipt(theirs.cosign(growth), them.fingerprint)
        assert ours.growth({them.fingerprint}) is None
        assert us.fingerprint not in {receipt.fingerprint for receipt in ours.receipts()}


def head_of(signer: Identity, number: int, hash_: str = "b" * 64) -> LogHead:
    signature = signer.sign("audit-entry", row_statement(number, hash_))
    return LogHead(number=number, hash=hash_, public=signer.public.hex(), signature=signature)


def signed_anew(log: Json, signer: Identity = NORTH, start: int = 1) -> None:
    """Make chain and signatures hold again from entry ``start`` on, as a log's owner could."""
    entries = log["entries"]
    previous = ZERO_HASH if start == 1 else entries[start - 2]["hash"]
    for number, entry in enumerate(entries[start - 1 :], start=start):
        names = ("time", "kind", "study", "facts", "salt")
        digest = canonical.digest(canonical.encode([number, *(entry[name] for name in names)]))
        previous = chained(previous, digest)
        signature = signer.sign("audit-entry", row_statement(number, previous))
        entry.update(number=number, hash=previous, signature=signature)


def sealed(log: Json, signer: Identity = NORTH) -> None:
    """Sign the export as a whole again, as a log's owner could."""
    statement = canonical.encode({name: log[name] for name in log if name != "signature"})
    log["signature"] = signer.sign("audit-export", statement)


def replaced(path: Path, old: Identity, new: Identity) -> None:
    with opened(path, old) as log:
        log.append("key-replaced", old=old.public.hex(), new=new.public.hex())

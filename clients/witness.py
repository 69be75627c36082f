"""What the two sides keep of each other's chains: ledger heads, and heads of the audit logs."""

from __future__ import annotations

from flo.audit_chain import Growth, Receipt
from flo.audit_log import AuditLog
from flo.claims import Head
from flo.clients.coordinator_api import CoordinatorApi
from flo.clients.home import CoordinatorInfo
from flo.errors import TrustError
from flo.identity import fingerprint
from flo.privacy.ledger import Ledger
from flo.settings import Document, parse


def confirm_head(api: CoordinatorApi, ledger: Ledger) -> None:
    """Learn the highest head ever seen of us before adding to the ledger, then show ours.

    Raises:
        TrustError: others saw rows that this ledger does not have: it was rolled back.
    """
    seen = parse(_Seen, api.call("heads", {"head": None}), "the coordinator's view of our head")
    if seen.head is not None:
        ledger.confirm(seen.head)
    api.call("heads", {"head": ledger.head().model_dump(mode="json")})


class _Seen(Document):
    head: Head | None


def countersign(api: CoordinatorApi, log: AuditLog, coordinator: CoordinatorInfo) -> None:
    """Let the coordinator countersign what our audit log grew by, and countersign its growth.

    Raises:
        TrustError: either log was cut or forked since it was last countersigned, or a receipt is
        not the coordinator's.
    """
    signer = fingerprint(bytes.fromhex(coordinator.public))
    growth = log.growth(coordinator.fingerprints)
    shown = {"growth": growth.model_dump(mode="json") if growth else None}
    answer = parse(_Audit, api.call("audit", shown), "the coordinator's audit head")
    if growth is not None:
        if answer.receipt is None:
            raise TrustError("the coordinator did not countersign our audit log")
        log.keep_receipt(answer.receipt, signer)
    if answer.growth is not None and answer.growth.head.fingerprint in coordinator.fingerprints:
        receipt = log.countersign(answer.growth, coordinator.fingerprints)
        api.call("audit", {"receipt": receipt.model_dump(mode="json")})


class _Audit(Document):
    receipt: Receipt | None
    growth: Growth | None

"""Exchange of heads with the coordinator: the site's ledger, and the audit logs of both sides."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from flo.audit.chain import LogExtension, Receipt
from flo.audit.log import AuditLog
from flo.clients.connection.coordinator_api import CoordinatorApi
from flo.clients.home.coordinator_info import CoordinatorInfo
from flo.documents.document import Document, parse
from flo.errors import MessageError, TrustError
from flo.keys.claims import LARGEST_COUNT, LedgerHead
from flo.keys.identity import fingerprint
from flo.privacy.ledger.ledger import Ledger

_MOST_STEPS = 8  # each of some thousand entries


def confirm_head(api: CoordinatorApi, ledger: Ledger) -> None:
    """Check our ledger against the highest head that the coordinator has seen, then send our head.

    Call this before adding to the ledger.

    Raises:
        TrustError: the coordinator saw rows that this ledger does not have: it was rolled back.
        MessageError: our key did not sign the head that the coordinator shows.
    """
    seen = head_seen(api)
    if seen is not None:
        try:
            seen.check(ledger.head().fingerprint)
        except TrustError as error:  # another key's head is no evidence about this ledger
            raise MessageError(
                "the coordinator shows a ledger head that we did not sign"
            ) from error
        ledger.confirm(seen)
    api.call("heads", {"head": ledger.head().model_dump(mode="json")})


def head_seen(api: CoordinatorApi) -> LedgerHead | None:
    """Return the highest head of our ledger that the coordinator has, unchecked, or None."""
    shown = api.call("heads", {"head": None})
    return parse(_Seen, shown, "the coordinator's view of our head").head


class _Seen(Document):
    head: LedgerHead | None


def cosign(api: CoordinatorApi, log: AuditLog, coordinator: CoordinatorInfo) -> None:
    """Have the coordinator countersign our audit log's new entries, and countersign its own.

    Raises:
        TrustError: either log was cut or forked since it was last countersigned, a receipt is not
        the coordinator's, or the coordinator lost entries that it had signed for.
    """
    for _ in range(_MOST_STEPS):
        answer = _show(api, log.growth(coordinator.fingerprints), log, coordinator)
        if answer.growth is not None and answer.growth.head.fingerprint in coordinator.fingerprints:
            receipt = log.cosign(answer.growth, coordinator.fingerprints)
            api.call("audit", {"receipt": receipt.model_dump(mode="json")})
        elif log.growth(coordinator.fingerprints) is None:
            return


def _show(
    api: CoordinatorApi, growth: LogExtension | None, log: AuditLog, coordinator: CoordinatorInfo
) -> _Audit:
    answer = _told(api, growth)
    signed = log.signed_by(coordinator.fingerprints)
    if answer.seen < signed:
        # Send again what the coordinator lost, so that the next call succeeds; still report it.
        _told(api, log.growth(coordinator.fingerprints, most=answer.seen))
        raise TrustError(
            f"the coordinator signed entry {signed} of our audit log, and now has only the entries "
            f"up to {answer.seen}: a backup of its folder was restored"
        )
    if growth is None:
        return answer
    if answer.receipt is None:
        raise TrustError("the coordinator did not countersign our audit log")
    log.keep_receipt(answer.receipt, fingerprint(bytes.fromhex(coordinator.public)))
    return answer


def _told(api: CoordinatorApi, growth: LogExtension | None) -> _Audit:
    shown = {"growth": growth.model_dump(mode="json") if growth else None}
    return parse(_Audit, api.call("audit", shown), "the coordinator's audit head")


class _Audit(Document):
    """``seen``: the last entry of our log that the coordinator has."""

    receipt: Receipt | None
    growth: LogExtension | None
    seen: Annotated[int, Field(ge=0, le=LARGEST_COUNT)]

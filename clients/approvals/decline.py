"""Refuse a study, or withdraw its approval. Decisions are signed, stored and sent.

A refusal charges no budget and may be followed by an approval. A withdrawal ends an approval
permanently: the agent refuses the study's next message, unreleased budget is free again, the
snapshot and stored replies are deleted, and the ledger keeps what was released. It takes effect
here at once, even if the coordinator cannot be reached.
"""

from __future__ import annotations

import logging
from contextlib import closing
from datetime import UTC, datetime
from typing import Literal

from flo.clients.connection.coordinator_api import CoordinatorApi
from flo.clients.home.site_home import SiteHome
from flo.clients.records.approval import (
    approval_path,
    delete_snapshots,
    pending_path,
    read,
    refusal_path,
    withdrawal_path,
)
from flo.clients.records.extract import keep, make_extract, send_kept
from flo.clients.records.reply_store import ReplyStore
from flo.clients.records.settlement import settle
from flo.documents.document import read_json
from flo.errors import FloError, RefusedError
from flo.protocol.decisions import Decline, Signed
from flo.storage.files import write_private

log = logging.getLogger("flo.clients.approvals.decline")

_LIMIT = 1 << 20


def refuse(home: SiteHome, api: CoordinatorApi, study: str, reason: str) -> None:
    """Notify the coordinator that this hospital does not take part in the study of this digest.

    If an approval was interrupted, its reservation is settled; to approve the study after that, ask
    the coordinator for a new version of it.

    Raises:
        RefusedError: it was approved here; withdraw the approval instead.
    """
    with home.decision_lock():
        if approval_path(home, study).exists():
            raise RefusedError(
                f"study {study[:12]} is approved here, so it can only be withdrawn",
                hint=f"flo site withdraw {study[:12]} --reason WHY",
            )
        with closing(home.open_ledger()) as ledger:
            cut_off = ledger.open_reservation(study)
            if cut_off is not None:
                ledger.settle(cut_off, "the approval was cut off, and then refused")
        signed = _sign(home, "refuse", study, reason)
        home.record("refused", study)
        _tell(api, signed)
        write_private(refusal_path(home, study), signed.to_bytes())
        pending_path(home, study).unlink(missing_ok=True)
        delete_snapshots(home, study)


def withdraw(home: SiteHome, api: CoordinatorApi, study: str, reason: str) -> bool:
    """End an approval. Return whether the coordinator could be notified.

    A repeated call completes an interrupted withdrawal; each step is done once.

    Raises:
        RefusedError: it was not approved here, or has ended.
    """
    approved, path = read(home, study), withdrawal_path(home, study)
    with closing(home.open_ledger()) as ledger:
        if not path.exists():
            held = ledger.balance().reservations.get(approved.reservation)
            if held is None or held.settled:
                raise RefusedError(f"study {study[:12]} has already ended here")
            signed = _sign(home, "withdraw", study, reason)
            home.record("withdrawn", study)
            write_private(path, signed.to_bytes())
        replies = ReplyStore(home.directory / "replies", home.open_keystore())
        settle(ledger, replies, home, approved, approved.read_study())
        try:
            extract = make_extract(home, ledger, study)
            keep(home, study, extract)
            _tell(api, read_json(Signed, path, limit=_LIMIT))
            send_kept(home, api)
        except FloError as error:
            log.warning(f"withdrawn here; the coordinator could not be notified: {error}")
            return False
    return True


def _sign(home: SiteHome, decision: Literal["refuse", "withdraw"], study: str, why: str) -> Signed:
    with closing(home.open_ledger()) as ledger:
        head = ledger.head()
    made = Decline(
        decision=decision,
        study=study,
        hospital=home.read_config().hospital,
        time=datetime.now(UTC).isoformat(timespec="seconds"),
        head=head,
        reason=why,
    )
    return Signed.by(home.open_identity(), made)


def _tell(api: CoordinatorApi, signed: Signed) -> None:
    api.call("approvals", {"document": signed.document, "signature": signed.signature})

"""End of a study at a site: unused budget is free again, and the study's data are deleted."""

from __future__ import annotations

from flo.clients.home.site_home import SiteHome
from flo.clients.records.approval import Approval, delete_snapshots
from flo.clients.records.reply_store import ReplyStore
from flo.privacy.ledger.ledger import Ledger
from flo.study.document import Study


def settle(
    ledger: Ledger, replies: ReplyStore, home: SiteHome, approved: Approval, study: Study
) -> None:
    """End a study here: free unused budget, delete stored replies and frozen patients."""
    with home.snapshot_lock():
        ledger.settle(approved.reservation, "the study ended")
        replies.forget(study.digest)
        delete_snapshots(home, study.digest)
    home.record("budget-settled", study.digest, reservation=approved.reservation)

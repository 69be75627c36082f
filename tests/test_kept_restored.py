"""A backup and a report of a restored ledger, as the first version that wrote them did.

``tests/kept/v4``: a site's backup, the head of its ledger that others saw afterwards, and a report
that was made once such a ledger had been restored.
"""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import pytest

from flo.clients.connection.coordinator_api import CoordinatorApi
from flo.clients.home.policy_file import sign
from flo.clients.home.site_home import SiteHome
from flo.clients.maintenance.recover import recover, restore
from flo.errors import TrustError, UsageError
from flo.keys import backup
from flo.privacy.report.report import verify

KEPT = Path(__file__).parent / "kept" / "v4"
SECRET = b"a passphrase for this test"


class Coordinator:
    """It shows the head that it saw, and no approval that the backup does not hold."""

    def call(self, name: str, body: Any) -> Any:
        return {"heads": {"head": json.loads((KEPT / "head.json").read_text())}}.get(
            name, {"given": []}
        )


def test_a_kept_backup_is_restored_and_recovered(tmp_path: Path) -> None:
    header = restore(KEPT / "site.backup", tmp_path / "site", SECRET)
    assert (header.kind, header.name) == ("site", "north")
    home = SiteHome.open(tmp_path / "site")
    assert recover(home, cast(CoordinatorApi, Coordinator())).lost == 1
    with closing(home.open_ledger()) as ledger:
        (held,) = ledger.balance().reservations.values()
        assert held.settled
        assert held.unseen["training"] == 3
    sign(home.directory, home.open_identity())
    assert home.read_policy().approvers == 1


def test_a_kept_report_of_a_restored_ledger_verifies() -> None:
    report = (KEPT / "report.json").read_bytes()
    assert json.loads(report)["schema_version"] == 4
    north, south = verify(report)["hospitals"]
    assert [len(site["restored"]) for site in (north, south)] == [1, 0]
    assert north["releases_unseen"] == 3
    with pytest.raises(TrustError):
        verify(report.replace(b'"lost_rows":1', b'"lost_rows":0'))


def test_a_backup_of_a_later_schema_is_refused(tmp_path: Path) -> None:
    data = (KEPT / "site.backup").read_bytes()
    later = data.replace(b'"schema_version":1', b'"schema_version":2', 1)
    assert later != data
    (tmp_path / "later").write_bytes(later)
    with pytest.raises(UsageError, match="schema_version"):
        backup.read(tmp_path / "later", "site", SECRET)

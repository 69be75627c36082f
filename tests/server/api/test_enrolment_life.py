"""From renewal to leaving: real certificates, a real coordinator, and no pause in between."""

from __future__ import annotations

import sqlite3
import ssl
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from flo.audit.chain import verify as verify_logs
from flo.clients.connection.cosigning import cosign
from flo.clients.connection.enrolment import connect, leave, renew_when_due, request
from flo.clients.home.site_home import SiteHome
from flo.errors import RefusedError, TrustError, UsageError
from flo.keys.identity import Identity
from flo.server.home.coordinator_home import sign_events
from tests.builders import data_file, small_study
from tests.commands import flo
from tests.server.real_coordinator import RealCoordinator, ask

pytestmark = pytest.mark.processes

STUDIES = "/v1/site/studies"
ALWAYS = 10_000.0  # days: a renewal is due whatever is left


@pytest.fixture
def site(coordinator: RealCoordinator, tmp_path: Path, request: pytest.FixtureRequest) -> SiteHome:
    name = f"life-{abs(hash(request.node.name)) % 10**8}"
    return coordinator.enrol(tmp_path, name)


def certificate(site: SiteHome) -> x509.Certificate:
    return x509.load_pem_x509_certificate((site.directory / "certificate.pem").read_bytes())


def is_served(coordinator: RealCoordinator, context: ssl.SSLContext) -> bool:
    return coordinator.outside("POST", STUDIES, context, body=b"{}").status == 200


def test_a_renewed_certificate_is_for_the_same_key_and_lives_longer(
    coordinator: RealCoordinator, site: SiteHome
) -> None:
    before = certificate(site)
    with connect(site) as api:
        assert renew_when_due(site, api, days=ALWAYS)
    after = certificate(site)
    assert after.serial_number != before.serial_number
    assert after.public_key() == before.public_key()
    assert after.not_valid_after_utc >= before.not_valid_after_utc
    assert after.not_valid_after_utc > datetime.now(UTC) + timedelta(days=360)


def test_the_old_certificate_works_until_the_new_one_is_shown(
    coordinator: RealCoordinator, site: SiteHome
) -> None:
    old = coordinator.site(site)
    with connect(site) as api:
        renew_when_due(site, api, days=ALWAYS)
    assert is_served(coordinator, old)
    assert is_served(coordinator, coordinator.site(site))
    assert not is_served(coordinator, old)
    assert is_served(coordinator, coordinator.site(site))


def test_a_connection_that_is_open_goes_on_over_a_renewal(
    coordinator: RealCoordinator, site: SiteHome
) -> None:
    with coordinator.connection(coordinator.port, coordinator.site(site)) as connection:
        assert ask(connection, "POST", STUDIES, body=b"{}").status == 200
        with connect(site) as api:
            renew_when_due(site, api, days=ALWAYS)
        assert ask(connection, "POST", STUDIES, body=b"{}").status == 200


def test_two_renewals_in_a_row_leave_the_one_in_use_good(
    coordinator: RealCoordinator, site: SiteHome
) -> None:
    first = coordinator.site(site)
    with connect(site) as api:
        renew_when_due(site, api, days=ALWAYS)
        renew_when_due(site, api, days=ALWAYS)
    assert is_served(coordinator, first)
    assert is_served(coordinator, coordinator.site(site))


def test_nothing_is_renewed_before_it_is_due(coordinator: RealCoordinator, site: SiteHome) -> None:
    before = certificate(site)
    with connect(site) as api:
        assert not renew_when_due(site, api)
    assert certificate(site) == before


def test_another_key_is_no_renewal(coordinator: RealCoordinator, site: SiteHome) -> None:
    other = request(site.read_config().hospital, Identity.new())
    with connect(site) as api, pytest.raises(TrustError, match="needs a new invitation"):
        api.call("renew", {"request": other})
    assert is_served(coordinator, coordinator.site(site))


def test_a_revoked_hospital_cannot_renew(coordinator: RealCoordinator, site: SiteHome) -> None:
    done = flo(
        "coordinator", "revoke", site.read_config().hospital, "--home", coordinator.home.directory
    )
    assert done.returncode == 0, done.stderr
    with connect(site) as api, pytest.raises(TrustError):
        renew_when_due(site, api, days=ALWAYS)


def test_a_hospital_that_leaves_keeps_its_ledger_and_is_refused_afterwards(
    coordinator: RealCoordinator, site: SiteHome
) -> None:
    shown = coordinator.site(site)
    with closing(site.open_ledger()) as ledger:
        head = ledger.head()
    with connect(site) as api:
        leave(site, api)
    assert not is_served(coordinator, shown)
    with closing(site.open_ledger()) as ledger:
        assert ledger.head() == head
    assert data_file(site).is_file()
    with pytest.raises(UsageError, match="not enrolled"):
        connect(site)


def test_nobody_leaves_while_an_approved_study_is_open(
    coordinator: RealCoordinator, site: SiteHome
) -> None:
    with closing(site.open_ledger()) as ledger:
        ledger.reserve(small_study(), "main")
    with (
        connect(site) as api,
        pytest.raises(RefusedError, match="1 approved studies are still open"),
    ):
        leave(site, api)
    assert is_served(coordinator, coordinator.site(site))


def test_both_sides_countersign_and_both_logs_verify_together(
    coordinator: RealCoordinator, site: SiteHome
) -> None:
    with connect(site) as api, closing(site.open_audit_log()) as log:
        cosign(api, log, site.read_coordinator())
        cosign(api, log, site.read_coordinator())
        ours = log.export(site.read_config().hospital)
    home = coordinator.home
    with closing(home.open_store()) as store, closing(home.open_audit_log()) as theirs:
        sign_events(store, theirs)
        found = verify_logs([ours, theirs.export("coordinator")])
        kinds = {entry.kind for entry in theirs.entries()}
    assert [(seen.by, seen.number) for seen in found[0].countersigned] == [
        ("coordinator", found[0].entries)
    ]
    assert site.read_config().hospital in {seen.by for seen in found[1].countersigned}
    assert {"enrolled", "invited"} <= kinds


def test_a_log_that_was_cut_is_refused_by_the_coordinator_and_on_record(
    coordinator: RealCoordinator, site: SiteHome
) -> None:
    with connect(site) as api, closing(site.open_audit_log()) as log:
        cosign(api, log, site.read_coordinator())
    with closing(sqlite3.connect(site.directory / "audit.sqlite")) as database, database:
        database.execute("DELETE FROM entries WHERE number > 2")
    with (
        closing(site.open_audit_log()) as log,
        connect(site) as api,
        pytest.raises(TrustError, match="truncated or forked"),
    ):
        cosign(api, log, site.read_coordinator())
    home = coordinator.home
    with closing(home.open_store()) as store, closing(home.open_audit_log()) as theirs:
        sign_events(store, theirs)
        kinds = {entry.kind for entry in theirs.entries()}
        exported = theirs.export("coordinator")
    assert "forked-audit-log" in kinds
    with (
        closing(site.open_audit_log()) as log,
        pytest.raises(TrustError, match="truncated after entry 2"),
    ):
        verify_logs([log.export("north"), exported])

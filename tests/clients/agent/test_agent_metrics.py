"""What an agent writes for the hospital's own monitoring."""

from __future__ import annotations

from pathlib import Path

import pytest

from flo.clients.agent.metrics import KINDS, Counted, measured
from flo.clients.home.site_home import SiteHome
from flo.host.metrics import as_prometheus
from tests.server.real_coordinator import serving


def test_answers_are_counted_by_what_they_are() -> None:
    counted = Counted()
    for kind in ("joined", "release", "refused", "release"):
        counted.answer(kind)
    assert (counted.answered, counted.releases, counted.refused) == (4, 2, 1)


def test_a_connection_counts_for_as_long_as_it_lasts() -> None:
    counted = Counted()
    with counted.connection():
        during = counted.connected
    assert (during, counted.connected, counted.connects) == (True, False, 1)


@pytest.mark.processes
def test_every_metric_of_a_site_has_a_value(tmp_path: Path) -> None:
    with serving(tmp_path / "home") as real:
        home = SiteHome.open(real.enrol(tmp_path / "north", "north").directory)
        found = measured(home, Counted())
    assert [one.kind for one in found] == list(KINDS)
    values = {one.name: one.value for one in found}
    assert values["site_certificate_seconds"] > 86_400
    assert values["site_audit_entries"] >= 1
    assert values["site_approvals"] == values["site_connected"] == 0
    assert "flo_site_memory_bytes " in as_prometheus(found)

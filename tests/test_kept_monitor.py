"""A monitor's periods as the first FLO with monitors across hospitals signed them.

``tests/kept/v17``: four results (schema 1).
"""

from __future__ import annotations

from pathlib import Path

import pytest

from flo.errors import UsageError
from flo.published.monitor_result import read_monitor
from flo.published.monitor_series import series
from tests.commands import flo
from tests.paths import ROOT

KEPT = ROOT / "tests" / "kept" / "v17"
COORDINATOR = (KEPT / "coordinator.txt").read_text().strip()
LOG_E = (-6.6518085, -6.4985878, 6.2002853, 11.6310505)


def test_the_evidence_is_what_it_was_when_the_periods_were_signed() -> None:
    """A later way of reading must not change what earlier files say."""
    found = series(map(read_monitor, KEPT.glob("*.monitor.json")), COORDINATOR)
    assert [one.evidence.log_e for one in found.periods] == pytest.approx(LOG_E, abs=1e-6)
    assert [one.number for one in found.alarms] == [3, 4]
    assert found.missing == ()


def test_it_is_shown_by_the_command_of_today() -> None:
    shown = " ".join(flo("model", "drift", KEPT, "--coordinator", COORDINATOR).stdout.split())
    assert "alarm: patients have the outcome more often than the model states" in shown
    assert "watched, version 1, card abab" in shown


def test_a_result_of_a_later_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "watched-monitor-1.monitor.json"
    text = (KEPT / path.name).read_text()
    path.write_text(text.replace('"schema_version":1', '"schema_version":2'))
    with pytest.raises(UsageError, match="schema_version"):
        read_monitor(path)

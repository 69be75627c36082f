"""A run of a monitor: one round that asks for the watched model, over saved states."""

from __future__ import annotations

import numpy as np
import pytest

from flo.clients.data_process.trainer import Trainer
from flo.privacy.releases import monitor
from flo.privacy.releases.asked_model import scorer
from flo.protocol.messages import model_digest
from flo.published.monitor_result import MonitorSums
from flo.server.rounds import checkpoint
from flo.server.rounds.state import RunState, request_header
from flo.server.runs.execute import _counted
from tests.builders import HOSPITALS, NoNoise
from tests.monitored import WATCHED, period
from tests.secure_sums import advance
from tests.server.rounds.test_statistics_rounds import UNMASKED, sites

STUDY = period(watched=WATCHED.with_mechanism(**UNMASKED))
MODEL = scorer(np.linspace(-1, 1, 6), None)


def test_a_run_asks_once_and_ends_with_sums_that_name_the_model() -> None:
    start = RunState.start(STUDY, None, MODEL)
    start = checkpoint.from_bytes(checkpoint.to_bytes(start))
    assert (start.phase, start.purpose_in(STUDY)) == ("monitor", "monitor")
    assert request_header(STUDY, "run-1", start, "join", HOSPITALS).purpose == "monitor"
    assert (start.asked == MODEL).all()
    snapshots = sites(STUDY)
    values = {
        name: Trainer(STUDY, snapshot, noise=NoNoise()).release("monitor", start.asked, 3)
        for name, snapshot in snapshots.items()
    }
    done = checkpoint.from_bytes(checkpoint.to_bytes(advance(STUDY, start, values)))
    assert (done.phase, done.purpose_in(STUDY)) == ("done", "monitor")
    told = _counted(STUDY, done)
    assert told["rounds"] == 1
    sums = MonitorSums(**told["monitor"])
    assert sums.follow_from(STUDY)
    assert sums.asked == model_digest(MODEL)
    each = [monitor.sums(STUDY, MODEL, one.held_out) for one in snapshots.values()]
    expected = np.sum(each, axis=0)
    assert sums.values == pytest.approx(expected, abs=1e-2)
    found = sums.period(STUDY)
    assert found.expected_variance == pytest.approx(expected[1] / 3.33, abs=1e-2)
    assert found.variance_noise == pytest.approx(found.noise / 3.33**2)


def test_a_run_that_released_nothing_has_no_figures() -> None:
    assert "monitor" not in _counted(STUDY, RunState.start(STUDY, None, MODEL))

"""SIGTERM ends a job within its grace also while the coordinator is away."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from flo.errors import RefusedError
from flo.infra.aws.job.entry import opened
from flo.infra.aws.job_contract import GRACE_SECONDS
from flo.server.home.coordinator_home import CoordinatorConfig, CoordinatorHome
from flo.server.runs.job_access import PATIENCE_SECONDS, JobAccess


@pytest.mark.slow
def test_nobody_is_waited_for_once_a_job_is_to_stop(tmp_path: Path) -> None:
    home = CoordinatorHome.create(tmp_path / "coordinator", CoordinatorConfig())
    access = JobAccess(
        url="https://127.0.0.1:1",  # nobody is there
        ca=home.ca_path.read_text(),
        job="flo-run-1-000001-1",
        run="run-1-000001",
        study="ab" * 32,
        token="x",
    )
    assert PATIENCE_SECONDS > GRACE_SECONDS  # so patience alone would outlast the grace
    stop = threading.Event()
    threading.Timer(1.0, stop.set).start()
    with pytest.raises(RefusedError, match="stopped by SIGTERM; the run's state is saved"):
        opened(access, stop)

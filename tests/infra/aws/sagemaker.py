"""SageMaker, emulated: moto keeps the jobs, and each is executed by the local runner as recorded.

moto calls a job completed at once and runs nothing; here its status follows the real process.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flo.infra.aws.job.runner import LocalJob, Outcome, recorded
from tests.infra.aws.emulated import REGION, Aws

_LOOK_SECONDS = 0.05


@dataclass
class EmulatedSageMaker:
    """``jobs``: by name, in the order of their creation; ``before``: told of each to spoil it."""

    aws: Aws
    folder: Path
    jobs: dict[str, LocalJob] = field(default_factory=dict)
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    before: Any = None
    _starting: threading.Lock = field(default_factory=threading.Lock)
    _threads: list[threading.Thread] = field(default_factory=list)
    _ended: threading.Event = field(default_factory=threading.Event)

    def watch(self) -> None:
        """Execute each new job, until the end."""
        while not self._ended.wait(_LOOK_SECONDS):
            for name, kept in list(self._kept().items()):
                if name not in self.jobs:
                    kept.training_job_status = "InProgress"
                    request = recorded(name)
                    job = LocalJob(request, self.folder / name, self.aws.client_of("s3", name))
                    self.jobs[name] = job
                    thread = threading.Thread(target=self._execute, args=(name, job, kept))
                    thread.start()
                    self._threads.append(thread)

    def latest(self, *, but: str = "", seconds: float = 60) -> tuple[str, LocalJob]:
        """The newest job, once its process is there and it is another one than ``but``."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for name, job in reversed(list(self.jobs.items())):
                if job.process is not None and name != but:
                    return name, job
                break
            time.sleep(_LOOK_SECONDS)
        raise AssertionError(f"no new job within {seconds:g} seconds")

    def outcome(self, name: str, *, seconds: float = 60) -> Outcome:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if name in self.outcomes:
                return self.outcomes[name]
            time.sleep(_LOOK_SECONDS)
        raise AssertionError(f"{name} did not end within {seconds:g} seconds: {self.said(name)}")

    def said(self, name: str) -> str:
        with contextlib.suppress(FileNotFoundError):
            return (self.folder / name / "output" / "console.log").read_text()[-4000:]
        return ""

    def close(self) -> None:
        self._ended.set()
        for job in self.jobs.values():
            if job.process is not None:
                kill_all_of(job)
        for thread in self._threads:
            thread.join()

    def _execute(self, name: str, job: LocalJob, kept: Any) -> None:
        if self.before is not None:
            self.before(name)
        with self._starting:  # all of a job is done with credentials of its own, of its role
            ours = os.environ["AWS_ACCESS_KEY_ID"]
            os.environ["AWS_ACCESS_KEY_ID"] = name
            try:
                job.start()
            finally:
                os.environ["AWS_ACCESS_KEY_ID"] = ours
        outcome = job.wait()
        kept.failure_reason = outcome.reason
        kept.training_job_status = outcome.status
        self.outcomes[name] = outcome

    def _kept(self) -> Any:
        from moto.backends import get_backend
        from moto.core import DEFAULT_ACCOUNT_ID

        return get_backend("sagemaker")[DEFAULT_ACCOUNT_ID][REGION].training_jobs


@contextlib.contextmanager
def emulated_sagemaker(aws: Aws, folder: Path) -> Iterator[EmulatedSageMaker]:
    found = EmulatedSageMaker(aws, folder)
    for name in found._kept():  # of earlier tests
        found.jobs[name] = LocalJob({}, folder, None)
    watcher = threading.Thread(target=found.watch)
    watcher.start()
    try:
        yield found
    finally:
        found.close()
        watcher.join()


def kill_all_of(job: LocalJob) -> None:
    """kill -9 of a job's whole container: its entry point, SuperExec and ServerApps."""
    assert job.process is not None
    groups = {job.process.pid, *children_of(job.process.pid)}
    for group in groups:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGKILL)


def children_of(process: int) -> set[int]:
    """Processes that it started and that are there."""
    found = set()
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{process}/task").iterdir():
            found |= {int(number) for number in (task / "children").read_text().split()}
    return found

"""The job's own process: ``python -m flo.infra.aws.job.entry``, on this machine or in SageMaker.

    1. read the job's parameters, unseal its access, which only its role may do (KMS), and request
       its keys from the coordinator, once;
    2. start Flower's SuperExec, which receives only this run's ServerApp;
    3. wait until the coordinator reports that the run is over, or until SIGTERM;
    4. end SuperExec and all processes that it started; write the reason of a failure to
       ``output/failure``.

SuperExec ends with code 0 when its secret is refused, so any end of it before the run's is a
failure. The state of a run is saved before and after every round, so a job may end at any instant.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

from flo.documents.document import parse
from flo.errors import FloError, RefusedError, UsageError
from flo.host.logs import start_logging
from flo.infra.aws.job_contract import (
    ACCESS_VARIABLE,
    APP,
    GRACE_SECONDS,
    KEYS_VARIABLE,
    ContainerPaths,
    HyperParameters,
    launch_context,
)
from flo.infra.aws.kms import keystore
from flo.keys import sealed
from flo.server.flower.superexec import end_group, start_superexec
from flo.server.runs.job_access import PATIENCE_SECONDS, PREFIX, JobAccess, JobKeys
from flo.server.runs.remote_client import RemoteRunClient
from flo.storage.files import in_memory, write_private

log = logging.getLogger("flo.job")

STOPPED = 143  # a shell's code for a process that SIGTERM ended
_STOPPED = "stopped by SIGTERM; the run's state is saved, and another job continues from it"
_LOOK_SECONDS = 1.0
_END_SECONDS = GRACE_SECONDS / 4


def main() -> int:
    """Return 0 if the run is over or paused, else write the reason and return another code."""
    place, stop = ContainerPaths.of_this_process(), threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    start_logging(place.root / "output" / "job.log")
    try:
        why = carry_out(place, stop)
    except FloError as error:
        why = str(error)
    except Exception as error:  # SageMaker shows its type; the traceback goes to the log
        place.write_failure(f"a bug in FLO: {type(error).__name__}")
        raise
    if why is None:
        log.info("job done")
        return 0
    log.error("job failed", extra={"fields": {"why": why}})
    place.write_failure(why)
    return STOPPED if stop.is_set() else 1


def carry_out(place: ContainerPaths, stop: threading.Event) -> str | None:
    """Wait until the run is over or paused and return None, or return why it is not.

    Raises:
        FloError: the job's access does not open, or the coordinator refuses it.
    """
    asked = place.read_hyperparameters()
    access = open_access(place, asked)
    keys = opened(access, stop)
    link = _link(access, keys.token, stop)
    with _superexec(access, keys) as superexec:
        while not stop.wait(_LOOK_SECONDS):
            status = link.status()
            if status != "running":
                log.info("run over", extra={"fields": {"status": status}})
                return None
            code = superexec.poll()
            if code is not None:
                return (
                    f"superexec ended (code {code}) before the run did: the coordinator "
                    "refused its secret, or it could not start; see the job's log"
                )
    return _STOPPED


def open_access(place: ContainerPaths, asked: HyperParameters) -> JobAccess:
    """Unseal the job's access.

    Raises:
        TrustError: it was changed, it is not sealed for this study and run, or KMS denies access.
        UsageError: there is none.
    """
    try:
        kept = place.launch.read_bytes()
    except OSError as error:
        raise UsageError(f"no launch document at {place.launch}") from error
    data = sealed.unseal(
        keystore(asked.launch_key), launch_context(asked.study, asked.run), kept, "the job's access"
    )
    return JobAccess.from_bytes(data)


def opened(access: JobAccess, stop: threading.Event) -> JobKeys:
    """Request the job's keys from the coordinator. Raises as ``RemoteRunClient.open`` does."""
    link = _link(access, access.token, stop)
    try:
        return parse(JobKeys, link.open(access.job), "the coordinator's answer")
    finally:
        link.close()


def _link(access: JobAccess, token: str, stop: threading.Event) -> RemoteRunClient:
    """Connect to the coordinator; wait for it if it is away, but not after SIGTERM."""

    def pause(seconds: float) -> None:
        if stop.wait(seconds):
            raise RefusedError(_STOPPED)

    return RemoteRunClient(
        access.url, access.ca, token, access.run, patience=PATIENCE_SECONDS, sleep=pause
    )


@contextlib.contextmanager
def _superexec(access: JobAccess, keys: JobKeys) -> Iterator[subprocess.Popen[bytes]]:
    """Run SuperExec in its own process group and end the group on exit."""
    with (
        tempfile.TemporaryDirectory(prefix="flo-job-") as folder,
        in_memory(access.to_bytes()) as where,
        in_memory(keys.to_bytes()) as what,
    ):
        ca, secret = Path(folder) / "ca.pem", Path(folder) / "superexec.secret"
        write_private(ca, access.ca.encode())
        write_private(secret, bytes.fromhex(keys.superexec_secret))
        process = start_superexec(
            f"{access.url}{PREFIX}{access.job}",
            ca,
            secret,
            app=APP,
            home=Path(folder),
            environment={ACCESS_VARIABLE: where, KEYS_VARIABLE: what},
        )
        try:
            yield process
        finally:
            end_group(process, _END_SECONDS)
            _copy_output(Path(folder) / "superexec.log")


def _copy_output(path: Path) -> None:
    """Copy Flower's output to the job's own, which SageMaker stores in CloudWatch."""
    with contextlib.suppress(OSError):
        sys.stdout.write(path.read_text(errors="replace")[-65_536:])
        sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())

"""The job's own process: ``python -m flo.infra.aws.job.entry``, here or in SageMaker.

    1. read what the job was told, open its access, which only its role may (KMS), and ask the
       coordinator, once, for what it works with;
    2. start Flower's SuperExec, which is given this run's ServerApp and nothing else;
    3. wait until the coordinator says that the run is over, or until SIGTERM;
    4. end SuperExec and all that it started; say why in ``output/failure`` unless all is well.

SuperExec ends with code 0 when its secret is refused: any end of it before the run's is a failure.
The state of a run is saved before and after every round, so a job may die at any instant.
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

STOPPED = 143  # as a shell says of a process that SIGTERM ended
_STOPPED = "stopped by SIGTERM; the run's state is saved, another job goes on from there"
_LOOK_SECONDS = 1.0
_END_SECONDS = GRACE_SECONDS / 4


def main() -> int:
    """The exit code: 0 when the run is over or paused, else something else and the reason."""
    place, stop = ContainerPaths.of_this_process(), threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    start_logging(place.root / "output" / "job.log")
    try:
        why = carry_out(place, stop)
    except FloError as error:
        why = str(error)
    except Exception as error:  # SageMaker shows its kind; the traceback goes where the log does
        place.write_failure(f"a bug in FLO: {type(error).__name__}")
        raise
    if why is None:
        log.info("done")
        return 0
    log.error("failed", extra={"fields": {"why": why}})
    place.write_failure(why)
    return STOPPED if stop.is_set() else 1


def carry_out(place: ContainerPaths, stop: threading.Event) -> str | None:
    """Until the run is over or paused (None), or why it is not.

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
                log.info("over", extra={"fields": {"status": status}})
                return None
            code = superexec.poll()
            if code is not None:
                return (
                    f"flower-superexec ended (code {code}) before the run: the coordinator refused "
                    "its secret, or it could not start; see the job's log"
                )
    return _STOPPED


def open_access(place: ContainerPaths, asked: HyperParameters) -> JobAccess:
    """Raises TrustError: not sealed for this study and run, changed, or KMS refuses."""
    try:
        kept = place.launch.read_bytes()
    except OSError as error:
        raise UsageError(f"no launch document at {place.launch}") from error
    data = sealed.unseal(
        keystore(asked.launch_key), launch_context(asked.study, asked.run), kept, "the job's access"
    )
    return JobAccess.from_bytes(data)


def opened(access: JobAccess, stop: threading.Event) -> JobKeys:
    """Raises as ``RemoteRunClient.open`` does."""
    link = _link(access, access.token, stop)
    try:
        return parse(JobKeys, link.open(access.job), "the coordinator's answer")
    finally:
        link.close()


def _link(access: JobAccess, token: str, stop: threading.Event) -> RemoteRunClient:
    """It waits for a coordinator that is away, but for no longer than until SIGTERM."""

    def pause(seconds: float) -> None:
        if stop.wait(seconds):
            raise RefusedError(_STOPPED)

    patience = PATIENCE_SECONDS
    return RemoteRunClient(access.url, access.ca, token, access.run, patience=patience, sleep=pause)


@contextlib.contextmanager
def _superexec(access: JobAccess, keys: JobKeys) -> Iterator[subprocess.Popen[bytes]]:
    """What launches the ServerApp, in a process group of its own that is ended here."""
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
            home=Path(folder),
            environment={ACCESS_VARIABLE: where, KEYS_VARIABLE: what},
        )
        try:
            yield process
        finally:
            end_group(process, _END_SECONDS)
            _tell_what_it_said(Path(folder) / "superexec.log")


def _tell_what_it_said(path: Path) -> None:
    """Flower's own output goes where the job's does: SageMaker keeps that in CloudWatch."""
    with contextlib.suppress(OSError):
        sys.stdout.write(path.read_text(errors="replace")[-65_536:])
        sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())

"""Flower's SuperExec, the process that launches ServerApps: here, and in a job elsewhere.

It and the ServerApps it launches form one process group; who started it ends that. Here it is
started again whenever it ends, whatever ended it: without it no study has a round.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from flo.host.memory import KEEPING

PROGRAM = "flower-superexec"  # beside the interpreter
_LONG_SECONDS, _LONGEST_WAIT = 600.0, 60.0  # after so long it is started at once again
QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.1",
}


def start_superexec(
    url: str, ca: Path, secret: Path, *, home: Path, environment: dict[str, str]
) -> subprocess.Popen[bytes]:
    """Start ``flower-superexec`` against the private listener, as on SageMaker.

    It and the ServerApps it launches form one process group; end it with ``os.killpg``.
    """
    scripts = Path(sys.executable).parent
    with (home / "superexec.log").open("ab") as log:
        return subprocess.Popen(
            [
                str(scripts / PROGRAM),
                *("--runtime-api-address", url.removeprefix("https://")),
                *("--root-certificates", str(ca)),
                *("--superexec-auth-secret-file", str(secret)),
                *("--parent-pid", str(os.getpid())),
            ],
            env={
                **os.environ,
                **QUIET,
                **KEEPING,
                **environment,
                "PATH": f"{scripts}{os.pathsep}{os.environ.get('PATH', '')}",
                "FLWR_HOME": str(home / "flower"),
            },
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


class Supervised:
    """A process that is started again when it ends, at once and then at growing intervals.

    ``look`` again and again, from one thread; ``end`` once. ``on_restart`` is told the return code
    of what ended, negative for a signal. ``hangs``: whether it does nothing though it lives.
    """

    def __init__(
        self,
        start: Callable[[], subprocess.Popen[bytes]],
        on_restart: Callable[[int], None],
        hangs: Callable[[], bool],
    ) -> None:
        self._start, self._on_restart, self._hangs = start, on_restart, hangs
        self._process, self._ended = start(), False
        self._began, self._wait = time.monotonic(), 0.0
        self._one_at_a_time = threading.Lock()  # nothing is started once the end has come

    def look(self) -> None:
        """Start it again if it ended or hangs. Raises OSError if it cannot be started now."""
        with self._one_at_a_time:
            if not self._ended:
                self._look()

    def _look(self) -> None:
        lived = time.monotonic() - self._began
        if lived < self._wait or (self._process.poll() is None and not self._hangs()):
            return
        end_group(self._process)
        self._wait = 0.0 if lived > _LONG_SECONDS else min(2 * self._wait + 1, _LONGEST_WAIT)
        code = self._process.wait()
        self._process, self._began = self._start(), time.monotonic()
        self._on_restart(code)

    def end(self) -> None:
        """End it and all that it started, for good."""
        with self._one_at_a_time:
            self._ended = True
            end_group(self._process)


def end_group(process: subprocess.Popen[bytes], grace: float = 3.0) -> None:
    """SIGTERM to all that a process started, and after ``grace`` seconds SIGKILL."""
    for number, seconds in ((signal.SIGTERM, grace), (signal.SIGKILL, 10.0)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            process.poll()
            try:
                os.killpg(process.pid, 0)
            except ProcessLookupError:
                return
            time.sleep(0.05)

"""SuperExec, the process that launches ServerApps: here, and in a remote job.

It and its ServerApps form one process group, which the process that started it must end. At the
coordinator it is restarted whenever it ends, for any reason: no round can run without it.
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

PROGRAM = "superexec"
SERVERAPP = "flo-serverapp"  # the name of a process that it launched, for `ps`
_MODULE = "flo.server.flower.superexec_process"
_LONG_SECONDS, _LONGEST_WAIT = 600.0, 60.0  # one that ran this long is restarted at once


def start_superexec(
    url: str, ca: Path, secret: Path, *, app: str, home: Path, environment: dict[str, str]
) -> subprocess.Popen[bytes]:
    """Start SuperExec against the private listener. ``app``: name of the ServerApp.

    It and the ServerApps it launches form one process group; end it with ``os.killpg``.
    """
    with (home / "superexec.log").open("ab") as log:
        return subprocess.Popen(
            [
                *(sys.executable, "-P", "-m", _MODULE, url.removeprefix("https://"), str(ca)),
                *(str(secret), str(os.getpid()), app.partition(":")[0]),
            ],
            env={
                **os.environ,
                **KEEPING,
                **environment,
                "FLWR_HOME": str(home / "flower"),
            },
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


class Supervised:
    """Process that is restarted when it ends, at once and then after growing delays.

    Call ``look`` periodically, from one thread, and ``end`` once. ``on_restart`` is called with the
    return code of the ended process, negative for a signal. ``hangs`` returns whether the process
    is alive but does no work.
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
        self._one_at_a_time = threading.Lock()  # no restart after ``end``

    def look(self) -> None:
        """Restart the process if it ended or hangs. Raises OSError if it cannot be started now."""
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
        """End the process group permanently."""
        with self._one_at_a_time:
            self._ended = True
            end_group(self._process)


def end_group(process: subprocess.Popen[bytes], grace: float = 3.0) -> None:
    """Send SIGTERM to a process's group, and SIGKILL after ``grace`` seconds if it is alive."""
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

"""FLO's programs as processes of their own, each forked from one that has loaded FLO's code.

Loading it takes an agent 1.4 s of CPU and a coordinator 2.1, and the suite starts many hundred of
them. A forked one is as real: it has files, sockets, memory and children of its own, and dies of
any signal. Programs that load themselves are started by ``tests/test_docs.py``, ``tests/packaging``
and every test in which other code runs before FLO's.

The process that forks has one thread and uses no library that keeps threads or sockets. It waits
for its children and writes how each ended into a pipe.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import importlib
import json
import os
import runpy
import select
import selectors
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import IO, Any

_LOADED = (
    *("flo.cli", "flo.cli.site.setup", "flo.cli.site.desk", "flo.cli.coordinator.setup"),
    *("flo.clients.agent.agent", "flo.clients.desk.serve", "flo.server.coordinator"),
    *("flo.clients.serving.supervisor", "flo.cli.site.steward", "flo.clients.approvals.approve"),
    *("flo.clients.inbox.review", "flo.clients.quality.check", "flo.privacy.report.report"),
)
_MOST_BYTES, _LIMIT = 1 << 18, 4096


class Forked:
    """``python -m MODULE ARGUMENTS`` as ``subprocess.Popen`` would start it in a new session.

    Its output goes to ``log``, or into the pipe ``stdout`` if there is no log. ``more`` is in its
    environment besides this process's own.
    """

    def __init__(self, module: str, *arguments: str, log: IO[bytes] | None = None, **more: str):
        ended, end = os.pipe()
        self.stdout: IO[bytes] | None = None
        out = log.fileno() if log else None
        if out is None:
            read, out = os.pipe()
            self.stdout = os.fdopen(read, "rb")
        environment = {**os.environ, **more}
        job = {
            "command": [module, *arguments],
            "cwd": str(Path.cwd()),
            "environment": environment,
        }
        sys.audit("os.fork")
        forks = _forks()
        socket.send_fds(forks, [json.dumps(job).encode()], [out, end])
        self.pid, self._ended = int(forks.recv(20)), ended
        self.returncode: int | None = None
        os.close(end)
        if log is None:
            os.close(out)

    def poll(self) -> int | None:
        """How it ended; None while it runs."""
        return self._wait(0)

    def wait(self, timeout: float | None = None) -> int:
        """How it ended. Raises TimeoutExpired."""
        code = self._wait(timeout)
        if code is None:
            raise subprocess.TimeoutExpired("a forked program", timeout or 0)
        return code

    def _wait(self, seconds: float | None) -> int | None:
        if self.returncode is None and select.select([self._ended], [], [], seconds)[0]:
            self.returncode = int(os.read(self._ended, 20) or -signal.SIGKILL)
            os.close(self._ended)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """As of Popen: nothing if it has ended."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def __enter__(self) -> Forked:
        return self

    def __exit__(self, *_: object) -> None:
        self.wait()
        if self.stdout:
            self.stdout.close()


@functools.cache
def _forks() -> socket.socket:
    """The connection to the process that forks, which is started when it is first needed."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.forked", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    def end() -> None:
        ours.close()
        process.wait()

    atexit.register(end)
    return ours


def _serve(connection: socket.socket) -> dict[str, Any] | None:
    """Fork as asked, and return in each child what it is to do; None once nobody asks any more."""
    waiting = selectors.DefaultSelector()
    waiting.register(connection, selectors.EVENT_READ)
    while True:
        for key, _ in waiting.select():
            if key.fileobj is not connection:
                pid, end = key.data
                _, status = os.waitpid(pid, 0)
                with contextlib.suppress(BrokenPipeError):  # nobody wants to know
                    os.write(end, str(os.waitstatus_to_exitcode(status)).encode())
                waiting.unregister(key.fileobj)
                os.close(key.fd)
                os.close(end)
                continue
            data, given, _, _ = socket.recv_fds(connection, _MOST_BYTES, 2)
            if not data:
                return None
            out, end = given
            pid = os.fork()
            if not pid:
                os.setsid()
                for number in (1, 2):
                    os.dup2(out, number)
                waiting.close()
                connection.detach()
                os.closerange(3, _LIMIT)  # the others' pipes, too
                return dict(json.loads(data))
            os.close(out)
            waiting.register(os.pidfd_open(pid), selectors.EVENT_READ, (pid, end))
            connection.send(str(pid).encode())


def _main() -> None:
    connection = socket.socket(fileno=int(sys.argv[1]))
    for module in _LOADED:
        importlib.import_module(module)
    gc.collect()
    gc.freeze()
    job = _serve(connection)
    if job is None:
        return
    for name, number in (("stdout", 1), ("stderr", 2)):
        setattr(sys, name, os.fdopen(number, "w", buffering=1))
    os.environ.clear()
    os.environ.update(job["environment"])
    os.chdir(job["cwd"])
    module, *arguments = job["command"]
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    _main()

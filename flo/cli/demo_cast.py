"""Processes of the demo: agents and a coordinator that go on, and commands that end."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

from flo.cli import main
from flo.errors import EXIT_REFUSED, FloError, RefusedError

# Commands are forked from a server process that has already imported their modules.
_COMMANDS = multiprocessing.get_context("forkserver")
_IMPORTED = [
    "flo.cli.site.steward",
    "flo.clients.approvals.approve",
    "flo.clients.inbox.review",
    "flo.clients.quality.check",
    "flo.clients.prediction.finish",
]


@dataclass
class Cast:
    """Long-lived processes of the demo; ``stop`` ends them all."""

    directory: Path
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self, *arguments: str, log: str) -> subprocess.Popen[bytes]:
        """Start a long-lived ``flo`` process in its own process group."""
        output = (self.directory / log).open("ab")
        process = subprocess.Popen(
            [sys.executable, "-m", "flo.cli", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            start_new_session=True,
        )
        self.processes.append(process)
        return process

    def do(self, *arguments: str) -> None:
        """Run one ``flo`` command to its end.

        Raises:
            RefusedError: the command was refused. FloError: it failed. Both have its output.
        """
        reading, writing = _COMMANDS.Pipe(duplex=False)
        with reading:
            process = _COMMANDS.Process(target=_carry_out, args=(arguments, writing))
            process.start()
            writing.close()
            try:
                code, text = reading.recv()
            except EOFError:  # it died before it sent a result
                code, text = None, ""
            process.join()
        code = process.exitcode if code is None else code
        if code:
            why = f"`flo {' '.join(arguments)}` failed with exit code {code}: {text}"
            raise RefusedError(why) if code == EXIT_REFUSED else FloError(why)

    def stop(self) -> None:
        """End all processes: ask each, and kill those that still run after 8 s."""
        for process in reversed(self.processes):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
        for process in self.processes:
            try:
                process.wait(timeout=8)
            except subprocess.TimeoutExpired:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)


def _carry_out(arguments: tuple[str, ...], answer: Connection) -> None:
    """Run a ``flo`` command in this child process; send its exit code and its output."""
    with tempfile.TemporaryFile() as said:
        for stream in (1, 2):
            os.dup2(said.fileno(), stream)
        sys.argv, code = ["flo", *arguments], 0
        try:
            main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        sys.stdout.flush()
        said.seek(0)
        answer.send((code, said.read().decode(errors="replace")))


@contextlib.contextmanager
def stage(directory: Path) -> Iterator[Cast]:
    """Yield the demo's processes; all of them end with the block."""
    _COMMANDS.set_forkserver_preload(_IMPORTED)
    cast = Cast(directory)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that ``finally`` runs
    try:
        yield cast
    finally:
        cast.stop()

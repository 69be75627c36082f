"""A process in the data process's place, which ``Worker.start`` starts as it starts that one."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any
from unittest import mock

from flo.clients.worker import Worker

PROGRAM = Path(__file__).with_name("forbidden_things.py")


class LockedIn(Worker):
    """Tries what a test asks for.

    ``free``: not locked in, to show what would work. ``nobody``: as an unprivileged user.
    ``inherits``: descriptors that FLO would never hand on.
    """

    def __init__(
        self,
        site: Path,
        *,
        free: bool = False,
        nobody: bool = False,
        inherits: tuple[int, ...] = (),
    ) -> None:
        super().__init__("cpu", site / "snapshots", site / "identity.key")
        self._program = f"{PROGRAM.read_text()}\nstand_in({free=}, {nobody=})\n"
        self._inherits = inherits

    def start(self) -> None:
        """Same interpreter, flags, arguments, environment and pipes; another program."""
        real = subprocess.Popen

        def started(arguments: list[str], **how: Any) -> subprocess.Popen[bytes]:
            place = arguments.index("-m")
            assert arguments[place + 1] == "flo.clients.child"
            program = [*arguments[:place], "-c", self._program, *arguments[place + 2 :]]
            return real(program, pass_fds=self._inherits, **how)

        with mock.patch("subprocess.Popen", started):
            super().start()
        _ = self.layers

    def tries(self, code: str) -> str:
        """How an expression ended in there: its value as text, or the name of its error.

        Raises EOFError if the process ended.
        """
        child = self.process
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(json.dumps(code).encode() + b"\n")
        child.stdin.flush()
        line = child.stdout.readline()
        if not line:
            raise EOFError
        return str(json.loads(line))

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._child is not None
        return self._child

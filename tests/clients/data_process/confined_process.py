"""A process that ``DataProcess.start`` starts instead of the data process."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from flo.clients.data_process.worker import DataProcess
from tests.builders import make_site
from tests.clients.data_process.forbidden_things import NOBODY

ROOT = os.geteuid() == 0
WHO = ["this user", *(["nobody"] if ROOT else [])]  # the superuser passes by file modes
REFUSED = {"EPERM", "EACCES"}
PROGRAM = Path(__file__).with_name("forbidden_things.py")


class LockedIn(DataProcess):
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
        super().__init__("cpu", site / "snapshots", site / "identity.key", tuple)
        self._program = f"{PROGRAM.read_text()}\nstand_in({free=}, {nobody=})\n"
        self._inherits = inherits

    def start(self) -> None:
        """Same interpreter, flags, arguments, environment and pipes; another program."""
        real = subprocess.Popen

        def started(arguments: list[str], **how: Any) -> subprocess.Popen[bytes]:
            place = arguments.index("-m")
            assert arguments[place + 1] == "flo.clients.data_process.child"
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


@dataclass
class Inside:
    """The same two processes, but for the locks. ``root``: they run as the superuser."""

    locked: LockedIn
    free: LockedIn
    root: bool

    def refuses(self, code: str, *, root: bool = False) -> None:
        """``root``: only the superuser could do it where nothing is locked."""
        assert self.locked.tries(code) in REFUSED
        if self.root or not root:
            assert self.free.tries(code) not in REFUSED


@contextmanager
def folder(*, nobody: bool) -> Iterator[Path]:
    """A site's folder whose owner is who runs the process; not below another user's."""
    above = Path(tempfile.mkdtemp(prefix="flo-locked-in-"))
    try:
        home = make_site(above / "made").directory
        snapshots = home / "snapshots"
        for name in ("study", "cut", "gone", "moved"):
            (snapshots / f"{name}.npz").write_bytes(b"frozen")
        (snapshots / "key").symlink_to(home / "identity.key")
        if nobody:
            for path in (above, *above.rglob("*")):
                os.chown(path, NOBODY, NOBODY, follow_symlinks=False)
        yield home
    finally:
        shutil.rmtree(above)


@contextmanager
def started(process: LockedIn) -> Iterator[LockedIn]:
    process.start()
    try:
        yield process
    finally:
        process.stop()


@contextmanager
def two_processes(who: str) -> Iterator[Inside]:
    """One that is locked in and one that is free, each with a site of its own."""
    nobody = who == "nobody"
    with ExitStack() as stack:
        one, two = (stack.enter_context(folder(nobody=nobody)) for _ in range(2))
        locked = stack.enter_context(started(LockedIn(one, nobody=nobody)))
        free = stack.enter_context(started(LockedIn(two, nobody=nobody, free=True)))
        yield Inside(locked, free, ROOT and not nobody)

"""Wrong clocks of real processes: what they, OpenSSL and Flower ask for the time is answered here.

By a library of forty lines that is compiled when it is needed. Debian's libfaketime does the same
under a lock at every look at any clock, which Python takes at each change of thread: a round took
seven times as long under it.
"""

from __future__ import annotations

import functools
import shutil
import struct
import subprocess
import tempfile
import time
from pathlib import Path

_SOURCE = Path(__file__).with_name("wrong_clock.c")


def can_be_wrong() -> bool:
    """Whether there is a C compiler."""
    return shutil.which("cc") is not None


@functools.cache
def library() -> Path:
    """The compiled library, in a folder of this process."""
    made = Path(tempfile.mkdtemp(prefix="flo-clock-")) / "wrong_clock.so"
    command = ["cc", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    subprocess.run([*command, "-o", made, _SOURCE, "-ldl", "-lm"], check=True)
    return made


class Clock:
    """The clock of one process and its children: ``ahead`` seconds ahead of the true one."""

    def __init__(self, path: Path, ahead: float) -> None:
        """``path``: the file by which the processes, that map it, are told how wrong it is."""
        self._path, self._ahead = path, ahead
        path.write_bytes(bytes(24))
        self.right()

    @property
    def environment(self) -> dict[str, str]:
        """What a process is started with. Without a compiler: nothing, and its clock is true."""
        if not can_be_wrong():
            return {}
        return {"LD_PRELOAD": str(library()), "FLO_WRONG_CLOCK": str(self._path)}

    def step(self, seconds: float) -> None:
        """Set it forward or back."""
        self._set(seconds, 0.0)

    def drift(self, seconds: float) -> None:
        """From now on, gain or lose so much each second."""
        self._set(0.0, seconds)

    def right(self) -> None:
        """Set it back to how it was."""
        self.step(0.0)

    def _set(self, ahead: float, each_second: float) -> None:
        with self._path.open("r+b") as file:
            file.write(struct.pack("=3d", self._ahead + ahead, each_second, time.time()))

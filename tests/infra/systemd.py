"""A real systemd as the first process of namespaces of its own, with our units and no others."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

SYSTEMD = Path("/lib/systemd/systemd")
# It gets a cgroup tree and a /run of its own; network and files are this machine's.
_BOOT = """
mount --make-rprivate /
umount -R /sys/fs/cgroup
mount -t cgroup2 none /sys/fs/cgroup
mount -t tmpfs tmpfs /run
export container=other SYSTEMD_UNIT_PATH="$1:"
exec /lib/systemd/systemd --system --unit=default.target --log-target=console
"""


class Systemd:
    """``pid``: of its first process, as seen from here."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def __call__(self, *arguments: str) -> str:
        """``systemctl`` there; its output."""
        done = subprocess.run(
            ["nsenter", "-t", str(self.pid), "-a", "systemctl", *arguments],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return done.stdout.strip() + done.stderr.strip()

    def main(self, unit: str) -> int:
        """Process id of a unit's main process, as seen in there."""
        return int(self("show", "-P", "MainPID", unit))

    def status(self, unit: str) -> dict[str, str]:
        """What the kernel says of that process: names -> values of /proc/PID/status."""
        text = subprocess.run(
            ["nsenter", "-t", str(self.pid), "-a", "cat", f"/proc/{self.main(unit)}/status"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        return dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)


@contextlib.contextmanager
def booted(units: Path) -> Iterator[Systemd]:
    """Skips where this machine has no systemd, or we may not make namespaces."""
    if os.geteuid() != 0 or not SYSTEMD.exists() or shutil.which("nsenter") is None:
        pytest.skip("booting systemd needs it, and the superuser")
    (units / "default.target").write_text("[Unit]\nDescription=test\n")
    spaces = ["--pid", "--fork", "--mount-proc", "--mount", "--ipc", "--uts", "--cgroup"]
    with (
        (units / "boot.log").open("ab") as log,
        subprocess.Popen(
            ["unshare", *spaces, "--kill-child", "bash", "-ec", _BOOT, "boot", str(units)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        ) as outer,
    ):
        try:
            yield _answering(outer, units)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(outer.pid, signal.SIGKILL)


def _answering(outer: subprocess.Popen[bytes], units: Path) -> Systemd:
    end = time.monotonic() + 20
    children = Path(f"/proc/{outer.pid}/task/{outer.pid}/children")
    while time.monotonic() < end and outer.poll() is None:
        if children.exists() and (found := children.read_text().split()):
            systemd = Systemd(int(found[0]))
            if systemd("is-system-running") in ("running", "degraded", "starting"):
                return systemd
        time.sleep(0.1)
    pytest.skip(f"systemd does not boot here: {(units / 'boot.log').read_text()[-500:]}")

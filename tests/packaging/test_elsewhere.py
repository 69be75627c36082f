"""`flo audit verify` and `flo study check` on Windows and macOS, as far as Linux can show it.

What those systems lack is taken away from Python before FLO is loaded, for real; their file
systems, terminals and builds of libraries are not here.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.paths import EXAMPLES, ROOT

pytestmark = pytest.mark.processes

# Modules and names of POSIX or Linux, by what Python's documentation says of each.
_WITHOUT = """
import os, signal, sys
GONE = {"fcntl", "grp", "pty", "pwd", "resource", "syslog", "termios", "tty"}
LESS = {
    os: "MFD_CLOEXEC O_CLOEXEC O_DIRECTORY O_NOFOLLOW O_PATH fchmod fork geteuid getpgid getuid "
        "killpg memfd_create posix_fadvise pwrite sched_getaffinity setsid",
    signal: "SIGKILL SIGHUP pthread_sigmask",
}
class Gone:
    def find_spec(self, name, path=None, target=None):
        if name in GONE:
            raise ModuleNotFoundError(f"no {name} here", name=name)
for name in GONE:
    sys.modules.pop(name, None)
sys.meta_path.insert(0, Gone())
for module, names in LESS.items():
    for name in names.split():
        if hasattr(module, name):
            delattr(module, name)
from flo.cli import main
main()
"""


def elsewhere(*arguments: str | Path) -> subprocess.CompletedProcess[bytes]:
    """A command on such a system, its output going to a file in that system's old encoding."""
    return subprocess.run(
        [sys.executable, "-X", "utf8=0", "-c", _WITHOUT, *map(str, arguments)],
        env={**os.environ, "PYTHONIOENCODING": "cp1252", "LC_ALL": "C"},
        capture_output=True,
        check=False,
        timeout=120,
    )


def test_a_report_is_verified(tmp_path: Path) -> None:
    report = ROOT / "tests" / "kept" / "v3" / "report.json"
    found = tmp_path / "verified.json"
    done = elsewhere("audit", "verify", report, "--json", found)
    assert done.returncode == 0, done.stderr.decode()
    assert "ε" in done.stdout.decode("utf-8")
    assert json.loads(found.read_text("utf-8"))["schema_version"] == 1


def test_a_report_that_was_edited_is_refused(tmp_path: Path) -> None:
    text = (ROOT / "tests" / "kept" / "v3" / "report.json").read_text("utf-8")
    edited = tmp_path / "report.json"
    edited.write_text(text.replace('"epsilon":0.9', '"epsilon":0.8', 1), "utf-8")
    assert elsewhere("audit", "verify", edited).returncode == 4


def test_a_study_is_checked(tmp_path: Path) -> None:
    study = EXAMPLES / "heart" / "study.toml"
    done = elsewhere("study", "check", study, "--json", tmp_path / "check.json")
    assert done.returncode == 0, done.stderr.decode()
    assert "recommended" in done.stdout.decode("utf-8")
    # Opacus needs a signal that Windows does not have, at least as torch is built here.
    assert "no third opinion" in done.stdout.decode("utf-8")
    assert json.loads((tmp_path / "check.json").read_text("utf-8"))["epsilon_prv"] is None


@pytest.mark.parametrize("command", [["site", "run"], ["coordinator", "serve"]])
def test_an_agent_and_a_coordinator_are_for_linux_and_say_so(command: list[str]) -> None:
    done = elsewhere(*command)
    assert done.returncode == 2
    assert "Linux" in done.stderr.decode("utf-8")

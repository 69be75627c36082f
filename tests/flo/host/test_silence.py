"""No library of a hospital's process reports its use to its maker."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.paths import ROOT

pytestmark = pytest.mark.processes


def _left_in_home(home: Path, script: str) -> list[str]:
    """Run a script as a process of a hospital, and return the files that it left at home."""
    quiet = {"CI", "ORT_DISABLE_TELEMETRY", "ORT_RUNNING_UNIT_TESTS", "XDG_CACHE_HOME"}
    environment = {name: value for name, value in os.environ.items() if name not in quiet}
    environment |= {"HOME": str(home)}
    command = [sys.executable, "-c", script]
    subprocess.run(command, cwd=ROOT, env=environment, check=True, timeout=120)
    return [str(path.relative_to(home)) for path in home.rglob("*") if path.is_file()]


def test_onnx_runtime_by_itself_keeps_a_number_of_the_machine_to_report_by(tmp_path: Path) -> None:
    assert any("deviceid" in file for file in _left_in_home(tmp_path, "import onnxruntime"))


def test_under_flo_it_keeps_none_and_reports_nothing(tmp_path: Path) -> None:
    script = (
        "import flo.scoring.network as n\n"
        "try: n.session_of(b'none')\n"
        "except Exception as error: assert 'onnx' in type(error).__module__, error\n"
    )
    assert _left_in_home(tmp_path, script) == []

"""The wheel and the sdist hold all of FLO, nothing else, and say who may be asked for what."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from flo import __version__
from tests.packaging.environments import build, install
from tests.paths import ROOT

pytestmark = pytest.mark.slow
KEPT_AS_DATA = (
    *(".j2", ".json", ".css", ".js", ".svg", ".yaml", ".toml", ".py", ".typed"),
    ".onnx",
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an sdist, and the wheel that was built from it."""
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--outdir", str(out), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    return out


def rooms() -> set[str]:
    """Every file that FLO is made of, by its path in the package."""
    found = set()
    for folder in ("flo", "server", "clients", "privacy", "infra", "examples"):
        inside = "" if folder == "flo" else f"{folder}/"
        for path in (ROOT / folder).rglob("*"):
            name = path.relative_to(ROOT / folder).as_posix()
            if path.is_file() and path.suffix in KEPT_AS_DATA and "__pycache__" not in name:
                found.add(f"flo/{inside}{name}")
    return found


def test_the_wheel_of_the_sdist_holds_all_of_flo_and_nothing_else(made: Path) -> None:
    (wheel,) = made.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        inside = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert inside == rooms()
    assert f"-{__version__}-" in wheel.name


def test_the_sdist_holds_no_test_data_of_ours_and_no_secret(made: Path) -> None:
    (sdist,) = made.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = archive.getnames()
    assert not [name for name in names if name.endswith((".key", ".sqlite", ".pem", ".whl"))]


def test_what_is_installed_has_its_command_and_its_templates(
    environments: Path, tmp_path: Path
) -> None:
    installed = install(build(tmp_path), environments / "installed")
    assert "Hospitals train one model together" in installed.done("--help")
    (tmp_path / "data").mkdir()
    assert "study.toml" in installed.done("data", "heart", tmp_path / "data")
    checked = installed.done("study", "check", tmp_path / "data" / "study.toml")
    assert "recommended" in checked

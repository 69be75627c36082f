"""Every command and option that README names exists, and its two commands are what make runs."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from flo.cli import app

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```console\n(.*?)```", README, flags=re.DOTALL)
SPANS = re.findall(r"`(flo [^`]+)`", README)
LINES = [line for block in BLOCKS for line in block.splitlines() if line.startswith("flo ")]
COMMANDS = sorted({*LINES, *SPANS} - {"flo --help"})


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_that_readme_names_exists_with_its_options(line: str) -> None:
    words = shlex.split(line)[1:]
    path = [word for word in words[:2] if re.fullmatch(r"[a-z]+", word)]
    if path[0] in ("simulate", "demo", "data", "bench"):
        path = path[:1]
    shown = CliRunner().invoke(app, [*path, "--help"], env={"COLUMNS": "200"})
    assert shown.exit_code == 0, shown.output
    for option in (word for word in words if word.startswith("--")):
        assert option in shown.output, f"{line}: {option}"


def test_readme_names_every_command() -> None:
    root = get_command(app)
    for name, command in root.commands.items():  # type: ignore[attr-defined]
        inner = getattr(command, "commands", None)
        for full in [f"flo {name} {sub}" for sub in inner] if inner else [f"flo {name}"]:
            assert full in README, full


def test_the_two_commands_are_make_targets() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"^make ([a-z-]+)$", "\n".join(BLOCKS), flags=re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


def test_ci_runs_the_commands_that_contributors_run() -> None:
    assert "make lint types test test-full" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")

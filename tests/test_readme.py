"""Every command and option that README and docs name exists; README names them all."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from flo import __version__
from flo.cli import app, built
from tests.paths import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```console\n(.*?)```", README, flags=re.DOTALL)
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def named(page: Path) -> set[str]:
    """Commands on a page: whole lines of its blocks, and those within a sentence."""
    text = page.read_text(encoding="utf-8")
    blocks = re.findall(r"```[a-z]*\n(.*?)```", text, flags=re.DOTALL)
    lines = {line for block in blocks for line in block.splitlines() if line.startswith("flo ")}
    spans = re.findall(r"`(flo [^`]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    return lines | {" ".join(span.split()) for span in spans}


ALL: Any = built()
OF_FLO_ITSELF = {"flo --help", "flo --install-completion", "flo --version"}
COMMANDS = sorted(set().union(*map(named, PAGES)) - OF_FLO_ITSELF)


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_that_a_page_names_exists_with_its_options(line: str) -> None:
    words = shlex.split(line, comments=True)[1:]
    found = ALL
    for word in words[:2]:
        if hasattr(found, "commands") and re.fullmatch(r"[a-z][a-z-]+", word):
            found = found.commands[word]
    known = {name for one in found.params for name in (*one.opts, *one.secondary_opts)}
    asked = {word.partition("=")[0] for word in words if word.startswith("--")}
    assert asked - {"--help"} <= known


def test_a_command_that_an_error_or_a_page_of_ours_names_exists() -> None:
    """With the options that stand behind it on the same line."""
    rooms = ("flo/cli", "flo/bench", "flo/pages", "server", "clients", "privacy", "infra")
    sources = [path for room in rooms for path in (ROOT / room).rglob("*")]
    sources += (ROOT / "flo").glob("*.py")
    groups = {name: command.commands for name, command in _groups().items()}
    said = re.compile(rf"\bflo ({'|'.join(groups)}) ([a-z][a-z-]+)")
    found = {
        (group, command)
        for path in sources
        if path.suffix in (".py", ".j2")
        for group, command in said.findall(path.read_text(encoding="utf-8"))
    }
    assert len(found) > 40
    assert {(group, command) for group, command in found if command not in groups[group]} == set()


def _groups() -> dict[str, Any]:
    return {name: found for name, found in ALL.commands.items() if hasattr(found, "commands")}


def test_the_version_is_said_where_people_ask_for_it() -> None:
    shown = CliRunner().invoke(app, ["--version"])
    assert (shown.exit_code, shown.output) == (0, f"FLO {__version__}\n")


def test_readme_names_every_command() -> None:
    for name, command in ALL.commands.items():
        inner = getattr(command, "commands", None)
        for full in [f"flo {name} {sub}" for sub in inner] if inner else [f"flo {name}"]:
            assert full in README, full


def test_the_two_commands_are_make_targets() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"^make ([a-z-]+)$", "\n".join(BLOCKS), flags=re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


def test_ci_runs_the_commands_that_contributors_run() -> None:
    text = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    made = [word for line in re.findall("^make (.*)$", text, re.MULTILINE) for word in line.split()]
    targets = [word for word in made if not word.startswith(("-", "."))]  # options and files
    assert targets == [
        *("proofs-quick", "docs", "types", "lint"),
        *("test", "test-processes", "test-full"),
    ]


def test_readme_says_in_one_line_what_each_target_of_make_does() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (declared,) = re.findall(r"^\.PHONY: (.*)$", makefile, flags=re.MULTILINE)
    rows = re.findall(r"^\| `make ([a-z-]+)` \| .+ \|$", README, flags=re.MULTILINE)
    assert sorted(rows) == sorted(declared.split())

"""Every command can be asked for JSON, and returns what docs/json.md says; a walk through many."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from pydantic import TypeAdapter

from flo.cli import built
from flo.cli.terminal.results import CommandResult, RefusalResult
from flo.clients.home.site_home import SiteHome
from flo.study.terms import round_size
from tests.builders import HOSPITALS, csv_text, study_document
from tests.commands import flo
from tests.end_to_end.agents import agent
from tests.end_to_end.running import wait_for
from tests.paths import ROOT
from tests.server.real_coordinator import RealCoordinator, serving
from tools import json_schemas

ALL: Any = built()
RETURNED = json_schemas.returned()


@pytest.mark.parametrize("words", [*RETURNED])
def test_every_command_can_be_asked_for_json(words: str) -> None:
    command = ALL
    for word in words.split():
        command = command.commands[word]
    assert any("--json" in one.opts for one in command.params)
    assert issubclass(RETURNED[words], CommandResult)


def test_only_what_runs_until_it_is_ended_returns_nothing() -> None:
    every = {
        f"{group} {name}"
        for group, command in ALL.commands.items()
        for name in getattr(command, "commands", ())
    } | {name for name, command in ALL.commands.items() if not hasattr(command, "commands")}
    assert every - set(RETURNED) == set(json_schemas.ENDLESS)


def test_the_page_of_schemas_is_what_the_code_says() -> None:
    assert (ROOT / "docs" / "json.md").read_text(encoding="utf-8") == json_schemas.page(), (
        "python -m tools.json_schemas > docs/json.md"
    )


def asked(words: str, *arguments: str | Path) -> Any:
    """What a command returns, which is all that it writes to standard output."""
    done = flo(*words.split(), *arguments, "--json", "-")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    kind = RETURNED[words]
    again: Any = TypeAdapter(kind).validate_json(done.stdout, strict=True)
    assert set(document) == set(vars(again)), words
    return document


def refused(code: int, words: str, *arguments: str | Path) -> Any:
    done = flo(*words.split(), *arguments, "--json", "-")
    assert done.returncode == code, done.stderr
    refusal = TypeAdapter(RefusalResult).validate_json(done.stdout, strict=True)
    assert refusal.exit_code == code
    return refusal


def test_a_refusal_is_json_too_and_says_what_to_do(tmp_path: Path) -> None:
    refusal = refused(2, "site budget", "--home", tmp_path / "nothing")
    assert "is not a site's folder" in refusal.error
    assert "flo site init" in refusal.what_to_do


def test_json_goes_to_a_file_and_the_words_to_the_screen(tmp_path: Path) -> None:
    path = tmp_path / "made.json"
    done = flo("coordinator", "init", "--home", tmp_path / "home", "--json", path)
    assert "created a coordinator in" in done.stdout
    assert json.loads(path.read_text())["home"] == str(tmp_path / "home")


@pytest.mark.processes
@pytest.mark.parametrize(
    ("typed", "offered"),
    [("flo ", "site"), ("flo site ap", "approve"), ("flo study launch --dry", "--dry-run")],
)
def test_a_shell_completes_commands_and_options(typed: str, offered: str) -> None:
    words = typed.split(" ")
    asked_by_bash = {
        "_FLO_COMPLETE": "complete_bash",
        "COMP_WORDS": typed,
        "COMP_CWORD": str(len(words) - 1),
    }
    program = Path(sys.executable).parent / "flo"
    done = subprocess.run(
        [program], env=os.environ | asked_by_bash, capture_output=True, text=True, check=True
    )
    assert offered in done.stdout.split()


@pytest.fixture(scope="module")
def coordinator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealCoordinator]:
    with serving(tmp_path_factory.mktemp("json") / "home") as real:
        yield real


@pytest.mark.slow
def test_a_whole_life_of_commands_in_json(coordinator: RealCoordinator, tmp_path: Path) -> None:
    place = ("--home", coordinator.home.directory)
    with ExitStack() as stack:
        sites = {name: joined(coordinator, name, tmp_path) for name in HOSPITALS}
        listed = asked("coordinator hospitals", *place)["hospitals"]
        assert [one["hospital"] for one in listed] == sorted(HOSPITALS)
        for home in sites.values():
            stack.enter_context(agent(home))

        study = tmp_path / "study.toml"
        study.write_text(tomli_w.dumps(study_document(name="in-json")))
        planned = asked("study launch", study, "--dry-run", *place)
        assert (planned["status"], asked("study list", *place)["studies"]) == ("planned", [])
        offered = asked("study launch", study, "--detach", *place)
        assert (offered["status"], offered["digest"]) == ("offered", planned["digest"])
        digest = offered["digest"]
        for home in sites.values():
            decided(home, digest)
        wait_for(
            lambda s: s["status"] == "done" and len(s["approved"]) == 3,
            coordinator.home.directory,
            digest,
        )
        done = asked("study watch", "in-json", *place)
        assert done["result"]["rounds"] == 3
        afterwards(coordinator, sites["north"], digest, tmp_path)


def joined(coordinator: RealCoordinator, name: str, folder: Path) -> SiteHome:
    site, data, invitation = folder / name, folder / f"{name}.csv", folder / f"{name}.json"
    data.write_text(csv_text(prefix=name))
    made = asked(
        "coordinator invite", name, "--out", invitation, "--home", coordinator.home.directory
    )
    assert (made["hospital"], made["replaces"]) == (name, False)
    size = str(round_size(40))
    own = asked("site init", name, "--data", data, "--declared-size", size, "--home", site)
    enrolled = asked("site enrol", invitation, "--home", site)
    assert enrolled["fingerprint"] == own["fingerprint"]
    assert asked("site coordinator", "--home", site)["fingerprint"] == enrolled["coordinator"]
    return SiteHome.open(site)


def decided(home: SiteHome, digest: str) -> None:
    place = ("--home", home.directory)
    (waiting,) = asked("site inbox", *place)["studies"]
    assert waiting["here"] == "waiting for you"
    assert asked("site review", digest, *place)["sections"]
    with closing(home.open_ledger()) as ledger:
        before = ledger.head()
    looked = asked("site approve", digest, "--dry-run", *place)
    assert (looked["approved"], looked["dry_run"]) == (False, True)
    with closing(home.open_ledger()) as ledger:
        assert ledger.head() == before
    assert [*(home.directory / "snapshots").iterdir()] == []
    assert asked("site inbox", *place)["studies"] == [waiting]
    approved = asked("site approve", digest, "--yes", *place)
    assert (approved["approved"], approved["budget_shares"]) == (True, looked["budget_shares"])


def afterwards(coordinator: RealCoordinator, site: SiteHome, digest: str, folder: Path) -> None:
    place, here = ("--home", coordinator.home.directory), ("--home", site.directory)
    out = folder / "extracts"
    assert asked("study extracts", "in-json", "--out", out, *place)["hospitals"]
    own = asked("site extract", digest[:12], "--out", folder / "own.json", *here)["file"]
    written = asked("audit report", own, "--out", folder / "report")
    (checked,) = asked("audit verify", written["document"])["reports"]
    assert checked["digest"] == digest
    asked("audit export", "--out", folder / "log.json", *here)
    (log,) = asked("audit verify", folder / "log.json")["logs"]
    assert log["owner"] == "north"
    assert asked("audit log", "--last", "3", *here)["count"] == log["entries"]
    (population,) = asked("site budget", *here)["populations"]
    assert population["sub_ledgers"]["training"]["spent"] > 0
    assert asked("site policy", *here)["rules"]["approvers"] == 1
    assert asked("site confirm", "south=" + "a" * 64, *here)["confirmed"] == {"south": "a" * 64}
    known = asked("site roster", *here)
    assert {"north", "south"} <= {one["hospital"] for one in known["hospitals"]}
    assert asked("coordinator hospitals", *place)["roster"] == known["roster"]
    assert asked("site roster", known["roster"], *here)["roster"] == known["roster"]
    assert asked("site stop", *here)["since"]
    assert asked("site resume", *here)["since"] is None
    card = asked("model fetch", "in-json", "--out", folder / "models", *here)["card"]
    assert asked("model show", card, *here)["card"]["rounds"] == 3
    (model,) = asked("model list", folder / "models", *here)["models"]
    assert model["refused"] is None
    scores = ("--data", folder / "north.csv", "--out", folder / "scores.csv")
    assert asked("model predict", card, *scores, *here)["records"] == 40
    token = asked("coordinator token", "Vera", "--out", folder / "vera.json", *place)
    assert "see studies" in token["may"]
    assert asked("study list", "--home", folder / "vera.json")["studies"][0]["digest"] == digest
    assert "#" in asked("coordinator console", "--home", folder / "vera.json")["link"]
    assert asked("study shred", "in-json", "--yes", *place)["removed"] >= 1
    assert refused(2, "study stop", "in-json", *place).error
    assert asked("coordinator revoke", "west", *place)["hospital"] == "west"

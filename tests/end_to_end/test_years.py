"""Three years of three real hospitals: patients arrive and opt out, a machine is lost."""

from __future__ import annotations

import contextlib
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from flo.cli.coordinator.operator import Operator
from flo.clients.home.site_home import SiteHome
from flo.clients.inbox.review import review
from flo.clients.records import approval
from flo.clients.records.members import Members
from flo.keys.keystore import PASSPHRASE_VARIABLE
from flo.privacy.patients.split import keyed_hash
from flo.privacy.report.page import render
from flo.privacy.report.report import build, verify
from flo.published.model_card import read_card
from flo.server.studies.own_models import OwnModels
from flo.study.lineage import Life
from tests.builders import data_file
from tests.commands import flo
from tests.end_to_end.agents import agent, kill
from tests.end_to_end.running import SITES, card_of, launch, wait_for
from tests.server.real_coordinator import serving

STEPS = 4
pytestmark = pytest.mark.slow


def done(*words: str | Path) -> str:
    said = flo(*words)
    assert said.returncode == 0, said.stderr
    return said.stdout


def arrive(site: SiteHome, year: int) -> list[str]:
    """Forty new patients; their ids."""
    file, chosen = data_file(site), random.Random(f"{site.directory.name} {year}")
    names = [f"year{year}-{number:02}" for number in range(40)]
    lines = [
        f"{name},{chosen.uniform(20, 90):.1f},{chosen.choice('abc')},{chosen.randrange(2)}"
        for name in names
    ]
    file.write_text(file.read_text() + "\n".join(lines) + "\n")
    return names


def members(site: SiteHome, digest: str, ids: list[str]) -> set[str]:
    """Those of these ids whom the study's snapshot had."""
    kept = approval.load(site, digest)
    found = Members.load(site, digest, kept.snapshot)
    assert found is not None
    inside = {*found.training, *found.held_out}
    key = site.open_patients_key()
    return {name for name in ids if keyed_hash(key, name) in inside}


def test_three_years_of_patients_an_opt_out_and_a_restore_add_up_in_one_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = tmp_path / "passphrase"
    secret.write_text("a long passphrase\n")
    monkeypatch.setenv(PASSPHRASE_VARIABLE, str(secret))
    settings: dict[str, Any] = {"steps": STEPS, "schema": 4, "epsilon": 0.9}
    with serving(tmp_path / "coordinator") as coordinator, contextlib.ExitStack() as stack:
        home = coordinator.home.directory
        sites = [coordinator.enrol(tmp_path / name, name) for name in SITES]
        north, first_year = sites[0], [f"north{n:04}" for n in range(40)]
        running, *_ = [stack.enter_context(agent(site)) for site in sites]

        def year(version: int, before: str | None = None) -> str:
            """The study of a year; it continues the model of the study ``before``."""
            card = before and card_of(coordinator.home, before)
            more = {**settings, "version": version, "continues": card}
            digest = launch(coordinator, sites, "distributed noise", **more)
            wait_for(lambda f: any(e["kind"] == "published" for e in f["events"]), home, digest)
            return digest

        first = year(1)
        assert members(north, first, first_year) == set(first_year)
        second_year = arrive(north, 2)
        for other in sites[1:]:
            arrive(other, 2)
        said = flo("site", "opt-out", "--home", north.directory, typed=f"{second_year[0]}\n")
        assert said.returncode == 0, said.stderr
        done("site", "backup", tmp_path / "north.backup", "--home", north.directory)
        second = year(2, first)
        assert members(north, second, first_year + second_year) == set(second_year[1:])

        kill(running.pid)  # the machine is gone, and with it whom the second year froze
        shutil.move(data_file(north), tmp_path / "north.csv")
        shutil.rmtree(north.directory)
        assert "approved since the backup" in done(
            "site", "restore", tmp_path / "north.backup", "--home", north.directory
        )
        shutil.move(tmp_path / "north.csv", data_file(north))
        done("site", "policy", "--sign", "--home", north.directory)
        stack.enter_context(agent(north))
        third_year = arrive(north, 3)
        for other in sites[1:]:
            arrive(other, 3)
        ids = tmp_path / "new.txt"
        ids.write_text("\n".join(third_year[:30]))
        done("site", "new-patients", ids, "--yes", "--home", north.directory)
        third = year(3, second)
        assert members(north, third, first_year + second_year + third_year) == set(third_year[:30])
        south = members(sites[1], third, third_year)
        assert south == set(third_year)

        with Operator(home) as operator:
            extracts = operator.call("GET", f"studies/{third}/extracts")
        study = approval.load(north, third).read_study()
        parts = review(north, study, north.read_config().population(None))
        sheet = "\n".join(f"{name} {text}" for part in parts for name, text in part.lines)
        done("model", "fetch", third, "--home", north.directory, "--out", tmp_path / "models")
        (path,) = (tmp_path / "models").glob("*.card.json")
        shown = " ".join(done("model", "show", path, "--home", north.directory).split())
        cards = [card_of(coordinator.home, digest) for digest in (first, second)]
        weights = [
            OwnModels(coordinator.home).open(card_of(coordinator.home, digest)).weights
            for digest in (first, second, third)
        ]
    for text in (sheet, shown):
        for version, digest in enumerate(cards, start=1):
            assert f"tiny, version {version}" in text
            assert digest[:16] in text
        assert "life budget" in text
    assert "at most ε = 0.9 at δ = 1e-06 for those who took part in this study" in shown
    assert "approved here before tiny, version 1\n" in sheet, "version 2 was lost"
    card = read_card(path)
    assert card.life == Life(epsilon=0.9, delta=1e-6)
    assert len({vector.tobytes() for vector in weights}) == 3
    report = build([text.encode() for text in extracts.values()])
    whole = verify(report)
    assert [one["card"] for one in whole["study"]["lineage"]] == cards
    facts = {one["hospital"]: one for one in whole["hospitals"]}
    assert len(facts) == 3
    numbers = {name: len(one["generations"]) for name, one in facts.items()}
    assert numbers == {"north": 3, "south": 3, "west": 3}  # of north, one is generation 0
    for one in facts.values():
        for generation in one["generations"]:
            for share in generation["shares"].values():
                assert 0 <= share["all"] <= 1
        assert [g["this_study"] for g in one["generations"]][:-1] == [[], []]
    assert facts["north"]["generations"][0]["number"] == 0
    assert facts["north"]["restored"]
    page = render(report)
    assert "Generations of patients" in page
    assert "Earlier models that it continued" in page

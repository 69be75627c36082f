"""An export that spells ids otherwise does not make everybody a new patient without a word."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from flo.clients.patients.id_continuity import check_id_continuity
from flo.clients.patients.opt_outs import opt_out
from flo.clients.quality.findings import DataFinding
from flo.clients.records.members import Members
from flo.errors import DataError
from tests.builders import data_file, small_study
from tests.clients.approvals.test_approval_refusals import add_population
from tests.clients.approving_site import Site, enrolled_site


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return enrolled_site(tmp_path)


def found(site: Site) -> list[DataFinding]:
    return check_id_continuity(site.home, site.home.read_config().population("main"))


def respell(site: Site, spelt: Callable[[str], str]) -> None:
    file = data_file(site.home)
    header, *lines = file.read_text().splitlines()
    rows = [line.split(",", 1) for line in lines]
    file.write_text("\n".join([header, *(f"{spelt(name)},{rest}" for name, rest in rows)]) + "\n")


def test_a_new_site_has_nothing_to_say(site: Site) -> None:
    assert found(site) == []


@pytest.mark.parametrize(
    "spelt",
    [
        lambda name: name.replace("north0", "north"),
        lambda name: f"{name}.0",
        lambda name: f"MRN-{name}",
        lambda name: name.replace("0", "\uff10"),
    ],
    ids=["zeros", "decimals", "prefix", "full width"],
)
def test_ids_that_nobody_had_before_are_asked_about(
    site: Site, spelt: Callable[[str], str]
) -> None:
    site.approve(site.offer())
    opt_out(site.home, "north0003")
    assert [finding.level for finding in found(site)] == ["note"]
    respell(site, spelt)
    out, asked = found(site)
    assert (out.level, out.kind) == ("to accept", "opt outs")
    assert out.rule.startswith("0 of 1 patients who opted out are there, and are left out;")
    assert (asked.column, asked.level, asked.kind) == ("patient_id", "to accept", "other ids")
    assert "0 of 39 patients of earlier studies are there" in asked.rule
    second = site.offer(small_study(name="second"))
    site.refuses(second, DataError, "check that ids are spelt as before", heads=True)


def test_the_same_ids_are_left_out_and_noted(site: Site) -> None:
    opt_out(site.home, "NORTH0003 ")
    (note,) = found(site)
    assert note.rule == "1 of 1 patients who opted out are there, and are left out"
    kept = site.approve(site.offer())
    members = Members.load(site.home, site.offer().study.digest, kept.snapshot)
    assert members is not None
    assert len(members.training) + len(members.held_out) == 39


def test_opt_outs_alone_are_missed_though_everybody_else_is_there(site: Site) -> None:
    """Only their ids lost a zero; and before any study, where three or more are."""
    for number in range(3):
        opt_out(site.home, f"north000{number}")
    assert [finding.level for finding in found(site)] == ["note"]
    respell(site, lambda name: name.replace("north000", "north"))
    assert [(finding.kind, finding.level) for finding in found(site)] == [("opt outs", "to accept")]


def test_opt_outs_of_another_population_are_not_missed_in_this_one(site: Site) -> None:
    add_population(site, "clinic")
    for number in range(3):
        opt_out(site.home, f"x000{number}")
    assert [finding.level for finding in found(site)] == ["note"]


def test_one_who_was_never_there_is_no_question(site: Site) -> None:
    opt_out(site.home, "somebody else")
    assert [finding.level for finding in found(site)] == ["note"]


def test_half_of_new_patients_are_no_surprise(site: Site) -> None:
    site.approve(site.offer())
    respell(site, lambda name: name if int(name[5:]) % 2 else f"new-{name}")
    assert found(site) == []

"""An export that spells ids otherwise does not make everybody a new patient without a word."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from flo.clients.patients.id_continuity import check_id_continuity, ids_here
from flo.clients.patients.opt_outs import opt_out
from flo.clients.quality.findings import DataFinding
from flo.clients.records.members import Members
from flo.errors import DataError
from tests.builders import csv_text, data_file, small_study
from tests.clients.approvals.test_approval_refusals import add_population
from tests.clients.approving_site import Site, enrolled_site


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return enrolled_site(tmp_path)


def found(site: Site) -> list[DataFinding]:
    population = site.home.read_config().population("main")
    return check_id_continuity(site.home, population, ids_here(site.home, population))


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
    out, asked, *_ = found(site)
    assert (out.level, out.kind) == ("to accept", "opt outs")
    assert out.rule.startswith("0 of 1 patients who opted out are there, and are left out;")
    assert (asked.column, asked.level) == ("patient_id", "to accept")
    assert asked.kind == "earlier ids gone, up to 100 %"
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
    assert [(finding.kind, finding.level) for finding in found(site)] == [
        ("opt outs", "to accept"),
        ("earlier ids spelt otherwise, 3", "to accept"),
    ]


def test_opt_outs_of_another_population_are_not_missed_in_this_one(site: Site) -> None:
    add_population(site, "clinic")
    for number in range(3):
        opt_out(site.home, f"x000{number}")
    assert [finding.level for finding in found(site)] == ["note"]


def test_one_who_was_never_there_is_no_question(site: Site) -> None:
    opt_out(site.home, "somebody else")
    assert [finding.level for finding in found(site)] == ["note"]


def test_twice_as_many_patients_are_no_surprise(site: Site) -> None:
    site.approve(site.offer())
    file = data_file(site.home)
    more = csv_text(prefix="new").splitlines()[1:]
    file.write_text(file.read_text() + "\n".join(more) + "\n")
    assert found(site) == []


@pytest.mark.parametrize(
    "spelt",
    [
        lambda name: f"{name}.0",  # a reader that took a batch's ids for numbers
        lambda name: name.replace("north00", "north"),
        lambda name: f"{name[:5]}-{name[5:]}",
        lambda name: f"MRN {name}",
        lambda name: name.replace("n", "\uff4e"),
        lambda name: f"x{name[6:]}y",  # a spelling that nobody thought of
    ],
    ids=["decimals", "zeros", "mark", "prefix", "full width", "other"],
)
def test_five_per_cent_in_another_spelling_are_asked_about_before_approval(
    site: Site, spelt: Callable[[str], str]
) -> None:
    site.approve(site.offer(small_study(schema_version=4)))
    respell(site, lambda name: spelt(name) if int(name[5:]) in (7, 23) else name)
    kinds = [finding.kind for finding in found(site) if finding.level == "to accept"]
    assert "earlier ids gone, up to 5 %" in kinds
    second = site.offer(small_study(schema_version=4, name="second"))
    site.refuses(second, DataError, "a patient with another id gets a second budget", heads=True)


def test_a_single_id_in_another_spelling_is_recognised(site: Site) -> None:
    site.approve(site.offer(small_study(schema_version=4)))
    respell(site, lambda name: f"{name}.0" if name == "north0032" else name)
    assert "earlier ids spelt otherwise, 1" in [finding.kind for finding in found(site)]


def test_what_was_accepted_for_a_few_is_asked_again_for_more(site: Site) -> None:
    site.approve(site.offer(small_study(schema_version=4)))
    kinds = []
    for gone in (2, 3, 6):
        few = {f"north{number:04}" for number in range(gone)}
        respell(site, lambda name, few=few: f"x{name}" if name in few else name)  # type: ignore[misc]
        kinds.append(found(site)[0].kind)
        respell(site, lambda name: name.removeprefix("x"))
    assert kinds == [f"earlier ids gone, up to {band} %" for band in (5, 10, 20)]

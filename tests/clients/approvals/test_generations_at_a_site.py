"""Years at one hospital, with its real files: who is frozen, and what its steward is shown."""

from __future__ import annotations

import random
import re
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flo.cli import app
from flo.clients.desk.facts import would_take
from flo.clients.home.site_home import SiteHome
from flo.clients.patients.later_patients import add_later_patients, later_patients, read_ids
from flo.clients.patients.opt_outs import opt_out
from flo.clients.records.approval import Approval, snapshot_path
from flo.clients.records.members import Members
from flo.clients.records.snapshot import Snapshot
from flo.errors import BudgetError, DataError, RefusedError, UsageError
from flo.privacy.patients.split import keyed_hash
from flo.privacy.report.budget_view import band
from flo.study.document import Study
from tests.builders import SilentApi, data_file, small_study, study_document
from tests.clients.approving_site import Site, enrolled_site
from tests.privacy.ledgers import study_of as older_study

MAPPING = """
schema_version = 1
[studies.yearly]
[studies.yearly.accepted]
"number of patients: patient_id" = "Few are new in a year."
[studies.yearly.columns]
age = { field = "age" }
ward = { field = "ward" }
ill = { field = "ill" }
"""


def with_few_new_patients(site: Site) -> Site:
    """Its steward accepts that a study expects more patients than are new."""
    (site.home.directory / "mapping.toml").write_text(MAPPING)
    return site


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return with_few_new_patients(enrolled_site(tmp_path))


def yearly(version: int, epsilon: float = 0.9) -> Study:
    document = study_document(name="yearly", version=version, schema_version=4)
    for part in ("mechanism", "evaluation"):
        document[part]["epsilon"] = epsilon
    return small_study(**document)


def arrive(site: Site, *names: str) -> None:
    lines = [f"{name},{30 + n % 40},{'abc'[n % 3]},{n % 2}" for n, name in enumerate(names)]
    file = data_file(site.home)
    file.write_text(file.read_text() + "\n".join(lines) + "\n")


def members(site: Site, approved: Approval) -> set[str]:
    """The ids whose records an approval froze."""
    study = approved.read_study().digest
    found = Members.load(site.home, study, approved.snapshot)
    assert found is not None
    frozen = Snapshot.read(snapshot_path(site.home, study, approved.snapshot), approved.snapshot)
    assert frozen.training.count == len(found.training)
    assert frozen.held_out.count == len(found.held_out)
    key = site.home.open_patients_key()
    lines = data_file(site.home).read_text().splitlines()[1:]
    names = {keyed_hash(key, line.split(",")[0]): line.split(",")[0] for line in lines}
    return {names[one] for one in (*found.training, *found.held_out)}


NEW = [f"later{n:02}" for n in range(12)]


def test_the_second_year_trains_on_those_who_came_since(site: Site) -> None:
    first = members(site, site.approve(site.offer(yearly(1))))
    arrive(site, *NEW)
    second = members(site, site.approve(site.offer(yearly(2))))
    assert len(first) == 40
    assert second == set(NEW)


def test_small_studies_use_everybody_until_their_budget_ends(site: Site) -> None:
    for version in (1, 2):
        assert len(members(site, site.approve(site.offer(yearly(version, 0.5))))) == 40
    arrive(site, *NEW)
    assert members(site, site.approve(site.offer(yearly(3, 0.5)))) > set(NEW)
    assert members(site, site.approve(site.offer(yearly(4, 0.5)))) == set(NEW)


def test_a_year_without_new_patients_is_approved_and_empty(site: Site) -> None:
    site.approve(site.offer(yearly(1)))
    assert members(site, site.approve(site.offer(yearly(2)))) == set()


def test_who_opted_out_is_not_there_and_does_not_come_back_with_a_new_life(site: Site) -> None:
    arrive(site, *NEW)
    opt_out(site.home, NEW[0])
    assert NEW[0] not in members(site, site.approve(site.offer(yearly(1))))
    opt_out(site.home, NEW[1])
    approved = site.approve(site.offer(yearly(2)))
    assert members(site, approved) == set()


def test_a_yearly_limit_counts_for_each_generation(site: Site) -> None:
    site.allow(largest_epsilon_a_year=0.5)
    site.approve(site.offer(yearly(1, 0.5)))
    arrive(site, *NEW)
    assert members(site, site.approve(site.offer(yearly(2, 0.5)))) == set(NEW)
    site.refuses(site.offer(yearly(3, 0.6)), BudgetError, "largest_epsilon_a_year", heads=True)


def test_an_older_study_says_how_much_is_left_of_those_who_spent_most(site: Site) -> None:
    site.approve(site.offer(yearly(1)))
    arrive(site, *NEW)
    older = site.offer(older_study(0.1, "older"))
    site.refuses(older, BudgetError, r"0\.0% remains", heads=True)


def test_a_study_that_expects_more_than_are_new_is_asked_about(tmp_path: Path) -> None:
    """Unless it says that it expects fewer; those who are out of budget do not count."""
    site = enrolled_site(tmp_path)
    site.approve(site.offer(yearly(1)))
    site.refuses(site.offer(yearly(2)), DataError, "0 patients .* is the file complete", heads=True)
    arrive(site, *NEW)
    document = yearly(2).model_dump(mode="json", exclude={"evaluation": {"bins"}})
    document["hospitals"][0]["expected"] = 10
    site.approve(site.offer(small_study(**document)))


# -- what the steward sees -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (0, "fewer than 20"),
        (19, "fewer than 20"),
        (20, "20 to 49"),
        (999_999, "100,000 to 999,999"),
        (2_000_000, "1,000,000 or more"),
    ],
)
def test_counts_are_in_wide_bands(count: int, words: str) -> None:
    assert band(count) == words


def test_a_rehearsal_says_how_many_patients_take_part(site: Site) -> None:
    site.approve(site.offer(yearly(1)))
    arrive(site, *NEW)
    lines = site.dry_run(site.offer(yearly(2)))
    assert [text for _, text in lines] == [
        "20 to 49 patients; none takes part: the budget has no room",
        "fewer than 20 patients; all take part, in a generation of their own, with the whole "
        "budget",
    ]
    assert lines[0][0].startswith("first in yearly:1, 20")


def test_the_budget_draws_each_generation_and_who_could_take_part(site: Site) -> None:
    site.approve(site.offer(yearly(1, 0.5)))
    arrive(site, *NEW)
    site.approve(site.offer(yearly(2, 0.9)))
    shown = CliRunner().invoke(
        app, ["site", "budget", "--home", str(site.home.directory)], env={"COLUMNS": "160"}
    )
    assert shown.exit_code == 0, shown.output
    assert re.search(r"first in yearly:1, \S+ +20 to 49 +█*▒+░+ \d\d\.\d%", shown.output)
    assert re.search(r"first in yearly:2, \S+ +fewer than 20 +▒+ (99|100)\.\d%", shown.output)
    assert "a study of ε = 0.5: 1 of 2 generations, 20 to 49 patients seen before" in shown.output
    assert "a study of ε = 0.9: patients not seen before only" in shown.output


@pytest.mark.parametrize(
    ("epsilon", "fits_new", "generations"), [(0.3, True, 1), (0.9, True, 0), (0.95, False, 0)]
)
def test_a_study_beyond_a_whole_life_fits_for_nobody(
    site: Site, epsilon: float, fits_new: bool, generations: int
) -> None:
    site.approve(site.offer(yearly(1, 0.5)))
    ledger = site.home.open_ledger()
    room = would_take(ledger, "main", epsilon)
    ledger.close()
    assert room is not None
    assert (room.fits_new, room.generations) == (fits_new, generations)


# -- after a restore -------------------------------------------------------------------------------


def restore_from_nothing(site: Site) -> None:
    """As a recovery after which nobody shows a lost row."""
    ledger = site.home.open_ledger()
    ledger.restore([], None)
    ledger.close()


def test_after_a_restore_only_signed_ids_have_a_new_life(site: Site, tmp_path: Path) -> None:
    site.approve(site.offer(yearly(1)))
    restore_from_nothing(site)
    site.approve(site.offer(yearly(2)))  # generation 0 pays for it
    arrive(site, *NEW)
    file = tmp_path / "new.txt"
    file.write_text("\n".join(NEW[:5]) + "\n\n")
    command = ["site", "new-patients", str(file), "--home", str(site.home.directory), "--yes"]
    said = CliRunner().invoke(app, command)
    assert said.exit_code == 0, said.output
    assert "signed; 5 ids of population main are on the list" in said.output
    assert members(site, site.approve(site.offer(yearly(3)))) == set(NEW[:5])


def test_the_list_grows_and_holds_no_id(site: Site) -> None:
    restore_from_nothing(site)
    population = site.home.read_config().population("main")
    assert later_patients(site.home, population) is None
    assert add_later_patients(site.home, population, NEW[:5]) == 5
    assert add_later_patients(site.home, population, NEW[3:8]) == 8
    (file,) = site.home.directory.glob("later-patients.*")
    assert NEW[0].encode() not in file.read_bytes()


def test_only_a_restored_ledger_has_such_a_list(site: Site) -> None:
    population = site.home.read_config().population("main")
    with pytest.raises(RefusedError, match="never restored from a backup"):
        add_later_patients(site.home, population, NEW)


def test_a_patient_of_an_earlier_study_is_no_later_one(site: Site) -> None:
    site.approve(site.offer(yearly(1)))
    restore_from_nothing(site)
    population = site.home.read_config().population("main")
    with pytest.raises(RefusedError, match="1 of the 2 ids took part in an earlier study"):
        add_later_patients(site.home, population, ["north0003", NEW[0]])
    assert later_patients(site.home, population) is None


def test_a_file_of_ids_has_to_be_text_with_ids(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n \n")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    for name in ("empty", "binary", "missing"):
        with pytest.raises(UsageError):
            read_ids(tmp_path / name)


# -- a neighbour at the source ---------------------------------------------------------------------


def years(site: Site, arrivals: dict[str, int], seed: int) -> dict[str, list[tuple[int, str]]]:
    """Three yearly approvals of one hospital's file; patient -> studies and sides they were in."""
    chosen = random.Random(seed)
    found: dict[str, list[tuple[int, str]]] = {}
    for year in range(3):
        arrive(site, *(name for name, since in arrivals.items() if since == year))
        approved = site.approve(site.offer(yearly(year + 1, chosen.choice((0.3, 0.9)))))
        inside = Members.load(site.home, approved.read_study().digest, approved.snapshot)
        assert inside is not None
        key = site.home.open_patients_key()
        for name in arrivals:
            side = inside.side_of(keyed_hash(key, name))
            if side:
                found.setdefault(name, []).append((year, side))
    return found


@pytest.mark.parametrize("seed", range(5))
def test_one_patient_changes_nobody_else(tmp_path: Path, seed: int) -> None:
    chosen = random.Random(seed)
    arrivals = {name: chosen.randrange(3) for name in NEW}
    moved = chosen.choice(NEW)
    neighbours = {name: since for name, since in arrivals.items() if name != moved}
    if seed % 2:
        neighbours[moved] = (arrivals[moved] + 1) % 3
    one, two = tmp_path / "one", tmp_path / "two"
    site = enrolled_site(one)
    shutil.copytree(one, two)  # the same hospital, with the same keys
    copy = Site(SiteHome.open(two / "site"), SilentApi())
    copy.edit_config(str(one), str(two))
    for each in (site, copy):
        with_few_new_patients(each)
    here, there = years(site, arrivals, seed), years(copy, neighbours, seed)
    here.pop(moved, None)
    there.pop(moved, None)
    assert here == there

"""A report with a ledger that was restored says so, counts what no row shows, and verifies."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest

from flo.documents import canonical
from flo.errors import MessageError, TrustError
from flo.privacy.ledger.admission import Approved
from flo.privacy.report.page import render
from flo.privacy.report.report import build, verify
from tests.partners import signed
from tests.privacy.hospitals import World
from tests.privacy.ledger.test_restored_ledger import copied
from tests.privacy.ledgers import facts, study_of

NAMES = ("north", "south")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """North ran one round, was backed up, ran the rest, and was restored; south saw all of it."""
    folder = tmp_path_factory.mktemp("restored")
    document = study_of(0.5).model_dump(mode="json")
    document["hospitals"] = [{"id": name, "declared_size": 40} for name in NAMES]
    study = type(study_of(0.5)).model_validate(document)
    made = World.of(folder, [study], 1, NAMES, 0.9)
    north, south = made.homes
    path = north.directory / "ledger.sqlite"
    with closing(north.open_ledger()) as ledger:
        reservation = ledger.open_reservation(made.studies[0].digest)
        assert reservation is not None
        backup = copied(path)
        ledger.charge(reservation, "training", "more", facts(made.studies[0], 2))
        seen = ledger.head()
    with closing(south.open_ledger()) as other:
        other.witness(seen)
    for beside in path.parent.glob("ledger.sqlite*"):
        beside.unlink()
    shutil.move(backup, path)
    with closing(north.open_ledger()) as ledger:
        ledger.restore([Approved(made.studies[0], "main", worst_case=False)], seen)
    return made


def test_it_says_that_it_was_restored_and_counts_what_no_row_shows(world: World) -> None:
    report = build([world.extract(0), world.extract(1)])
    assert json.loads(report)["schema_version"] == 8
    north, south = verify(report)["hospitals"]
    assert [(r["lost_rows"], r["populations_used_up"]) for r in north["restored"]] == [(1, 0)]
    assert (north["releases_training"], north["releases_unseen"]) == (4, 3)
    assert (len(north["releases"]), north["settled"]) == (2, True)
    assert north["epsilon_released"] == north["epsilon_charged"]
    assert (south["restored"], south["releases_unseen"]) == ([], 0)
    assert south["epsilon_released"] < north["epsilon_released"]
    assert north["witnessed_by"] == []  # south saw a row that is lost: it vouches for none here


def test_its_page_says_so(world: World) -> None:
    text = render(build([world.extract(0), world.extract(1)]))
    assert "The ledger of north was restored from a backup" in text
    assert "The ledger of south" not in text
    assert "3 releases are counted without a row" in " ".join(text.split())


def test_of_a_ledger_that_never_was_restored_nothing_is_said(world: World) -> None:
    (south,) = verify(build([world.extract(1)]))["hospitals"]
    assert south["restored"] == []


def test_a_report_of_an_earlier_version_cannot_hide_it(world: World) -> None:
    document = json.loads(build([world.extract(0), world.extract(1)]))
    document["schema_version"] = 3
    for site in document["facts"]["hospitals"]:
        del site["restored"], site["releases_unseen"]
    with pytest.raises(TrustError, match="a report of version 3 cannot state all facts"):
        verify(canonical.encode(document))


def without_the_row(body: dict[str, Any]) -> None:
    body["rows"] = [row for row in body["rows"] if row["public"]["kind"] != "restored"]


def with_no_lost_head(body: dict[str, Any]) -> None:
    body["rows"][-1]["public"]["head"] = None


def with_anothers_head(body: dict[str, Any]) -> None:
    body["rows"][-1]["public"]["head"]["hash"] = "0" * 64


def with_a_strange_head(body: dict[str, Any]) -> None:
    body["rows"][-1]["public"]["head"] = {"sequence": "many"}


def with_a_head_far_away(world: World) -> bytes:
    """The hospital restores an old copy and says that a million rows were lost: anything fits."""
    north = world.homes[0]
    with closing(north.open_ledger()) as ledger, ledger._transaction():
        far = signed(north.open_identity(), 1_000_000).model_dump(mode="json")
        ledger._append({"kind": "restored", "head": far, "exhausted": []}, {})
    return world.extract(0)


def test_a_hospital_cannot_lose_rows_that_no_study_of_it_explains(
    world: World,
) -> None:
    home = world.homes[0].directory
    kept = copied(home / "ledger.sqlite")
    try:
        with pytest.raises(
            TrustError, match="lost rows that the charged studies do not account for"
        ):
            build([with_a_head_far_away(world), world.extract(1)])
    finally:
        for beside in home.glob("ledger.sqlite*"):
            beside.unlink()
        shutil.move(kept, home / "ledger.sqlite")


def without_a_kind(body: dict[str, Any]) -> None:
    del body["rows"][-1]["public"]["kind"]


@pytest.mark.parametrize(
    "change",
    [
        without_the_row,
        with_no_lost_head,
        with_anothers_head,
        with_a_strange_head,
        without_a_kind,
    ],
)
def test_a_hospital_that_edits_it_is_found(
    world: World, change: Callable[[dict[str, Any]], None]
) -> None:
    with pytest.raises((TrustError, MessageError)):
        build([world.forged(change), world.extract(1)])

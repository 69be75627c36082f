"""A plan over years, from made-up patients: what to expect, what to write, what is refused."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import pytest

from flo.errors import UsageError
from flo.keys.identity import Identity
from flo.lab.planned_years import plan_years
from flo.lab.years import study_of_a_year
from flo.privacy.accounting.life_budget import SUB_LEDGERS
from flo.privacy.ledger.ledger import Ledger
from flo.study.document import from_document
from flo.study.loading import load
from tests.commands import flo
from tests.flo.studies import imaging
from tests.paths import EXAMPLES

HEART = load(EXAMPLES / "heart" / "study.toml")


def test_a_life_budget_pays_for_as_many_studies_as_a_ledger_lets_pass(tmp_path: Path) -> None:
    images = from_document(imaging()).with_epsilon(0.3)
    plan = plan_years(images, 2)
    assert plan.aucs is None, "made-up images show nothing"
    assert plan.studies == {0.9: 7, 0.5: 2}
    for life, count in plan.studies.items():
        with closing(Ledger(tmp_path / f"{life}.sqlite", Identity.new())) as ledger:
            ledger.register_population(
                "main", epsilon=life, declared_size=40, hold_out=0.3, private={}
            )
            inside = list[bool]()
            for version in range(count + 1):
                number = ledger.reserve(study_of_a_year(images, version, 2), "main", {"a patient"})
                found = ledger.participants(number)
                inside.append(any(found.include("a patient", side) for side in SUB_LEDGERS))
            assert inside == [True] * count + [False]


def test_years_with_too_few_patients_are_refused() -> None:
    with pytest.raises(UsageError, match="fewer than 10 for each of 30 years"):
        plan_years(HEART, 30)


@pytest.mark.slow  # 3 s
def test_a_plan_states_what_a_model_may_learn_and_what_to_write(tmp_path: Path) -> None:
    said = flo(
        *("study", "check", EXAMPLES / "heart" / "study.toml", "--years", "3"),
        *("--json", tmp_path / "found.json"),
    )
    assert said.returncode == 0, said.stderr
    found = json.loads((tmp_path / "found.json").read_text())["years"]
    of_a_year = study_of_a_year(HEART, 0, 3)
    assert found["expected"] == {hospital.id: hospital.planned for hospital in of_a_year.hospitals}
    assert found["studies"] == {"0.9": 1, "0.5": 0}, "the study has ε = 0.9"
    first, _, last = found["years"]
    assert [one["year"] for one in found["years"]] == [1, 2, 3]
    assert first["first_only"] == first["fresh"] == first["continued"] == last["first_only"]
    assert last["continued"] > last["first_only"]
    assert last["all_at_once"] == first["all_at_once"] > first["first_only"]
    words = " ".join(said.stdout.split())
    assert f"cleveland: expected = {found['expected']['cleveland']}" in words
    assert "[continues] models = [" in words
    assert "where the life budget is ε = 0.5: no such study fits" in words


def test_the_command_refuses_before_it_explains() -> None:
    said = flo("study", "check", EXAMPLES / "heart" / "study.toml", "--years", "30")
    assert said.returncode == 2
    assert "fewer than 10 for each of 30 years" in said.stderr
    assert said.stdout == ""

"""What ``flo study check`` recommends, and why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from flo.lab import advice
from flo.lab.advice import MAX_AUC_LOSS, Candidate, advised_against, candidates, recommended
from flo.study.document import Study, from_document
from flo.study.loading import load
from tests.builders import small_study, study_document
from tests.commands import flo
from tests.paths import EXAMPLES

SURVEY = {"epsilon": 0.3, "columns": ["ward"]}


def study_with(size: int, **mechanism: Any) -> Study:
    hospitals = [{"id": name, "declared_size": size} for name in ("north", "south", "west")]
    changed = {**study_document()["mechanism"], "steps": 8, **mechanism}
    return small_study(hospitals=hospitals, mechanism=changed)


def test_among_many_patients_half_the_epsilon_and_one_round_are_enough() -> None:
    study = study_with(8000, learning_rate=4.0, clip=1.0)
    found = candidates(study)
    assert {(way.study.mechanism.algorithm, way.study.mechanism.epsilon) for way in found} == {
        (algorithm, epsilon)
        for algorithm in ("fedavgm", "least-squares")
        for epsilon in (0.45, 0.9)
    }
    best = recommended(found)
    assert (best.study.mechanism.algorithm, best.study.mechanism.epsilon) == ("least-squares", 0.45)
    assert best.lost <= MAX_AUC_LOSS
    assert best.share < 0.3 < 0.99 < max(way.share for way in found)
    assert study.with_mechanism(**best.changes(study)).mechanism == best.study.mechanism


def test_where_too_few_patients_are_nothing_fits_and_the_least_bad_is_named() -> None:
    found = candidates(study_with(40, epsilon=0.1))
    assert [way.study.mechanism.epsilon for way in found] == [0.1, 0.1], "half of it is no use"
    assert not any(way.fits for way in found)
    assert recommended(found).lost == min(way.lost for way in found)


def test_a_study_of_ten_people_is_advised_against() -> None:
    """However many records they have: the unit is the person."""
    watch = load(EXAMPLES / "watch" / "study.toml")
    assert advised_against(candidates(watch))
    assert not advised_against([])
    assert not advised_against([way(1.0, 3, 0.09), way(1.0, 3, 0.3)])
    assert advised_against([way(1.0, 3, 0.09, error=0.006)]), "a lucky trial is no reason"


def way(
    share: float, steps: int, lost: float, error: float = 0.0, epsilon: float = 0.9
) -> Candidate:
    study = small_study().with_mechanism(epsilon=epsilon, steps=steps)
    return Candidate(study, share, 0.8, lost, error)


def test_a_smaller_share_of_a_life_is_cheaper_then_fewer_rounds() -> None:
    found = [way(1.0, 1, 0.0), way(0.3, 30, 0.01), way(0.3, 2, 0.03), way(0.3, 10, 0.015)]
    assert recommended(sorted(found, key=lambda one: one.price)).price == (0.3, 10)


@pytest.mark.parametrize(
    ("one", "fits"),
    [
        pytest.param(way(1.0, 3, 0.019), True, id="close"),
        pytest.param(way(1.0, 3, 0.021), False, id="lost"),
        pytest.param(way(1.0, 3, 0.010, error=0.006), False, id="by luck"),
        pytest.param(way(49.7, 3, 0.0), False, id="dear"),
    ],
)
def test_what_fits_is_surely_close_and_no_dearer_than_its_epsilon(
    one: Candidate, fits: bool
) -> None:
    assert one.fits == fits


def test_sizes_beyond_what_is_tried_are_those_of_a_smaller_study() -> None:
    small = advice._of_at_most(study_with(900_000, delta=1e-9), 50_000)
    assert [hospital.declared_size for hospital in small.hospitals] == [16_000] * 3
    assert advice._of_at_most(study_with(400), 50_000) == study_with(400)


def test_a_study_whose_trial_would_take_long_is_not_tried() -> None:
    assert candidates(small_study().with_mechanism(steps=10_000)) == []


def test_a_least_squares_study_is_compared_with_steps() -> None:
    study = study_with(2000).with_mechanism(
        algorithm="least-squares", steps=1, learning_rate=0.0, momentum=0.0
    )
    asked = {way.study.mechanism.algorithm: way.study.mechanism.steps for way in candidates(study)}
    assert asked == {"least-squares": 1, "fedavgm": 40}


@pytest.mark.parametrize(
    "changes",
    [{"model": {"kind": "mlp", "hidden": [4]}}, {"survey": SURVEY}],
    ids=["mlp", "survey"],
)
def test_where_there_is_nothing_to_choose_nothing_is_recommended(changes: Any) -> None:
    assert candidates(small_study(**changes)) == []


def test_half_of_a_very_small_epsilon_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(advice, "MAX_AUC_LOSS", 1.0)  # anything fits
    found = candidates(study_with(40, epsilon=0.015))
    assert [way.study.mechanism.epsilon for way in found] == [0.015, 0.015]
    assert all(way.fits for way in found), "or half of it would not be tried anyway"


def test_a_study_that_expects_liars_is_not_sent_to_one_round() -> None:
    limits = {"deadline_seconds": 10, "minimum_cohort": 3}
    found = candidates(small_study(limits=limits).with_mechanism(aggregation="median"))
    assert {way.study.mechanism.algorithm for way in found} == {"fedavgm"}


def test_a_study_of_the_first_version_gets_no_advice() -> None:
    assert candidates(small_study(schema_version=1)) == []


def test_study_check_shows_it_and_says_what_to_change(tmp_path: Path) -> None:
    document = study_document()
    document["hospitals"] = [
        {"id": name, "declared_size": 9000} for name in ("north", "south", "west")
    ]
    (tmp_path / "study.toml").write_text(tomli_w.dumps(document))
    done = flo("study", "check", tmp_path / "study.toml", "--json", tmp_path / "check.json")
    assert done.returncode == 0, done.stderr
    shown = " ".join(done.stdout.split())
    assert "recommended: least-squares; the cheapest whose AUC is surely within 0.02" in shown
    assert '[mechanism] of the study: algorithm = "least-squares" epsilon = 0.45' in shown
    result = json.loads((tmp_path / "check.json").read_text())
    assert from_document(document | {"mechanism": document["mechanism"] | result["recommended"]}), (
        "the lines make a valid study"
    )
    assert {way["mechanism"]["algorithm"] for way in result["ways"]} == {"fedavgm", "least-squares"}


@pytest.mark.parametrize(("patients", "against"), [(15, True), (3000, None)])
def test_a_network_is_judged_by_the_logistic_model_that_has_less_noise(
    tmp_path: Path, patients: int, against: bool | None
) -> None:
    document = small_study(model={"kind": "mlp", "hidden": [64, 64]}).model_dump(
        mode="json", exclude_none=True
    )
    for hospital in document["hospitals"]:
        hospital["declared_size"] = patients
    (tmp_path / "study.toml").write_text(tomli_w.dumps(document))
    done = flo("study", "check", tmp_path / "study.toml", "--json", "-")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["advised_against"], told["ways"], told["recommended"]) == (against, [], None)
    assert "a network has more noise" in " ".join(done.stderr.split())


@pytest.mark.parametrize("name", ["linear", "wavelets", "cnn"])
def test_of_images_nothing_is_said_that_made_up_ones_cannot_show(name: str) -> None:
    study = load(EXAMPLES / "lidc" / f"{name}.toml")
    assert candidates(study) == []
    assert "made-up images" in str(advice.unsupported_reason(study))

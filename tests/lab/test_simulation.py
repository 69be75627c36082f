"""``flo simulate``: the documented result, marked not private, and close to what it should be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flo.clients.prediction.finish import finished_margins, fit_at_home
from flo.errors import DataError, UsageError
from flo.lab.folds import folds
from flo.lab.simulation import load_hospitals, run_once, simulate
from flo.privacy.accounting.plan import Plan, combined_variance
from flo.privacy.releases import gate
from flo.scores.metrics import exact_auc
from flo.statistics.reading import read
from flo.statistics.table_one import TableRead
from flo.study.document import Study, from_document
from flo.study.models import initial_weights, log_odds, parameter_count
from tests.builders import (
    HOSPITALS,
    WHITENED,
    NoNoise,
    counting,
    csv_text,
    small_study,
    study_document,
)
from tests.commands import flo
from tests.flo.studies import PACK
from tests.paths import EXAMPLES

HEART = EXAMPLES / "heart" / "study.toml"
KEYS = {
    *("auc", "auc_std", "auc_pooled", "auc_alone", "epsilon", "delta", "trust_model", "rounds"),
    *("seconds_per_round", "seconds_total", "report", "sites", "private", "schema_version"),
    *("study", "digest", "masks", "auc_interval", "auc_noise", "auc_within", "calibration"),
    "evaluation",
    *("auc_within_pooled", "auc_within_alone", "calibration_pooled"),
    *("auc_within_finished", "calibration_published", "calibration_finished", "verdict"),
}
COMPARED = {
    *("auc_pooled", "auc_alone", "auc_within_pooled", "auc_within_alone", "calibration_pooled"),
    *("auc_within_finished", "calibration_published", "calibration_finished", "verdict"),
}


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.slow
def test_the_result_has_the_documented_keys_and_says_not_private(data: Path) -> None:
    study = small_study()
    hospitals = load_hospitals(study, data, "patient_id")
    result = simulate(study, hospitals, fold_count=2, compare=True).document
    assert set(result) == KEYS
    assert result["private"] is False
    assert set(result["sites"]) == set(HOSPITALS)


@pytest.mark.slow
def test_a_hospital_is_scored_by_the_model_that_it_would_finish_itself(data: Path) -> None:
    study = small_study()
    hospitals = load_hospitals(study, data, "patient_id")
    found = simulate(study, hospitals, fold_count=2, compare=True)
    for fold, weights, tested in zip(
        folds(hospitals, 2, seed=0), found.models, found.finished, strict=True
    ):
        for number, snapshot in enumerate(fold.snapshots.values()):
            last = fit_at_home(study, weights, snapshot.training).finished
            inputs = snapshot.held_out.inputs
            (expected,) = finished_margins(study, weights, last, inputs).T
            np.testing.assert_array_equal(tested.of(number).scores, expected)
            assert not np.allclose(expected, log_odds(study, weights, inputs))


@pytest.mark.slow
def test_a_hospital_with_too_few_patients_is_scored_by_the_published_model(tmp_path: Path) -> None:
    study = small_study()
    for name in HOSPITALS:
        (tmp_path / f"{name}.csv").write_text(csv_text(60 if name != "west" else 34, prefix=name))
    found = simulate(
        study, load_hospitals(study, tmp_path, "patient_id"), fold_count=2, compare=True
    )
    for one, other in zip(found.finished, found.private, strict=True):
        np.testing.assert_array_equal(one.of(2).scores, other.of(2).scores)


def test_a_fold_never_trains_on_whom_it_tests(data: Path) -> None:
    hospitals = load_hospitals(small_study(), data, "patient_id")
    for fold in folds(hospitals, 3, seed=0):
        for name, snapshot in fold.snapshots.items():
            whole = len(hospitals[name].patient_ids)
            assert snapshot.training.count + snapshot.held_out.count == whole


def test_a_run_ends_with_a_model_and_an_estimate(data: Path) -> None:
    study = small_study()
    fold = next(folds(load_hospitals(study, data, "patient_id"), 2, seed=0))
    state, seconds = run_once(study, fold)
    assert state.phase == "done"
    assert state.estimate is not None
    assert len(seconds) == study.mechanism.steps + 1


def test_a_gate_against_the_average_follows_the_evaluation(data: Path) -> None:
    study = small_study(schema_version=4, gate={"epsilon": 0.5, "subgroups": ["ward"]})
    fold = next(folds(load_hospitals(study, data, "patient_id"), 2, seed=0))
    for fast in (True, False):
        state, seconds = run_once(study, fold, fast=fast)
        assert state.phase == "done"
        assert len(seconds) == study.mechanism.steps + 2
        assert len(state.sums) == gate.length(study)
        assert state.sums_of == ("north", "south", "west")
        assert len(state.compared) == 0
        assert len(state.compared_digest) == 64
        assert state.estimate is not None


def test_a_study_whose_current_model_is_elsewhere_is_simulated_without_its_gate(data: Path) -> None:
    study = small_study(schema_version=4, gate={"epsilon": 0.5, "current": "ab" * 32})
    assert len(simulate(study, load_hospitals(study, data, "patient_id"), fold_count=2).models) == 2


def with_mechanism(**changes: Any) -> Study:
    return small_study(mechanism={**study_document()["mechanism"], **changes})


OTHERS = {
    "sampled": with_mechanism(sampling=0.5),
    "hardly sampled": with_mechanism(sampling=0.02),  # most steps see nobody of a hospital
    "distributed": with_mechanism(noise="distributed", masking="on", colluders=1, dropouts=0),
    "mlp": small_study(model={"kind": "mlp", "hidden": [4]}),
    "sampled mlp": small_study(
        model={"kind": "mlp", "hidden": [4]},
        mechanism={**study_document()["mechanism"], "sampling": 0.5, "steps": 2},
    ),
}


@pytest.mark.parametrize("study", OTHERS.values(), ids=OTHERS.keys())
def test_every_kind_of_study_runs_to_its_end(data: Path, study: Study) -> None:
    fold = next(folds(load_hospitals(study, data, "patient_id"), 2, seed=0))
    state, seconds = run_once(study, fold)
    assert state.phase == "done"
    assert state.estimate is not None
    assert 0 <= state.estimate.low <= state.estimate.auc <= state.estimate.high <= 1
    assert len(seconds) == study.mechanism.steps + 1
    assert state.model.shape == (parameter_count(study),)
    assert np.isfinite(state.model).all()
    assert (state.model != initial_weights(study)).any()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sampled", "mlp"])
def test_the_result_of_every_kind_of_study_has_the_documented_keys(data: Path, name: str) -> None:
    study = OTHERS[name]
    hospitals = load_hospitals(study, data, "patient_id")
    result = simulate(study, hospitals, fold_count=2).document
    assert set(result) == KEYS - COMPARED
    assert result["private"] is False
    assert result["epsilon"] == Plan.of(study).epsilon <= 0.9
    assert 0 <= result["auc"] <= 1


def test_a_study_with_subgroups_estimates_each_of_them(data: Path) -> None:
    study = small_study(evaluation={"epsilon": 0.9, "subgroups": ["ward"]})
    state, _ = run_once(study, next(folds(load_hospitals(study, data, "patient_id"), 2, seed=0)))
    assert list(state.subgroups) == ["ward=a", "ward=b", "ward=c", "ward=missing"]


@pytest.mark.slow
@pytest.mark.parametrize("noise", ["local", "distributed"])
@pytest.mark.parametrize(
    ("model", "mechanism"),
    [
        ({"kind": "logistic"}, {}),
        ({"kind": "mlp", "hidden": [4]}, {}),
        ({"kind": "mlp", "hidden": [4]}, WHITENED),
        (PACK, {}),
    ],
    ids=["logistic", "mlp", "mlp on whitened inputs", "pack"],
)
def test_a_sum_in_the_clear_is_the_sum_through_masks_to_the_bit(
    data: Path,
    monkeypatch: pytest.MonkeyPatch,
    noise: str,
    model: dict[str, Any],
    mechanism: dict[str, Any],
) -> None:
    monkeypatch.setattr("flo.clients.data_process.trainer.SystemNoise", NoNoise)
    changed = {**study_document()["mechanism"], **mechanism, "masking": "on", "noise": noise}
    study = small_study(model=model, mechanism=changed)
    fold = next(folds(load_hospitals(study, data, "patient_id"), 2, seed=0))
    masked, clear = run_once(study, fold)[0], run_once(study, fold, fast=True)[0]
    np.testing.assert_array_equal(masked.model, clear.model)
    assert masked.estimate == clear.estimate
    assert (masked.model != initial_weights(study)).any()


@pytest.mark.parametrize(
    "mechanism",
    [{"sampling": 0.5}, {"noise": "distributed", "masking": "on"}],
    ids=["a sampled step", "a secure sum"],
)
def test_images_are_learnt_from_too(tmp_path: Path, mechanism: dict[str, Any]) -> None:
    document = study_document(model={"kind": "cnn"})
    image = {"kind": "image", "name": "px", "height": 8, "width": 8, "minimum": 0, "maximum": 9}
    document["data"]["columns"] = [image]
    document["mechanism"] |= {"steps": 1, **mechanism}
    study = from_document(document)
    header = ",".join(["patient_id", *(f"px_{i}" for i in range(64)), "ill"])
    for hospital in HOSPITALS:
        rows = [
            ",".join([f"{hospital}{n}", *(str((n + i * (n % 2)) % 10) for i in range(64)), ill])
            for n in range(8)
            for ill in [str(n % 2)]
        ]
        (tmp_path / f"{hospital}.csv").write_text("\n".join([header, *rows]) + "\n")
    state, _ = run_once(study, next(folds(load_hospitals(study, tmp_path, "patient_id"), 2, 0)))
    assert state.phase == "done"
    assert np.isfinite(state.model).all()


def test_statistics_count_and_train_nothing(data: Path) -> None:
    study = counting(small_study(), 0.9, ["ward"])
    state, _ = run_once(study, next(folds(load_hospitals(study, data, "patient_id"), 2, seed=0)))
    assert state.phase == "done"
    assert state.estimate is None
    assert state.model.size == 0
    variance = combined_variance(study, Plan.of(study).purpose("statistics"), 3)
    (table,) = read(study, np.asarray(state.sums, dtype=np.float64), variance)
    assert isinstance(table, TableRead)
    (group,) = table.groups
    # Five half widths of 95 %: false alarm below 1e-20.
    assert group.patients.value == pytest.approx(180, abs=5 * group.patients.width / 2)


def test_a_survey_has_no_auc_to_simulate_and_says_so(data: Path) -> None:
    study = counting(small_study(), 0.9, ["ward"])
    with pytest.raises(UsageError, match="this study trains no model"):
        simulate(study, load_hospitals(study, data, "patient_id"), fold_count=2)


def test_a_missing_hospital_is_named(data: Path) -> None:
    (data / "south.csv").unlink()
    with pytest.raises(UsageError, match="south"):
        load_hospitals(small_study(), data, "patient_id")


def test_what_is_wrong_at_every_hospital_is_said_at_once(data: Path) -> None:
    for name in ("north", "west"):
        path = data / f"{name}.csv"
        path.write_text(path.read_text().replace(",a,", ",z,").replace(",b,", ",,"))
    with pytest.raises(DataError) as refused:
        load_hospitals(small_study(), data, "patient_id")
    text = str(refused.value)
    for said in ("north: the data do not fit", "west: the data do not fit", "codebook (a, b, c)"):
        assert said in text
    assert "south: " not in text


def test_the_exact_auc_counts_ties_half() -> None:
    assert exact_auc(np.array([0.1, 0.5, 0.5, 0.9]), np.array([0.0, 0.0, 1.0, 1.0])) == 0.875


def test_a_record_of_weight_two_counts_as_two_records() -> None:
    score, label = np.array([0.1, 0.5, 0.4, 0.9]), np.array([0.0, 0.0, 1.0, 1.0])
    weight = np.array([1.0, 2.0, 1.0, 3.0])
    twice = weight.astype(int)
    assert exact_auc(score, label, weight) == pytest.approx(
        exact_auc(np.repeat(score, twice), np.repeat(label, twice))
    )


@pytest.mark.slow
def test_heart_with_local_noise_reaches_its_auc(tmp_path: Path) -> None:
    # Mean of 20 splits has a standard error of .005 here; .87 is more than three below .889.
    result = tmp_path / "result.json"
    done = flo("simulate", HEART, "--seeds", "4", "--json", result)
    assert done.returncode == 0, done.stderr
    assert "NOT PRIVATE" in done.stdout
    assert json.loads(result.read_text())["auc"] >= 0.87


def test_what_a_run_publishes_of_itself_stands_beside_the_exact_auc(data: Path) -> None:
    study = small_study()
    found = simulate(study, load_hospitals(study, data, "patient_id"), fold_count=2, fast=True)
    told = found.document["evaluation"]
    both = [(one, test.auc) for one, test in zip(found.published, found.private, strict=True)]
    assert told["runs"] == len(both) == 2
    assert told["level"] == 0.9
    assert told["covered"] == sum(one.low <= auc <= one.high for one, auc in both if one)
    assert told["bias"] == pytest.approx(np.mean([one.auc - auc for one, auc in both if one]))
    assert told["width"] == pytest.approx(np.mean([one.high - one.low for one, _ in both if one]))

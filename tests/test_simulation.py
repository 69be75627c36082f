"""``flo simulate``: the documented result, marked not private, and close to what it should be."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from flo import study as studies
from flo.errors import UsageError
from flo.simulation import exact_auc, folds, load_hospitals, run_once, simulate
from tests.builders import HOSPITALS, csv_text, small_study
from tests.server.stage import flo

HEART = Path(studies.__file__).parent / "examples" / "heart" / "study.toml"
KEYS = {
    *("auc", "auc_std", "auc_pooled", "auc_alone", "epsilon", "delta", "trust_model", "rounds"),
    *("seconds_per_round", "seconds_total", "report", "sites", "private", "schema_version"),
    *("study", "digest"),
}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for hospital in HOSPITALS:
        (tmp_path / f"{hospital}.csv").write_text(csv_text(60, prefix=hospital))
    return tmp_path


def test_the_result_has_the_documented_keys_and_says_not_private(data: Path) -> None:
    study = small_study()
    hospitals = load_hospitals(study, data, "patient_id")
    result = simulate(study, hospitals, fold_count=2, compare=True)
    assert set(result) == KEYS
    assert result["private"] is False
    assert set(result["sites"]) == set(HOSPITALS)


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


def test_a_missing_hospital_is_named(data: Path) -> None:
    (data / "south.csv").unlink()
    with pytest.raises(UsageError, match="south"):
        load_hospitals(small_study(), data, "patient_id")


def test_the_exact_auc_counts_ties_half() -> None:
    assert exact_auc(np.array([0.1, 0.5, 0.5, 0.9]), np.array([0.0, 0.0, 1.0, 1.0])) == 0.875


@pytest.mark.slow
def test_heart_with_local_noise_reaches_its_auc(tmp_path: Path) -> None:
    # Mean of 20 splits has a standard error of .005 here; .87 is more than three below .889.
    result = tmp_path / "result.json"
    done = flo("simulate", HEART, "--seeds", "4", "--json", result, seconds=200)
    assert done.returncode == 0, done.stderr
    assert "NOT PRIVATE" in done.stdout
    assert json.loads(result.read_text())["auc"] >= 0.87

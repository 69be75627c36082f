"""``flo.simulate`` for notebooks: the numbers of ``flo simulate``, and what they look like."""

from __future__ import annotations

import io
import json
import re
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tomli_w

import flo
from flo.errors import DataError, RefusedError, UsageError
from flo.scores.metrics import Scores, calibration, exact_auc, interval, roc, within
from flo.study.features import input_names
from tests.builders import HOSPITALS, csv_text, make_site, small_study
from tests.commands import flo as command

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.processes
def test_importing_the_package_loads_nothing_heavy() -> None:
    script = "import sys, flo; print('torch' in sys.modules, 'numpy' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["False", "False"]


@pytest.mark.slow
def test_it_runs_a_study_and_shows_itself(data: Path) -> None:
    result = flo.simulate(small_study(), data, folds=2, compare=True, epsilon=0.8)
    assert result.document["epsilon"] == pytest.approx(0.8, abs=0.001)
    low, high = result.interval
    assert low <= result.auc <= high
    assert [name for name, *_ in result.rows] == [
        "ε = 0.8",
        "pooled, not private",
        "each alone, tested on all",
    ]
    page = result._repr_html_()
    assert page.count("<svg") == 3
    assert "Observed against predicted risk" in page
    assert "Not private" in page
    assert not re.search(r"<script|<link|src=|url\(|https?://", page)
    for name, low, middle, high in result.rows:
        assert name in page
        assert f"{middle:.3f}</td><td>{low:.3f} to {high:.3f}" in page


def test_results_stand_beside_each_other(data: Path) -> None:
    results = {
        f"ε = {epsilon:g}": flo.simulate(small_study(), data, folds=2, epsilon=epsilon)
        for epsilon in (0.5, 0.9)
    }
    shown = flo.compare(results)._repr_html_()
    assert all(name in shown for name in results)


def test_data_that_a_ledger_protects_are_refused(tmp_path: Path) -> None:
    home = make_site(tmp_path / "north", "north")
    with pytest.raises(RefusedError, match="that the ledger of"):
        flo.simulate(small_study(), home.directory.parent)
    elsewhere = tmp_path / "try"
    elsewhere.mkdir()
    (home.directory.parent / "try").symlink_to(elsewhere)
    (elsewhere / "north.csv").symlink_to(home.directory.parent / "patients.csv")
    with pytest.raises(RefusedError, match="that the ledger of"):
        flo.simulate(small_study(), elsewhere)


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"engine": "spark"}, "engine spark"),
        ({"engine": "ray", "fast": True}, "fast needs loop"),
        ({"noise": "gaussian"}, "noise gaussian"),
    ],
)
def test_settings_that_are_none_are_named(
    data: Path, settings: dict[str, object], why: str
) -> None:
    with pytest.raises(UsageError, match=why):
        flo.simulate(small_study(), data, **settings)  # type: ignore[arg-type]


def test_the_command_gives_the_same_keys(data: Path, tmp_path: Path) -> None:
    study = tmp_path / "study.toml"
    study.write_text(tomli_w.dumps(small_study().model_dump(mode="json", exclude_none=True)))
    done = command("simulate", study, "--data", data, "--folds", "2", "--fast", "--json", "-")
    assert done.returncode == 0, done.stderr
    ours = flo.simulate(study, data, folds=2).document
    compared = (
        *("pooled", "alone", "finished", "published", "verdict", "years", "life_epsilon"),
        *("horizons", "values", "classes"),
    )
    assert {
        name for name in json.loads(done.stdout) if not any(word in name for word in compared)
    } == set(ours)


def tables() -> dict[str, pd.DataFrame]:
    return {name: pd.read_csv(io.StringIO(csv_text(60, prefix=name))) for name in HOSPITALS}


@pytest.mark.slow
def test_tables_in_memory_are_as_good_as_files(data: Path) -> None:
    from_files = flo.simulate(small_study(), data, folds=2, compare=True)
    from_tables = flo.simulate(small_study(), tables(), folds=2, compare=True)
    assert from_files.document["auc_pooled"] == from_tables.document["auc_pooled"]
    with pytest.raises(UsageError, match="no table for hospital 'west'"):
        flo.simulate(small_study(), {n: t for n, t in tables().items() if n != "west"})


def test_a_table_that_does_not_fit_says_whose_it_is_and_speaks_of_no_site() -> None:
    given = tables()
    given["south"].loc[3, "ill"] = 7
    with pytest.raises(DataError, match=r"^south: the data do not fit the study:\n.*row 4") as no:
        flo.simulate(small_study(), given)
    assert "approve" not in f"{no.value}{no.value.hint}"


@pytest.mark.parametrize(
    "settings", [{"folds": 1}, {"folds": 0}, {"seeds": 0}, {"redraws": 0}], ids=str
)
def test_nothing_is_trained_on_nobody(settings: dict[str, int]) -> None:
    with pytest.raises(UsageError, match="is too few"):
        flo.simulate(small_study(), tables(), **settings)  # type: ignore[arg-type]


@pytest.mark.slow
def test_each_hospital_sees_what_it_has_of_it() -> None:
    result = flo.simulate(small_study(), tables(), folds=3, compare=True)
    table = result.table
    assert list(table.index) == list(HOSPITALS)
    aucs = [f"auc{way}" for way in ("", "_finished", "_pooled", "_alone")]
    briers = ["brier", "brier_finished", "brier_alone"]
    assert list(table.columns) == ["patients", "positive", *aucs, *briers]
    assert table["patients"].tolist() == [60, 60, 60]
    assert table["positive"].tolist() == [29, 29, 29]
    mean = result.document["auc_within_alone"]
    assert table["auc_alone"].mean() == pytest.approx(mean, abs=1e-12)
    assert [test.hospitals.tolist() for test in result.alone[:3]] == [
        [number] * len(test.labels) for number, test in enumerate(result.alone[:3])
    ]


@pytest.mark.slow
def test_noise_is_drawn_anew_and_told_apart_from_whom_was_tested() -> None:
    once = flo.simulate(small_study(), tables(), folds=2)
    assert once.noise is None
    often = flo.simulate(small_study(), tables(), folds=2, redraws=4)
    assert len(often.private) == len(often.models) == 8
    spread = [statistics.variance(aucs) for aucs in often.redrawn]
    assert often.noise == pytest.approx(np.sqrt(np.mean(spread)))
    assert f"± {often.noise:.3f} by noise" in repr(often)
    assert "with new noise" in often._repr_html_()


def test_a_logistic_models_coefficients_have_names() -> None:
    result = flo.simulate(small_study(), tables(), folds=2)
    found = result.coefficients
    assert list(found.index) == [*input_names(small_study().data), "intercept"]
    assert found["age"] == pytest.approx(np.mean([model[0] for model in result.models]))


def test_results_are_compared_on_the_same_patients() -> None:
    one = flo.simulate(small_study(), tables(), folds=2)
    compared = flo.compare({"one": one, "same": one})
    assert compared["same"] is one
    assert compared.differences == [("same", 0, 0, 0)]
    other = flo.simulate(small_study(), tables(), folds=2, epsilon=0.1)
    ((_, low, middle, high),) = flo.compare({"one": one, "other": other}).differences
    assert low <= middle <= high
    assert middle == pytest.approx(other.auc - one.auc)
    fewer = {name: table.head(50) for name, table in tables().items()}
    with pytest.raises(UsageError, match="different patients"):
        flo.compare({"one": one, "few": flo.simulate(small_study(), fewer, folds=2)})._repr_html_()


@pytest.mark.parametrize("what", [{}, [1], None, {"a": 1}], ids=repr)
def test_what_is_no_result_is_not_compared(what: Any) -> None:
    with pytest.raises(UsageError, match=r"results of flo\.simulate, by name"):
        flo.compare(what)


# -- what is said of scores -----------------------------------------------------------------------


def drawn(n: int, seed: int = 1) -> Scores:
    rng = np.random.default_rng(seed)
    labels = (rng.random(n) < 0.4).astype(np.float64)
    return Scores(rng.normal(size=n).round(1) + labels, labels, np.arange(n), np.arange(n) % 2)


def test_the_interval_is_that_of_hanley_and_mcneil_for_independent_patients() -> None:
    """Hanley & McNeil 1982, equation 2; for patients of one record each."""
    test = drawn(600)
    area, ill = test.auc, int(test.labels.sum())
    well = len(test.labels) - ill
    q1, q2 = area / (2 - area), 2 * area**2 / (1 + area)
    spread = area * (1 - area) + (ill - 1) * (q1 - area**2) + (well - 1) * (q2 - area**2)
    error = np.sqrt(spread / (ill * well))
    low, high = interval([test])
    assert (high - low) / 2 == pytest.approx(1.96 * error, rel=0.15)
    assert (low + high) / 2 == pytest.approx(area, abs=0.01)


def test_records_of_one_patient_make_it_wider() -> None:
    test = drawn(600)
    few = Scores(
        np.repeat(test.scores[:100], 6),
        np.repeat(test.labels[:100], 6),
        np.repeat(np.arange(100), 6),
        np.zeros(600, dtype=np.int64),
    )
    alone = Scores(few.scores, few.labels, np.arange(600), few.hospitals)
    low, high = interval([few])
    narrow, wide = interval([alone])
    assert high - low > 2 * (wide - narrow)


def test_within_a_hospital_only_its_own_pairs_count() -> None:
    """Two hospitals that differ in how ill their patients are, and rank them at random within."""
    rng = np.random.default_rng(3)
    ill = np.concatenate([np.arange(500) % 10 == 0, np.arange(500) % 10 > 0]).astype(np.float64)
    where = np.repeat([0, 1], 500)
    test = Scores(4.0 * where + rng.normal(size=1000), ill, np.arange(1000), where)
    assert test.auc > 0.85
    for hospital in (0, 1):
        found = within([test], hospital)
        assert found == exact_auc(test.scores[where == hospital], ill[where == hospital])
        assert found == pytest.approx(0.5, abs=0.1)
    assert within([test, test], 1) == pytest.approx(within([test], 1))
    assert within([Scores(test.scores[:9], ill[:9] * 0, test.patients[:9], where[:9])], 0) is None


def test_calibration_is_that_of_the_risks() -> None:
    scores, labels = np.array([0.0, 0.0, np.log(3), np.log(3)]), np.array([0.0, 1.0, 1.0, 1.0])
    found = calibration([Scores(scores, labels, np.arange(4), np.zeros(4, dtype=np.int64))])
    assert found == pytest.approx(
        {"predicted": 0.625, "observed": 0.75, "brier": (0.25 + 0.25 + 2 / 16) / 4}
    )


def test_the_curve_encloses_the_auc() -> None:
    test = drawn(500)
    curve = np.array(roc([test]))
    assert np.trapezoid(curve[:, 1], curve[:, 0]) == pytest.approx(test.auc, abs=0.005)
    assert (curve[0], curve[-1]) == (pytest.approx([0, 0], abs=0.2), pytest.approx([1, 1]))


def test_one_class_has_no_auc() -> None:
    with pytest.raises(UsageError, match="all of one class"):
        exact_auc(np.array([0.1, 0.2]), np.array([1.0, 1.0]))

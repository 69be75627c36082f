"""``flo.simulate`` for notebooks: the numbers of ``flo simulate``, and what they look like."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tomli_w

import flo
from flo.errors import RefusedError, UsageError
from flo.scores import Scores, exact_auc, interval, roc
from tests.builders import HOSPITALS, csv_text, make_site, small_study
from tests.server.stage import flo as command

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for hospital in HOSPITALS:
        (tmp_path / f"{hospital}.csv").write_text(csv_text(60, prefix=hospital))
    return tmp_path


def test_importing_the_package_loads_nothing_heavy() -> None:
    script = "import sys, flo; print('torch' in sys.modules, 'numpy' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["False", "False"]


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
    assert page.count("<svg") == 2
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
    assert {
        name for name in json.loads(done.stdout) if "pooled" not in name and "alone" not in name
    } == set(ours)


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


def test_the_curve_encloses_the_auc() -> None:
    test = drawn(500)
    curve = np.array(roc([test]))
    assert np.trapezoid(curve[:, 1], curve[:, 0]) == pytest.approx(test.auc, abs=0.005)
    assert (curve[0], curve[-1]) == (pytest.approx([0, 0], abs=0.2), pytest.approx([1, 1]))


def test_one_class_has_no_auc() -> None:
    with pytest.raises(UsageError, match="all of one class"):
        exact_auc(np.array([0.1, 0.2]), np.array([1.0, 1.0]))

"""What the evaluation of several classes releases, what it costs, and what is read from it."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax

from flo.arrays import Floats
from flo.privacy.accounting.plan import Plan
from flo.privacy.patients.patients import Patients
from flo.privacy.releases import calibration, evaluation, score_waves
from flo.scores.metrics import Scores, exact_auc, interval
from flo.study import models
from flo.study.document import Study, from_document
from tests.flo.class_studies import CLASSES as NAMED
from tests.flo.class_studies import class_document, class_study

STUDY, GROUPED = class_study(), class_study(subgroups=True)
WIDTH, CLASSES = 5, 3


def model(study: Study) -> Floats:
    weights = np.zeros((CLASSES, WIDTH + 1))
    weights[:, 0], weights[:, 1] = (-2.0, 0.5, 1.5), (0.5, -1.0, 0.5)
    weights[:, -1] = (0.5, 0.0, -1.0)
    return np.concatenate([weights[:, :-1].ravel(), weights[:, -1]])


def patients(count: int, seed: int, steeper: float = 1.0) -> Patients:
    """Whose classes are drawn by the model's odds, ``steeper`` than it knows."""
    rng = np.random.default_rng(seed)
    inputs = np.zeros((count, WIDTH))
    inputs[:, 0] = rng.uniform(-1, 1, count)
    inputs[np.arange(count), rng.integers(1, WIDTH, count)] = 1.0
    w = model(STUDY)
    odds = inputs @ w[: CLASSES * WIDTH].reshape(CLASSES, WIDTH).T + w[-CLASSES:]
    share = softmax(steeper * odds, axis=1).cumsum(1)
    labels = (rng.random(count)[:, None] > share).sum(1)
    return Patients(inputs, labels.astype(float), np.arange(count), count)


def exact(held: Patients) -> Floats:
    scores = models.scores(STUDY, model(STUDY), held.inputs)
    return np.array([exact_auc(scores[:, k].copy(), held.labels == k) for k in range(CLASSES)])


@pytest.mark.parametrize("study", [STUDY, GROUPED], ids=["everyone", "by ward"])
def test_without_noise_it_is_the_mean_of_the_classes_aucs(study: Study) -> None:
    held = patients(4000, 1)
    sums = evaluation.sums(study, model(study), held)
    assert len(sums) == evaluation.length(study)
    truth = exact(held)
    each = evaluation.by_class(study, sums, 0.0)
    assert [one.auc for one in each] == pytest.approx(truth, abs=0.002)
    found, groups = evaluation.read(study, sums, 0.0)
    assert found.auc == pytest.approx(truth.mean(), abs=0.002)
    assert found.low < truth.mean() < found.high
    wards = {f"ward={code}" for code in ("a", "b", "c", "missing")}
    assert set(groups) == (wards if study is GROUPED else set())


def test_the_norm_of_a_patients_part_is_what_the_ledger_charges() -> None:
    for study, square in ((STUDY, 2), (GROUPED, 2)):
        assert Plan.of(study).purpose("evaluation").mechanism.norm == pytest.approx(square**0.5)
        one = evaluation.sums(study, model(study), patients(1, 5))
        assert np.linalg.norm(one) == pytest.approx(square**0.5, rel=1e-12)


numbers = st.sampled_from([0.0, 1.0, -1.0, 1e3, 1e300, math.nan])
labels = st.sampled_from([0.0, 1.0, 2.0, 3.0, -1.0, 0.5, math.nan, 1e300])
records = st.tuples(st.lists(numbers, min_size=WIDTH, max_size=WIDTH), labels, st.integers(0, 3))


@given(st.lists(records, min_size=1, max_size=12), st.integers(0, 3))
@settings(deadline=None, max_examples=60)
def test_one_patient_moves_the_sums_by_at_most_the_norm(
    drawn: list[tuple[list[float], float, int]], who: int
) -> None:
    def total(some: list[tuple[list[float], float, int]]) -> Floats:
        names, patient = np.unique([one[2] for one in some], return_inverse=True)
        rows = np.array([one[0] for one in some]).reshape(-1, WIDTH)
        given_labels = np.array([one[1] for one in some])
        held = Patients(rows, given_labels, patient, len(names))
        return evaluation.sums(GROUPED, model(GROUPED), held)

    moved = total(drawn) - total([one for one in drawn if one[2] != who])
    assert np.linalg.norm(moved) <= 2**0.5 * (1 + 1e-12)


@pytest.mark.slow
def test_an_interval_holds_the_truth_as_often_as_it_says() -> None:
    """Over patients and noise: new ones of both each time."""
    truth = exact(patients(100_000, 9))
    inside, of_class = 0, 0
    for seed in range(60):
        sums = evaluation.sums(STUDY, model(STUDY), patients(600, 100 + seed))
        noisy = sums + np.random.default_rng(seed).normal(0, 4.0, sums.shape)
        found, _ = evaluation.read(STUDY, noisy, 16.0)
        inside += found.low <= truth.mean() <= found.high
        each = evaluation.by_class(STUDY, noisy, 16.0)
        of_class += sum(one.low <= t <= one.high for one, t in zip(each, truth, strict=True))
    assert inside >= 48
    assert of_class >= 3 * 46


def spread_out(
    study: Study, shares: list[float], count: int, rng: np.random.Generator
) -> tuple[Floats, float]:
    """Sums of patients whose class raises its own score, and the exact macro AUC of all of them."""
    labels = rng.choice(len(shares), count, p=shares)
    scores = rng.normal(0.35 + 0.15 * np.eye(len(shares))[labels], 0.12).clip(0, 1)
    sums = np.zeros((len(shares), 2, score_waves.LENGTH))
    for k in range(len(shares)):
        vectors, own = score_waves.vectors(scores[:, k]), labels == k
        sums[k, 1] = vectors[own].sum(0)
        sums[k, 0] = vectors[~own].sum(0) / np.sqrt(len(shares) - 1)
    exact_ones = [exact_auc(scores[:, k].copy(), labels == k) for k in range(len(shares))]
    return sums.ravel(), float(np.mean(exact_ones))


def of_classes(count: int) -> Study:
    names = [str(number) for number in range(count)]
    return from_document(class_document(NAMED, classes=names))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shares", "count"),
    [
        ([0.5, 0.4, 0.04, 0.03, 0.03], 600),
        ([0.6, 0.36, 0.04], 300),
        ([1 / 12] * 12, 600),
        ([0.4, 0.12, 0.08, 0.4], 1900),
    ],
    ids=["rare", "few", "twelve", "function"],
)
def test_an_interval_holds_the_truth_also_where_a_class_has_hardly_any_patients(
    shares: list[float], count: int
) -> None:
    study, inside = of_classes(len(shares)), 0
    truth = spread_out(study, shares, 60_000, np.random.default_rng(1))[1]
    for seed in range(60):
        rng = np.random.default_rng(100 + seed)
        sums, _ = spread_out(study, shares, count, rng)
        found, _ = evaluation.read(study, sums + rng.normal(0, 8.0, len(sums)), 64.0)
        inside += found.low <= truth <= found.high
    assert inside >= 50


@pytest.mark.parametrize("shares", [[0.4, 0.12, 0.08, 0.4], [0.25] * 4, [0.5, 0.3, 0.2]])
def test_an_interval_before_the_run_is_about_that_after_it(shares: list[float]) -> None:
    study, widths = of_classes(len(shares)), []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        sums, _ = spread_out(study, shares, 2000, rng)
        found, _ = evaluation.read(study, sums + rng.normal(0, 8.0, len(sums)), 64.0)
        widths.append((found.high - found.low) / 2)
    expected = evaluation.expected_half_width_of_classes(study, 2000, 64.0)
    assert 0.6 < expected / np.mean(widths) < 1.7


def test_noise_of_everyone_is_that_of_the_mean_of_the_groupings() -> None:
    assert evaluation.variance_of_everyone(STUDY, 3.0) == 3.0
    assert evaluation.variance_of_everyone(GROUPED, 3.0) == 12.0  # four codes of one column


@pytest.mark.parametrize("steeper", [0.5, 1.0, 1.6])
def test_risks_are_the_shares_of_new_patients(steeper: float) -> None:
    held, new = patients(6000, 1, steeper), patients(6000, 2, steeper)
    sums = evaluation.sums(STUDY, model(STUDY), held)
    noisy = sums + np.random.default_rng(3).normal(0, 4.0, sums.shape)
    curves = calibration.fit_each(STUDY, model(STUDY), noisy, 16.0)
    scores = models.scores(STUDY, model(STUDY), new.inputs)
    for k, curve in enumerate(curves):
        risk = curve.of(scores[:, k])[0]
        for part in np.array_split(np.argsort(risk), 4):
            assert risk[part].mean() == pytest.approx((new.labels[part] == k).mean(), abs=0.05)


def test_sums_that_no_patients_could_make_state_no_risks() -> None:
    noisy = np.full(evaluation.length(STUDY), -1e6)
    assert calibration.fit_each(STUDY, model(STUDY), noisy, 1.0) == ()
    found, _ = evaluation.read(STUDY, noisy, 1.0)
    assert 0 <= found.low <= found.auc <= found.high <= 1


def test_the_exact_macro_auc_is_the_mean_over_the_classes_that_are_there() -> None:
    held = patients(700, 4)
    scores, everyone = models.scores(STUDY, model(STUDY), held.inputs), np.arange(700)
    test = Scores(scores, held.labels, everyone, everyone % 2, CLASSES, "classes")
    assert test.auc == pytest.approx(exact(held).mean(), abs=1e-12)
    assert test.auc_by_patient == pytest.approx(test.auc, abs=1e-12)
    low, high = interval([test])
    assert low < test.auc < high
    kept = held.labels < 2
    assert test.has_interval
    scarce = np.where(held.labels == 2, everyone % 100 == 0, True)
    nine = Scores(scores[scarce], held.labels[scarce], everyone[scarce], 0 * everyone[scarce], 3)
    assert (nine.labels == 2).sum() < 10
    assert not replace(nine, kind="classes").has_interval
    few = Scores(scores[kept], held.labels[kept], everyone[kept], everyone[kept], 3, "classes")
    two = [exact_auc(scores[kept, k].copy(), held.labels[kept] == k) for k in range(2)]
    assert few.auc == pytest.approx(np.mean(two), abs=1e-12)
    assert test.of(1).auc == pytest.approx(
        Scores(scores[1::2], held.labels[1::2], everyone[1::2], everyone[1::2], 3, "classes").auc
    )


def test_the_interval_of_the_exact_macro_auc_is_that_of_new_patients() -> None:
    truth, inside = exact(patients(100_000, 9)).mean(), 0
    for seed in range(80):
        held = patients(400, 300 + seed)
        scores, everyone = models.scores(STUDY, model(STUDY), held.inputs), np.arange(400)
        low, high = interval([Scores(scores, held.labels, everyone, 0 * everyone, 3, "classes")])
        inside += low <= truth <= high
    assert inside >= 70  # of 76


def test_a_share_of_the_noise_is_told() -> None:
    sums = evaluation.sums(STUDY, model(STUDY), patients(600, 1))
    quiet, _ = evaluation.read(STUDY, sums, 0.0)
    loud, _ = evaluation.read(STUDY, sums, 100.0)
    assert quiet.noise_share == 0
    assert 0.3 < loud.noise_share < 1
    assert loud.high - loud.low > quiet.high - quiet.low
    assert loud.level == score_waves.LEVEL

"""Rates of groups from an evaluation's sums: exact without noise, and silent where noise hides."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
import pytest

from flo.arrays import Floats
from flo.privacy.releases import evaluation, group_rates, score_waves
from flo.privacy.releases.group_rates import CAUTION, MOST_COST, SIZE, Gap
from flo.study.document import Study, from_document
from tests.builders import small_study

PLACE = 0.55
STUDY = small_study(
    schema_version=4, evaluation={"epsilon": 0.9, "retry_allowance": 0, "subgroups": ["ward"]}
)
CODES = evaluation.groupings(STUDY)["ward"]


def people(counts: list[int], shifts: list[float], seed: int = 1) -> tuple[Floats, Floats, Floats]:
    """(group, label, position) of so many people in each group; ``shifts`` move their positions."""
    generator = np.random.default_rng(seed)
    group = np.repeat(np.arange(len(counts)), counts)
    label = (generator.random(len(group)) < 0.4).astype(int)
    middle = 0.4 + 0.2 * label + np.array(shifts)[group]
    position = np.clip(generator.normal(middle, 0.13), 0.01, 0.99)
    return group.astype(float), label.astype(float), position


def sums_of(group: Floats, label: Floats, position: Floats) -> Floats:
    sums = np.zeros((len(CODES), 2, score_waves.LENGTH))
    np.add.at(sums, (group.astype(int), label.astype(int)), score_waves.vectors(position))
    return sums.ravel()


def by_kind(sums: Floats, variance: float, study: Study = STUDY) -> dict[str, Gap]:
    return {one.kind: one for one in group_rates.gaps(study, sums, variance, PLACE)}


def test_without_noise_the_rates_are_those_of_the_patients() -> None:
    group, label, position = people([4000, 3000, 2000, 0], [0.0, 0.05, -0.05, 0.0])
    found = by_kind(sums_of(group, label, position), 0.0)
    for kind, value in (("sensitivity", 1), ("false alarms", 0)):
        for number, rate in enumerate(found[kind].rates[:3]):
            own = (group == number) & (label == value)
            assert rate.value == pytest.approx((position[own] >= PLACE).mean(), abs=0.01)
            assert rate.patients == pytest.approx(own.sum())
            assert None not in (rate.low, rate.value, rate.high)
            assert rate.low < rate.value < rate.high  # type: ignore[operator]
    assert found["sensitivity"].rates[3].value is None, "nobody's ward is missing"
    assert found["sensitivity"].differ
    assert found["sensitivity"].low > 0.1


def test_few_patients_and_much_noise_are_too_few_to_say() -> None:
    group, label, position = people([4000, 60, 2000, 0], [0.0, 0.2, -0.05, 0.0])
    sums = sums_of(group, label, position)
    noise = np.random.default_rng(2).normal(size=len(sums))
    found = by_kind(sums + 8.0 * noise, 64.0)
    assert found["sensitivity"].rates[1].value is None
    assert found["sensitivity"].rates[0].value is not None
    found = by_kind(sums + 500.0 * noise, 500.0**2)
    assert found["sensitivity"].known == []
    assert not found["sensitivity"].differ
    assert (found["sensitivity"].low, found["sensitivity"].high) == (0.0, 1.0)
    assert all(one.low == 0.0 for one in found["sensitivity"].rates)


@pytest.mark.slow
def test_groups_that_are_alike_seldom_differ_and_are_never_said_to_be_equal() -> None:
    differ = 0
    for seed in range(200):
        group, label, position = people([1500, 1500, 1500, 0], [0.0] * 4, seed)
        sums = sums_of(group, label, position)
        noisy = sums + 8.0 * np.random.default_rng(seed).normal(size=len(sums))
        found = by_kind(noisy, 64.0)
        differ += any(one.differ for one in found.values())
        assert all(one.high > 0.02 for one in found.values())
    assert differ <= 200 * SIZE + 3.5 * (200 * SIZE) ** 0.5


def test_thresholds_close_the_gap_and_keep_who_is_found() -> None:
    group, label, position = people([6000, 6000, 6000, 0], [0.0, 0.06, -0.06, 0.0])
    sums = sums_of(group, label, position)
    noisy = sums + 8.0 * np.random.default_rng(3).normal(size=len(sums))
    found = group_rates.thresholds(STUDY, noisy, 64.0, PLACE)["ward"]
    limit = np.array(found.places)[group.astype(int)]

    def rates(limit: Floats | float) -> Floats:
        ill = label == 1
        flagged = position >= limit
        return np.array([flagged[ill & (group == number)].mean() for number in range(3)])

    before, after = rates(PLACE), rates(limit)
    assert np.ptp(after) < 0.4 * np.ptp(before)
    ill = label == 1
    assert (position >= limit)[ill].mean() == pytest.approx(
        (position >= PLACE)[ill].mean(), abs=0.02
    )
    assert found.places[1] > PLACE > found.places[2]
    assert found.places[3] == PLACE, "of whom nothing is known"
    assert found.part_of_the_way(0.0) == (PLACE,) * 4
    assert found.part_of_the_way(1.0) == pytest.approx(found.places)
    asked = (STUDY, noisy, 64.0, "ward")
    spread = [
        np.ptp([one.value for one in group_rates.gaps_at(*asked, places)[0].known])
        for places in ((PLACE,) * 4, found.places)
    ]
    assert spread[1] < spread[0]
    right = [group_rates.classified_rightly(*asked, p) for p in ((PLACE,) * 4, found.places)]
    assert right[0] - right[1] == pytest.approx(found.cost[0])
    assert found.cost[0] < found.cost[1] <= MOST_COST


def test_nothing_changes_where_groups_are_not_said_to_differ() -> None:
    group, label, position = people([800, 800, 800, 0], [0.0, 0.01, 0.0, 0.0])
    sums = sums_of(group, label, position)
    noisy = sums + 8.0 * np.random.default_rng(4).normal(size=len(sums))
    assert group_rates.thresholds(STUDY, noisy, 64.0, PLACE) == {}


def test_more_noise_moves_groups_less() -> None:
    """Caution: what could be noise is not undone, so that a group is seldom moved too far."""
    assert CAUTION > 0
    group, label, position = people([6000, 6000, 6000, 0], [0.0, 0.06, -0.06, 0.0])
    sums = sums_of(group, label, position)
    moved = [
        np.ptp(group_rates.thresholds(STUDY, sums, variance, PLACE)["ward"].places)
        for variance in (0.0, 64.0, 900.0)
    ]
    assert moved == sorted(moved, reverse=True)
    assert moved[0] > moved[2]


def test_a_study_without_subgroups_has_no_gaps() -> None:
    plain = small_study(schema_version=4)
    sums = np.zeros(evaluation.length(plain))
    assert group_rates.gaps(plain, sums, 1.0, PLACE) == []
    assert group_rates.thresholds(plain, sums, 1.0, PLACE) == {}


def test_coefficients_are_those_of_counts() -> None:
    generator = np.random.default_rng(5)
    position = generator.beta(3, 4, size=5000)
    sums = score_waves.vectors(position).sum(0)
    assert score_waves.of_total() @ sums == pytest.approx(5000)
    places = np.linspace(0.1, 0.9, 9)
    found = score_waves.of_above(places) @ sums
    exact = [(position > place).sum() for place in places]
    assert found == pytest.approx(exact, abs=40)


def test_many_patients_at_one_score_are_on_either_side_of_the_threshold() -> None:
    """A model of codes alone has few scores: an interval reaches over the nearest ones."""
    columns = [column for column in STUDY.data.columns if column.name == "ward"]
    document = STUDY.model_dump(mode="json", exclude_none=True)
    document["data"]["columns"] = [one.model_dump(mode="json") for one in columns]
    codes = from_document(document)
    group, label, _ = people([4000, 4000, 4000, 0], [0.0] * 4)
    place = PLACE + 0.005  # of all patients of the second ward
    position = np.where(group == 1, place, 0.3)
    sums = sums_of(group, label, position)
    for study, holds in ((codes, True), (STUDY, False)):
        (found, _) = group_rates.gaps(study, sums, 0.0, place + 0.002)
        assert (found.rates[1].low <= 0.0 < 1.0 <= found.rates[1].high) is holds
    assert group_rates.thresholds(codes, sums, 0.0, PLACE) == {}
    moved = sums_of(group, label, np.where(group == 1, PLACE + 0.002, PLACE - 0.002))
    (found, _) = group_rates.gaps(codes, moved, 64.0, PLACE)
    assert not found.differ, "they differ by less than can be seen"


@pytest.mark.parametrize("variance", [0.0, 1.0, 400.0])
@pytest.mark.parametrize(("flagged", "patients"), [(5, 1000), (30, 60), (2000, 200_000), (2, 500)])
def test_the_ends_of_an_interval_are_exactly_where_the_share_stops_to_agree(
    flagged: int, patients: int, variance: float
) -> None:
    sums = flagged * score_waves.vectors(np.array([0.8]))[0]
    sums = sums + (patients - flagged) * score_waves.vectors(np.array([0.2]))[0]
    above, total = score_waves.of_above(np.array([0.5]))[0], score_waves.of_total()
    z = NormalDist().inv_cdf(0.95)
    for end in group_rates._interval(above, sums, variance):
        apart = float(above @ sums) - end * float(total @ sums)
        spread = variance * float(((above - end * total) ** 2).sum())
        spread += float(total @ sums) * end * (1 - end)
        if 0.0 < end < 1.0:
            assert apart**2 == pytest.approx(z**2 * spread, rel=1e-6)
        else:
            assert apart**2 <= z**2 * spread + 1e-6

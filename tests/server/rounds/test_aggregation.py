"""What is summed as it comes is what would have been summed at the end, in one vector's memory."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flo.privacy.accounting.plan import Plan, ring_of
from flo.privacy.secure_sum.ring import to_ring
from flo.server.rounds import aggregation
from flo.server.rounds.aggregation import StreamingSum
from flo.study.document import Study
from tests.builders import HOSPITALS
from tests.server.in_memory_run import MODES, company_study


def gathered(study: Study, hospitals: int = 3) -> StreamingSum:
    return StreamingSum(study, Plan.of(study).purpose("training"), hospitals)


def compared_study() -> Study:
    """One whose coordinator takes the median of the hospitals' own sums."""
    limits = {"deadline_seconds": 60, "minimum_cohort": 3}
    document = company_study("masking off").model_dump(mode="json") | {"limits": limits}
    document["mechanism"]["aggregation"] = "median"
    return Study.model_validate(document)


@pytest.mark.parametrize("mode", MODES)
@given(seed=st.integers(0, 1000), block=st.sampled_from([1, 2, 5, 1 << 16]))
def test_the_sum_is_the_sum_whatever_the_order_and_the_blocks(
    mode: str, seed: int, block: int
) -> None:
    study = company_study(mode)
    part = Plan.of(study).purpose("training")
    ring, rng = ring_of(study, part, 3), np.random.default_rng(seed)
    numbers = rng.integers(-(10**6), 10**6, (3, part.mechanism.length))
    made = gathered(study)
    for i in rng.permutation(3):
        made.add(HOSPITALS[i], to_ring(numbers[i], ring) if ring else numbers[i].copy())
    before, aggregation._BLOCK = aggregation._BLOCK, block
    try:
        exact = numbers.sum(axis=0)
        steps = np.concatenate([made.grid_values(at) for at in made.blocks])
        assert steps.tolist() == exact.tolist()
        assert np.allclose(made.all_values(), part.mechanism.to_real(exact), rtol=1e-12)
        assert made.norm == pytest.approx(float(np.linalg.norm(part.mechanism.to_real(exact))))
        most = int(np.abs(exact).max())
        assert not made.exceeds(most)
        assert made.exceeds(most - 1)
    finally:
        aggregation._BLOCK = before
    assert made.hospitals == set(HOSPITALS)


def test_numbers_of_32_bits_are_summed_in_64() -> None:
    study = company_study("masking off")
    made = gathered(study)
    largest = np.full(Plan.of(study).purpose("training").mechanism.length, 2**31 - 1)
    for hospital in HOSPITALS[:2]:
        made.add(hospital, largest.astype(np.int32))
    (block,) = made.blocks
    assert set(made.grid_values(block).tolist()) == {2**32 - 2}


def test_a_hospital_is_counted_once() -> None:
    study = company_study("masking off")
    made, values = (
        gathered(study),
        np.zeros(Plan.of(study).purpose("training").mechanism.length, int),
    )
    assert not made
    made.add("north", values)
    assert made
    with pytest.raises(ValueError, match="answered this attempt already"):
        made.add("north", values)


def test_each_hospitals_own_numbers_are_kept_only_where_they_are_compared() -> None:
    values, two = np.zeros(6, dtype=np.int64), {"north", "south"}
    for study, ring, kept in (
        (company_study("masking off"), 0, set()),
        (compared_study(), 0, two),
        (company_study("distributed noise"), 32, set()),
    ):
        part = next(iter(Plan.of(study).purposes.values()))
        made = StreamingSum(study, part, 2)
        for name in two:
            made.add(name, to_ring(values, ring) if ring else values.copy())
        assert set(made.each) == kept


def test_what_a_hospital_sent_is_not_changed_where_it_is_kept() -> None:
    made, first = gathered(compared_study()), np.ones(6, dtype=np.int64)
    made.add("north", first)
    made.add("south", np.full(6, 5, dtype=np.int64))
    assert made.each["north"].tolist() == [1] * 6
    assert made.grid_values(slice(0, 6)).tolist() == [6] * 6


def test_nothing_is_made_of_an_attempt_that_nobody_answered() -> None:
    with pytest.raises(ValueError, match="no hospital has answered"):
        gathered(company_study("masking off")).grid_values(slice(0, 1))

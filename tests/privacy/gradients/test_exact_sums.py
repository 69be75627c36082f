"""Micro-batches add up to the same integers in any order, and stay exact enough for the proof."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flo.arrays import Floats, Integers
from flo.privacy.gradients import exact_sums
from flo.privacy.gradients.exact_sums import LARGEST_BATCH
from flo.study.layers import MOST_PARAMETERS
from flo.study.models import largest_batch
from flo.study.schema import LARGEST_RECORDS
from tests.builders import small_study, study_document

CLIP = 0.37
_IMAGE = {"kind": "image", "name": "px", "height": 8, "width": 8, "minimum": 0, "maximum": 255}
MANY_IMAGES = small_study(
    model={"kind": "cnn"},
    data=study_document()["data"]
    | {"columns": [_IMAGE], "records_per_patient": "many", "most_records": LARGEST_RECORDS},
)


def integers(part: Floats, batch: int = 512, clip: float = CLIP) -> Integers:
    return total_of([part], batch, clip)


def total_of(some: Iterable[Floats], batch: int = 512, clip: float = CLIP) -> Integers:
    total = exact_sums.zeros(8)
    for part in some:
        exact_sums.add(total, part, clip, batch)
    return total


def parts(seed: int, count: int, size: int = 8) -> list[Floats]:
    generator = np.random.default_rng(seed)
    scale = 10.0 ** generator.integers(-9, 3, (count, size))
    return [*(generator.normal(size=(count, size)) * scale).clip(-512 * CLIP, 512 * CLIP)]


@given(st.integers(0, 10**6), st.integers(2, 40), st.integers(1, 5))
def test_any_order_and_any_grouping_gives_the_same_integers(
    seed: int, count: int, processes: int
) -> None:
    some = parts(seed, count)
    whole = total_of(some)
    order = np.random.default_rng(seed).permutation(count)
    groups = [total_of(some[i] for i in order[k::processes]) for k in range(processes)]
    np.testing.assert_array_equal(np.sum(groups, axis=0), whole)


@given(st.integers(0, 10**6), st.integers(1, 200))
def test_the_total_is_the_exact_one_to_half_a_step_for_each_micro_batch(
    seed: int, count: int
) -> None:
    some = parts(seed, count)
    total = exact_sums.to_real(total_of(some), CLIP, 512)
    step = CLIP * 512 / 2**62
    for place, found in enumerate(total):
        exact = math.fsum(part[place] for part in some)
        conversion = 2**-51 * sum(abs(part[place]) for part in some)  # from and to float64
        assert abs(found - exact) <= count * step / 2 + conversion


@pytest.mark.parametrize("batch", [1, 512, LARGEST_BATCH])
@pytest.mark.parametrize("clip", [1e-6, 1.0, 1e6 * 8])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_patients_who_all_pull_one_way_do_not_overflow(
    batch: int, clip: float, sign: float
) -> None:
    """A full micro-batch, each patient at the clip and a little above it by rounding."""
    full = np.full(8, sign * batch * clip * (1 + 1e-9))
    many = 10_000 * integers(full, batch, clip)
    assert exact_sums.to_real(many, clip, batch) == pytest.approx(10_000 * full, rel=1e-12)


def test_adjacent_data_differ_by_less_than_the_proof_allows() -> None:
    """By one step more in each block and coordinate, at the most that FLO takes; in clips, L2."""
    most_blocks = 10_000_000  # of one patient each
    assert most_blocks * LARGEST_BATCH / 2**62 * math.sqrt(MOST_PARAMETERS) < 2**-15
    assert all(
        largest_batch(study, 8, device) <= LARGEST_BATCH
        for study in (small_study(), MANY_IMAGES)
        for device in ("cpu", "cuda:0")
    )

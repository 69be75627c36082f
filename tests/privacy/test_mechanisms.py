"""The one mechanism: how far one patient moves a release, what noise hides it, what it costs."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from dp_accounting.rdp import RdpAccountant
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from flo import canonical
from flo.errors import MessageError
from flo.privacy.discrete_gaussian import SystemNoise
from flo.privacy.mechanisms import GRID, Floats, NoisySum, from_document
from tests.builders import NoNoise

MECHANISM = NoisySum("full-batch-sum", 0.5, 7, 3.25)

mechanisms = st.builds(
    NoisySum,
    st.sampled_from(["full-batch-sum", "score-histogram"]),
    st.floats(1e-6, 1e6),
    st.integers(1, 10**6),
    st.floats(1e-2, 1e4),
)


def document(**changes: Any) -> dict[str, Any]:
    return {**MECHANISM.as_document(), **changes}


@given(mechanisms)
def test_sensitivity_is_the_clip_norm_in_grid_steps_plus_float_slack_plus_rounding(
    mechanism: NoisySum,
) -> None:
    assert GRID >= 2**16
    expected = (1 + 2**-10) * GRID + math.sqrt(mechanism.length)
    assert mechanism.sensitivity_steps == pytest.approx(expected, rel=1e-15)


@given(mechanisms, st.integers(1, 50))
def test_variance_is_rounded_up_and_never_by_a_noticeable_amount(
    mechanism: NoisySum, shares: int
) -> None:
    deviation = Fraction(mechanism.noise_multiplier) * Fraction(mechanism.sensitivity_steps)
    exact = deviation**2 / shares
    assert exact <= mechanism.variance_steps(shares) <= exact * (1 + Fraction(1, 10**11)) + 1


@given(st.data(), st.integers(1, 40), st.floats(1e-3, 1e3))
def test_rounding_adjacent_sums_keeps_them_within_the_sensitivity(
    data: st.DataObject, length: int, clip: float
) -> None:
    coordinates = st.lists(st.floats(-1, 1), min_size=length, max_size=length)
    without = np.array(data.draw(coordinates)) * clip * 50
    patient = np.array(data.draw(coordinates))
    patient *= clip / max(1.0, float(np.linalg.norm(patient)))
    mechanism = NoisySum("full-batch-sum", clip, length, 1.0)
    one = mechanism.release(without, NoNoise())
    other = mechanism.release(without + patient, NoNoise())
    assert np.linalg.norm((one - other).astype(np.float64)) <= mechanism.sensitivity_steps


@given(st.lists(st.floats(-1e3, 1e3), min_size=7, max_size=7))
def test_without_noise_a_release_is_the_sum_rounded_to_the_grid(values: list[float]) -> None:
    total = np.array(values)
    released = MECHANISM.release(total, NoNoise())
    assert released.dtype == np.int64
    np.testing.assert_array_equal(released, np.rint(total * (GRID / MECHANISM.clip)))
    assert np.abs(MECHANISM.to_real(released) - total).max() <= MECHANISM.clip / GRID / 2 * 1.001


@pytest.mark.parametrize("shares", [1, 3])
def test_the_noise_of_a_release_has_the_promised_variance(shares: int) -> None:
    length = 4000
    mechanism = NoisySum("full-batch-sum", 0.5, length, 3.25)
    noise = mechanism.release(np.zeros(length), SystemNoise(), shares=shares).astype(np.float64)
    variance = (3.25 * mechanism.sensitivity_steps) ** 2 / shares
    # False alarm 1e-6 a run: two-sided chi-square on the sum of squares.
    tail = stats.chi2(length).cdf(float((noise**2).sum()) / variance)
    assert 5e-7 < tail < 1 - 5e-7


def test_two_releases_of_one_sum_differ() -> None:
    total: Floats = np.zeros(7)
    one, other = (MECHANISM.release(total, SystemNoise()) for _ in range(2))
    assert (one != other).any()  # false alarm below 1e-30: seven equal draws of σ > 10^5 steps


def test_a_sum_of_another_shape_is_refused() -> None:
    for shape in ((6,), (8,), (7, 1), ()):
        with pytest.raises(ValueError, match="shape"):
            MECHANISM.release(np.zeros(shape), NoNoise())


@pytest.mark.parametrize("shares", [0, -1])
def test_fewer_than_one_share_is_refused(shares: int) -> None:
    with pytest.raises(ValueError, match="shares"):
        MECHANISM.variance_steps(shares)


REFUSED: list[tuple[str, Any]] = [
    ("kind", "subsampled-sum"),
    ("kind", ""),
    ("clip", 0.0),
    ("clip", -0.5),
    ("clip", math.inf),
    ("clip", math.nan),
    ("length", 0),
    ("length", -3),
    ("noise_multiplier", 0.0),
    ("noise_multiplier", -1.0),
    ("noise_multiplier", math.inf),
    ("noise_multiplier", math.nan),
]


@pytest.mark.parametrize(("name", "value"), REFUSED)
def test_a_mechanism_without_a_bound_or_without_noise_is_refused(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=r"clip|length|noise multiplier|kind"):
        NoisySum(**document(**{name: value}))
    with pytest.raises(MessageError):
        from_document(document(**{name: value}))


@given(mechanisms)
def test_a_mechanism_survives_its_document(mechanism: NoisySum) -> None:
    data = canonical.encode(mechanism.as_document())
    assert from_document(canonical.decode(data, limit=1000, what="mechanism")) == mechanism


MALFORMED: list[Any] = [
    None,
    7,
    "full-batch-sum",
    [],
    {},
    ["kind", "clip", "length", "noise_multiplier"],
    {**document(), "epsilon": 0.0},
    {k: v for k, v in document().items() if k != "clip"},
    document(kind=None),
    document(kind=["full-batch-sum"]),
    document(clip=None),
    document(clip="wide"),
    document(clip=[0.5]),
    document(length=True),
    document(length=7.0),
    document(length="7"),
    document(noise_multiplier={}),
]


@pytest.mark.parametrize("malformed", MALFORMED, ids=repr)
def test_a_malformed_mechanism_is_refused_and_never_free(malformed: Any) -> None:
    with pytest.raises(MessageError, match="not a mechanism"):
        from_document(malformed)


@pytest.mark.parametrize(
    "malformed",
    [
        document(clip=True),
        document(noise_multiplier=True),
        document(clip="0.5"),
        document(noise_multiplier="3.25"),
        document(clip=10**400),
        document(noise_multiplier=10**400),
    ],
    ids=lambda d: f"{str(d['clip'])[:8]}-{str(d['noise_multiplier'])[:8]}",
)
def test_numbers_that_are_not_plain_numbers_are_refused(malformed: Any) -> None:
    with pytest.raises(MessageError, match="not a mechanism"):
        from_document(malformed)


@given(st.floats(0.1, 1e3), st.integers(2, 512))
def test_the_cost_is_what_dp_accounting_says_of_the_event(sigma: float, order: int) -> None:
    mechanism = NoisySum("score-histogram", 1.0, 8, sigma)
    accountant = RdpAccountant(orders=[float(order)])
    accountant.compose(mechanism.event)
    # The converted ε at δ is rdp + a term that depends on order and δ only.
    (cost,) = accountant._rdp
    assert mechanism.rdp(order) == pytest.approx(float(cost), rel=1e-12)

"""Mechanisms: how far one patient moves a release, what noise hides it, what it costs.

One contract for all of them. A test that says "false alarm p" fails with probability p although
nothing is wrong: it draws real noise.
"""

from __future__ import annotations

import ast
import math
from dataclasses import FrozenInstanceError, fields, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import dp_accounting
import numpy as np
import pytest
from dp_accounting.rdp import RdpAccountant
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

import flo.privacy
from flo.arrays import Floats
from flo.errors import MessageError
from flo.privacy.accounting.accounting import ORDERS, epsilon_of
from flo.privacy.mechanisms.discrete_gaussian import SystemNoise
from flo.privacy.mechanisms.mechanisms import (
    GRID,
    FullBatchSum,
    Mechanism,
    PoissonSum,
    from_document,
)
from tests.builders import NoNoise
from tests.privacy.every_mechanism import (
    COUNTS,
    FULL,
    GROUPED,
    INF,
    MECHANISMS,
    NAN,
    SAMPLED,
    document,
    every_mechanism,
    mechanisms,
)

# What each field may not be. A mechanism with another field has to say so here.
BAD: dict[str, list[Any]] = {
    "length": [0, -3],
    "noise_multiplier": [0.0, -1.0, INF, -INF, NAN],
    "clip": [0.0, -0.5, INF, NAN],
    "sampling": [0.0, -0.25, 0.000999, 1.0, 1.5, INF, NAN],
    "groups": [0, -1, 9],
}


# -- the contract: a frozen description that refuses what it cannot promise ------------------------


def test_the_contract_is_held_against_every_mechanism_there_is() -> None:
    def subclasses(kind: type[Mechanism]) -> set[type[Mechanism]]:
        direct = [one for one in kind.__subclasses__() if one.__module__.startswith("flo.")]
        return set(direct).union(*(subclasses(one) for one in direct))

    assert subclasses(Mechanism) == {type(mechanism) for mechanism in MECHANISMS}


@every_mechanism
def test_a_mechanism_is_frozen(mechanism: Mechanism) -> None:
    for field in fields(mechanism):
        with pytest.raises(FrozenInstanceError):
            setattr(mechanism, field.name, getattr(mechanism, field.name))


@every_mechanism
def test_equal_mechanisms_are_one_key_and_another_field_is_another_mechanism(
    mechanism: Mechanism,
) -> None:
    assert replace(mechanism) == mechanism
    assert hash(replace(mechanism)) == hash(mechanism)
    assert len({mechanism, mechanism.with_noise(4.0), *MECHANISMS}) == len(MECHANISMS) + 1


@every_mechanism
def test_a_mechanism_without_a_bound_or_without_noise_is_refused(mechanism: Mechanism) -> None:
    assert {field.name for field in fields(mechanism)} <= BAD.keys()
    for field in fields(mechanism):
        for value in BAD[field.name]:
            with pytest.raises(ValueError, match=r"clip|length|noise multiplier|sampling|groups"):
                replace(mechanism, **{field.name: value})
            with pytest.raises(MessageError):
                from_document(document(mechanism, **{field.name: value}))


@every_mechanism
def test_more_or_less_noise_is_the_same_mechanism_otherwise(mechanism: Mechanism) -> None:
    louder = mechanism.with_noise(9.5)
    assert type(louder) is type(mechanism)
    assert louder.noise_multiplier == 9.5
    assert document(louder, noise_multiplier=0) == document(mechanism, noise_multiplier=0)
    for sigma in (0.0, -1.0, INF, NAN):
        with pytest.raises(ValueError, match="noise multiplier"):
            mechanism.with_noise(sigma)


# -- the contract: sensitivity, rounding, noise ----------------------------------------------------


@given(mechanisms)
def test_sensitivity_is_the_norm_in_grid_steps_plus_float_slack_plus_rounding(
    mechanism: Mechanism,
) -> None:
    assert GRID >= 2**16
    expected = (1 + 2**-10) * GRID + math.sqrt(mechanism.length)
    assert mechanism.sensitivity_steps == pytest.approx(expected, rel=1e-15)


def test_sensitivity_is_derived_and_nowhere_in_the_room_an_argument_or_a_field() -> None:
    named: list[str] = []
    for path in sorted(Path(flo.privacy.__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.arg):
                named.append(node.arg)
            elif isinstance(node, ast.ClassDef):
                named += [
                    line.target.id
                    for line in node.body
                    if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name)
                ]
    assert {"shares", "noise_multiplier", "clip"} <= set(named)  # it did look
    assert [name for name in named if "sensitiv" in name.lower()] == []


def test_a_patients_norm_is_the_clip_or_the_root_of_the_groups() -> None:
    assert [m.norm for m in MECHANISMS] == [0.5, 0.5, 1.0, 2.0, 1.0]


@every_mechanism
@given(data=st.data())
def test_rounding_adjacent_sums_keeps_them_within_the_sensitivity(
    mechanism: Mechanism, data: st.DataObject
) -> None:
    length = data.draw(st.integers(mechanism.length, 40))
    mechanism = replace(mechanism, length=length)
    coordinates = st.lists(st.floats(-1, 1), min_size=length, max_size=length)
    absent = np.array(data.draw(coordinates)) * mechanism.norm * 50
    patient = np.array(data.draw(coordinates))
    patient *= mechanism.norm / max(1.0, float(np.linalg.norm(patient)))
    one = mechanism.release(absent, NoNoise())
    other = mechanism.release(absent + patient, NoNoise())
    assert np.linalg.norm((one - other).astype(np.float64)) <= mechanism.sensitivity_steps


@every_mechanism
@given(data=st.data())
def test_without_noise_a_release_is_the_sum_rounded_to_the_grid(
    mechanism: Mechanism, data: st.DataObject
) -> None:
    length = mechanism.length
    total = np.array(data.draw(st.lists(st.floats(-1e3, 1e3), min_size=length, max_size=length)))
    released = mechanism.release(total, NoNoise())
    assert released.dtype == np.int64
    np.testing.assert_array_equal(released, np.rint(total * (GRID / mechanism.norm)))
    error = np.abs(mechanism.to_real(released) - total).max()
    assert error <= mechanism.norm / GRID / 2 * 1.001


@pytest.mark.parametrize("limit", [None, 3])
def test_a_long_sum_is_released_whole_a_few_numbers_at_a_time(
    limit: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    mechanism = FullBatchSum(100, 1.0, 1.0)
    total = np.linspace(-5, 5, 100) * (mechanism.norm / GRID)
    whole = mechanism.release(total, NoNoise(), limit=limit)
    monkeypatch.setattr("flo.privacy.mechanisms.mechanisms._AT_ONCE", 7)
    assert mechanism.release(total, NoNoise(), limit=limit).tolist() == whole.tolist()
    assert len(set(whole.tolist())) > 3
    assert limit is None or np.abs(whole).max() == limit


@every_mechanism
def test_a_sum_of_another_shape_is_refused(mechanism: Mechanism) -> None:
    n = mechanism.length
    for shape in ((n - 1,), (n + 1,), (n, 1), (1, n), ()):
        with pytest.raises(ValueError, match="shape"):
            mechanism.release(np.zeros(shape), NoNoise())


@given(mechanisms, st.integers(1, 50))
def test_variance_is_rounded_up_and_never_by_a_noticeable_amount(
    mechanism: Mechanism, shares: int
) -> None:
    shares = 1 if isinstance(mechanism, PoissonSum) else shares
    deviation = Fraction(mechanism.noise_multiplier) * Fraction(mechanism.sensitivity_steps)
    exact = deviation**2 / shares
    assert exact <= mechanism.variance_steps(shares) <= exact * (1 + Fraction(1, 10**11)) + 1


@every_mechanism
@pytest.mark.parametrize("shares", [0, -1])
def test_fewer_than_one_share_is_refused(mechanism: Mechanism, shares: int) -> None:
    with pytest.raises(ValueError, match="shares"):
        mechanism.variance_steps(shares)
    with pytest.raises(ValueError, match="shares"):
        mechanism.release(np.zeros(mechanism.length), NoNoise(), shares=shares)


@pytest.mark.parametrize(
    ("mechanism", "shares"),
    [(FULL, 1), (FULL, 3), (SAMPLED, 1), (COUNTS, 3), (GROUPED, 1)],
    ids=["full batch", "a share of it", "sampled", "a share of a histogram", "groups"],
)
def test_the_noise_of_a_release_has_the_promised_variance(
    mechanism: Mechanism, shares: int
) -> None:
    length = 4000
    mechanism = replace(mechanism, length=length)
    noise = mechanism.release(np.zeros(length), SystemNoise(), shares=shares).astype(np.float64)
    variance = (3.25 * mechanism.sensitivity_steps) ** 2 / shares
    # False alarm 1e-6 each: two-sided chi-square on the sum of squares.
    tail = stats.chi2(length).cdf(float((noise**2).sum()) / variance)
    assert 5e-7 < tail < 1 - 5e-7


@every_mechanism
def test_two_releases_of_one_sum_differ(mechanism: Mechanism) -> None:
    total: Floats = np.zeros(mechanism.length)
    one, other = (mechanism.release(total, SystemNoise()) for _ in range(2))
    assert (one != other).any()  # false alarm below 1e-30: seven equal draws of σ > 10^5 steps


# -- the contract: cost ----------------------------------------------------------------------------


@pytest.mark.slow
@every_mechanism
@pytest.mark.parametrize(("count", "delta"), [(1, 1e-6), (22, 1e-6), (22, 1e-9)])
def test_dp_accounting_accepts_the_event_and_finds_the_same_epsilon(
    mechanism: Mechanism, count: int, delta: float
) -> None:
    accountant = RdpAccountant(orders=[float(order) for order in ORDERS])
    assert accountant.supports(mechanism.event)
    accountant.compose(mechanism.event, count)
    expected = float(accountant.get_epsilon(delta))
    assert math.isfinite(expected)
    assert epsilon_of(mechanism, count, delta) == pytest.approx(expected, rel=1e-9)


@every_mechanism
def test_the_cost_at_every_order_is_what_dp_accounting_says_of_the_event(
    mechanism: Mechanism,
) -> None:
    accountant = RdpAccountant(orders=[float(order) for order in ORDERS])
    accountant.compose(mechanism.event)
    np.testing.assert_allclose(
        mechanism.rdp_curve(np.array(ORDERS)), accountant._rdp, rtol=1e-9, atol=0
    )


@pytest.mark.slow
@settings(deadline=None)
@given(mechanisms, st.integers(2, 512))
def test_the_cost_at_one_order_is_that_of_the_curve(mechanism: Mechanism, order: int) -> None:
    (alone,) = mechanism.rdp_curve(np.array([order]))
    assert mechanism.rdp(order) == alone
    among = mechanism.rdp_curve(np.arange(2, 513))[order - 2]
    assert among == pytest.approx(alone, rel=1e-9, abs=1e-13)


@pytest.mark.slow
@settings(deadline=None)
@given(mechanisms, st.floats(1.01, 10))
def test_more_noise_costs_less_at_every_order_and_a_higher_order_costs_more(
    mechanism: Mechanism, factor: float
) -> None:
    # From σ = 0.1 on: below, orders whose cost is beyond any use lose digits.
    mechanism = mechanism.with_noise(0.1 + mechanism.noise_multiplier / 100)
    curve = mechanism.rdp_curve(np.array(ORDERS))
    assert (
        mechanism.with_noise(factor * mechanism.noise_multiplier).rdp_curve(np.array(ORDERS))
        < curve
    ).all()
    assert (curve > 0).all()
    assert (np.diff(curve) > -1e-12).all()


def test_a_sum_of_everyone_and_a_histogram_of_any_groups_cost_the_same() -> None:
    # α/(2σ²): Mironov (2017), Corollary 3; discrete: Canonne, Kamath, Steinke (2020), Theorem 14.
    for order in (2, 24, 512):
        for mechanism in (FULL, COUNTS, GROUPED):
            assert mechanism.rdp(order) == pytest.approx(order / (2 * 3.25**2), rel=1e-15)
            assert isinstance(mechanism.event, dp_accounting.GaussianDpEvent)


# -- who takes part --------------------------------------------------------------------------------


@pytest.mark.parametrize("mechanism", [FULL, COUNTS, GROUPED])
def test_everyone_takes_part_in_a_release_that_is_not_sampled(mechanism: Mechanism) -> None:
    assert mechanism.choose(10, SystemNoise()) is None

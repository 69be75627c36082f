"""Mechanisms: how far one patient moves a release, what noise hides it, what it costs.

One contract for all of them, then what is special to the sampled sum and to the histogram. A test
that says "false alarm p" fails with probability p although nothing is wrong: it draws real noise.
"""

from __future__ import annotations

import ast
import itertools
import math
from collections.abc import Iterable
from dataclasses import FrozenInstanceError, fields, replace
from decimal import Decimal, localcontext
from fractions import Fraction
from functools import lru_cache
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
from flo import canonical
from flo.errors import MessageError
from flo.privacy.accounting import ORDERS, epsilon_of
from flo.privacy.discrete_gaussian import SystemNoise
from flo.privacy.mechanisms import (
    GRID,
    Floats,
    FullBatchSum,
    Histogram,
    Mechanism,
    PoissonSum,
    from_document,
)
from tests.builders import NoNoise

INF, NAN = math.inf, math.nan
FULL, SAMPLED = FullBatchSum(7, 3.25, 0.5), PoissonSum(7, 3.25, 0.5, 0.25)
COUNTS, GROUPED = Histogram(8, 3.25), Histogram(8, 3.25, 4)
MECHANISMS = [FULL, SAMPLED, COUNTS, GROUPED]
NAMES = ["full batch", "sampled", "histogram", "histogram of 4 groups"]
# What each field may not be. A mechanism with another field has to say so here.
BAD: dict[str, list[Any]] = {
    "length": [0, -3],
    "noise_multiplier": [0.0, -1.0, INF, -INF, NAN],
    "clip": [0.0, -0.5, INF, NAN],
    "sampling": [0.0, -0.25, 0.000999, 1.0, 1.5, INF, NAN],
    "groups": [0, -1, 9],
}

WHOLE = {"length", "groups"}

sigmas, lengths = st.floats(1e-2, 1e4), st.integers(1, 10**6)
mechanisms: st.SearchStrategy[Mechanism] = st.one_of(
    st.builds(FullBatchSum, lengths, sigmas, st.floats(1e-6, 1e6)),
    st.builds(
        PoissonSum, lengths, sigmas, st.floats(1e-6, 1e6), st.floats(0.001, 1, exclude_max=True)
    ),
    lengths.flatmap(
        lambda length: st.builds(Histogram, st.just(length), sigmas, st.integers(1, length))
    ),
)
every_mechanism = pytest.mark.parametrize("mechanism", MECHANISMS, ids=NAMES)


def document(mechanism: Mechanism = FULL, **changes: Any) -> dict[str, Any]:
    return {**mechanism.as_document(), **changes}


def without(mechanism: Mechanism, name: str) -> dict[str, Any]:
    return {key: value for key, value in mechanism.as_document().items() if key != name}


# -- the contract: a frozen description that refuses what it cannot promise ------------------------


def test_the_contract_is_held_against_every_mechanism_there_is() -> None:
    def subclasses(kind: type[Mechanism]) -> set[type[Mechanism]]:
        direct = kind.__subclasses__()
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


# -- the contract: documents ----------------------------------------------------------------------


@given(mechanisms)
def test_a_mechanism_survives_its_document(mechanism: Mechanism) -> None:
    data = canonical.encode(mechanism.as_document())
    found = from_document(canonical.decode(data, limit=1000, what="mechanism"))
    assert found == mechanism
    assert type(found) is type(mechanism)


def test_documents_are_these_and_no_others() -> None:
    # They stand in signed ledgers and reports: a change needs a reader for the old ones.
    shared = {"length": 7, "noise_multiplier": 3.25, "clip": 0.5}
    assert FULL.as_document() == {"kind": "full-batch-sum", **shared}
    assert SAMPLED.as_document() == {"kind": "poisson-sum", **shared, "sampling": 0.25}
    assert GROUPED.as_document() == {
        "kind": "histogram",
        "length": 8,
        "noise_multiplier": 3.25,
        "groups": 4,
    }


@every_mechanism
def test_a_document_with_a_field_too_many_too_few_or_of_no_number_is_refused(
    mechanism: Mechanism,
) -> None:
    wrong = [document(mechanism, epsilon=0.0), document(mechanism, delta=0.0)]
    numbers: list[Any] = [INF, -INF, NAN, -1, 0, True, False]
    for name, right in mechanism.as_document().items():
        wrong.append(without(mechanism, name))
        for value in (None, [], {}, "", "7", "wide", [1.0], *numbers):
            wrong.append(document(mechanism, **{name: value}))
        # A whole number is written as one; what overflows a float is no number here.
        wrong.append(document(mechanism, **{name: float(right) if name in WHOLE else 10**400}))
    for malformed in wrong:
        with pytest.raises(MessageError, match="not a mechanism"):
            from_document(malformed)


@pytest.mark.parametrize(
    "malformed",
    [
        *(None, 7, 7.5, True, "full-batch-sum", b"kind", [], {}, [1, 2], {1: 2}),
        ["kind", "clip", "length", "noise_multiplier"],
        document(kind="subsampled-sum"),
        document(kind="none"),
        document(kind=["full-batch-sum"]),
        document(kind="Full-Batch-Sum"),
        document(FULL, kind="poisson-sum"),  # sampling is missing
        document(SAMPLED, kind="full-batch-sum"),  # sampling is left over
        document(FULL, kind="histogram"),
        document(COUNTS, kind="full-batch-sum"),
    ],
    ids=repr,
)
def test_an_unknown_or_malformed_mechanism_is_refused_and_never_free(malformed: Any) -> None:
    with pytest.raises(MessageError, match="not a mechanism"):
        from_document(malformed)


OLD = {"kind": "score-histogram", "clip": 1.0, "length": 8, "noise_multiplier": 3.0}


def test_a_histogram_as_flo_0_1_wrote_it_is_a_histogram_of_one_group() -> None:
    assert from_document(OLD) == Histogram(8, 3.0, groups=1)
    assert OLD["kind"] == "score-histogram"  # the document itself is left alone


@pytest.mark.parametrize(
    "malformed",
    [
        {**OLD, "clip": 0.5},
        {**OLD, "clip": 2.0},
        {**OLD, "clip": None},
        {key: value for key, value in OLD.items() if key != "clip"},
        {key: value for key, value in OLD.items() if key != "length"},
        {**OLD, "sampling": 0.5},
        {**OLD, "noise_multiplier": 0.0},
        {**OLD, "kind": "histogram"},
    ],
    ids=repr,
)
def test_an_old_histogram_that_was_never_written_is_refused(malformed: Any) -> None:
    with pytest.raises(MessageError, match="not a mechanism"):
        from_document(malformed)


@pytest.mark.parametrize("malformed", [{**OLD, "groups": 5}, {**OLD, "clip": True}], ids=repr)
def test_an_old_histogram_with_a_field_it_never_had_is_refused(malformed: Any) -> None:
    with pytest.raises(MessageError, match="not a mechanism"):
        from_document(malformed)


def test_a_list_of_pairs_is_no_document() -> None:
    with pytest.raises(MessageError, match="not a mechanism"):
        from_document([[key, value] for key, value in document().items()])


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
    for path in sorted(Path(flo.privacy.__file__).parent.glob("*.py")):
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
    assert [m.norm for m in MECHANISMS] == [0.5, 0.5, 1.0, 2.0]


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


def test_a_sampled_sum_has_no_noise_shares() -> None:
    with pytest.raises(ValueError, match="no proof"):
        SAMPLED.variance_steps(2)
    with pytest.raises(ValueError, match="no proof"):
        SAMPLED.release(np.zeros(7), NoNoise(), shares=2)
    assert SAMPLED.variance_steps() == FULL.variance_steps()


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


@settings(deadline=None)
@given(mechanisms, st.integers(2, 512))
def test_the_cost_at_one_order_is_that_of_the_curve(mechanism: Mechanism, order: int) -> None:
    (alone,) = mechanism.rdp_curve(np.array([order]))
    assert mechanism.rdp(order) == alone
    among = mechanism.rdp_curve(np.arange(2, 513))[order - 2]
    assert among == pytest.approx(alone, rel=1e-9, abs=1e-13)


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


@pytest.mark.parametrize("sampling", [0.001, 0.25, 0.5, 0.999])
def test_a_coin_of_the_stated_probability_chooses_each_patient(sampling: float) -> None:
    count = 400_000
    chosen = replace(SAMPLED, sampling=sampling).choose(count, SystemNoise())
    assert chosen.shape == (count,)
    assert chosen.dtype == np.bool_
    # False alarm 1e-6 each: two-sided binomial.
    low, high = stats.binom(count, sampling).ppf([5e-7, 1 - 5e-7])
    assert low <= chosen.sum() <= high


def test_neighbouring_coins_are_independent() -> None:
    coins = replace(SAMPLED, sampling=0.5).choose(200_001, SystemNoise())
    # False alarm 1e-6: as often alike as not.
    low, high = stats.binom(200_000, 0.5).ppf([5e-7, 1 - 5e-7])
    assert low <= (coins[1:] == coins[:-1]).sum() <= high


def test_a_coin_is_drawn_anew_for_every_release() -> None:
    half, noise = replace(SAMPLED, sampling=0.5), SystemNoise()
    one, other = (half.choose(1000, noise) for _ in range(2))
    assert (one != other).any()  # false alarm 2^-1000


def test_nobody_is_chosen_from_nobody() -> None:
    assert SAMPLED.choose(0, SystemNoise()).shape == (0,)


# -- the sampled sum's cost against the true divergence --------------------------------------------


@lru_cache(maxsize=64)
def pair(shift: tuple[int, ...], variance: int, reach: int) -> tuple[list[Decimal], list[Decimal]]:
    """Discrete Gaussians around 0 and around ``shift``, to 60 digits, over the same points."""
    with localcontext(prec=60):
        line = range(-reach, reach + max(shift) + 1)
        base, moved = [], []
        for point in itertools.product(line, repeat=len(shift)):
            away = sum((x - m) ** 2 for x, m in zip(point, shift, strict=True))
            base.append((Decimal(-sum(x * x for x in point)) / (2 * variance)).exp())
            moved.append((Decimal(-away) / (2 * variance)).exp())
        whole = sum(base), sum(moved)
        return [p / whole[0] for p in base], [p / whole[1] for p in moved]


def renyi(one: Iterable[Decimal], other: Iterable[Decimal], order: int) -> Decimal:
    """D_order(one ‖ other) of two distributions over the same points, by its definition."""
    with localcontext(prec=60):
        powers = (p**order / q ** (order - 1) for p, q in zip(one, other, strict=True))
        return sum(powers, start=Decimal(0)).ln() / (order - 1)


def both_directions(
    shift: tuple[int, ...], variance: int, sampling: float, order: int
) -> tuple[float, float]:
    """D(mixture ‖ base) and D(base ‖ mixture): the patient is added, or is taken away."""
    # order·shift is where (M/P)^order·P has its mass; 16 deviations more hold 1 - 10^-50 of it.
    base, moved = pair(shift, variance, order * max(shift) + math.ceil(16 * math.sqrt(variance)))
    with localcontext(prec=60):
        q = Decimal(sampling)
        mixture = [(1 - q) * p + q * m for p, m in zip(base, moved, strict=True)]
    return float(renyi(mixture, base, order)), float(renyi(base, mixture, order))


TRUE_PAIRS = [
    *itertools.product([(1,)], [1, 3, 40], [0.001, 0.1, 0.5, 0.999], [2, 3, 8, 24]),
    *itertools.product([(3,)], [2, 25], [0.01, 0.7], [2, 5, 16]),
    ((2, 1), 4, 0.3, 2),
    ((2, 1), 6, 0.05, 3),
]


@pytest.mark.parametrize(("shift", "variance", "sampling", "order"), TRUE_PAIRS)
def test_the_cost_of_a_sampled_sum_is_the_true_divergence_in_the_worse_direction(
    shift: tuple[int, ...], variance: int, sampling: float, order: int
) -> None:
    # A patient who moves the sum by exactly the sensitivity, a whole vector: then σ = √v/‖μ‖.
    sigma = math.sqrt(variance) / math.hypot(*shift)
    cost = PoissonSum(len(shift), sigma, 1.0, sampling).rdp(order)
    added, taken = both_directions(shift, variance, sampling, order)
    assert cost == pytest.approx(added, rel=1e-9, abs=3e-12)
    assert 0 < taken <= added


@pytest.mark.parametrize("order", [2, 3, 24, 512])
@pytest.mark.parametrize("sigma", [0.7, 3.0, 25.0])
def test_sampling_nearly_everyone_costs_nearly_what_sampling_everyone_does(
    sigma: float, order: int
) -> None:
    everyone = FullBatchSum(7, sigma, 0.5)
    nearly = PoissonSum(7, sigma, 0.5, 1 - 2**-40)
    assert nearly.rdp(order) == pytest.approx(everyone.rdp(order), rel=1e-7)
    assert PoissonSum(7, sigma, 0.5, 0.9).rdp(order) < everyone.rdp(order)


def test_the_cost_of_a_sampled_sum_at_order_two_by_hand() -> None:
    # Order 2: ln(1 + q²(e^(1/σ²) - 1)), Mironov, Talwar, Zhang (2019), eq. 5 with α = 2.
    by_hand = math.log(1 + 0.25**2 * (math.exp(1 / 3.25**2) - 1))
    assert SAMPLED.rdp(2) == pytest.approx(by_hand, rel=1e-11, abs=3e-12)


def exact_cost(sampling: float, sigma: float, order: int) -> Decimal:
    """Mironov, Talwar, Zhang (2019), eq. 5, to 60 digits."""
    with localcontext(prec=60):
        q, twice = Decimal(sampling), 2 * Decimal(sigma) ** 2
        terms = (
            math.comb(order, k)
            * (1 - q) ** (order - k)
            * q**k
            * (Decimal(k * (k - 1)) / twice).exp()
            for k in range(order + 1)
        )
        return sum(terms, start=Decimal(0)).ln() / (order - 1)


@pytest.mark.parametrize("sigma", [0.5, 2.0, 10.0, 100.0])
@pytest.mark.parametrize("sampling", [0.001, 0.05, 0.5, 0.99])
def test_the_cost_of_a_sampled_sum_is_the_formula_up_to_a_negligible_amount(
    sampling: float, sigma: float
) -> None:
    mechanism = PoissonSum(8, sigma, 0.5, sampling)
    for order in (2, 24, 512):
        exact = float(exact_cost(sampling, sigma, order))
        assert mechanism.rdp(order) == pytest.approx(exact, rel=1e-11, abs=3e-12)


def test_the_cost_of_a_sampled_sum_is_never_rounded_down() -> None:
    short = [
        (sampling, sigma, order)
        for sampling in (0.001, 0.01, 0.1)
        for sigma in (10.0, 100.0, 1e8)
        for order in (2, 24, 512)
        if Decimal(PoissonSum(8, sigma, 0.5, sampling).rdp(order))
        < exact_cost(sampling, sigma, order)
    ]
    assert short == []

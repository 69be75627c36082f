"""The noise itself follows the exact distribution, in its tails and at every variance.

A test that says "false alarm p" fails with probability p although nothing is wrong: it draws real
noise. All others are deterministic: scripted or seeded words, exact rational arithmetic.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
from scipy import stats

from flo.arrays import Floats
from flo.privacy.mechanisms import discrete_gaussian as gaussian
from flo.privacy.mechanisms.discrete_gaussian import SystemNoise, sample
from tests.privacy.scripted_words import FALSE_ALARM, Script, Seeded
from tests.privacy.slow_gaussian import slow_samples

Counts = npt.NDArray[np.int64]


# The distribution


def follows(observed: Counts, expected: Floats) -> bool:
    """Chi-square, the rarest cells pooled to at least 20 expected. False alarm 1e-6."""
    order = np.argsort(expected, kind="stable")
    pooled = order[: int(np.searchsorted(np.cumsum(expected[order]), 20)) + 1]
    kept = np.setdiff1d(order, pooled)
    seen = np.append(observed[kept], observed[pooled].sum())
    wanted = np.append(expected[kept], expected[pooled].sum())
    assert len(kept) >= 3
    return bool(stats.chisquare(seen, wanted).pvalue > FALSE_ALARM)


def exact_masses(variance: int) -> tuple[int, Floats]:
    """P[X = x] for |x| <= reach, which leaves out less than 1e-50."""
    reach = 16 * (math.isqrt(variance) + 1)
    weights = [math.exp(-x * x / (2 * variance)) for x in range(-reach, reach + 1)]
    return reach, np.array(weights) / math.fsum(weights)


@pytest.mark.parametrize("variance", [1, 2, 7, 50, 300, 5000])
def test_samples_follow_the_exact_distribution_into_its_tails(variance: int) -> None:
    size = 300_000
    samples = SystemNoise().sample(variance, size)
    reach, masses = exact_masses(variance)
    assert int(np.abs(samples).max()) <= reach  # false alarm below 1e-45
    observed = np.bincount(samples + reach, minlength=2 * reach + 1)
    assert follows(observed, masses * size)  # false alarm 1e-6 for each variance


def cell_edges(variance: int) -> list[int]:
    """60 cells of equal mass and 8 more for each tail, out to five deviations."""
    deviations = [*stats.norm.ppf(np.arange(1, 60) / 60), *np.arange(2.5, 5.1, 0.35)]
    deviations += [-d for d in deviations[59:]]
    return sorted(round(d * math.sqrt(variance)) for d in deviations)


@pytest.mark.parametrize("variance", [10**6 + 7, 2380879860100, 2**70 + 1, 2**99, 2**100 - 1])
def test_samples_follow_the_exact_distribution_at_large_variance(variance: int) -> None:
    size = 400_000
    edges = cell_edges(variance)
    samples = SystemNoise().sample(variance, size)
    observed = np.bincount(np.searchsorted(edges, samples, side="right"), minlength=len(edges) + 1)
    # A cell holds edges[i] .. edges[i+1] - 1. The integral between half-integers is its mass up to
    # a relative 1/variance (midpoint rule), far below what a million samples resolve.
    cuts = (np.array(edges, dtype=np.float64) - 0.5) / math.sqrt(variance)
    masses = np.diff(stats.norm.cdf(cuts), prepend=0, append=1)
    assert follows(observed, masses * size)  # false alarm 1e-6 for each variance


@pytest.mark.parametrize("variance", [10**6 + 7, 10**12 + 39, 2**70 + 1])
def test_moments_hold_at_large_variance(variance: int) -> None:
    size = 200_000
    scaled = SystemNoise().sample(variance, size).astype(np.float64) / math.sqrt(variance)
    # False alarm 1e-6 each for mean, variance and the share beyond two standard deviations.
    z = float(stats.norm.isf(5e-7))
    assert abs(scaled.mean()) < z / math.sqrt(size)
    spread = stats.chi2(size).cdf(float((scaled**2).sum()))
    assert 5e-7 < spread < 1 - 5e-7
    far = stats.binom(size, 2 * float(stats.norm.sf(2)))
    assert far.ppf(5e-7) <= int((np.abs(scaled) > 2).sum()) <= far.isf(5e-7)


def test_samples_are_independent_of_the_one_before() -> None:
    size = 400_000
    samples = SystemNoise().sample(10**6 + 7, size).astype(np.float64)
    z = float(stats.norm.isf(5e-7))  # false alarm 1e-6 each for value and magnitude
    for series in (samples, np.abs(samples)):
        assert abs(np.corrcoef(series[1:], series[:-1])[0, 1]) < z / math.sqrt(size - 1)


def test_the_slow_sampler_follows_the_exact_distribution() -> None:
    size = 20_000
    reach, masses = exact_masses(7)
    observed = np.bincount(np.array(slow_samples(7, size, 3)) + reach, minlength=2 * reach + 1)
    assert follows(observed, masses * size)  # seeded: no false alarm


def test_fast_and_slow_sampler_agree() -> None:
    variance = 10**6 + 7
    edges = cell_edges(variance)
    slow = np.array(slow_samples(variance, 15_000, 5))
    fast = SystemNoise().sample(variance, 300_000)
    table = np.array(
        [
            np.bincount(np.searchsorted(edges, samples, side="right"), minlength=len(edges) + 1)
            for samples in (slow, fast)
        ]
    )
    rare = table.sum(axis=0) < 500  # both tails
    table = np.column_stack([table[:, ~rare], table[:, rare].sum(axis=1)])
    assert table.sum() == 315_000
    assert stats.chi2_contingency(table).pvalue > FALSE_ALARM  # false alarm 1e-6


@pytest.mark.parametrize("variance", [10**6 + 7, 2**80 + 1, 2**99])
def test_noise_never_falls_on_a_grid_coarser_than_one_step(variance: int) -> None:
    samples = SystemNoise().sample(variance, 64_000)
    # Every remainder is equally likely, up to exp(-2 π² variance / 64²); false alarm 1e-6.
    counts = np.bincount(np.mod(samples, 64), minlength=64)
    assert stats.chisquare(counts).pvalue > FALSE_ALARM
    # ... also among the largest, where a float of that size would be even; false alarm 2^-99.
    largest = samples[np.argsort(np.abs(samples))[-100:]]
    assert len(set((largest % 2).tolist())) == 2


@pytest.mark.parametrize("variance", [10**6 + 7, 2**99])
def test_no_seam_shows_where_blocks_meet(variance: int) -> None:
    width = 1 << gaussian._staircase(variance).width_bits
    samples = SystemNoise().sample(variance, 200_000)
    cells = min(width, 64)
    # x mod w is uniform up to exp(-2 π² 64²), w being at most 1/64 deviation; false alarm 1e-6.
    counts = np.bincount(np.mod(samples, width) // (width // cells), minlength=cells)
    assert stats.chisquare(counts).pvalue > FALSE_ALARM


# The call


@pytest.mark.parametrize("variance", [0, -1, 2**100])
def test_a_variance_that_64_bits_cannot_hold_is_refused(variance: int) -> None:
    with pytest.raises(ValueError, match="variance"):
        SystemNoise().sample(variance, 1)


def test_the_least_and_the_largest_variance_are_served() -> None:
    assert len(SystemNoise().sample(1, 10)) == 10
    samples = SystemNoise().sample(2**100 - 1, 1000)
    assert 2**49 < int(np.abs(samples).max()) < 2**54  # false alarm below 1e-50


def test_shapes_and_types() -> None:
    for variance in (1, 100, 2**99):
        for size in (0, 1, 5, 17, 50_000):
            samples = SystemNoise().sample(variance, size)
            assert samples.shape == (size,)
            assert samples.dtype == np.int64


def test_no_sample_draws_no_word() -> None:
    assert sample(100, 0, Script()).shape == (0,)


@pytest.mark.parametrize("variance", [1, 10**9, 2**99])
def test_a_sample_is_a_function_of_its_words_only(variance: int) -> None:
    one = sample(variance, 5000, Seeded(4))
    np.random.seed(1)
    sample(3, 10, Seeded(9))
    assert one.tolist() == sample(variance, 5000, Seeded(4)).tolist()
    assert one.tolist() != sample(variance, 5000, Seeded(5)).tolist()

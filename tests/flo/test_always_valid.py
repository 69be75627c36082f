"""An interval that holds at every look, against an exact mean."""

from __future__ import annotations

import numpy as np
import pytest

from flo.scores.always_valid import bounds, first_known


def test_bounds_hold_the_mean_and_close_in() -> None:
    generator = np.random.default_rng(3)
    drawn = generator.choice([-0.5, 1.0], p=[0.6, 0.4], size=4000)  # mean .1
    wide, narrow = bounds(drawn[:200], 0.05), bounds(drawn, 0.05)
    for one in (wide, narrow):
        assert one.low < 0.1 < one.high
    assert narrow.high - narrow.low < 0.3 * (wide.high - wide.low)


def test_of_a_mean_that_changes_it_holds_the_mean_so_far() -> None:
    generator = np.random.default_rng(4)
    means = np.concatenate([np.full(1000, 0.3), np.full(3000, -0.3)])
    drawn = generator.uniform(-0.5, 0.5, 4000) + means
    so_far = np.cumsum(means) / np.arange(1, 4001)
    found = {count: bounds(drawn[:count], 0.05) for count in range(100, 4001, 100)}
    assert all(one.low < so_far[count - 1] < one.high for count, one in found.items())
    assert found[1000].low > 0
    assert found[4000].high < 0


def test_the_first_look_that_tells_is_that_of_the_interval() -> None:
    drawn = np.random.default_rng(5).normal(0.05, 0.2, 2000).clip(-1, 1)
    first = first_known(drawn, 0.025)
    assert first is not None
    assert bounds(drawn[:first], 0.05).low > 0
    assert bounds(drawn[: first - 1], 0.05).low <= 0


def test_above_and_below_are_symmetric() -> None:
    drawn = np.random.default_rng(7).uniform(-1, 1, 300)
    one, other = bounds(drawn, 0.05), bounds(-drawn, 0.05)
    assert (one.low, one.high) == (-other.high, -other.low)


def test_nothing_is_known_of_nothing() -> None:
    found = bounds(np.array([]), 0.05)
    assert (found.low, found.high) == (-1, 1)
    assert first_known(np.array([]), 0.05) is None


@pytest.mark.parametrize("wrong", [1.5, -1.0001, np.nan, np.inf])
def test_what_is_not_within_its_limits_is_refused(wrong: float) -> None:
    with pytest.raises(ValueError, match="not a number of -1 to 1"):
        bounds(np.array([0.1, wrong]), 0.05)
    with pytest.raises(ValueError, match="alpha"):
        bounds(np.array([0.1]), 1.0)


def test_extreme_differences_are_counted() -> None:
    assert first_known(np.ones(20), 0.025) is not None
    assert first_known(-np.ones(20), 0.025) is None
    assert bounds(-np.ones(50), 0.05).high < 0

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


def test_a_bound_never_goes_back() -> None:
    drawn = np.concatenate([np.full(100, 0.5), np.full(400, -0.5)])
    lows = [bounds(drawn[:count], 0.05).low for count in range(50, 500, 50)]
    assert lows == sorted(lows)
    assert first_known(drawn, 0.025) == first_known(drawn[:120], 0.025)


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

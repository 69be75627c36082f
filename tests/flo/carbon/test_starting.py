"""When a run is best started, by what is known at the time; and what it emitted."""

from __future__ import annotations

import random
from datetime import UTC, datetime

import pytest

from flo.carbon.grams import emitted, planned
from flo.carbon.intensity import WORLD, Grid, Intensity
from flo.carbon.starting import Start, best_start

NOW = 450_000  # an hour since 1970


def daily(days: int = 8, clean: int = 5) -> Grid:
    """300 g a kWh, but 100 in one hour of each day; nothing after now."""
    hours = range(NOW - 24 * days, NOW)
    return Grid(Intensity({hour: 100.0 if hour % 24 == clean else 300.0 for hour in hours}))


def test_it_waits_for_the_hour_that_was_clean_on_the_days_before() -> None:
    clean = next(hour for hour in range(NOW, NOW + 24) if hour % 24 == 5)
    found = best_start([daily()], NOW, NOW + 24)
    assert found.hour == clean
    assert found.saves == pytest.approx(2 / 3)


def test_it_never_waits_beyond_its_window() -> None:
    clean = next(hour for hour in range(NOW, NOW + 24) if hour % 24 == 5)
    assert best_start([daily()], NOW, clean - 1).hour == NOW
    assert best_start([daily()], NOW, NOW - 5) == Start(NOW, 0.0)


def test_nothing_of_the_hours_to_come_is_used_but_a_day_ahead_file() -> None:
    draw = random.Random(1)
    past = {hour: draw.uniform(50, 500) for hour in range(NOW - 500, NOW)}
    before = best_start([Grid(Intensity(past))], NOW, NOW + 48)
    later = past | {hour: draw.uniform(50, 500) for hour in range(NOW, NOW + 100)}
    assert best_start([Grid(Intensity(later))], NOW, NOW + 48) == before
    ahead = Intensity({NOW + 30: 1.0})
    assert best_start([Grid(Intensity(later), ahead)], NOW, NOW + 48).hour == NOW + 30


def test_hours_are_compared_over_the_same_grids() -> None:
    """A dirty grid that is known for some hours only does not make the others look clean."""
    clean = Grid(Intensity(dict.fromkeys(range(NOW - 200, NOW), 20.0)))
    dirty = Grid(Intensity({}), Intensity(dict.fromkeys(range(NOW, NOW + 10), 700.0)))
    assert best_start([clean, dirty], NOW, NOW + 24) == Start(NOW, 0.0)


def test_nothing_is_waited_for_that_saves_nothing() -> None:
    draw = random.Random(2)
    for _ in range(200):
        hours = [hour for hour in range(NOW - 168, NOW) if draw.random() < 0.9]
        assert best_start([Grid(Intensity(dict.fromkeys(hours, 0.1)))], NOW, NOW + 24).hour == NOW


def test_a_forecast_is_the_mean_of_the_same_hour_of_seven_days() -> None:
    past = Intensity({hour: float(hour % 1000) for hour in range(NOW - 400, NOW + 400)})
    for ahead in (0, 1, 23, 24, 30, 100):
        wanted = [hour for hour in range(NOW - 168, NOW) if (hour - NOW - ahead) % 24 == 0]
        expected = sum(past.grams[hour] for hour in wanted) / 7
        assert past.expected(NOW + ahead, NOW) == pytest.approx(expected)


def test_all_hospitals_count_and_the_whole_run() -> None:
    clean, dirty = daily(clean=5), daily(clean=9)
    both = best_start([clean, clean, dirty], NOW, NOW + 24)
    assert both.hour % 24 == 5
    ahead = Intensity({NOW: 200.0, NOW + 1: 200.0, NOW + 2: 50.0, NOW + 3: 900.0, NOW + 4: 900.0})
    ahead.grams[NOW + 5] = 900.0
    grid = Grid(Intensity({}), ahead)
    assert best_start([grid], NOW, NOW + 3, hours=0.5).hour == NOW + 2
    assert best_start([grid], NOW, NOW + 3, hours=2.0).hour == NOW + 1


def test_of_a_grid_that_nobody_knows_nothing_is_waited_for() -> None:
    assert best_start([], NOW, NOW + 24) == Start(NOW, 0.0)
    assert best_start([Grid(Intensity({}))], NOW, NOW + 24) == Start(NOW, 0.0)
    zero = Grid(Intensity(dict.fromkeys(range(NOW - 200, NOW), 0.0)))
    assert best_start([zero], NOW, NOW + 24) == Start(NOW, 0.0)


def test_grams_of_rounds_are_those_of_their_hours_and_grids() -> None:
    ended = datetime.fromtimestamp(NOW * 3600 + 1800, UTC)
    dirty = Grid(Intensity({NOW: 1000.0, NOW - 1: 1.0}))
    rounds = [(ended, 36.0, ("north", "south"))] * 100  # an hour of each
    found = emitted(rounds, {"north": dirty}, watts=100.0)
    assert found.kwh == pytest.approx(0.2)
    assert found.grams == pytest.approx(0.1 * 1000 + 0.1 * WORLD)


def test_a_round_counts_in_the_hour_of_its_middle() -> None:
    grid = Grid(Intensity({NOW - 1: 100.0, NOW: 900.0}))
    ended = datetime.fromtimestamp(NOW * 3600 + 10, UTC)
    assert emitted([(ended, 60.0, ["a"])], {"a": grid}, 60.0).grams == pytest.approx(0.1)


def test_a_hundred_rounds_of_four_hospitals_are_some_grams() -> None:
    found = planned(100, 4)
    assert found.kwh == pytest.approx(0.02)
    assert found.grams == pytest.approx(9.6)

"""The forecast of an hour is the mean of the same local hour of the four weeks before."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np

from flo.infra.aws.scaling.forecast import profile, same_hours
from flo.infra.aws.scaling.trace import Trace

WEEK = 168


def weekly(weeks: int, zone: str, begin: datetime) -> Trace:
    """Requests that depend on the local hour of the week only."""
    hours = weeks * WEEK
    empty = Trace(begin, zone, np.zeros(hours * 60), 0.0)
    return Trace(begin, zone, np.repeat(1.0 + empty.hours_of_week, 60), 0.0)


def test_a_week_like_the_others_is_foreseen_exactly_also_over_summer_time() -> None:
    trace = weekly(8, "Europe/Berlin", datetime(2026, 3, 1, 23, tzinfo=UTC))
    hours = trace.hours_of_week
    found = same_hours(trace.hourly, hours)
    assert np.isnan(found[: 4 * WEEK]).all()
    assert (found[4 * WEEK :] == trace.hourly[4 * WEEK :]).all()
    assert (profile(trace.hourly, hours) == np.arange(1, WEEK + 1)).all()


def test_nothing_later_moves_a_forecast() -> None:
    trace = weekly(7, "UTC", datetime(2026, 3, 2, tzinfo=UTC))
    later = trace.hourly.copy()
    later[5 * WEEK :] *= 7
    before, after = (same_hours(one, trace.hours_of_week) for one in (trace.hourly, later))
    assert (before[4 * WEEK : 6 * WEEK] == after[4 * WEEK : 6 * WEEK])[:WEEK].all()
    assert (before[6 * WEEK :] != after[6 * WEEK :]).any(), "the fifth week counts from the sixth"


def test_it_is_the_mean_of_four_weeks() -> None:
    draw = np.random.default_rng(5)
    hourly = draw.uniform(0, 9, 6 * WEEK)
    begin = datetime(2026, 3, 2, tzinfo=UTC)
    weekdays = [(begin + timedelta(hours=at)) for at in range(len(hourly))]
    hours = np.array([one.weekday() * 24 + one.hour for one in weekdays])
    found = same_hours(hourly, hours)
    at = 5 * WEEK + 31
    assert np.isclose(found[at], np.mean([hourly[at - week * WEEK] for week in (1, 2, 3, 4)]))

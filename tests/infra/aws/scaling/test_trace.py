"""A trace file becomes requests a second, minute by minute, in a named time zone."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from flo.errors import UsageError
from flo.infra.aws.scaling.trace import Trace, read_trace


def trace(folder: Path, text: str, zone: str = "UTC") -> Trace:
    path = folder / "trace.csv"
    path.write_text(text)
    return read_trace(path, zone)


def test_hours_keep_their_requests_and_change_smoothly(tmp_path: Path) -> None:
    found = trace(tmp_path, "time,requests\n2026-03-02T00:00,3600\n2026-03-02T02:00,7200\n")
    assert found.begin == datetime(2026, 3, 2, tzinfo=UTC)
    assert len(found.rates) == 3 * 60
    assert found.empty == pytest.approx(1 / 3)
    middles = found.rates.reshape(3, 60)[:, 29:31].mean(axis=1)
    assert middles == pytest.approx([1, 0, 2], abs=0.02)


def test_minutes_are_kept_as_they_are(tmp_path: Path) -> None:
    rows = [f"2026-03-02T08:{minute:02},{60 * minute}" for minute in (0, 1, 30, 59)]
    found = trace(tmp_path, "time,requests\n" + "\n".join(rows) + "\n")
    assert found.rates[[0, 1, 2, 30, 59]].tolist() == [0, 1, 0, 30, 59]


def test_without_numbers_each_row_is_a_request(tmp_path: Path) -> None:
    found = trace(tmp_path, "time\n" + "2026-03-02T08:01:07\n" * 120)
    assert found.rates[1] == 2
    assert found.rates.sum() == 2


def test_times_are_of_the_named_zone_unless_they_have_an_offset(tmp_path: Path) -> None:
    found = trace(tmp_path, "time\n2026-07-06T00:00\n2026-07-06T00:00+00:00\n", "Europe/Berlin")
    assert found.begin == datetime(2026, 7, 5, 22, tzinfo=UTC)
    assert found.hours_of_week.tolist() == [0, 1, 2]  # Monday's first hours in Berlin


@pytest.mark.parametrize("zone", ["Asia/Kolkata", "Asia/Kathmandu", "America/St_Johns"])
def test_hours_of_zones_with_half_an_hour_stay_hours(tmp_path: Path, zone: str) -> None:
    rows = "\n".join(f"2026-03-02T{hour:02}:00,3600" for hour in range(24))
    found = trace(tmp_path, f"time,requests\n{rows}\n", zone)
    assert found.rates == pytest.approx(np.ones(24 * 60))
    assert found.hours_of_week.tolist() == list(range(24)), "from Monday's midnight there"
    assert found.step == 60


def test_the_hour_that_summer_time_skips_and_the_one_that_it_repeats(tmp_path: Path) -> None:
    spring = trace(tmp_path, "time\n2026-03-29T00:00\n2026-03-29T04:00\n", "Europe/Berlin")
    assert (spring.hours_of_week % 24).tolist() == [0, 1, 3, 4]
    autumn = trace(tmp_path, "time\n2026-10-25T01:00\n2026-10-25T04:00\n", "Europe/Berlin")
    assert (autumn.hours_of_week % 24).tolist() == [1, 2, 2, 3, 4]


def test_scaled_to_a_peak_its_busiest_minute_has_it(tmp_path: Path) -> None:
    rows = "\n".join(f"2026-03-02T{hour:02}:00,{hour * 100}" for hour in range(24))
    found = trace(tmp_path, f"time,requests\n{rows}\n").with_peak(500.0)
    assert found.rates.max() == pytest.approx(500)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("when,requests\n2026-03-02,1\n", "names no column `time`: it has 'when, requests'"),
        ("time,requests\n2026-03-02T00:00,many\n", "row 2 of .* is not understood"),
        ("time,requests\n2026-03-02T00:00\n", "row 2 of .* is not understood"),
        ("time,requests\n2026-03-02T00:00,1\n31.12.2026,1\n", "row 3 of .* is not understood"),
        ("time,requests\n2026-03-02T00:00,-1\n", "row 2 of .* has -1 requests"),
        ("time,requests\n2026-03-02T00:00,inf\n", "row 2 of .* has inf requests"),
        ("time,requests\n2026-03-02T00:00,nan\n", "row 2 of .* has nan requests"),
        ("time,requests\n", "has no request"),
        ("", "names no column `time`"),
        ("time\n1000-01-01\n2026-01-01\n", "spans 53,5[0-9]{2} weeks"),
        ("time\n2026-01-01T00:00+99:00\n", "row 2 of .* is not understood"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        trace(tmp_path, text)


def test_no_file_and_no_zone(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read as CSV"):
        read_trace(tmp_path / "none.csv", "UTC")
    with pytest.raises(UsageError, match="time zone 'Mars/Olympus' is not known"):
        read_trace(tmp_path / "none.csv", "Mars/Olympus")


def test_the_last_weeks_of_a_trace_end_where_it_ends() -> None:
    rates = np.arange(3 * 168 * 60, dtype=float)
    found = Trace(datetime(2026, 3, 2, tzinfo=UTC), "UTC", rates, 0.0).last(2)
    assert found.begin == datetime(2026, 3, 9, tzinfo=UTC)
    assert found.rates[-1] == rates[-1]
    assert len(found.rates) == 2 * 168 * 60

"""When a coordinator in AWS is awake."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flo.errors import UsageError
from flo.infra.aws.awake import DAYS, Calendar


def test_ten_hours_on_working_days_are_217_hours_a_month() -> None:
    found = Calendar.parse("mon-fri", "08:00", "18:00", "Europe/Berlin")
    assert found.cron == (
        "cron(0 8 ? * MON,TUE,WED,THU,FRI *)",
        "cron(0 18 ? * MON,TUE,WED,THU,FRI *)",
    )
    assert found.hours == pytest.approx(50 * 365 / 7 / 12)
    assert str(found) == "mon, tue, wed, thu, fri from 08:00 to 18:00 (Europe/Berlin)"


@pytest.mark.slow
@given(
    st.lists(st.sampled_from(DAYS), min_size=1, unique=True),
    st.tuples(st.integers(0, 1439), st.integers(0, 1439)).filter(lambda pair: pair[0] < pair[1]),
)
def test_a_calendar_comes_back_from_its_schedules(days: list[str], times: tuple[int, int]) -> None:
    begin, end = (f"{at // 60:02}:{at % 60:02}" for at in times)
    found = Calendar.parse(",".join(days).lower(), begin, end, "UTC")
    assert Calendar.from_cron(*found.cron, "UTC") == found
    assert 0 < found.hours <= 730.1


@pytest.mark.parametrize("wake", ["", "cron(0 8 1 * ? *)", "rate(1 hour)"])
def test_another_schedule_is_no_calendar_of_ours(wake: str) -> None:
    assert Calendar.from_cron(wake, "cron(0 18 ? * MON *)", "UTC") is None


@pytest.mark.parametrize(
    ("days", "begin", "end", "zone", "said"),
    [
        ("mon-fry", "08:00", "18:00", "UTC", "--days 'mon-fry'"),
        ("sun-mon", "08:00", "18:00", "UTC", "--days 'sun-mon'"),
        ("", "08:00", "18:00", "UTC", "--days ''"),
        ("mon", "8:00", "18:00", "UTC", "--from '8:00' is not a time"),
        ("mon", "08:00", "24:00", "UTC", "--to '24:00' is not a time"),
        ("mon", "18:00", "08:00", "UTC", "--to 08:00 is not after --from 18:00"),
        ("mon", "08:00", "08:00", "UTC", "--to 08:00 is not after"),
        ("mon", "08:00", "18:00", "Berlin", "time zone 'Berlin' is not known"),
    ],
)
def test_what_is_no_calendar_is_refused_by_name(
    days: str, begin: str, end: str, zone: str, said: str
) -> None:
    with pytest.raises(UsageError) as refused:
        Calendar.parse(days, begin, end, zone)
    assert said in str(refused.value)
    assert refused.value.hint

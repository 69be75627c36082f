"""The advice: chosen on one part, judged on another, written so that it can be deployed."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from flo.errors import UsageError
from flo.infra.aws.scaling import settings
from flo.infra.aws.scaling.advice import (
    BOTH,
    CALENDAR,
    FUNCTION,
    MACHINES,
    TRACKING,
    Limits,
    advise,
    fewest,
)
from flo.infra.aws.scaling.trace import Trace
from flo.infra.aws.scaling.ways import Function, Machine, Way
from flo.infra.aws.serving.settings import ScalingSettings, read_hospital_aws

MACHINE = Machine.within("ml.m5.large", 0.115, 0.001, 0.2)
FUNCTION_ = Function(3e-7, 0.005, 0.5)
WEEK = 168
ACCOUNT = """schema_version = 1
account = "123456789012"
region = "eu-central-1"
bucket = "flo-tiny-models"
key = "arn:aws:kms:eu-central-1:123456789012:key/00000000-0000-4000-8000-000000000000"

[endpoint]
role = "arn:aws:iam::123456789012:role/flo-tiny"
image = "123456789012.dkr.ecr.eu-central-1.amazonaws.com/flo@sha256:{}"
""".format("0" * 64)


def working_days(weeks: int, peak: float) -> Trace:
    """Requests by day on working days, few by night."""
    hours = np.arange(weeks * WEEK)
    by_day = np.exp(-(((hours % 24) - 12.0) ** 2) / 18) * ((hours // 24) % 7 < 5)
    rates = np.interp(np.arange(len(hours) * 60) / 60, hours + 0.5, 0.02 + by_day)
    return Trace(datetime(2026, 3, 2, tzinfo=UTC), "UTC", rates, 0.0).with_peak(peak)


@pytest.mark.slow
def test_few_requests_are_the_functions_and_many_are_the_machines() -> None:
    few = advise(working_days(8, 1), MACHINE, FUNCTION_, Limits())
    assert few.chosen.name == FUNCTION
    many = advise(working_days(8, 5000), MACHINE, FUNCTION_, Limits())
    assert many.chosen.name in (TRACKING, CALENDAR, BOTH)
    assert many.outcome.cost < 0.6 * many.rows[MACHINES][1].cost
    assert many.outcome.unserved <= 0.001
    assert many.outcome.p99 <= 0.2 * 1.001


@pytest.mark.slow
def test_the_part_that_judges_chooses_nothing() -> None:
    trace = working_days(10, 2000)
    before = advise(trace, MACHINE, FUNCTION_, Limits())
    rates = trace.rates.copy()
    middle = (4 * WEEK + 3 * WEEK) * 60
    rates[middle:] = rates[middle:][::-1] * 3
    after = advise(Trace(trace.begin, "UTC", rates, 0.0), MACHINE, FUNCTION_, Limits())
    assert after.chosen == before.chosen
    assert {name: way for name, (way, _) in after.rows.items()} == {
        name: way for name, (way, _) in before.rows.items()
    }
    assert after.tried == before.tried
    assert after.outcome != before.outcome


@pytest.mark.slow
def test_no_way_is_cheaper_than_the_oracle_if_the_function_had_taken_what_it_refused() -> None:
    for peak in (300, 5000):
        found = advise(working_days(8, peak), MACHINE, FUNCTION_, Limits())
        all_by_function = found.rows[FUNCTION][1].cost
        for _, one in found.rows.values():
            assert one.cost + one.unserved * all_by_function >= found.oracle * (1 - 1e-9)


def test_a_trace_of_a_month_is_too_short() -> None:
    with pytest.raises(UsageError, match=r"has 5\.0 weeks, and an advice needs 6"):
        advise(working_days(5, 10), MACHINE, FUNCTION_, Limits())


def test_a_thousand_machines_are_a_mistake() -> None:
    with pytest.raises(UsageError, match=r"the busiest minute needs 2,0\d\d machines"):
        advise(working_days(8, 2e6), MACHINE, FUNCTION_, Limits())


def test_the_fewest_machines_that_leave_a_share_unserved() -> None:
    rates = np.random.default_rng(4).gamma(0.5, 900, 5000)
    for share in (0.0, 0.001, 0.05):
        count = fewest(rates, MACHINE, share)
        left = [
            np.maximum(rates - one * MACHINE.requests, 0).sum() / rates.sum()
            for one in (count, count - 1)
        ]
        assert left[0] <= share
        assert count == 1 or left[1] > share


# -- as a hospital writes it down ------------------------------------------------------------------


@pytest.mark.parametrize(
    "way",
    [
        Way(TRACKING, 1, 20, 0.8),
        Way(CALENDAR, 1, 20, None, 1.25),
        Way(CALENDAR, 1, 20, 0.9, 1.0),
        Way(BOTH, 1, 20, 1.0, 0.0, 60.0, spills=True),
        Way(MACHINES, 3, 3),
    ],
)
def test_settings_are_read_back_as_they_are_meant(tmp_path: Path, way: Way) -> None:
    trace = working_days(6, 5000)
    found = settings.scaling(way, trace.hourly[:WEEK], MACHINE, "Europe/Berlin")
    (tmp_path / "aws").mkdir()
    (tmp_path / "aws" / "tiny.toml").write_text(ACCOUNT + settings.toml(way, found, MACHINE))
    endpoint = read_hospital_aws(tmp_path, "tiny").endpoint
    assert endpoint is not None
    assert endpoint.scaling == found
    assert endpoint.instances == way.least
    if way.ahead:
        assert found is not None
        noon = found.calendar["mon"][12]
        assert noon == pytest.approx(5000 * way.ahead / MACHINE.requests, abs=1)
        assert found.calendar["sun"] == (1,) * 24


def test_the_crontab_opens_in_the_morning_and_closes_in_the_evening() -> None:
    profile = working_days(1, 5000).hourly
    way = Way(BOTH, 1, 20, 1.0, 0.0, 1000.0, spills=True)
    zone, opens, closes = settings.crontab(way, profile, "Europe/Berlin", "tiny", "site").split(
        "\n"
    )[:3]
    assert zone == "CRON_TZ=Europe/Berlin"
    assert opens.startswith("0 7 * * 1,2,3,4,5  flo model deploy tiny --on sagemaker --home site")
    assert "--remove" not in opens
    assert closes.startswith("0 18 * * 1,2,3,4,5  flo model deploy tiny --on sagemaker")
    assert "--remove" in closes


@pytest.mark.parametrize("way", [Way(FUNCTION, 0, 0), Way(TRACKING, 1, 3, 0.8)])
def test_what_is_always_there_needs_no_crontab(way: Way) -> None:
    assert settings.crontab(way, np.ones(WEEK), "UTC", "tiny", "site") == ""


def test_settings_that_contradict_themselves_are_refused() -> None:
    day = (1,) * 24
    week = dict.fromkeys(("mon", "tue", "wed", "thu", "fri", "sat", "sun"), day)
    for wrong, said in (
        ({"least": 3, "most": 2, "requests_a_minute": 9}, "most is 2, below least"),
        ({"most": 2}, "set requests_a_minute, or calendar"),
        ({"most": 2, "calendar": {"mon": day}}, "has 1 days, not all seven"),
        ({"most": 2, "calendar": week, "zone": "Mars"}, "'Mars' is no time zone"),
        ({"least": 2, "most": 3, "calendar": week}, "not from least to most"),
    ):
        with pytest.raises(ValueError, match=said):
            ScalingSettings.model_validate(wrong)

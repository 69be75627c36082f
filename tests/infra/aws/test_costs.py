"""What an installation costs: item by item, asleep and awake, from a table that can be replaced."""

from __future__ import annotations

from pathlib import Path

import pytest

from flo.errors import UsageError
from flo.infra.aws.awake import Calendar
from flo.infra.aws.costs import (
    ALARMS,
    ALWAYS_ON,
    DISK_GB,
    ENDPOINTS,
    KEYS,
    PRICES,
    PriceTable,
    Setup,
    Use,
    bill,
    function_price,
    job_advice,
)
from flo.infra.aws.stack import TEMPLATE
from tests.commands import flo_process
from tests.paths import ROOT

WEEK = Calendar.parse("mon-fri", "08:00", "18:00", "UTC")
TABLE = PriceTable.read()


def weekly(zones: int = 1) -> Setup:
    return Setup(endpoint_zones=zones, hours=WEEK.hours, wakings=WEEK.wakings)


def total(use: Use, setup: Setup) -> float:
    return sum(bill(use, setup, TABLE).values())


def test_working_days_of_ten_hours_cost_less_than_half() -> None:
    before = total(Use(4), ALWAYS_ON)
    assert before == pytest.approx(179, abs=0.5)
    assert total(Use(4), weekly(zones=2)) <= before / 2
    assert total(Use(4), weekly()) <= 0.41 * before


def test_costs_grow_with_hospitals_only_where_hospitals_matter() -> None:
    few, many = bill(Use(4), Setup(), TABLE), bill(Use(40), Setup(), TABLE)
    assert {name for name in few if few[name] != many[name]} == {"traffic to hospitals"}
    assert many["traffic to hospitals"] == pytest.approx(10 * few["traffic to hospitals"])


def test_sleep_saves_machine_and_endpoints_and_the_calendar_has_an_alarm() -> None:
    awake, asleep = bill(Use(4), Setup(), TABLE), bill(Use(4), weekly(), TABLE)
    assert {name for name in awake if awake[name] != asleep[name]} == {
        *("machine", "private endpoints", "logs and alarms"),
    }
    assert asleep["logs and alarms"] == pytest.approx(awake["logs and alarms"] + 0.1)
    assert asleep["machine"] == pytest.approx(awake["machine"] * WEEK.hours / 730)
    # Each waking begins an hour of its own.
    hours = WEEK.hours + WEEK.wakings
    assert asleep["private endpoints"] == pytest.approx(awake["private endpoints"] * hours / 730)


def test_the_bill_counts_what_the_template_makes() -> None:
    """One of the alarms is the calendar's."""
    text = TEMPLATE.read_text()
    assert text.count("VpcEndpointType: Interface") == ENDPOINTS
    assert text.count("Type: AWS::KMS::Key\n") == KEYS
    assert text.count("Type: AWS::CloudWatch::Alarm\n") == ALARMS + 1
    assert f"VolumeSize: {DISK_GB}\n" in text
    assert f"Default: {Setup.machine}\n" in text


def test_a_table_of_ones_own_replaces_ours(tmp_path: Path) -> None:
    own = tmp_path / "prices.toml"
    own.write_text(PRICES.read_text().replace("key_month = 1.0", "key_month = 2.0"))
    table = PriceTable.read(own)
    assert bill(Use(4), Setup(), table)["keys"] == pytest.approx(
        2 * bill(Use(4), Setup(), TABLE)["keys"], abs=0.01
    )


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("alarm_month = 0.1\n", "", "alarm_month"),
        ("alarm_month = 0.1\n", "alarm_month = -1\n", "alarm_month"),
        ("alarm_month = 0.1\n", "alarm_month = nan\n", "alarm_month"),
        ("alarm_month = 0.1\n", "alarm_month = 0.1\nunknown = 1\n", "unknown"),
        ("schema_version = 1", "schema_version = 2", "schema_version"),
        ('as_of = "2026-11"', 'as_of = "lately"', "as_of"),
    ],
)
def test_a_wrong_table_is_refused_by_name(tmp_path: Path, old: str, new: str, named: str) -> None:
    own = tmp_path / "prices.toml"
    assert old in PRICES.read_text()
    own.write_text(PRICES.read_text().replace(old, new))
    with pytest.raises(UsageError, match=named) as refused:
        PriceTable.read(own)
    assert str(own) in str(refused.value)


def test_a_machine_without_a_price_is_named() -> None:
    with pytest.raises(UsageError, match=r"no x9\.huge in \[machine_hour\]; it has .*t3\.medium"):
        bill(Use(4), Setup("x9.huge"), TABLE)


def test_a_job_gets_the_cheapest_machine_that_holds_its_model() -> None:
    small, large = (job_advice(Use(4, model_mb=mb), TABLE) for mb in (1.0, 1000.0))
    assert (small.machine, large.machine) == ("ml.m5.large", "ml.m5.xlarge")
    assert small.month == pytest.approx(bill(Use(4), Setup(), TABLE)["training jobs"])
    assert small.month * 0.35 < small.spot < small.month * 0.36, "interruptions cost something"
    assert small.resumed_hours == pytest.approx(9 / 60, abs=0.01)
    with pytest.raises(UsageError, match=r"a model of 9000 MB needs a job with 74 GB"):
        job_advice(Use(4, model_mb=9000.0), TABLE)


def test_a_request_to_the_function_is_billed_by_begun_milliseconds() -> None:
    assert function_price(TABLE, 4.1, 1024) == pytest.approx(0.2e-6 + 0.005 * 0.0000166667)
    assert function_price(TABLE, 5, 512) == pytest.approx(0.2e-6 + 0.0025 * 0.0000166667)


@pytest.mark.processes
def test_the_command_shows_both_bills() -> None:
    done = flo_process("aws", "cost", "--days", "mon-fri", "--endpoint-zones", "2")
    assert done.returncode == 0, done.stderr
    assert "178.86" in done.stdout
    assert "50% of the first" in done.stdout
    assert "not read from AWS" in done.stdout
    assert "Spot machines would save 0.07 a month" in " ".join(done.stdout.split())


SETUPS = {
    "never asleep, 2 zones": ALWAYS_ON,
    "never asleep": Setup(),
    "10 hours on working days, 2 zones": weekly(zones=2),
    "10 hours on working days": weekly(),
}


def test_the_bills_in_the_docs_are_the_ones_of_the_price_table() -> None:
    text = (ROOT / "docs" / "aws.md").read_text()
    shown = text.partition("<!-- costs -->")[2].partition("<!-- /costs -->")[0].strip().splitlines()
    assert [cell.strip() for cell in shown[0].strip("|").split("|")][1:] == list(SETUPS)
    for line in shown[2:-1]:
        name, *dollars = [cell.strip() for cell in line.strip("|").split("|")]
        assert dollars == [f"{bill(Use(4), one, TABLE)[name]:.2f}" for one in SETUPS.values()]
    assert len(shown) - 3 == len(bill(Use(4), ALWAYS_ON, TABLE))
    sums = [cell.strip(" *") for cell in shown[-1].strip("|").split("|")][1:]
    assert sums == [f"{total(Use(4), one):.0f}" for one in SETUPS.values()]

"""What monitors of answers find, name and forget, in a hospital that is dull until it changes."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from flo.clients.watching import watch as rules
from flo.clients.watching.alarm import Key
from flo.clients.watching.counts import ANSWERED, ASKED, SCORED, SLOW
from flo.clients.watching.series import KEPT_DAYS, sparse
from flo.clients.watching.watch import FALSE_ALARM_DAYS, Watch, score_of
from flo.clients.watching.words import in_words
from flo.errors import UsageError
from tests.clients.watching.builders import FIRST, Record, Ward, new_watch


def in_micromoles(record: Record) -> Record:
    return record | {"crea": None if record["crea"] is None else record["crea"] * 88.42}


def found(ward: Ward, day: int) -> list[str]:
    return [in_words(ward.watch, one).words for one in ward.watch.look(FIRST + day)]


def after_a_month(**more: Any) -> Ward:
    ward = Ward(new_watch())
    ward.month(**more)
    assert not ward.watch.look(FIRST + 29)
    assert ward.watch.hospital.rates is not None
    return ward


def test_what_is_counted_of_a_day() -> None:
    ward = Ward(new_watch())
    fine = {"crea": 1.0, "sex": "male"}
    several = [
        ward.answered(fine),
        ward.answered(fine, seconds=1.5),
        ward.answered(fine, is_first=False, is_new=False),
        ward.answered(fine | {"crea": 88.4}),
        ward.answered(fine | {"sex": "unknown", "crea": None}),
    ]
    ward.watch.count(FIRST, several)
    counts, layout = ward.watch.hospital.today, ward.watch.layout
    assert counts[[ASKED, SCORED, ANSWERED, SLOW]].tolist() == [4, 2, 5, 1]
    crea, sex = layout.column("crea"), layout.column("sex")
    assert counts[crea.cells].sum() == counts[sex.cells].sum() == 2
    assert counts[sex.cells].tolist() == [0, 2, 0]
    assert counts[[crea.refused, sex.refused]].tolist() == [1, 1]
    assert counts[crea.beyond].sum() == 1, "a number beyond its bounds is known by its cell"
    assert counts[sex.beyond].sum() == 0
    assert counts[layout.risk].sum() == 2


def test_nothing_is_watched_before_a_month_and_500_patients() -> None:
    ward = Ward(new_watch())
    for day in range(40):
        ward.day(day, 12)
    assert ward.watch.hospital.rates is None, "396 patients came after the first week"
    for day in range(40, 51):
        ward.day(day, 12)
    assert ward.watch.hospital.detectors is not None
    assert ward.watch.look(FIRST + 51) == []


def test_other_units_are_found_on_the_same_day_and_named() -> None:
    ward = after_a_month()
    ward.day(30, change=in_micromoles)
    (words,) = found(ward, 30)
    assert words.startswith("creatinine arrives in µmol/L instead of mg/dL, since about 1999-10-03")
    assert ward.watch.health < 85
    assert found(ward, 30) == [], "an alarm is raised once"
    ward.day(31, change=in_micromoles)
    assert found(ward, 31) == []
    assert len(ward.watch.alarms) == 1


def test_a_code_that_is_not_known_is_named_by_its_column() -> None:
    ward = after_a_month()
    ward.day(30, change=lambda one: one | {"sex": "F" if one["sex"] == "female" else "M"})
    (words,) = found(ward, 30)
    assert words.startswith(
        "sex does not fit the study's rules in 100 % of patients, before in 0 %"
    )


def test_exchanged_codes_are_named() -> None:
    ward = Ward(new_watch())
    rare = ("female", "male")  # one in ten is a woman, and then one in ten is a man

    def record(one: Record) -> Record:
        return one | {"sex": rare[int(ward.generator.random() > 0.1)]}

    def exchanged(one: Record) -> Record:
        return one | {"sex": rare[int(ward.generator.random() <= 0.1)]}

    ward.month(change=record)
    ward.day(30, change=exchanged)
    (words,) = found(ward, 30)
    assert words.startswith("sex has its codes female and male exchanged")


def test_missing_values_and_slow_answers_are_found() -> None:
    ward = after_a_month()
    ward.day(30, change=lambda one: one | {"crea": None}, seconds=2.0)
    (missing,) = found(ward, 30)
    assert missing.startswith("creatinine is missing in 100 % of patients")


def test_slow_answers_are_found_by_the_hours_in_which_they_are_many() -> None:
    ward = Ward(new_watch())
    for hour in range(24 * 36):
        several = [ward.answered(ward.record()) for _ in range(1 + hour % 3)]
        ward.watch.count(FIRST + hour // 24, several, hour)
    assert ward.watch.hospital.rates is not None
    slow = [ward.answered(ward.record(), seconds=2.0, is_first=False, is_new=False)]
    ward.watch.count(FIRST + 37, slow * 30, 24 * 37)
    assert found(ward, 37) == [], "an hour is one trial, however many answers it has"
    for hour in range(24 * 37, 24 * 38):
        quick = [ward.answered(ward.record(), is_first=False, is_new=False)]
        ward.watch.count(FIRST + hour // 24, quick * 8 + slow * 2, hour)
    ward.watch.count(FIRST + 38, quick, 24 * 38)
    (words,) = found(ward, 38)
    assert "of answers took more than a second, before 0 %" in words


@pytest.mark.slow
def test_a_clinic_on_one_day_of_the_week_is_no_change() -> None:
    ward = Ward(new_watch())

    def clinic(day: int) -> None:
        share = 0.6 if day % 7 == 2 else 0.15
        ward.day(day, 100, lambda one: one | {"sex": _sex(ward, share)})

    for day in range(-7, 120):
        clinic(day)
        assert found(ward, day) == []


def _sex(ward: Ward, share: float) -> str:
    return "female" if ward.generator.random() < share else "male"


def test_a_month_of_few_days_is_not_what_is_usual() -> None:
    ward = Ward(new_watch())
    ward.day(0, 600)
    ward.day(36)
    ward.day(37)
    assert ward.watch.hospital.detectors is None
    for day in range(38, 80):
        ward.day(day)
    assert ward.watch.hospital.rates is not None
    assert ward.watch.hospital.baseline[SCORED] < 40 * 36, "what came before the gap is left out"


def test_an_audit_log_is_told_no_wards_name() -> None:
    assert Key("column", "crea", "Room 12").public == {
        "about": "column",
        "of": "crea",
        "where": "a ward",
    }
    assert Key("outcomes", "ward Room 12").public == {
        "about": "outcomes",
        "of": "",
        "where": "a ward",
    }
    assert Key("outcomes", "sex=female").public == {"about": "outcomes", "of": "sex=female"}


def test_a_ward_that_is_silent_for_long_makes_room_for_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rules, "MOST_WARDS", 2)
    ward = Ward(new_watch())
    ward.day(0, 9, ward=lambda number: f"ward {number % 2}")
    for day in range(1, KEPT_DAYS + 3):
        ward.day(day, 4, ward=lambda number: "ward 1")
    ward.day(KEPT_DAYS + 3, 9, ward=lambda number: f"ward {1 + number % 2}")
    assert list(ward.watch.wards) == ["ward 1", "ward 2"]
    assert {one.place for one in ward.watch.wards.values()} == {1, 2}


def test_a_change_in_one_ward_is_said_to_be_there_only() -> None:
    def ward_of(number: int) -> str:
        return f"ward {number % 3}"

    ward = after_a_month(ward=ward_of, count=90)
    for day in range(30, 34):
        ward.day(day, 60, ward=ward_of)
        ward.day(day, 30, in_micromoles, lambda number: "ward 1")
        new = found(ward, day)
        if new:
            break
    assert "arrives in µmol/L" in new[0]
    assert "in ward 1" in new[0]


def test_a_ward_raises_no_alarm_beside_that_of_the_hospital() -> None:
    ward = after_a_month(ward=lambda number: f"ward {number % 2}", count=80)
    ward.day(30, 80, in_micromoles, lambda number: f"ward {number % 2}")
    ward.day(31, 80, in_micromoles, lambda number: f"ward {number % 2}")
    found(ward, 31)
    assert [one.key for one in ward.watch.alarms] == [Key("column", "crea")]


def test_a_patient_who_is_seen_again_is_counted_once() -> None:
    ward = after_a_month()
    ward.day(30, 400, in_micromoles, is_first=False, is_new=False)
    assert found(ward, 30) == []


def test_a_gap_of_weeks_is_no_change() -> None:
    ward = after_a_month()
    ward.day(120)
    assert found(ward, 120) == []


def test_a_settled_alarm_can_come_again_and_what_is_usual_can_change() -> None:
    ward = after_a_month()
    ward.day(30, change=in_micromoles)
    found(ward, 30)
    watch = ward.watch
    with pytest.raises(UsageError, match="there is no alarm 7"):
        watch.settle(7, as_usual=False)
    watch.settle(1, as_usual=False)
    assert watch.look(FIRST + 30) == []
    assert watch.health == 100, "the evidence of today is gone with the alarm"
    ward.day(31)
    assert found(ward, 31) == []
    ward.day(32, change=in_micromoles)
    assert len(found(ward, 32)) == 1
    assert [one.number for one in watch.alarms] == [2]
    watch.settle(2, as_usual=True)
    assert watch.hospital.rates is None
    for day in range(33, 70):
        ward.day(day, change=lambda one: one | {"crea": 5.0})
    assert watch.hospital.detectors is not None
    assert found(ward, 69) == [], "5 mg/dL is usual now"
    ward.day(70)
    assert len(found(ward, 70)) == 1


@pytest.mark.slow
def test_all_weights_together_are_at_most_1() -> None:
    ward = after_a_month(ward=lambda number: f"ward {number % 40}", count=120)
    for day in range(29, 240):
        ward.day(day, 120, ward=lambda number: f"ward {number % 40}")
    total = 0.0
    for series in (ward.watch.hospital, *ward.watch.wards.values()):
        if series.rates is not None:
            total += math.exp(series.log_weight) * np.exp(series.rates.log_weights).sum()
    outcomes = ward.watch.outcomes
    total += sum(map(math.exp, outcomes.log_weights.values())) + math.exp(outcomes.late_log_weight)
    assert len(ward.watch.wards) == 40
    assert 0.9 < total <= 1 + 1e-9


def test_wards_beyond_the_limit_are_counted_for_the_hospital_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rules, "MOST_WARDS", 2)
    ward = Ward(new_watch())
    ward.day(0, 9, ward=lambda number: f"ward {number % 3}")
    assert list(ward.watch.wards) == ["ward 0", "ward 1"]
    assert ward.watch.hospital.today[SCORED] == 9


def test_health_is_85_where_an_alarm_is_raised_and_0_where_no_doubt_is_left() -> None:
    alarm = math.log(FALSE_ALARM_DAYS)
    assert [score_of(one) for one in (-5.0, 0.0, alarm)] == [100, 100, 85]
    assert score_of(alarm * 100 / 15) == pytest.approx(0)
    assert score_of(1e9) == 0


def test_a_watch_comes_back_from_its_file_as_it_was() -> None:
    ward = after_a_month(ward=lambda number: f"ward {number % 2}", count=60)
    ward.day(30, 60, in_micromoles, lambda number: f"ward {number % 2}")
    found(ward, 30)
    ward.watch.settle(1, as_usual=False)
    ward.day(30, 20, in_micromoles, lambda number: f"ward {number % 2}")
    copy = restored(ward.watch)
    for watch in (ward.watch, copy):
        watch.look(FIRST + 30)
    assert json.dumps(copy.to_state()) == json.dumps(ward.watch.to_state())
    assert copy.health == ward.watch.health
    assert [in_words(copy, one) for one in copy.alarms] == [
        in_words(ward.watch, one) for one in ward.watch.alarms
    ]


def restored(watch: Watch) -> Watch:
    """As the file gives it back: the state, then all days."""
    found = new_watch()
    found.take_state(json.loads(json.dumps(watch.to_state())))
    for series in (watch.hospital, *watch.wards.values()):
        own = found.wards[series.name] if series.name else found.hospital
        for day, counts in series.days.items():
            own.take_day(day, counts)
        own.take_day(series.day, sparse(series.all_today()))
    return found


def test_days_of_long_ago_are_forgotten() -> None:
    ward = after_a_month()
    ward.day(29 + KEPT_DAYS + 5)
    assert set(ward.watch.hospital.days) <= set(range(FIRST + 34, FIRST + 29 + KEPT_DAYS + 5))

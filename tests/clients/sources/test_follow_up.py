"""Dated events become the same times and labels as a table of the same patients."""

from __future__ import annotations

import datetime
import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from flo.clients.quality.check import EncodedTable, require_clean
from flo.clients.sources.mapping import StudyMapping
from flo.datasets import heart
from flo.datasets import sample_sources as samples
from flo.errors import UsageError
from flo.study.schema import Schema
from flo.study.time_to_event import TimeToEvent
from tests.clients.sources.exports import ILL, ill, patient, write
from tests.clients.sources.exports import chol as observation
from tests.clients.sources.hospital import HEART, change, in_order_of_ids, mapping, opened, written

OUTCOME = TimeToEvent(
    kind="time-to-event", time="days", unit="days", horizons=(90, 365, 1000), expected=0.5
)
SCHEMA = Schema.model_validate(HEART.model_dump() | {"outcome": OUTCOME.model_dump()})
DAY = datetime.date.fromisoformat(samples.DAY)


def followed_patients() -> pd.DataFrame:
    """The patients of one hospital, each with a time of its own."""
    table = heart.load()["switzerland"]
    table["days"] = 30 + np.arange(len(table)) * 17 % 1200
    return table


def day_of(table: pd.DataFrame) -> dict[str, str]:
    """By patient: the day of the event, or the last one on which the patient was seen."""
    days = [(DAY + datetime.timedelta(int(one))).isoformat() for one in table["days"]]
    return dict(zip(table["patient_id"], days, strict=True))


def in_fhir(table: pd.DataFrame, folder: Path) -> Path:
    """Diseases begin on their day; everybody else has one more visit on the last day."""
    path, day = written("fhir", table, folder), day_of(table)

    def begins(condition: dict[str, Any]) -> None:
        who = condition["subject"]["reference"].removeprefix("Patient/")
        condition["onsetDateTime"] = day[who]

    change(path / "Condition.ndjson", begins)
    sick = set(table.loc[table["disease"] == 1, "patient_id"])
    visits = [
        observation(180, day[who], subject={"reference": f"Patient/{who}"}, id=f"visit-{who}")
        for who in day
        if who not in sick
    ]
    with (path / "Observation.ndjson").open("a") as file:
        file.writelines(json.dumps(one) + "\n" for one in visits)
    return path


def in_omop(table: pd.DataFrame, folder: Path) -> Path:
    path, day = written("omop", table, folder), day_of(table)
    with closing(sqlite3.connect(path)) as database, database:
        database.execute(
            "CREATE TABLE observation_period (person_id INTEGER, "
            "observation_period_start_date TEXT, observation_period_end_date TEXT)"
        )
        people = database.execute("SELECT person_id, person_source_value FROM person").fetchall()
        for person, name in people:
            database.execute(
                "UPDATE condition_occurrence SET condition_start_date = ? WHERE person_id = ?",
                (day[name], person),
            )
            for start, end in (("1970-01-01", "1970-12-31"), ("1980-01-01", day[name])):
                database.execute(
                    "INSERT INTO observation_period VALUES (?, ?, ?)", (person, start, end)
                )
    return path


def read(kind: str, path: Path, table: pd.DataFrame, time: dict[str, Any]) -> EncodedTable:
    found = mapping(kind, table)
    if found is not None:
        document = json.loads(found.model_dump_json(exclude_defaults=True))
        document["columns"]["disease"]["when"] = "after"
        document["columns"]["days"] = time
        document["accepted"] = {}
        found = StudyMapping.model_validate_json(json.dumps(document))
    return in_order_of_ids(require_clean(opened(kind, path), SCHEMA, "patient_id", found))


@pytest.mark.parametrize(
    ("kind", "time"),
    [("fhir", {"field": "patient:last-seen"}), ("omop", {"field": "observation_period"})],
)
def test_every_system_gives_the_times_of_the_csv(
    kind: str, time: dict[str, Any], tmp_path: Path
) -> None:
    table = followed_patients()
    for name in ("csv", kind):
        (tmp_path / name).mkdir()
    wanted = read("csv", written("csv", table, tmp_path / "csv"), table, {})
    place = (in_fhir if kind == "fhir" else in_omop)(table, tmp_path / kind)
    found = read(kind, place, table, time)
    assert found.patient_ids == wanted.patient_ids
    np.testing.assert_array_equal(found.labels, wanted.labels)
    np.testing.assert_array_equal(found.inputs, wanted.inputs)
    assert len(set(found.labels.tolist())) >= 6, "events and ends in every period"


@pytest.mark.parametrize("kind", ["fhir", "omop"])
def test_where_all_are_followed_until_a_day_what_comes_later_does_not_count(
    kind: str, tmp_path: Path
) -> None:
    table, end = followed_patients(), 500
    late = table["days"] > end
    cut = table.assign(days=end, disease=table["disease"].where(~late, 0))
    cut["days"] = table["days"].where((cut["disease"] == 1) & ~late, end)
    for name in ("csv", kind):
        (tmp_path / name).mkdir()
    wanted = read("csv", written("csv", cut, tmp_path / "csv"), cut, {})
    place = (in_fhir if kind == "fhir" else in_omop)(table, tmp_path / kind)
    until = (DAY + datetime.timedelta(end)).isoformat()
    found = read(kind, place, table, {"field": f"until:{until}"})
    np.testing.assert_array_equal(found.labels, wanted.labels)


def times(folder: Path, *resources: dict[str, Any], **mapped: Any) -> list[tuple[Any, Any]]:
    """Label and days of each patient of a small export, on 1 January 2021."""
    columns = {
        "x": {"field": ILL, "when": "after"},
        "days": {"field": "patient:last-seen", **mapped},
    }
    document = {"columns": columns, "as_of": "2021-01-01"}
    schema = Schema.model_validate(SCHEMA.model_dump() | {"label": "x"})
    read = write(folder, *resources).read(
        StudyMapping.model_validate_json(json.dumps(document)), schema
    )
    return [
        pair
        for batch in read
        for pair in zip(
            batch.columns["x"].to_pylist(), batch.columns["days"].to_pylist(), strict=True
        )
    ]


def test_an_event_ends_the_follow_up_also_after_the_last_visit(tmp_path: Path) -> None:
    visit, later = observation(180, "2021-01-11"), ill("2021-02-01")
    assert times(tmp_path, patient(), visit, later) == [(1, 31)]
    assert times(tmp_path, patient(), visit) == [(0, 10)]
    assert times(tmp_path, patient(), observation(180, "2019-01-01")) == [(0, 0)]
    assert times(tmp_path, patient(), ill("2020-12-31"), visit) == [(0, 10)], "it was there before"
    assert times(tmp_path, patient(), visit, observation(1, "2021-03-01", status="draft")) == [
        (0, 10)
    ]


def test_another_patients_visits_do_not_move_a_time(tmp_path: Path) -> None:
    visit = observation(180, "2021-01-11")
    other = observation(180, "2022-01-01", subject={"reference": "Patient/b"})
    before = times(tmp_path, patient(), visit)
    assert times(tmp_path, patient(), patient("b"), visit, other)[:1] == before


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"field": "patient:age"}, "does not say until when patients were followed"),
        ({"field": "until:soon"}, "does not say until when patients were followed"),
    ],
)
def test_a_time_needs_an_end(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        times(tmp_path, patient(), **change)


def test_the_event_is_the_first_after_the_records_day(tmp_path: Path) -> None:
    document = {
        "columns": {"x": {"field": ILL}, "days": {"field": "patient:last-seen"}},
        "as_of": "2021-01-01",
    }
    schema = Schema.model_validate(SCHEMA.model_dump() | {"label": "x"})
    source = write(tmp_path, patient())
    with pytest.raises(UsageError, match="counts events up to the record's day") as refused:
        list(source.read(StudyMapping.model_validate_json(json.dumps(document)), schema))
    assert 'when = "after"' in str(refused.value.hint)


DECEASED = {"field": "patient:deceased", "when": "after"}


def of_deaths(folder: Path, *resources: dict[str, Any], until: str) -> list[tuple[Any, Any]]:
    """Label and days where the event is death, and all were followed until a day."""
    columns = {"x": DECEASED, "days": {"field": f"until:{until}"}}
    schema = Schema.model_validate(SCHEMA.model_dump() | {"label": "x"})
    mapped = StudyMapping.model_validate_json(
        json.dumps({"columns": columns, "as_of": "2021-01-01"})
    )
    (batch,) = write(folder, *resources).read(mapped, schema)
    return list(zip(batch.columns["x"].to_pylist(), batch.columns["days"].to_pylist(), strict=True))


@pytest.mark.parametrize(
    ("died", "found"),
    [
        ("2021-01-31", (1, 30)),
        ("2022-06-01", (0, 364)),  # later than all were followed
        ("2021-01-01", (0, None)),  # on the record's day: nobody lives on because of it
        ("2015-01-01", (0, None)),
        ("2021", (0, None)),  # on either side of the day
    ],
)
def test_who_is_dead_by_the_records_day_has_no_time(
    died: str, found: tuple[Any, Any], tmp_path: Path
) -> None:
    resource = patient(deceasedDateTime=died)
    assert of_deaths(tmp_path, resource, until="2021-12-31") == [found]


def test_a_death_ends_the_follow_up_of_another_event(tmp_path: Path) -> None:
    visit = observation(180, "2021-01-11")
    died = patient(deceasedDateTime="2021-03-02")
    assert times(tmp_path, died, visit, field="until:2025-12-31") == [(0, 60)]
    assert times(tmp_path, patient(), visit, field="until:2021-12-31") == [(0, 364)]
    assert times(tmp_path, died, ill("2021-02-01"), field="until:2025-12-31") == [(1, 31)]


def test_an_unclear_or_planned_day_is_no_late_contact(tmp_path: Path) -> None:
    visit = observation(180, "2021-01-11")
    year = observation(180, "2021", id="1")
    planned = observation(180, None, id="2", effectivePeriod={"start": "2095-01-01"})
    assert times(tmp_path, patient(), visit, year, planned) == [(0, 10)]


def test_the_steward_is_asked_about_patients_who_had_it_before(tmp_path: Path) -> None:
    columns = {"x": {"field": ILL, "when": "after"}, "days": {"field": "until:2021-12-31"}}
    schema = Schema.model_validate(SCHEMA.model_dump() | {"label": "x"})
    mapped = StudyMapping.model_validate_json(
        json.dumps({"columns": columns, "as_of": "2021-01-01"})
    )
    (batch,) = write(tmp_path, patient(), patient("b"), ill("2020-01-01")).read(mapped, schema)
    (doubt,) = [key for key in batch.to_accept if key[0] == "had before"]
    assert (doubt[1], batch.to_accept[doubt]) == ("x", 1)
    again = write(tmp_path, patient(), ill("2020-01-01", id="1"), ill("2021-02-01", id="2"))
    (batch,) = again.read(mapped, schema)
    assert batch.columns["x"].to_pylist() == [1]
    assert batch.to_accept[doubt] == 1, "who has it again had it before, too"


def test_an_event_is_no_value_with_codes(tmp_path: Path) -> None:
    columns = {
        "x": {"field": "observation:http://loinc.org|2093-3", "when": "after"},
        "days": {"field": "until:2021-12-31"},
    }
    schema = Schema.model_validate(SCHEMA.model_dump() | {"label": "x"})
    source = write(tmp_path, patient())
    for codes in ({}, {"POS": "1"}):
        document = {"columns": columns | {"x": columns["x"] | {"codes": codes}}}
        mapped = StudyMapping.model_validate_json(json.dumps(document | {"as_of": "2021-01-01"}))
        with pytest.raises(UsageError, match="needs something that happened, not a value"):
            list(source.read(mapped, schema))

"""A table of events beside the patients': how it is described, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flo.clients.home.site_config import make_config
from flo.clients.quality.check import check_inputs, inspect_table, require_clean
from flo.clients.quality.findings import DataFinding
from flo.clients.sources.files import open_file
from flo.clients.sources.mapping import StudyMapping, without
from flo.clients.sources.source import DataSource
from flo.errors import DataError, FloError, UsageError
from flo.study.features import input_names
from tests.builders import small_study
from tests.flo.studies import with_history

SCHEMA = with_history().data
DAY = "2026-03-01"


def written(folder: Path, *events: str, patients: int = 30, header: str = "") -> Path:
    """A table of patients with their visits, and these events of theirs."""
    lines = [f"p{n},{20 + n},{'abc'[n % 3]},{n % 2},{DAY}" for n in range(patients)]
    (folder / "patients.csv").write_text("\n".join(["id,age,ward,ill,visited", *lines]) + "\n")
    (folder / "events.csv").write_text(
        "\n".join([header or "id,day,code,value,unit", *events]) + "\n"
    )
    return folder


def opened(folder: Path, **events: Any) -> DataSource:
    """As `flo site init --data place.toml` would."""
    own = {"file": "events.csv", "record_day": "visited"} | events
    lines = [f"{name} = {json.dumps(value)}" for name, value in own.items() if value is not None]
    place = folder / "place.toml"
    place.write_text("\n".join(['file = "patients.csv"', "[events]", *lines]) + "\n")
    config = make_config(
        *("north",),
        file=place,
        id_column="id",
        epsilon=0.9,
        declared_size=30,
        hold_out=0.3,
    )
    return config.populations[0].open()


def mapping(**changes: Any) -> StudyMapping:
    fields = {name: {"field": name} for name in ("age", "ward", "ill")}
    fields |= {"pulse": {"field": "value:p"}, "room": {"field": "value:r"}}
    columns = {name: one for name, one in (fields | changes.pop("columns", {})).items() if one}
    return StudyMapping.model_validate_json(json.dumps({"columns": columns, **changes}))


def steps(source: DataSource, mapped: StudyMapping | None, who: str = "p0") -> list[float]:
    found = require_clean(source, SCHEMA, "id", mapped)
    place = found.patient_ids.index(who)
    return [float(one) for one in found.inputs[place][-SCHEMA.steps_columns * 2 :]]


def of_pulse(source: DataSource, mapped: StudyMapping | None = None, who: str = "p0") -> list[Any]:
    """The pulse of each step from the oldest on, as it was written; None where there is none."""
    cells = steps(source, mapped, who)
    scaled = [cells[4 * step : 4 * step + 2] for step in range(4)]
    return [None if missing else round((one + 1) * 100 + 20, 6) for one, missing in scaled]


def test_a_table_with_the_studys_codes_needs_no_mapping(tmp_path: Path) -> None:
    told = ["p0,2026-02-20,pulse,70,/min", "p0,2025-12-10,pulse,90,/min", "p1,2026-02-20,room,x,"]
    source = opened(written(tmp_path, *told))
    assert of_pulse(source) == [None, 90, None, 70]
    assert of_pulse(source, None, "p1") == [None] * 4


def test_the_records_own_day_ends_the_steps(tmp_path: Path) -> None:
    told = [f"p0,{day},p,{pulse},/min" for day, pulse in (("2026-03-01", 61), ("2026-03-02", 62))]
    source = opened(written(tmp_path, *told, "p0,2026-01-30,p,63,/min", "p0,2026-01-29,p,64,/min"))
    assert of_pulse(source, mapping()) == [None, None, 63, 61]
    later = mapping(as_of="2026-03-03")
    assert of_pulse(source, later) == [None, None, 63, 62], "a study's own day comes first"


def test_columns_have_any_name_and_a_spreadsheets_comma(tmp_path: Path) -> None:
    folder = written(tmp_path, "2026-02-20;70,5;P0 ;p", header="when;result;who;what")
    source = opened(folder, patient="who", day="when", code="what", value="result")
    assert of_pulse(source, mapping()) == [None, None, None, 70.5]


def test_a_converted_unit_and_a_missing_word_are_the_mappings(tmp_path: Path) -> None:
    told = ["p0,2026-02-20,p,1.5,Hz", "p0,2026-01-20,p,unknown,Hz"]
    how = {"field": "value:p", "unit": "Hz", "multiply": 60, "missing": ["unknown"]}
    source = opened(written(tmp_path, *told))
    assert of_pulse(source, mapping(columns={"pulse": how})) == [None, None, None, 90]


def test_several_codes_are_one_column_and_the_last_of_a_step_counts(tmp_path: Path) -> None:
    told = ["p0,2026-02-20 10:00,p,70,/min", "p0,2026-02-20T09:00:00Z,q,80,/min"]
    source = opened(written(tmp_path, *told))
    how = {"field": ["value:p", "value:q"]}
    assert of_pulse(source, mapping(columns={"pulse": how})) == [None, None, None, 70]
    assert of_pulse(source, mapping(columns={"pulse": {"field": "value:p,q"}})) == [*[None] * 3, 70]


def findings(source: DataSource, mapped: StudyMapping | None = None) -> list[DataFinding]:
    return inspect_table(source, SCHEMA, "id", mapped).found


def test_the_steward_hears_of_events_that_do_not_count(tmp_path: Path) -> None:
    told = [
        *("p0,,p,70,/min", "p0,2026-01,p,71,/min", "stranger,2026-02-20,p,72,/min"),
        *("p0,2026-02-20,p,,/min", "p0,2026-02-20,p,73,kPa"),
    ]
    said = {one.column + one.rule for one in findings(opened(written(tmp_path, *told)), mapping())}
    assert "pulseevents without a day, which do not count: 1" in said
    assert any("patients who are not in the patients' table: 1" in one for one in said)
    assert any("may lie on either side" in one and one.endswith(": 1") for one in said)
    assert any("pulse: events without a value: 1" in one for one in said)
    assert any(one.startswith("pulse_1has the unit 'kPa' where '/min' is expected") for one in said)
    assert any("room: events found for value:r: 0" in one for one in said)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"record_day": None}, "no day is given for the records"),
        ({"record_day": "ill"}, "30 records have no exact day in the column 'ill'"),
        ({"record_day": "nowhere"}, "column 'nowhere'"),
        ({"code": "what"}, "has no column 'what'"),
        ({"file": "nowhere.csv"}, "does not exist"),
        ({"patient": "who"}, "who"),
    ],
)
def test_what_is_described_wrongly_is_refused(
    change: dict[str, Any], why: str, tmp_path: Path
) -> None:
    written(tmp_path, "p0,2026-02-20,p,70,/min")
    with pytest.raises(FloError, match=why):
        require_clean(opened(tmp_path, **change), SCHEMA, "id", mapping())


@pytest.mark.parametrize(
    ("columns", "why"),
    [
        ({"pulse": {"field": "p"}}, "pulse: 'p' is not a field of a table of events"),
        ({"pulse": {"field": "value:"}}, "is not a field of a table of events"),
        ({"pulse": {"field": ["value:p", "event:q"]}}, "some of its fields are values"),
        ({"pulse": None}, "pulse_4: is not mapped"),
        ({"pulse": {"field": "value:p", "codes": {"a": "b"}}}, "pulse: only a category has codes"),
        ({"room": {"field": "value:r", "codes": {"a": "z"}}}, "room: the study has no code z"),
    ],
)
def test_a_mapping_that_does_not_fit_is_refused(
    columns: dict[str, Any], why: str, tmp_path: Path
) -> None:
    source = opened(written(tmp_path, "p0,2026-02-20,p,70,/min"))
    with pytest.raises(UsageError, match=why):
        require_clean(source, SCHEMA, "id", mapping(columns=columns))


@pytest.mark.parametrize(
    ("described", "why"),
    [
        ('[events]\nfile = "e.csv"', "give either `file` or `source`"),
        ('file = "p.csv"\n[events]', "events: give either `file` or `table`"),
        ('file = "p.csv"\n[events]\ntable = "e"', "`table` is for a database"),
        (
            '[source]\nkind = "fhir"\nfolder = "f"\n[events]\nfile = "e.csv"',
            "FHIR and OMOP have theirs",
        ),
    ],
)
def test_events_belong_beside_a_table(described: str, why: str, tmp_path: Path) -> None:
    place = tmp_path / "place.toml"
    place.write_text(described + "\n")
    with pytest.raises(FloError, match=why):
        make_config(
            "north", file=place, id_column="id", epsilon=0.9, declared_size=30, hold_out=0.3
        )


def test_a_column_that_does_not_change_is_none_of_a_sequence(tmp_path: Path) -> None:
    from tests.clients.sources.exports import patient, write

    source = write(tmp_path, patient())
    mapped = mapping(columns={"pulse": {"field": "patient:age"}}, as_of=DAY)
    with pytest.raises(UsageError, match="pulse: 'patient:age' has no days"):
        list(source.read(without(mapped, {*mapped.columns} - {"pulse"}), SCHEMA))


def test_a_table_without_events_has_the_steps_as_columns(tmp_path: Path) -> None:
    written(tmp_path, "p0,2026-02-20,p,70,/min")
    config = make_config(
        *("north",),
        file=tmp_path / "patients.csv",
        id_column="id",
        epsilon=0.9,
        declared_size=30,
        hold_out=0.3,
    )
    with pytest.raises(DataError, match="column 'pulse_1': is missing from the file"):
        require_clean(config.populations[0].open(), SCHEMA, "id", None)


def test_ids_that_are_spelt_differently_in_the_two_tables_are_in_the_way(tmp_path: Path) -> None:
    told = [f"00p{n},2026-02-20,p,70,/min" for n in range(30)]
    (found,) = (
        one
        for one in findings(opened(written(tmp_path, *told)), mapping())
        if one.kind == "lost events"
    )
    assert (found.column, found.level) == ("pulse", "to accept")


@pytest.mark.parametrize(
    "day", ["20260220", "2026-2-20", "2026-02-20 10:00 UTC", "20.02.2026", "1"]
)
def test_a_day_that_is_written_in_another_way_is_no_day(day: str, tmp_path: Path) -> None:
    """It is not taken for its year, whose last day would put it into a step."""
    source = opened(written(tmp_path, f"p0,{day},p,70,/min", "p1,2026-02-20,p,71,/min"))
    assert of_pulse(source, mapping(accepted={"no day: pulse": "a test"})) == [None] * 4
    assert any("without a day" in one.rule for one in findings(source, mapping()))


def test_an_event_without_a_patient_is_of_nobody(tmp_path: Path) -> None:
    folder = written(tmp_path, ",2026-02-20,p,180,/min", "p1,2026-02-20,p,71,/min")
    people = (folder / "patients.csv").read_text().replace("p0,", ",")
    (folder / "patients.csv").write_text(people)
    looked = inspect_table(opened(folder), SCHEMA, "id", mapping())
    assert looked.table.columns["pulse_1"].to_list()[:2] == [
        pytest.approx(float("nan"), nan_ok=True),
        71,
    ]


def test_a_file_without_a_header_shows_no_cell(tmp_path: Path) -> None:
    folder = written(tmp_path)
    (folder / "events.csv").write_text("Erika Mustermann,1957-03-02,hiv-pos,4711\n")
    with pytest.raises(DataError, match=r"events\.csv has no column 'code'") as refused:
        findings(opened(folder), mapping())
    assert "Mustermann" not in f"{refused.value} {refused.value.hint}"


def test_a_point_that_may_mark_thousands_is_asked_about_as_in_any_table(tmp_path: Path) -> None:
    folder = written(tmp_path, "p0;2026-02-20;p;1.234", header="id;day;code;value")
    assert any(one.kind == "thousands" for one in findings(opened(folder), mapping()))


def test_a_table_without_values_says_what_happened_only(tmp_path: Path) -> None:
    folder = written(tmp_path, "p0,2026-02-20,p", header="id,day,code")
    with pytest.raises(UsageError, match=r"pulse: events\.csv has no column of values"):
        findings(opened(folder), mapping())
    only = mapping(columns={"pulse": {"field": "event:p"}, "room": {"field": "event:p"}})
    with pytest.raises(UsageError, match="room: that an event happened is 1 or 0"):
        findings(opened(folder), only)
    codes = {"field": "event:p", "codes": {"1": "x", "0": "y"}}
    columns = {"pulse": {"field": "event:p"}, "room": codes}
    looked = inspect_table(opened(folder), SCHEMA, "id", mapping(columns=columns))
    assert looked.table.columns["room_1"].to_list()[:2] == ["x", "y"]


def test_codes_may_have_spaces_between_them(tmp_path: Path) -> None:
    source = opened(written(tmp_path, "p0,2026-02-20,p,70,/min"))
    assert of_pulse(source, mapping(columns={"pulse": {"field": "value:q, p"}})) == [
        *[None] * 3,
        70,
    ]


def test_a_column_is_mapped_for_all_steps_or_for_each(tmp_path: Path) -> None:
    source = opened(written(tmp_path, "p0,2026-02-20,p,70,/min"))
    with pytest.raises(UsageError, match="pulse_1: a sequence is mapped for all its steps at once"):
        findings(source, mapping(columns={"pulse_1": {"field": "age"}}))


def test_a_few_patients_are_scored_beside_events_of_others(tmp_path: Path) -> None:
    told = ["stranger,2026-02-20,pulse,70,/min", "p0,2026-02-20,pulse,71,/min", "p1,,pulse,1,/min"]
    inputs = check_inputs(opened(written(tmp_path, *told, patients=2)), SCHEMA)
    assert inputs.shape == (2, len(input_names(SCHEMA)))
    assert len(np.unique(inputs[:, -SCHEMA.steps_columns * 2 :], axis=0)) == 2


def test_a_file_of_other_codes_is_not_scored_as_if_nothing_had_happened(tmp_path: Path) -> None:
    source = opened(written(tmp_path, "p0,2026-02-20,8867-4,70,/min", patients=2))
    with pytest.raises(DataError, match="no patient has an event of the codes pulse, room"):
        check_inputs(source, SCHEMA)


def test_a_number_that_may_be_a_thousand_is_not_scored(tmp_path: Path) -> None:
    """Of a table alone, too: nobody is there who could accept it."""
    folder = written(tmp_path, "p0;2026-02-20;pulse;1.234", header="id;day;code;value", patients=2)
    with pytest.raises(DataError, match=r"1\.234 are read with a decimal point"):
        check_inputs(opened(folder), SCHEMA)
    (folder / "patients.csv").write_text("id;age;ward\np0;1.234;a\np1;40;b\n")
    with pytest.raises(DataError, match=r"1\.234 are read with a decimal point"):
        check_inputs(open_file(folder / "patients.csv", "id"), small_study().data)

"""A FHIR export is read as its resources mean it, and nothing but what the mapping names."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from flo.clients.quality.check import inspect_table
from flo.clients.sources.fhir import FhirExport
from flo.clients.sources.mapping import StudyMapping
from flo.errors import DataError, UsageError
from tests.clients.sources.exports import (
    CHOL,
    ILL,
    LOINC,
    SCHEMA,
    cells,
    chol,
    code,
    ill,
    patient,
    read,
    write,
)

MAPPING = StudyMapping.model_validate_json(
    json.dumps(
        {
            "columns": {
                "age": {"field": "patient:age"},
                "ward": {"field": "patient:gender"},
                "ill": {"field": "patient:deceased"},
            },
            "as_of": "2021-01-01",
        }
    )
)
Export = Callable[..., FhirExport]


@pytest.fixture
def export(tmp_path: Path) -> Export:
    return partial(write, tmp_path)


def test_of_several_values_the_last_before_the_records_day_counts(export: Export) -> None:
    source = export(
        patient(), chol(200, "2019-01-01"), chol(240, "2020-12-31"), chol(300, "2021-01-02")
    )
    assert cells(source, CHOL) == [240]
    assert cells(source, CHOL, when="after") == [300]
    assert cells(source, CHOL, when="any") == [300]


def test_the_first_after_the_day_counts_when_after_is_asked(export: Export) -> None:
    source = export(patient(), chol(300, "2022-01-01"), chol(280, "2021-06-01"))
    assert cells(source, CHOL, when="after") == [280]
    assert cells(source, CHOL) == [None]


def test_a_month_or_a_year_counts_as_its_last_day(export: Export) -> None:
    source = export(patient(), chol(200, "2020-12"), chol(300, "2021"), chol(310, "2021-02"))
    assert cells(source, CHOL) == [200]


def test_without_a_day_it_counts_at_any_time_only(export: Export) -> None:
    source = export(patient(), chol(200, None))
    assert cells(source, CHOL) == [None]
    assert cells(source, CHOL, when="any") == [200]


@pytest.mark.parametrize("status", ["preliminary", "registered", "cancelled", "entered-in-error"])
def test_what_is_not_final_does_not_count(export: Export, status: str) -> None:
    assert cells(export(patient(), chol(200, status=status)), CHOL) == [None]


@pytest.mark.parametrize("status", ["amended", "corrected"])
def test_a_correction_counts(export: Export, status: str) -> None:
    assert cells(export(patient(), chol(200, status=status)), CHOL) == [200]


@pytest.mark.parametrize("status", ["refuted", "entered-in-error"])
def test_a_refuted_condition_is_none(export: Export, status: str) -> None:
    system = "http://terminology.hl7.org/CodeSystem/condition-ver-status"
    assert cells(export(patient(), ill(verificationStatus=code(system, status))), ILL) == [0]
    assert cells(export(patient(), ill(verificationStatus=code(system, "confirmed"))), ILL) == [1]


def test_who_has_no_condition_has_0(export: Export) -> None:
    source = export(patient("a"), patient("b"), ill())
    assert cells(source, ILL) == [1, 0]


def test_a_component_counts_by_its_own_code(export: Export) -> None:
    pressure = {
        **chol(0),
        "code": code(LOINC, "85354-9"),
        "valueQuantity": None,
        "component": [
            {"code": code(LOINC, "8480-6"), "valueQuantity": {"value": 130, "code": "mm[Hg]"}},
            {"code": code(LOINC, "8462-4"), "valueQuantity": {"value": 80, "code": "mm[Hg]"}},
        ],
    }
    source = export(patient(), pressure)
    assert cells(source, f"observation:{LOINC}|8480-6") == [130]
    assert cells(source, f"observation:{LOINC}|8462-4") == [80]


@pytest.mark.parametrize("day", ["1990-01-01", "2019-05-05", "2099-12-31"])
def test_no_patients_days_draft_the_day_of_the_records(export: Export, day: str) -> None:
    assert export(patient(), chol(200, day)).settings() == {"as_of": None}


def test_several_codes_are_one_column(export: Export) -> None:
    other = {**chol(250, "2020-05-01"), "code": code(LOINC, "14647-2")}
    assert cells(export(patient(), chol(200), other), f"{CHOL},14647-2") == [250]


@pytest.mark.parametrize("on_whom", ["replaced-by", "replaces"])
def test_of_merged_patients_the_one_who_says_so_is_left_out(export: Export, on_whom: str) -> None:
    """And nobody else: what one patient's resource says changes no other patient's records."""
    link = [{"other": {"reference": "Patient/b"}, "type": on_whom}]
    source = export(patient("a", link=link), patient("b"), patient("c"), chol(200))
    assert cells(source, "patient:age") == [70, 70]
    assert [name for ids in source.ids() for name in ids.to_pylist()] == ["a", "b", "c"]
    table = inspect_table(source, SCHEMA, "id", MAPPING).table
    assert [str(note) for note in table.source_findings] == [
        "patients who state a link with another, and are left out: 1",
        "patients whom another patient's link names; they take part unless this id opted out: 1",
    ]


def test_of_two_present_identifiers_none_is_chosen_and_old_ones_do_not_count(
    export: Export,
) -> None:
    def known_by(*identifiers: dict[str, str]) -> list[str]:
        own = [{"system": "urn:mrn", **identifier} for identifier in identifiers]
        source = export(patient(identifier=own), id_column="urn:mrn")
        return [name for ids in source.ids() for name in ids.to_pylist()]

    assert known_by({"value": "m1", "use": "old"}, {"value": "m2"}) == ["m2"]
    assert known_by({"value": "m1"}, {"value": "m2"}) == [""]


def test_an_export_that_reports_an_error_is_refused(export: Export, tmp_path: Path) -> None:
    source = export(patient("a"))
    for severity, harmless in (("information", True), ("warning", True), ("error", False)):
        issue = [{"severity": severity, "diagnostics": "Hans Müller"}]
        outcome = {"resourceType": "OperationOutcome", "issue": issue}
        (tmp_path / "errors.ndjson").write_text(json.dumps(outcome))
        source = FhirExport(tmp_path, "id")
        if harmless:
            assert cells(source, "patient:age") == [70]
        else:
            with pytest.raises(
                DataError, match=r"errors\.ndjson, line 1: the export reports an err"
            ):
                cells(source, "patient:age")


@pytest.mark.parametrize("ascii_only", [True, False])
@pytest.mark.parametrize("name", ["Größe", "A/1", 'a"b', "a\\b", "44"])
def test_a_code_is_found_however_its_file_spells_it(
    export: Export, tmp_path: Path, name: str, ascii_only: bool
) -> None:
    event = {**chol(200), "code": code(LOINC, name)}
    source = export(patient(), chol(1), event)
    (tmp_path / "Observation.ndjson").write_text(
        f"{json.dumps(chol(1))}\n{json.dumps(event, ensure_ascii=ascii_only)}\n", encoding="utf-8"
    )
    assert cells(source, f"observation:{LOINC}|{name}") == [200]


def test_a_unit_that_is_not_known_is_not_quoted(export: Export) -> None:
    given = {"value": 5, "unit": "Hans Müller, born 3.4.1958"}
    source = export(patient(), {**chol(5), "valueQuantity": given})
    mapping = {"columns": {"age": {"field": CHOL}}, "as_of": "2021-01-01"}
    (batch,) = source.read(StudyMapping.model_validate_json(json.dumps(mapping)), SCHEMA)
    assert [rule for _, rule in batch.invalid] == ["has another unit where 'years' is expected"]
    known = {**chol(5), "valueQuantity": {"value": 5, "unit": "months"}}
    (batch,) = export(patient(), known).read(
        StudyMapping.model_validate_json(json.dumps(mapping)), SCHEMA
    )
    assert [rule for _, rule in batch.invalid] == [
        "has the unit 'months' where 'years' is expected"
    ]


@pytest.mark.parametrize("id_column", ["patient_id", "person_source_value"])
def test_an_id_column_that_fhir_does_not_have_is_refused(export: Export, id_column: str) -> None:
    with pytest.raises(UsageError, match="is neither id nor the system of"):
        export(patient(), id_column=id_column)


def test_below_a_limit_is_no_number(export: Export) -> None:
    low = {**chol(5), "valueQuantity": {"value": 5, "comparator": "<", "code": "mg/dL"}}
    assert cells(export(patient(), low), CHOL) == ["< 5"]


@pytest.mark.parametrize(
    ("born", "years"),
    [("1950-01-01", 71), ("1950-01-02", 70), ("1950", 71), ("1950-06", 70), (None, None)],
)
def test_age_is_in_whole_years_on_the_records_day(
    export: Export, born: str | None, years: int | None
) -> None:
    assert cells(export(patient(birthDate=born)), "patient:age") == [years]


@pytest.mark.parametrize(
    ("value", "dead"),
    [
        ({"deceasedBoolean": False}, 0),
        ({"deceasedDateTime": "2020"}, 1),
        ({}, 0),
    ],
)
def test_deceased_is_1_or_0(export: Export, value: dict[str, Any], dead: int) -> None:
    assert cells(export(patient(**value)), "patient:deceased") == [dead]


def test_patients_are_known_by_the_identifier_that_site_toml_names(export: Export) -> None:
    own = {"system": "urn:mrn", "value": "M1"}
    source = export(
        patient(identifier=[{"system": "urn:x", "value": "X"}, own]), id_column="urn:mrn"
    )
    assert [name for ids in source.ids() for name in ids.to_pylist()] == ["M1"]


@pytest.mark.parametrize(
    "field",
    ["patient:name", "patient:birthDate", "patient:telecom", "observation:2093-3", "note", "x|y"],
)
def test_what_tells_who_a_patient_is_is_no_field(export: Export, field: str) -> None:
    with pytest.raises(UsageError, match="not a field of a FHIR export"):
        cells(export(patient()), field)


def test_a_mapping_without_a_day_is_refused(export: Export) -> None:
    mapping = StudyMapping.model_validate({"columns": {"x": {"field": CHOL}}})
    with pytest.raises(UsageError, match="names no day"):
        list(export(patient()).read(mapping, SCHEMA))


@pytest.mark.parametrize(
    "line", ["Ada Lovelace", "[1]", '{"resourceType": ', "[" * 5000], ids=lambda line: line[:6]
)
def test_a_line_that_is_none_is_refused_without_showing_it(tmp_path: Path, line: str) -> None:
    (tmp_path / "Patient.ndjson").write_text(f"{json.dumps(patient())}\n{line}\n")
    with pytest.raises(DataError, match=r"Patient\.ndjson, line 2: is not") as refused:
        cells(FhirExport(tmp_path, "id"), "patient:age")
    assert "Lovelace" not in str(refused.value)


def test_a_line_without_end_is_not_read_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flo.clients.sources.fhir_files._LONGEST_LINE", 100)
    (tmp_path / "Patient.ndjson").write_text(json.dumps(patient(x="y" * 200)) + "\n")
    with pytest.raises(DataError, match="line 1: more than"):
        cells(FhirExport(tmp_path, "id"), "patient:age")


STRANGE: Iterable[Any] = [None, 7, "text", [], [None, 3], {"coding": "x"}, {"coding": [None]}]


@pytest.mark.parametrize("strange", STRANGE, ids=repr)
@pytest.mark.parametrize("place", ["code", "subject", "valueQuantity", "effectiveDateTime"])
def test_parts_that_are_not_what_they_should_be_count_as_absent(
    export: Export, place: str, strange: Any
) -> None:
    source = export(patient(), {**chol(200), "component": strange, place: strange})
    assert cells(source, CHOL) == [None]
    source.fields()


def test_a_folder_without_an_export_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no \*\.ndjson"):
        FhirExport(tmp_path, "id")
    with pytest.raises(DataError, match="does not exist"):
        FhirExport(tmp_path / "none", "id")


# -- days -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("day", ["2021", "2021-01"])
def test_a_month_around_the_records_day_is_neither_before_nor_after_it(
    export: Export, day: str
) -> None:
    source = export(patient(), chol(200, day))
    assert cells(source, CHOL) == cells(source, CHOL, when="after") == [None]
    assert cells(source, CHOL, when="any") == [200]


@pytest.mark.parametrize("turned", [False, True])
def test_of_two_on_one_day_the_time_decides(export: Export, turned: bool) -> None:
    """In UTC: 23:30 in New York is later than 23:45 in Berlin."""
    for year, when, wanted in ((2020, "until", 180), (2022, "after", 300)):
        events = [
            chol(300, f"{year}-05-01T23:45:00+02:00"),
            chol(180, f"{year}-05-01T23:30:00.5-04:00"),
        ]
        source = export(patient(), *(events[::-1] if turned else events))
        assert cells(source, CHOL, when=when) == [wanted]


def test_of_what_is_equal_the_later_given_counts_and_after_the_day_the_earlier(
    export: Export,
) -> None:
    source = export(patient(), chol(1, "2020-05-01"), chol(2, "2020-05-01"))
    assert cells(source, CHOL) == [2]
    source = export(patient(), chol(1, "2022-05-01"), chol(2, "2022-05-01"))
    assert cells(source, CHOL, when="after") == [1]


@pytest.mark.parametrize(
    ("onset", "until", "after"),
    [
        ({"onsetAge": {"value": 45, "code": "a"}}, 1, 0),
        ({"onsetAge": {"value": 70, "unit": "years"}}, 0, 0),  # from June 2020 to June 2021
        ({"onsetAge": {"value": 71, "code": "a"}}, 0, 1),
        ({"onsetPeriod": {"start": "2020-03", "end": "2020-05"}}, 1, 0),
        ({"onsetPeriod": {"start": "2020-03", "end": "2021-05"}}, 0, 0),
        ({"onsetPeriod": {"start": "2021-03"}}, 0, 1),
        ({"onsetAge": {"value": 45, "code": "a"}, "recordedDate": "2022-01-01"}, 1, 0),
        ({"recordedDate": "2020-01-01"}, 1, 0),
    ],
    ids=str,
)
def test_a_condition_began_when_any_kind_of_onset_says(
    export: Export, onset: dict[str, Any], until: int, after: int
) -> None:
    source = export(patient(), ill(None, **onset))
    assert (cells(source, ILL), cells(source, ILL, when="after")) == ([until], [after])


def test_a_condition_without_a_day_is_told(export: Export) -> None:
    strange = ill(None, onsetString="childhood")
    (batch,) = read(export(patient(), strange), ILL)
    assert [key[:2] for key in batch.to_accept] == [("no day", "x")]
    (batch,) = read(export(patient(), strange, *[ill()] * 100), ILL)
    assert (batch.to_accept, list(batch.notes.values())) == ({}, [1])
    (batch,) = read(export(patient(), strange), ILL, when="any")
    assert (batch.to_accept, batch.notes) == ({}, {})


@pytest.mark.parametrize(
    "onset",
    [
        {"onsetString": "childhood"},
        {"onsetRange": {"low": {"value": 40}}},
        {"onsetDateTime": "2020"},
        {"onsetPeriod": {"start": "2019-01-01"}},
        {"onsetPeriod": {"start": "2019-01-01", "end": "2021-01-01"}},
    ],
    ids=str,
)
def test_a_condition_began_before_it_was_recorded(export: Export, onset: dict[str, Any]) -> None:
    """Also one whose year or age reaches over the record's day."""
    source = export(patient(), ill(None, recordedDate="2020-02-03", **onset))
    assert cells(source, ILL) == [1]
    assert cells(source, ILL, when="after") == [0]


def test_what_may_lie_on_either_side_of_the_day_is_told(export: Export) -> None:
    reaches = {"start": "2020-06-01", "end": "2021-06-01"}
    source = export(patient(), ill(None, onsetPeriod=reaches))
    for when in ("until", "after"):
        (batch,) = read(source, ILL, when=when)
        assert batch.columns["x"].to_pylist() == [0]
        assert [key[:2] for key in batch.to_accept] == [("unclear day", "x")]
    assert cells(source, ILL, when="any") == [1]


@pytest.mark.parametrize(
    ("value", "until", "after", "ever"),
    [
        ({"deceasedDateTime": "2020-03-01"}, 1, 0, 1),
        ({"deceasedDateTime": "2023-05-05T10:00:00Z"}, 0, 1, 1),
        ({"deceasedBoolean": True}, None, None, 1),
        ({"_deceasedDateTime": {"extension": []}}, None, None, None),
        ({"deceasedBoolean": False}, 0, 0, 0),
    ],
    ids=str,
)
def test_a_death_is_before_or_after_the_day(
    export: Export, value: dict[str, Any], until: Any, after: Any, ever: Any
) -> None:
    source, field = export(patient(**value)), "patient:deceased"
    found = [cells(source, field, when=when) for when in ("until", "after", "any")]
    assert found == [[until], [after], [ever]]


# -- what counts, and as what ----------------------------------------------------------------------


@pytest.mark.parametrize("status", ["unconfirmed", "provisional", "differential", "refuted"])
def test_only_a_confirmed_condition_counts_however_its_status_is_spelt(
    export: Export, status: str
) -> None:
    system = "http://terminology.hl7.org/CodeSystem/condition-ver-status"
    for spelt in (code(system, status), status, {"text": status.capitalize()}):
        (batch,) = read(export(patient(), ill(verificationStatus=spelt)), ILL)
        assert batch.columns["x"].to_pylist() == [0]
        assert [key[:2] for key in batch.to_accept] == [("nothing counts", "x")]
        (batch,) = read(export(patient(), ill(), ill(verificationStatus=spelt)), ILL)
        assert (batch.to_accept, list(batch.notes.values())) == ({}, [1])
    own = {**code("urn:own", "C"), "text": "Confirmed"}
    known: list[Any] = [
        code(system, "confirmed"),
        "confirmed",
        {"text": "Confirmed"},
        None,
        {},
        own,
    ]
    for one in known:
        assert cells(export(patient(), ill(verificationStatus=one)), ILL) == [1]


def observed(**value: Any) -> dict[str, Any]:
    return chol(0, "2020-06-01", valueQuantity=None, **value)


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ({"valueCodeableConcept": {"text": "Positive"}}, "Positive"),
        ({"valueCodeableConcept": {"coding": [{"display": "Positive"}]}}, "Positive"),
        ({"valueCodeableConcept": {"coding": [{"code": "L"}, {"code": "P"}]}}, "P"),
        ({"valueCodeableConcept": {"coding": [{"code": "L"}, {"code": "M"}]}}, "L"),
        ({"valueRange": {"low": {"value": 200}}}, "valueRange"),
        ({"valueRatio": {"numerator": {"value": 1}}}, "valueRatio"),
    ],
    ids=str,
)
def test_no_older_value_stands_in_for_one_that_is_not_understood(
    export: Export, value: dict[str, Any], found: str
) -> None:
    older = chol(200, "2019-01-01")
    assert cells(export(patient(), older, observed(**value)), CHOL, codes={"P": "1"}) == [found]


def test_an_event_without_a_value_is_noted(export: Export) -> None:
    (batch,) = read(export(patient(), chol(200), observed()), CHOL)
    assert batch.columns["x"].to_pylist() == [200]
    assert batch.notes == {"x: events without a value": 1}


def test_that_a_result_is_only_a_bound_is_said_and_can_be_named_as_missing(
    export: Export,
) -> None:
    low = {"value": 5.0, "comparator": "<", "code": "g"}
    source = export(patient(), {**chol(5), "valueQuantity": low})
    columns = {"age": {"field": CHOL}, "ward": {"field": CHOL}, "ill": {"field": CHOL}}
    for missing, wanted in ((["< 5"], []), ([], ["another unit", "comparator"])):
        columns["age"] = {"field": CHOL, "missing": missing}  # type: ignore[dict-item]
        document = json.dumps({"columns": columns, "as_of": "2021-01-01"})
        found = inspect_table(
            source, SCHEMA, "id", StudyMapping.model_validate_json(document)
        ).table
        rules = [rule for column, rule in found.invalid if column == "age"]
        assert [
            word for word in ("another unit", "comparator") if word in " ".join(rules)
        ] == wanted
        assert "5" not in "".join(rules)

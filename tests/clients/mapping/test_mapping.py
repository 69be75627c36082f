"""Which of a hospital's fields is which column: what is refused, guessed, and bound to a yes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from flo.clients.mapping.draft import draft, fields_of
from flo.clients.mapping.inspect import inspect
from flo.clients.mapping.mapping_file import FILE, add, mapping_of
from flo.clients.mapping.suggest import suggest
from flo.clients.sources.files import TableSource
from flo.clients.sources.mapping import MappedColumn, StudyMapping, problems, same_unit
from flo.clients.sources.source import SourceField
from flo.errors import DataError, FloError, UsageError
from flo.protocol.decisions import read_approval
from flo.study.loading import load
from flo.study.schema import Schema
from tests.builders import data_file, small_study
from tests.clients.approvals.test_approvers import ADA, BEN, Hospital
from tests.clients.approving_site import Site, enrolled_site
from tests.paths import EXAMPLES

STUDY = small_study()
COLUMNS: dict[str, Any] = {name: {"field": name} for name in ("age", "ward", "ill")}


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return enrolled_site(tmp_path)


def write(site: Site, columns: dict[str, Any], **more: Any) -> None:
    studies = {STUDY.name: {"columns": columns, **more}}
    document = {"schema_version": 1, "studies": studies}
    (site.home.directory / FILE).write_text(tomli_w.dumps(document))


# -- rules ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("columns", "why"),
    [
        ({"age": {"field": "age"}}, ["ill: is not mapped", "ward: is not mapped"]),
        (COLUMNS | {"bmi": {"field": "x"}}, ["bmi: is not a column of the study"]),
        (
            COLUMNS | {"age": {"field": "a", "unit": "years", "multiply": 12}},
            ["age: years is already the study's unit; leave out the conversion"],
        ),
        (
            COLUMNS | {"ward": {"field": "a", "unit": "m", "multiply": 1}},
            ["ward: only a number has a unit"],
        ),
        (
            COLUMNS | {"age": {"field": "a", "codes": {"1": "2"}}},
            ["age: only a category has codes"],
        ),
        (
            COLUMNS | {"ward": {"field": "a", "codes": {"A": "z", "B": "a"}}},
            ["ward: the study has no code z, only a, b, c"],
        ),
        (
            COLUMNS | {"ill": {"field": "a", "codes": {"A": "yes"}}},
            ["ill: the study has no code yes, only 0, 1"],
        ),
    ],
)
def test_a_mapping_that_does_not_fit_says_where(columns: dict[str, Any], why: list[str]) -> None:
    mapping = StudyMapping.model_validate({"columns": columns})
    assert problems(mapping, STUDY.data) == why


@pytest.mark.parametrize(
    "column",
    [
        {"field": "a", "multiply": 2},
        {"field": "a", "unit": "m"},
        {"field": "a", "add": 1},
        {"field": "a", "unit": "m", "multiply": 0},
        {"field": ""},
        {"field": []},
        {"field": ["a", ""]},
        {"field": ["a" * 501]},
        {"field": ["a"] * 101},
        {"field": "a", "when": "never"},
        {"field": "a", "format": "x"},
    ],
)
def test_a_line_that_means_nothing_is_refused(site: Site, column: dict[str, Any]) -> None:
    write(site, COLUMNS | {"age": column})
    with pytest.raises(UsageError, match=rf"mapping\.toml:\n  studies\.{STUDY.name}\.columns\.age"):
        mapping_of(site.home, STUDY)


@pytest.mark.parametrize(
    ("one", "other"),
    [("mg/dL", "mg/dl"), ("mm Hg", "mm[Hg]"), ("/min", "beats per minute"), ("a", "years"),
     ("µmol/L", "umol/L"), ("Cel", "°C"), ("degF", "°F"), ("10*3/uL", "K/µL"),
     ("thousand/uL", "10^3/uL"), ("10*9/L", "G/L"), ("10^9/L", "10*3/uL")],
)  # fmt: skip
def test_spellings_of_one_unit_are_one(one: str, other: str) -> None:
    assert same_unit(one, other)


@pytest.mark.parametrize(
    ("one", "other"), [("mg/dL", "mmol/L"), ("g/L", "mg/L"), ("a", "d"), ("G/L", "g/L")]
)
def test_units_are_not_one(one: str, other: str) -> None:
    assert not same_unit(one, other)


def test_a_list_of_fields_is_refused_where_a_column_is_one_field(site: Site) -> None:
    write(site, COLUMNS | {"age": {"field": ["age", "years"]}})
    site.refuses(
        site.offer(),
        UsageError,
        "age: `field` is a list, which only FHIR and OMOP sources allow",
        heads=True,
    )


# -- a first draft --------------------------------------------------------------------------------


SCHEMA = Schema.model_validate(
    {
        "record": "patient",
        "records_per_patient": "one",
        "label": "died",
        "columns": [
            {"kind": "number", "name": "chol", "unit": "mg/dL", "minimum": 80, "maximum": 600},
            {"kind": "number", "name": "crea", "unit": "mg/dL", "minimum": 0, "maximum": 20},
            {"kind": "category", "name": "sex", "codes": ["Female", "Male"]},
            {"kind": "category", "name": "pain", "codes": ["mild", "some", "severe"]},
            {"kind": "category", "name": "smoker", "codes": ["0", "1"]},
        ],
    }
)


def suggested(*offers: SourceField, **spellings: dict[str, str]) -> dict[str, str | None]:
    found = suggest(SCHEMA, offers, spellings)
    return {name: one.mapped.fields[0] if one.mapped else None for name, one in found.items()}


def test_a_short_form_of_the_name_is_found_and_converted() -> None:
    offers = [
        SourceField("observation:x|1", "Cholesterol in serum", "mmol/L"),
        SourceField("crea", "", "mg/dL"),
    ]
    found = suggest(SCHEMA, offers, {})
    assert found["chol"].mapped == MappedColumn(
        field="observation:x|1", unit="mmol/L", multiply=38.67
    )
    assert "check the conversion" in found["chol"].remark
    assert found["crea"].mapped == MappedColumn(field="crea")


def test_a_unit_that_no_rule_converts_is_left_to_the_steward() -> None:
    found = suggest(SCHEMA, [SourceField("chol", "", "furlong")], {})["chol"]
    assert found.mapped is None
    assert "its unit is furlong: give unit and multiply" in found.remark


def test_codes_are_matched_by_what_they_spell() -> None:
    spelt = {
        "g": {"8507": "MALE", "8532": "FEMALE"},
        "f9": {"1": "Mild", "2": "Some", "3": "Severe"},
    }
    found = suggest(SCHEMA, [SourceField("g", "gender"), SourceField("f9", "item 9")], spelt)
    sex, pain = found["sex"].mapped, found["pain"].mapped
    assert sex is not None
    assert sex.codes == {"8507": "Male", "8532": "Female"}
    assert pain is not None
    assert (pain.field, pain.codes) == ("f9", {"1": "mild", "2": "some", "3": "severe"})


def test_a_yes_or_no_is_never_guessed_by_its_codes() -> None:
    found = suggest(SCHEMA, [SourceField("late", "")], {"late": {"0": "0", "1": "1"}})
    for name in ("died", "smoker"):
        assert found[name].mapped is None
        assert "fields with these codes: late" in found[name].remark


def test_a_label_is_not_what_looks_a_little_like_it() -> None:
    schema = SCHEMA.model_copy(update={"label": "disease"})
    found = suggest(schema, [SourceField("patient:deceased")], {})
    assert found["disease"].mapped is None


def test_a_label_is_drafted_only_where_one_field_has_its_name() -> None:
    schema = SCHEMA.model_copy(update={"label": "disease"})
    codes = {"0": "0", "1": "1"}
    like = SourceField("condition:s|2556008", "Periodontal disease")
    one = suggest(schema, [like], {like.field: codes})["disease"]
    assert one.mapped is None
    assert "fields with a similar name: condition:s|2556008 (Periodontal disease)" in one.remark
    same = SourceField("Disease_", "")
    one = suggest(schema, [like, same], {like.field: codes, "Disease_": codes})["disease"]
    assert one.mapped == MappedColumn(field="Disease_")
    both = suggest(schema, [same, SourceField("x", "disease")], {"Disease_": codes, "x": codes})
    assert both["disease"].mapped is None
    assert "fields with a similar name: Disease_, x (disease)" in both["disease"].remark


def test_a_coded_field_whose_cells_are_not_known_stays_open() -> None:
    found = suggest(SCHEMA, [SourceField("pain")], {})["pain"]
    assert found.mapped is None
    assert found.remark.startswith("pain? codes: mild, some, severe; it has no cells, too many")


def test_a_draft_holds_the_cells_that_are_codes_and_says_how_many_others_there_are(
    site: Site,
) -> None:
    """A ward's column with the names of whoever was on duty, here and there."""
    people = ["Müller", "Keller", "Meier", "Huber", "Frei"]
    wards = ["A", "b", "c"] * 30 + people
    rows = [f"p{n},{20 + n % 60},{ward},{n % 2}" for n, ward in enumerate(wards)]
    data_file(site.home).write_text("patient_id,age,wards,ill\n" + "\n".join(rows) + "\n")
    found = draft(site.home, STUDY, site.home.read_config().population(None))["ward"]
    assert found.mapped == MappedColumn(field="wards", codes={"A": "a", "b": "b", "c": "c"})
    assert "5 other cells have no code yet" in found.remark
    text = (site.home.directory / FILE).read_text()
    assert not [name for name in people if name in text]


@pytest.mark.parametrize(("known", "field"), [(True, "ward"), (False, None)])
def test_numbers_like_those_of_records_are_codes_where_the_source_knows_their_meaning(
    known: bool, field: str | None, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    meaning = {"45878581": "A", "45878582": "B", "2000000003": "C"}  # the last one its own
    rows = [f"p{n},{20 + n % 60},{list(meaning)[n % 3]},{n % 2}" for n in range(60)]
    data_file(site.home).write_text("patient_id,age,ward,ill\n" + "\n".join(rows) + "\n")
    if known:  # as a database with a table of concepts does
        monkeypatch.setattr(
            TableSource, "words", lambda _, cells: {c: meaning.get(c, c) for c in cells}
        )
    found = draft(site.home, STUDY, site.home.read_config().population(None))["ward"]
    assert (found.mapped.field if found.mapped else None) == field
    text = (site.home.directory / FILE).read_text()
    assert ("45878581" in text) is known


def test_the_day_of_the_records_is_left_to_a_person_with_the_reason(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Drafted from the data it would be one patient's last visit, and move everybody."""
    monkeypatch.setattr(TableSource, "settings", lambda _: {"as_of": None})
    draft(site.home, STUDY, site.home.read_config().population(None))
    text = (site.home.directory / FILE).read_text()
    assert '\n# as_of = "YYYY-MM-DD"' in text
    assert "one patient's last visit" in text
    chosen = mapping_of(site.home, STUDY)
    assert chosen is not None
    assert chosen.as_of is None


def test_a_draft_holds_nobodys_name(site: Site) -> None:
    people = ["Hans Müller", "Ada Byron", "Jean King", "Rosa Hall"]
    rows = [f"p{n},{20 + n},{people[n % 4]},{n % 2}" for n in range(20)]
    data_file(site.home).write_text("patient_id,age,warden,ill\n" + "\n".join(rows) + "\n")
    draft(site.home, STUDY, site.home.read_config().population(None))
    text = (site.home.directory / FILE).read_text()
    assert not [name for name in people if name in text]


@pytest.mark.parametrize("first", ["K-17a,Rosa Keller,female,41", "Keller,Rosa,female,yes"])
def test_a_file_without_a_header_is_never_listed(first: str, site: Site) -> None:
    data_file(site.home).write_text(f"{first}\nK-18a,Ada Byron,female,42\n")
    for asked in (
        lambda: fields_of(site.home.read_config().population(None)),
        lambda: draft(site.home, STUDY, site.home.read_config().population(None)),
    ):
        with pytest.raises(DataError) as refused:
            asked()
        said = f"{refused.value}{refused.value.hint}"
        assert "patient_id" in said
        assert not [cell for cell in first.split(",") if cell in said]
    assert not (site.home.directory / FILE).exists()


def test_codes_of_two_words_are_no_names(site: Site) -> None:
    """Of a real study: what spells its codes is drafted, whatever a name looks like."""
    heart = load(EXAMPLES / "heart" / "study.toml")
    rows = [f"p{n},{('typical angina', 'Ada Byron')[n % 4 == 3]},{n % 2}" for n in range(20)]
    data_file(site.home).write_text("patient_id,cp,disease\n" + "\n".join(rows) + "\n")
    found = draft(site.home, heart, site.home.read_config().population(None))
    assert (found["cp"].mapped or MappedColumn(field="none")).field == "cp"
    assert "Ada" not in (site.home.directory / FILE).read_text()


def test_a_table_with_the_studys_names_needs_only_what_it_accepts(site: Site) -> None:
    leak = "\n".join(f"l{7 * n + 3},{n},a,{int(n >= 40)}" for n in range(80))
    data_file(site.home).write_text(f"patient_id,age,ward,ill\n{leak}\n")
    write(site, {}, accepted={"label leak: age": "The study is about age."})
    site.approve(site.offer())


def test_the_address_of_a_system_is_no_name() -> None:
    offer = SourceField("observation:https://example.org/died|7", "Weight")
    assert suggested(offer)["died"] is None


def test_a_draft_is_refused_until_it_is_filled_in(site: Site) -> None:
    data_file(site.home).write_text("patient_id,years,station,ill\np1,20,a,0\np2,30,b,1\n")
    found = draft(site.home, STUDY, site.home.read_config().population(None))
    assert {name: one.mapped is None for name, one in found.items()} == {
        "ill": False,
        "age": True,
        "ward": False,
    }
    with pytest.raises(UsageError, match="age: is not mapped"):
        inspect(site.home, STUDY, site.home.read_config().population(None))
    text = (site.home.directory / FILE).read_text()
    assert "p1" not in text
    (site.home.directory / FILE).write_text(
        text.replace('# age = { field = "" }', 'age = { field = "years" }')
    )
    seen = inspect(site.home, STUDY, site.home.read_config().population(None))
    assert seen.records == 2
    assert [finding.name for finding in seen.in_the_way] == ["number of patients: patient_id"]


def test_a_draft_never_writes_over_what_was_reviewed(site: Site) -> None:
    write(site, COLUMNS)
    before = (site.home.directory / FILE).read_bytes()
    with pytest.raises(UsageError, match="already has a section for tiny"):
        draft(site.home, STUDY, site.home.read_config().population(None))
    other = small_study(name="other")
    remark = "a display\n[studies.tiny.accepted]\n\u202e"  # as a system might have it
    lines = {"age": (MappedColumn(field='a "quoted"\nfield\x7f'), remark)}
    add(site.home, other, lines, {"cohort": 3})
    after = (site.home.directory / FILE).read_bytes()
    assert after.startswith(before)
    found = mapping_of(site.home, other)
    assert found is not None
    assert not found.accepted
    assert (found.cohort, found.columns["age"].field) == (
        3,
        'a "quoted"\nfield\x7f',
    )


# -- what a yes is to -----------------------------------------------------------------------------


def test_an_approval_names_the_mapping_and_no_other_fits(site: Site) -> None:
    write(site, COLUMNS)
    kept = site.approve(site.offer())
    decision, mapping = read_approval(kept.decision), mapping_of(site.home, STUDY)
    assert mapping is not None
    assert (decision.schema_version, decision.mapping) == (
        4,
        mapping.commitment(site.home.open_patients_key()),
    )
    assert mapping.commitment(b"k" * 32) != decision.mapping
    write(site, COLUMNS, accepted={"label leak: age": "It is so."})
    other = mapping_of(site.home, STUDY)
    assert other is not None
    assert other.commitment(site.home.open_patients_key()) != decision.mapping


def test_without_a_mapping_an_approval_is_what_it_was(site: Site) -> None:
    decision = json.loads(site.approve(site.offer()).decision)
    assert decision["schema_version"] == 3
    assert "mapping" not in decision


def test_two_people_say_yes_to_the_same_mapping(tmp_path: Path) -> None:
    hospital = Hospital(enrolled_site(tmp_path))
    write(hospital.site, COLUMNS)
    hospital.hears(ADA)
    write(hospital.site, COLUMNS, accepted={"label leak: age": "It is so."})
    people = hospital.hears(BEN)
    assert [person.name for person in people] == ["Ben"]  # Ada's was to other terms
    hospital.refuses(people, FloError, "2 required people")
    assert len(hospital.hears(ADA)) == 2


def test_what_looks_wrong_is_approved_once_the_mapping_says_why(site: Site) -> None:
    leak = "\n".join(f"l{7 * n + 3},{n},a,{int(n >= 40)}" for n in range(80))
    data_file(site.home).write_text(f"patient_id,age,ward,ill\n{leak}\n")
    site.refuses(site.offer(), DataError, "'age': predicts the label almost alone", heads=True)
    write(site, COLUMNS, accepted={"label leak: age": "The study is about age."})
    site.approve(site.offer())


def test_a_rule_of_the_study_cannot_be_accepted_away(site: Site) -> None:
    data_file(site.home).write_text("patient_id,age,ward,ill\np1,200,a,0\n")
    accepted = {"unit: age": "so", "identifier: age": "so", "must lie within: age": "so"}
    write(site, COLUMNS, accepted=accepted)
    site.refuses(site.offer(), DataError, "must lie within", heads=True)


def test_a_mapping_for_another_study_is_refused(site: Site) -> None:
    write(site, {"age": {"field": "age"}})
    site.refuses(site.offer(), UsageError, "ward: is not mapped", heads=True)


def test_an_approved_study_does_not_care_for_a_later_mapping(site: Site) -> None:
    """What was frozen is what was approved; the next version of the study reads the new lines."""
    write(site, COLUMNS)
    first = site.approve(site.offer())
    write(site, COLUMNS, accepted={"label leak: age": "Later."})
    again = site.approve(site.offer())
    assert read_approval(again.decision).mapping == read_approval(first.decision).mapping

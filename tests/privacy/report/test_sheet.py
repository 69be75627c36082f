"""The sheet says what could tell who a patient is, and what the model has learnt before."""

from __future__ import annotations

from typing import Any

import pytest

from flo.privacy.report.sheet import sections
from flo.study.document import Study, from_document
from tests.builders import small_study, study_document
from tests.flo.continued import CARD, ancestor, continuing
from tests.flo.quantities import quantity_document
from tests.flo.times import times_document

PEOPLE = [f"{a} {b}" for a in ("Ada", "Rosa", "Mary") for b in ("Byron", "King", "Hall")]


def close_looks(**columns: dict[str, Any]) -> dict[str, str]:
    document = study_document()
    for column in document["data"]["columns"]:
        column |= columns.get(column["name"], {})
    (used,) = [s for s in sections(from_document(document)) if s.heading == "Columns used"]
    return {label.split("'")[1]: text for label, text in used.lines if "LOOK CLOSELY" in label}


@pytest.mark.parametrize(
    ("codes", "told"),
    [
        ([f"p{n}@north.example" for n in range(3)], "e-mail addresses"),
        ([f"195{n}-02-03" for n in range(3)], "dates"),
        ([f"+41 44 555 0{n} 10" for n in range(3)], "telephone numbers"),
        ([f"MRN 700001{n}" for n in range(3)], "record or insurance numbers"),
        ([f"756.1234.567{n}.97" for n in range(3)], "record or insurance numbers"),
        ([f"p{n}@north.example" for n in range(2)], None),
        ([f"c{n}" for n in range(101)], "101 codes: check that none of them identifies a patient"),
        ([f"c{n}" for n in range(100)], None),
        (["53741008", "8532", "45878583", "4061268"], None),
        (["I21.4", "E11.9", "C50.911", "S72.001A", "M80"], None),
        (["14647-2", "8480-6", "C0027051", "D009203", "HP:0001250"], None),
        (["typical angina", "non-anginal pain", "fixed defect", "age 40-49"], None),
        (PEOPLE, None),
    ],
)
def test_codes_that_could_name_patients_are_pointed_at(codes: list[str], told: str | None) -> None:
    found = close_looks(ward={"codes": codes})
    assert set(found) == ({"ward"} if told else set())
    assert (told or "") in found.get("ward", "")


@pytest.mark.parametrize(("maximum", "told"), [(1e6, True), (999_999, False)])
def test_bounds_in_which_a_record_number_fits_are_pointed_at(maximum: float, told: bool) -> None:
    assert ("age" in close_looks(age={"minimum": 0, "maximum": maximum})) is told


def lines_of(study: Study) -> dict[str, str]:
    return {label: text for section in sections(study) for label, text in section.lines}


def test_a_gate_is_explained_before_anybody_agrees() -> None:
    alone = lines_of(small_study(schema_version=4))
    first = lines_of(small_study(schema_version=4, gate={"epsilon": 0.5}))
    assert not {"gate", "compared are", "passes if", "fails if"} & set(alone)
    assert "stating everybody's average risk" in first["compared are"]
    assert "is better than that of stating the average risk" in first["passes if"]
    assert "Evaluation and gate use the same patients" in first["releases"]
    assert first["expected of the gate"].endswith("patients are too few, it will seldom tell")
    terms = {"epsilon": 0.5, "current": "ab" * 32, "attempts": 5, "subgroups": ["ward"]}
    many = [{"id": name, "declared_size": 9000} for name in ("north", "south", "west")]
    later = lines_of(small_study(schema_version=4, gate=terms, hospitals=many))
    assert "the model with the card abababababababab" in later["compared are"]
    assert "1.00% error (5 gates of this current model share 5%)" in later["passes if"]
    assert "counts up to ±0.4" in later["passes if"]
    assert "less than 2.75% of patients" in later["passes if"]
    assert "or for one subgroup" in later["fails if"]
    assert "too few" not in later["expected of the gate"]


def test_every_study_that_the_model_learnt_from_is_named() -> None:
    life = {"epsilon": 0.9, "delta": 1e-6}
    found = continuing(ancestor(2, epsilon=0.5, life=life), ancestor(1))
    (section,) = [s for s in sections(found) if s.heading == "Earlier models that it continues"]
    lines = dict(section.lines)
    older, own = lines["tiny, version 2"], lines["tiny, version 1"]
    assert own == (
        "ε = 0.7500 at δ = 1e-06 for one patient; this study continues its model; "
        "worth 50 (n·ε², by which models are combined); "
        f"card {CARD[:16]}, study {'d0' * 8}"
    )
    assert "ε = 0.5000" in older
    assert "learnt before; life budget at most 0.9" in older
    assert "no further ε" in lines["how"]
    assert "no more than the life budget" in lines["a patient's life"]


def test_a_draft_names_the_models_that_it_continues() -> None:
    (section,) = [s for s in sections(continuing()) if s.heading.startswith("Earlier models")]
    assert dict(section.lines)["models"].startswith(
        f"{CARD[:16]}; their lineage is added at launch"
    )
    assert not [s for s in sections(small_study()) if s.heading.startswith("Earlier models")]


def said_of(document: dict[str, Any]) -> dict[str, str]:
    return dict(row for one in sections(from_document(document)) for row in one.lines)


def test_a_count_is_named_with_its_bounds_and_levels() -> None:
    said = said_of(quantity_document())
    assert said["the label"] == "'ill': a count of visits, 0 to 8; missing refused"
    assert said["levels"] == "0, 1, 2, 4, 8 visits, from public knowledge"
    assert any("concordance ± " in text for text in said.values())
    assert "the label, LOOK CLOSELY" not in said
    wide = said_of(quantity_document(kind="number", levels=[0, 1, 1e8]))
    assert "record number" in wide["the label, LOOK CLOSELY"]


@pytest.mark.parametrize("codes", [3, 40])
def test_subgroups_that_hide_the_auc_at_horizons_are_said_before_approval(codes: int) -> None:
    document = times_document()
    document["data"]["columns"][1]["codes"] = [f"w{number}" for number in range(codes)]
    document["evaluation"]["subgroups"] = ["ward"]
    hidden = any("states no AUC at horizons" in text for text in said_of(document).values())
    assert hidden == (codes == 40)

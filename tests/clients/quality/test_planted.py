"""One fault planted in real data, found and named; and none found where none was planted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from flo.clients.quality.check import InspectedTable, inspect_table, require_clean
from flo.clients.quality.findings import DataFinding
from flo.clients.quality.sizes import Expected
from flo.clients.sources.files import open_file
from flo.clients.sources.mapping import StudyMapping
from flo.datasets import DATASETS, heart
from flo.errors import DataError
from flo.study.loading import load
from flo.study.schema import Schema
from tests.paths import EXAMPLES

HEART = load(EXAMPLES / "heart" / "study.toml").data
TABLE = heart.load()["cleveland"]
Plant = Callable[[pd.DataFrame], pd.DataFrame]


def looked(
    table: pd.DataFrame, folder: Path, schema: Schema = HEART, declared: int | None = None
) -> InspectedTable:
    table.to_csv(folder / "x.csv", index=False)
    return inspect_table(
        open_file(folder / "x.csv", "patient_id"),
        schema,
        "patient_id",
        expected=None if declared is None else Expected(declared),
    )


def named(found: list[DataFinding], kind: str) -> list[DataFinding]:
    return [finding for finding in found if finding.kind == kind]


def in_mmol(table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(chol=(table["chol"] / 38.67).round(2))


def half_in_mmol(table: pd.DataFrame) -> pd.DataFrame:
    chol = table["chol"].where(np.arange(len(table)) % 2 == 0, table["chol"] / 38.67)
    return table.assign(chol=chol.round(2))


def in_kilopascal(table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(trestbps=(table["trestbps"] / 7.50062).round(1))


def in_months(table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(age=table["age"] * 12)


def swapped_numbers(table: pd.DataFrame) -> pd.DataFrame:
    return table.rename(columns={"chol": "thalch", "thalch": "chol"})


def swapped_codes(table: pd.DataFrame) -> pd.DataFrame:
    return table.rename(columns={"sex": "exang", "exang": "sex"})


def swapped_columns_of_codes(table: pd.DataFrame) -> pd.DataFrame:
    return table.rename(columns={"slope": "thal", "thal": "slope"})


def leaked(table: pd.DataFrame) -> pd.DataFrame:
    """Vessels were coloured because of the diagnosis, for all but a few."""
    ca = (3 * table["disease"]).where(np.arange(len(table)) % 40 != 0, 0)
    return table.assign(ca=ca)


def leaked_by_absence(table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(ca=table["ca"].where(table["disease"] == 1))


def doubled(table: pd.DataFrame) -> pd.DataFrame:
    again = table.head(20).assign(patient_id=[f"again-{n}" for n in range(20)])
    return pd.concat([table, again], ignore_index=True)


def same_patients(table: pd.DataFrame) -> pd.DataFrame:
    """The later visits of some under an id with a zero more."""
    again = table.head(6).assign(
        patient_id=lambda t: t["patient_id"].str.replace("-", "-0"), age=44
    )
    return pd.concat([table, again], ignore_index=True)


def accents_apart(table: pd.DataFrame) -> pd.DataFrame:
    """One patient's visits from two systems, of which one writes the accent apart."""
    ids = table["patient_id"].tolist()
    ids[:2] = ["zo\u00eb", "zoe\u0308"]
    return table.assign(patient_id=ids)


PLANTED = [
    pytest.param(in_mmol, "unit", "chol", "mmol/L, while the study uses mg/dL of cholesterol"),
    pytest.param(half_in_mmol, "unit", "chol", "mmol/L, while the study uses mg/dL of cholesterol"),
    pytest.param(in_kilopascal, "unit", "trestbps", "kPa, while the study uses mm Hg"),
    pytest.param(in_months, "unit", "age", "months, while the study uses years"),
    pytest.param(swapped_numbers, "swapped columns", "chol and thalch", "look swapped"),
    pytest.param(swapped_codes, "swapped columns", "sex and exang", "look swapped"),
    pytest.param(swapped_columns_of_codes, "swapped columns", "slope and thal", "look swapped"),
    pytest.param(leaked, "label leak", "ca", "predicts the label almost alone"),
    pytest.param(leaked_by_absence, "label leak", "ca", "predicts the label almost alone"),
    pytest.param(doubled, "duplicated patients", "", "patient id in every cell, 20 records"),
    pytest.param(same_patients, "one patient two ids", "patient_id", "same patients?, 12 records"),
    pytest.param(accents_apart, "one patient two ids", "patient_id", "same patients?, 2 records"),
    pytest.param(
        accents_apart, "ids in other characters", "patient_id", "separate from its letter, (row 2)"
    ),
]


@pytest.mark.parametrize(("plant", "kind", "column", "words"), PLANTED)
def test_a_planted_fault_is_found_and_named_and_is_in_the_way(
    plant: Plant, kind: str, column: str, words: str, tmp_path: Path
) -> None:
    found = looked(plant(TABLE), tmp_path).found
    (one,) = named(found, kind)
    assert one.column == column
    assert all(word in str(one) for word in words.split(", "))
    with pytest.raises(DataError, match=f"{column or 'equal'}"):
        require_clean(open_file(tmp_path / "x.csv", "patient_id"), HEART, "patient_id", None)


CODED = Schema.model_validate(
    {
        **HEART.model_dump(),
        "columns": [
            HEART.columns[0].model_dump(),
            {"kind": "category", "name": "stage", "codes": ["1", "2", "3", "4"]},
        ],
    }
)


@pytest.mark.parametrize(("step", "words"), [(-1, "one more"), (1, "one less")])
def test_a_shifted_codebook_is_found_and_named(step: int, words: str, tmp_path: Path) -> None:
    stage = 1 + np.arange(len(TABLE)) * 7 % 4 + step
    table = TABLE[["patient_id", "age", "disease"]].assign(stage=stage)
    (one,) = named(looked(table, tmp_path, CODED).found, "shifted codes")
    assert one.column == "stage"
    assert words in one.rule


def test_within_bounds_a_wrong_unit_is_asked_about(tmp_path: Path) -> None:
    """µmol/L beside bounds that are wide enough for both: only where the values crowd tells."""
    wide = Schema.model_validate(
        {
            **HEART.model_dump(),
            "columns": [
                {
                    **{"kind": "number", "name": "glucose", "unit": "mg/dL"},
                    **{"minimum": 0, "maximum": 500},
                }
            ],
        }
    )
    values = np.random.default_rng(3).normal(110, 30, len(TABLE)).clip(50, 400)
    table = TABLE[["patient_id", "disease"]].assign(glucose=(values / 18.016).round(1))
    (one,) = named(looked(table, tmp_path, wide).found, "unit")
    assert one.level == "to accept"
    assert "mmol/L, while the study uses mg/dL of glucose" in one.rule
    right = TABLE[["patient_id", "disease"]].assign(glucose=values.round(1))
    assert not named(looked(right, tmp_path, wide).found, "unit")


@pytest.mark.parametrize("only", [0, 1])
def test_a_label_that_never_changes_is_asked_about(only: int, tmp_path: Path) -> None:
    (one,) = named(looked(TABLE.assign(disease=only), tmp_path).found, "label of one class")
    assert (one.column, one.level) == ("disease", "to accept")
    assert f"is {only} in every record" in one.rule


def test_codes_in_other_letters_are_no_names(tmp_path: Path) -> None:
    found = looked(TABLE.assign(cp=TABLE["cp"].str.upper()), tmp_path).found
    assert not named(found, "identifier")


@pytest.mark.parametrize(
    "spelt", [str.upper, lambda code: {"Male": "m\u00e4nnlich"}.get(code, code)]
)
def test_a_codebook_in_other_letters_or_another_language_has_a_way_out(
    spelt: Callable[[str], str], tmp_path: Path
) -> None:
    TABLE.assign(sex=TABLE["sex"].map(spelt)).to_csv(tmp_path / "x.csv", index=False)
    with pytest.raises(DataError, match="'sex': must be a code of the study's codebook") as refused:
        require_clean(open_file(tmp_path / "x.csv", "patient_id"), HEART, "patient_id", None)
    assert "use `codes` in mapping.toml, which flo site map drafts" in refused.value.hint


def test_a_field_whose_name_tells_is_refused_whatever_it_is_mapped_to(tmp_path: Path) -> None:
    TABLE.rename(columns={"cp": "patient_surname"}).to_csv(tmp_path / "x.csv", index=False)
    columns = {c: {"field": c} for c in TABLE.columns if c not in ("patient_id", "cp")}
    mapping = StudyMapping.model_validate(
        {"columns": columns | {"cp": {"field": "patient_surname"}}}
    )
    with pytest.raises(DataError, match="column 'cp': is mapped to a name; no study may use it"):
        require_clean(open_file(tmp_path / "x.csv", "patient_id"), HEART, "patient_id", mapping)


def test_a_column_that_names_people_is_refused_and_cannot_be_accepted(tmp_path: Path) -> None:
    """A site's own gate: the coordinator may have signed the study all the same."""
    named = {**HEART.columns[0].model_dump(), "name": "first_name"}
    schema = Schema.model_validate({**HEART.model_dump(), "columns": [named]})
    TABLE[["patient_id", "age", "disease"]].rename(columns={"age": "first_name"}).to_csv(
        tmp_path / "x.csv", index=False
    )
    accepted = {"identifier: first_name": "We want it."}
    mapping = StudyMapping.model_validate({"accepted": accepted})
    with pytest.raises(DataError, match="'first_name': suggests a name of a patient by its header"):
        require_clean(open_file(tmp_path / "x.csv", "patient_id"), schema, "patient_id", mapping)


def test_what_is_mostly_missing_is_noted(tmp_path: Path) -> None:
    found = looked(TABLE.assign(ca=float("nan")), tmp_path).found
    (one,) = named(found, "missing")
    assert (one.column, one.level) == ("ca", "note")


@pytest.mark.parametrize(
    "name",
    ["heart-disease", "support2", pytest.param("fars", marks=pytest.mark.slow)],  # 5 s
)
def test_nothing_is_in_the_way_at_any_real_site(name: str, tmp_path: Path) -> None:
    """63 sites: a gate that cries wolf is soon opened for everything."""
    study = load(EXAMPLES / name.split("-")[0] / "study.toml")
    for hospital, table in DATASETS[name]().items():
        declared = study.hospital(hospital).declared_size
        found = looked(table, tmp_path, study.data, declared).found
        assert not [str(f) for f in found if f.level != "note"], hospital

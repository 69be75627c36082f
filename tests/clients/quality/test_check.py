"""Data checks: a finding names column, rule, rows and count, and never the value."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from flo.clients.quality.check import EncodedTable, encode_checked, require_clean
from flo.clients.sources.files import TableSource, open_file
from flo.clients.sources.mapping import StudyMapping, by_name
from flo.errors import DataError
from flo.study.schema import Schema
from tests.builders import small_study

SCHEMA = small_study().data
MANY = SCHEMA.model_copy(update={"records_per_patient": "many"})
INDICATED = Schema.model_validate(
    {
        **SCHEMA.model_dump(),
        "columns": [
            {**SCHEMA.columns[0].model_dump(), "missing": "indicator", "missing_value": 50},
            SCHEMA.columns[1].model_dump(),
        ],
    }
)
SECRETS = ("98765.4321", "98765", "secretcode")


def good() -> dict[str, list[Any]]:
    return {
        "patient_id": ["p1", "p2", "p3", "p4"],
        "age": ["20", "50", "75", "100"],
        "ward": ["a", "b", None, "c"],
        "ill": ["0", "1", "1", "0"],
    }


def written(folder: Path, kind: str, columns: dict[str, list[Any]]) -> TableSource:
    """The columns as the hospital's file of that kind, read as FLO reads it."""
    path = folder / f"patients.{kind}"
    table = pd.DataFrame(columns, dtype=object)
    if kind == "csv":
        table.to_csv(path, index=False)
    else:
        table.astype("string").to_parquet(path)
    return open_file(path, "patient_id")


def with_cell(column: str, row: int, value: str | None) -> dict[str, list[Any]]:
    columns = good()
    columns[column][row - 1] = value
    return columns


def without(column: str) -> dict[str, list[Any]]:
    return {name: cells for name, cells in good().items() if name != column}


TABLES = [
    pytest.param({**good(), "mrn": ["secretcode"] * 4}, "'mrn': is not in the study", id="unknown"),
    pytest.param(without("age"), "'age': is missing from the file", id="no column"),
    pytest.param(without("ill"), "'ill': is missing from the file", id="no label column"),
    pytest.param(without("patient_id"), "'patient_id': is missing", id="no id column"),
    pytest.param(
        with_cell("age", 2, "98765.4321"),
        "'age': must lie within [0, 100] years, 1 record (row 2)",
        id="above the bounds",
    ),
    pytest.param(
        with_cell("age", 4, "-98765.4321"), "'age': must lie within [0, 100] years", id="below"
    ),
    pytest.param(
        with_cell("age", 1, "inf"), "'age': must be finite, 1 record (row 1)", id="infinity"
    ),
    pytest.param(with_cell("age", 1, "1e999"), "'age': must be finite", id="overflow"),
    pytest.param(
        with_cell("age", 3, "secretcode"),
        "'age': must be a number, 1 record (row 3)",
        id="text in a number column",
    ),
    pytest.param(
        with_cell("age", 3, None),
        "'age': cells are missing, and the study allows none",
        id="missing cell",
    ),
    pytest.param(
        with_cell("ward", 2, "secretcode"),
        "'ward': must be a code of the study's codebook (a, b, c), 1 record (row 2)",
        id="outside the codebook",
    ),
    pytest.param(with_cell("ward", 2, "A"), "'ward': must be a code", id="code in another case"),
    pytest.param(
        with_cell("ill", 2, "98765"),
        "'ill': the label must be 0 or 1, 1 record (row 2)",
        id="label",
    ),
    pytest.param(with_cell("ill", 4, None), "'ill': the label must be 0 or 1", id="missing label"),
    pytest.param(
        with_cell("patient_id", 3, None),
        "'patient_id': every record needs a patient id, 1 record (row 3)",
        id="missing patient id",
    ),
    pytest.param(
        {**good(), "patient_id": ["secretcode", "p2", "p3", " SecretCode "]},
        "'patient_id': the study says one record per patient, 2 records (rows 1, 4)",
        id="same patient twice",
    ),
    pytest.param({n: [] for n in good()}, "'patient_id': the file holds no records", id="empty"),
]


@pytest.mark.parametrize("kind", ["csv", "parquet"])
@pytest.mark.parametrize(("columns", "finding"), TABLES)
def test_a_table_that_does_not_fit_is_refused_without_a_value(
    tmp_path: Path, kind: str, columns: dict[str, list[Any]], finding: str
) -> None:
    with pytest.raises(DataError) as refusal:
        encode_checked(written(tmp_path, kind, columns), SCHEMA, "patient_id")
    shown = f"{refusal.value} {refusal.value.hint} {refusal.value!r}"
    assert finding in shown
    assert not [secret for secret in SECRETS if secret in shown]


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_table_that_fits_is_encoded(tmp_path: Path, kind: str) -> None:
    checked = encode_checked(written(tmp_path, kind, good()), SCHEMA, "patient_id")
    assert checked.patient_ids == ["p1", "p2", "p3", "p4"]
    assert checked.labels.tolist() == [0, 1, 1, 0]
    # age in [0, 100], ward a, ward b, ward c, ward missing
    assert checked.inputs.tolist() == [
        [-0.6, 1, 0, 0, 0],
        [0, 0, 1, 0, 0],
        [0.5, 0, 0, 0, 1],
        [1, 0, 0, 1, 0],
    ]


def test_numbers_in_a_parquet_file_fit_like_text(tmp_path: Path) -> None:
    path = tmp_path / "typed.parquet"
    pd.DataFrame(
        {
            "patient_id": [7, 8, 9],
            "age": [20.0, float("nan"), 100.0],
            "ward": pd.Categorical(["a", None, "b"]),
            "ill": [0.0, 1.0, 1.0],
        }
    ).to_parquet(path)
    checked = encode_checked(open_file(path, "patient_id"), INDICATED, "patient_id")
    assert checked.patient_ids == ["7", "8", "9"]
    assert checked.inputs[:, 1].tolist() == [0, 1, 0]
    assert checked.labels.tolist() == [0, 1, 1]


@pytest.mark.parametrize("spelling", ["", "NA", "n/a", "NaN", "NULL", "None", " na "])
def test_every_spelling_of_missing_is_missing(tmp_path: Path, spelling: str) -> None:
    table = written(tmp_path, "csv", with_cell("ward", 1, spelling))
    assert encode_checked(table, SCHEMA, "patient_id").inputs[0].tolist()[1:] == [0, 0, 0, 1]


def test_columns_on_the_ignore_list_are_left_out(tmp_path: Path) -> None:
    table = written(tmp_path, "csv", {**good(), "mrn": ["secretcode"] * 4, "bmi": ["x"] * 4})
    checked = encode_checked(table, SCHEMA, "patient_id", frozenset({"mrn", "bmi", "not there"}))
    assert checked.inputs.shape == (4, 5)
    with pytest.raises(DataError, match="'bmi': is not in the study"):
        encode_checked(table, SCHEMA, "patient_id", frozenset({"mrn"}))


def test_hundreds_of_columns_too_many_are_one_finding_for_each_sort(tmp_path: Path) -> None:
    more = {f"extra{i}": [str(i)] * 4 for i in range(500)}
    known = {f"mail{i}": ["anna@example.org"] * 4 for i in range(30)}
    table = written(tmp_path, "csv", {**good(), **more, **known})
    with pytest.raises(DataError) as refused:
        encode_checked(table, SCHEMA, "patient_id")
    text = str(refused.value)
    assert text.count("\n") == 2
    assert "500 columns ('extra0', 'extra1'," in text
    assert "30 columns ('mail0', 'mail1'," in text
    assert "no study may have them" in text


def test_who_simulates_is_not_told_of_approvals_or_a_site(tmp_path: Path) -> None:
    table = written(tmp_path, "csv", {**good(), "age": ["20", "", "30", "999"], "bmi": ["1"] * 4})
    (tmp_path / "none").mkdir()
    for data in (table, written(tmp_path / "none", "csv", {"age": ["1"]})):
        with pytest.raises(DataError) as refused:
            encode_checked(data, SCHEMA, "patient_id")
        said = f"{refused.value} {refused.value.hint}"
        assert not {"site.toml", "approve", "approved", "spent", "mapping.toml"} & set(said.split())


def test_a_patient_may_have_many_records_if_the_study_says_so(tmp_path: Path) -> None:
    table = written(tmp_path, "csv", {**good(), "patient_id": ["p1", "P1 ", "p2", "p1"]})
    assert encode_checked(table, MANY, "patient_id").patient_ids == ["p1", "p1", "p2", "p1"]


@pytest.mark.parametrize("most", [1, 2, 3])
def test_of_a_patient_the_first_records_count_and_no_more(most: int, tmp_path: Path) -> None:
    schema = MANY.model_copy(update={"most_records": most})
    table = written(tmp_path, "csv", {**good(), "patient_id": ["p1", "p1", "p2", "p1"]})
    found = encode_checked(table, schema, "patient_id")
    rows = [row for row, record in enumerate([1, 2, 1, 3]) if record <= most]
    assert found.patient_ids == [["p1", "p1", "p2", "p1"][row] for row in rows]
    everything = encode_checked(table, MANY, "patient_id")
    np.testing.assert_array_equal(found.inputs, everything.inputs[rows])
    np.testing.assert_array_equal(found.labels, everything.labels[rows])


def test_the_patient_id_is_no_column_of_a_study(tmp_path: Path) -> None:
    table = written(tmp_path, "csv", {**good(), "patient_id": ["1", "2", "3", "4"]})
    for column in ("age", "ward", "ill"):
        by = StudyMapping.model_validate(
            {
                "columns": {
                    name: {"field": "patient_id" if name == column else name}
                    for name in ("age", "ward", "ill")
                }
            }
        )
        with pytest.raises(DataError, match=f"'{column}': is mapped to the patient id"):
            require_clean(table, SCHEMA, "patient_id", by)
    with pytest.raises(DataError, match="'age': is this population's patient id"):
        encode_checked(table, SCHEMA, "age")


def test_every_finding_is_shown_not_only_the_first(tmp_path: Path) -> None:
    columns = {**good(), "age": ["-1", "101", "x", "50"], "ill": ["2", "1", "1", "0"]}
    with pytest.raises(DataError) as refusal:
        encode_checked(written(tmp_path, "csv", columns), SCHEMA, "patient_id")
    text = str(refusal.value)
    assert "must be a number, 1 record (row 3)" in text
    assert "must lie within [0, 100] years, 2 records (rows 1, 2)" in text
    assert "the label must be 0 or 1, 1 record (row 1)" in text


def test_many_rows_are_counted_and_the_first_five_shown(tmp_path: Path) -> None:
    columns = {
        "patient_id": [f"p{i}" for i in range(9)],
        "age": ["98765"] * 9,
        "ward": ["a"] * 9,
        "ill": ["0"] * 9,
    }
    with pytest.raises(DataError, match=r"9 records \(rows 1, 2, 3, 4, 5, \.\.\.\)"):
        encode_checked(written(tmp_path, "csv", columns), SCHEMA, "patient_id")


@pytest.mark.parametrize(
    ("name", "data", "fragment"),
    [
        pytest.param("x.csv", None, "does not exist", id="no file"),
        pytest.param("x.xlsx", b"secretcode", "only .csv and .parquet", id="another kind"),
        pytest.param("x.csv", b"", "cannot be read as csv", id="empty file"),
        pytest.param("x.csv", b"a,b\n1,secretcode\n1,2,3\n", "cannot be read", id="ragged"),
        pytest.param("x.csv", b"a,b\n1,\xff\xfe\n", "cannot be read as csv", id="not UTF-8"),
        pytest.param("x.parquet", b"secretcode", "cannot be read as parquet", id="no Parquet"),
    ],
)
def test_a_file_that_cannot_be_read_is_named_and_not_quoted(
    tmp_path: Path, name: str, data: bytes | None, fragment: str
) -> None:
    path = tmp_path / name
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(DataError) as refusal:
        list(open_file(path, "a").read(by_name(["b"]), SCHEMA))
    assert name in str(refusal.value)
    assert fragment in str(refusal.value)
    assert "secretcode" not in str(refusal.value)
    assert refusal.value.__cause__ is None


def test_one_patients_inputs_do_not_depend_on_who_else_is_in_the_file(tmp_path: Path) -> None:
    together = encode_checked(written(tmp_path, "csv", good()), SCHEMA, "patient_id")
    for row in range(4):
        one = {name: [cells[row]] for name, cells in good().items()}
        alone: EncodedTable = encode_checked(written(tmp_path, "csv", one), SCHEMA, "patient_id")
        np.testing.assert_array_equal(alone.inputs[0], together.inputs[row])


def test_a_row_with_a_cell_too_many_never_shifts_the_columns(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    # every row has one cell more than the header: the first must not become an index
    path.write_text("patient_id,age,ward,ill\nx,p1,20,a,0\nx,p2,50,b,1\n")
    with pytest.raises(DataError):
        encode_checked(open_file(path, "patient_id"), SCHEMA, "patient_id")


# -- images ----------------------------------------------------------------------------------------

PIXELS = [f"px_{i}" for i in range(8 * 9)]
SCANS = Schema.model_validate(
    {
        "record": "scan",
        "label": "ill",
        "columns": [
            {
                **{"kind": "image", "name": "px", "height": 8, "width": 9},
                **{"minimum": 0, "maximum": 255},
            }
        ],
    }
)


def scans(**cells: list[Any]) -> dict[str, list[Any]]:
    """Three scans, the first black and the last white; ``cells`` replace columns."""
    columns: dict[str, list[Any]] = {"patient_id": ["p1", "p2", "p3"], "ill": ["0", "1", "1"]}
    columns |= {pixel: ["0", str(i), "255"] for i, pixel in enumerate(PIXELS)}
    return columns | cells


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_an_image_is_read_pixel_by_pixel_in_order_wherever_its_columns_stand(
    tmp_path: Path, kind: str
) -> None:
    columns = dict(reversed(scans().items()))
    checked = encode_checked(written(tmp_path, kind, columns), SCANS, "patient_id")
    assert checked.inputs.shape == (3, 72)
    assert set(checked.inputs[0].tolist()) == {-1.0}
    assert set(checked.inputs[2].tolist()) == {1.0}
    np.testing.assert_allclose(checked.inputs[1], [2 * i / 255 - 1 for i in range(72)], atol=1e-12)
    assert checked.labels.tolist() == [0, 1, 1]
    assert checked.patient_ids == ["p1", "p2", "p3"]


@pytest.mark.parametrize("kind", ["csv", "parquet"])
@pytest.mark.parametrize(
    ("cells", "rows"),
    [
        pytest.param({"px_5": ["0", "98765", "0"]}, "1 record (row 2)", id="above"),
        pytest.param({"px_5": ["0", "0", "-98765.4321"]}, "1 record (row 3)", id="below"),
        pytest.param({"px_71": ["secretcode", "0", "0"]}, "1 record (row 1)", id="text"),
        pytest.param({"px_0": ["0", None, "0"]}, "1 record (row 2)", id="missing cell"),
        pytest.param({"px_0": ["nan", "0", "0"]}, "1 record (row 1)", id="NaN"),
        pytest.param({"px_0": ["inf", "0", "-inf"]}, "2 records (rows 1, 3)", id="infinite"),
        pytest.param({"px_0": ["1e999", "0", "0"]}, "1 record (row 1)", id="overflow"),
        pytest.param(
            {"px_0": ["256", "0", "0"], "px_1": ["256", "x", "0"], "px_2": ["0", "0", None]},
            "3 records (rows 1, 2, 3)",
            id="several pixels of several scans",
        ),
    ],
)
def test_pixels_that_are_no_numbers_within_bounds_are_one_finding_without_a_value(
    tmp_path: Path, kind: str, cells: dict[str, list[Any]], rows: str
) -> None:
    with pytest.raises(DataError) as refusal:
        encode_checked(written(tmp_path, kind, scans(**cells)), SCANS, "patient_id")
    shown = f"{refusal.value} {refusal.value.hint} {refusal.value!r}"
    rule = f"column 'px': every pixel must be a number within [0, 255], {rows}"
    assert rule in shown
    assert str(refusal.value).count("column ") == 1
    assert not [secret for secret in SECRETS if secret in shown]


def test_a_pixel_column_that_is_missing_or_too_many_is_named(tmp_path: Path) -> None:
    columns = {name: cells for name, cells in scans().items() if name not in ("px_7", "px_70")}
    with pytest.raises(DataError) as refusal:
        encode_checked(
            written(tmp_path, "csv", {**columns, "px_72": ["0"] * 3}), SCANS, "patient_id"
        )
    text = str(refusal.value)
    assert "column 'px_7': is missing from the file" in text
    assert "column 'px_70': is missing from the file" in text
    assert "column 'px_72': is not in the study" in text
    assert text.count("column ") == 3


def test_an_image_is_not_one_column_of_its_name(tmp_path: Path) -> None:
    columns = {"patient_id": ["p1"], "ill": ["0"], "px": ["0"]}
    with pytest.raises(DataError, match="'px': is not in the study"):
        encode_checked(written(tmp_path, "csv", columns), SCANS, "patient_id")


def test_one_scan_does_not_depend_on_which_others_are_in_the_file(tmp_path: Path) -> None:
    together = encode_checked(written(tmp_path, "csv", scans()), SCANS, "patient_id")
    for row in range(3):
        one = {name: [cells[row]] for name, cells in scans().items()}
        alone = encode_checked(written(tmp_path, "csv", one), SCANS, "patient_id")
        np.testing.assert_array_equal(alone.inputs[0], together.inputs[row])

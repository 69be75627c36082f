"""CSV files as spreadsheets write them, and Parquet files, are one and the same table."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np
import pandas as pd
import pytest

from flo.clients.quality.check import encode_checked, inspect_table, require_clean
from flo.clients.sources import files
from flo.clients.sources.error_wrapper import ErrorBoundary
from flo.clients.sources.files import open_file
from flo.clients.sources.mapping import StudyMapping
from flo.clients.sources.source import DataSource, SourceField
from flo.errors import DataError
from flo.study.schema import Schema
from tests.builders import small_study

SCHEMA = small_study().data
LINES = ["patient_id,age,ward,ill", "p1,20.5,a,0", "p2,50,b,1"]


def read(folder: Path, text: str | bytes, name: str = "x.csv") -> np.ndarray:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return encode_checked(open_file(path, "patient_id"), SCHEMA, "patient_id").inputs


@pytest.mark.parametrize("separator", [";", "\t", "|"], ids=repr)
def test_what_separates_cells_is_seen(tmp_path: Path, separator: str) -> None:
    usual = read(tmp_path, "\n".join(LINES))
    other = read(tmp_path, "\n".join(line.replace(",", separator) for line in LINES))
    np.testing.assert_array_equal(usual, other)


def test_with_semicolons_a_comma_is_the_decimal_sign(tmp_path: Path) -> None:
    usual = read(tmp_path, "\n".join(LINES))
    spreadsheet = "\r\n".join(line.replace(",", ";").replace(".", ",") for line in LINES)
    np.testing.assert_array_equal(usual, read(tmp_path, f"\ufeff{spreadsheet}\r\n"))


@pytest.mark.parametrize("separator", [";", "\t"], ids=repr)
def test_a_point_may_mark_thousands_where_a_comma_is_the_decimal_sign(
    tmp_path: Path, separator: str
) -> None:
    rows = ["patient_id,age,ward,ill", "p1,1.234,a,0", "p2,50,b,1", "p3,7;5,b,1"]
    text = "\n".join(rows).replace(",", separator).replace("7;5", "7,5")
    (tmp_path / "x.csv").write_text(text.replace(f"7{separator}5", "7,5"))
    found = inspect_table(open_file(tmp_path / "x.csv", "patient_id"), SCHEMA, "patient_id").found
    (one,) = [finding for finding in found if finding.kind == "thousands"]
    assert (one.column, one.level, one.rule[-3:]) == ("age", "to accept", ": 1")


@pytest.mark.parametrize(
    ("cells", "asked"),
    [
        (["1.234", "1.25"], False),
        (["1.234", "1.2345"], False),
        (["1.234", "0.125"], True),  # which says nothing about the other
        (["1.25", "1.234", "7,5"], True),
    ],
)
def test_whether_a_point_marks_thousands_is_asked_once_all_cells_are_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cells: list[str], asked: bool
) -> None:
    monkeypatch.setattr(files, "_BLOCK_BYTES", 40)  # a batch has a row or two
    for order in (cells, cells[::-1]):
        rows = "".join(f"p{n};{cell};a;{n % 2}\n" for n, cell in enumerate(order))
        (tmp_path / "x.csv").write_text(f"patient_id;age;ward;ill\n{rows}")
        found = inspect_table(
            open_file(tmp_path / "x.csv", "patient_id"), SCHEMA, "patient_id"
        ).found
        assert [f.kind for f in found if f.kind == "thousands"] == ["thousands"] * asked


def test_the_comma_of_an_id_or_a_code_stays(tmp_path: Path) -> None:
    coded = Schema.model_validate(
        {
            **SCHEMA.model_dump(),
            "columns": [{"kind": "category", "name": "ward", "codes": ["1,2", "1.2"]}],
        }
    )
    (tmp_path / "x.csv").write_text("patient_id;ward;ill\n1,5;1,2;0\n1.5;1.2;1\n")
    checked = encode_checked(open_file(tmp_path / "x.csv", "patient_id"), coded, "patient_id")
    assert checked.patient_ids == ["1,5", "1.5"]
    assert checked.inputs.ravel().tolist() == [0, 1]


def test_a_separator_within_a_quoted_name_separates_nothing(tmp_path: Path) -> None:
    text = '"patient_id";"plt, Tsd/µl, EDTA, 1, 2";age;ward;ill\np1;5;20,5;a;0\np2;6;50;b;1\n'
    (tmp_path / "x.csv").write_text(text)
    assert len(open_file(tmp_path / "x.csv", "patient_id").fields()) == 5


@pytest.mark.parametrize(
    ("data", "hint"),
    [
        ("\n".join(LINES).encode("utf-16"), "UTF-16"),
        ("\n".join(LINES).replace("a", "ä").encode("cp1252"), "not UTF-8"),
        (("sep=;\n" + "\n".join(LINES)).encode(), "remove that line"),
    ],
    ids=["utf-16", "windows", "sep="],
)
def test_what_is_unusual_about_a_file_is_said(tmp_path: Path, data: bytes, hint: str) -> None:
    with pytest.raises(DataError, match="cannot be read as csv") as refused:
        read(tmp_path, data)
    assert hint in refused.value.hint


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").mkdir()
    with pytest.raises(DataError, match="is a folder"):
        open_file(tmp_path / "x.parquet", "patient_id")


def test_with_commas_it_is_not(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="'age': must be a number, 1 record"):
        read(tmp_path, 'patient_id,age,ward,ill\np1,"20,5",a,0\np2,50,b,1\n')


def test_a_cell_in_quotes_may_hold_separators(tmp_path: Path) -> None:
    text = 'patient_id,age,ward,ill\n"p,1",20.5,a,0\n\np2,50,b,1\n'
    np.testing.assert_array_equal(read(tmp_path, text), read(tmp_path, "\n".join(LINES)))


@pytest.mark.parametrize("closing", ["", '7"'], ids=["open", "closed later"])
def test_a_stray_quote_swallows_no_patient(tmp_path: Path, closing: str) -> None:
    """Also in a column that nobody asked for."""
    rows = [f"p{n},{20 + n % 60},a,{n % 2},x" for n in range(100)]
    rows[40] = 'p40,33,a,0,"5 inch'
    rows[60] = f"p60,33,a,0,{closing}"
    (tmp_path / "x.csv").write_text("\n".join(["patient_id,age,ward,ill,note", *rows]) + "\n")
    with pytest.raises(DataError, match="has 100 lines below its header and"):
        encode_checked(open_file(tmp_path / "x.csv", "patient_id"), SCHEMA, "patient_id", ["note"])


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("patient_id,age,ward,ill\np1,20,a,0,secretcode\n", "cannot be read as csv, row 1"),
        ("patient_id,age,age,ward,ill\np1,20,20,a,0\n", "same column name occurs twice"),
        (b"patient_id,age,ward,ill\np1,20,\xff\xfesecretcode,0\n", "cannot be read as csv"),
        ("", "cannot be read as csv"),
        ("patient_id,age,ward,ill\n", "holds no records"),
    ],
)
def test_a_file_that_is_no_table_is_refused_without_a_cell(
    tmp_path: Path, text: str | bytes, why: str
) -> None:
    with pytest.raises(DataError, match=why) as refused:
        read(tmp_path, text)
    assert "secretcode" not in f"{refused.value}{refused.value.hint}"


def test_a_header_in_another_encoding_is_told_without_it(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_bytes("patient_id,größe\np1,1\n".encode("cp1252"))
    source = ErrorBoundary(open_file(tmp_path / "x.csv", "patient_id"))
    with pytest.raises(DataError, match=r"x\.csv cannot be read") as refused:
        source.fields()
    assert "UTF-8" in str(refused.value.hint)


def test_a_parquet_file_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read as parquet"):
        read(tmp_path, "PAR1 nonsense", "x.parquet")


def test_another_kind_of_file_is_refused_with_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"x\.xlsx: only \.csv and \.parquet"):
        read(tmp_path, "", "x.xlsx")


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_mapping_renames_converts_and_recodes(tmp_path: Path, kind: str) -> None:
    table = pd.DataFrame(
        {
            "mrn": ["p1", "p2", "p3"],
            "months": [240.0, 600.0, -1.0],
            "station": ["A1", "B9", "A2"],
            "outcome": ["healthy", "sick", "sick"],
            "surname": ["Lovelace", "Byron", "Babbage"],  # not mapped, so never read
        }
    )
    path = tmp_path / f"x.{kind}"
    table.to_csv(path, index=False) if kind == "csv" else table.to_parquet(path)
    schema = SCHEMA.model_copy(
        update={
            "columns": (
                SCHEMA.columns[0].model_copy(update={"missing": "indicator", "missing_value": 50}),
                SCHEMA.columns[1],
            )
        }
    )
    mapping = StudyMapping.model_validate(
        {
            "columns": {
                "age": {"field": "months", "unit": "months", "multiply": 1 / 12, "missing": ["-1"]},
                "ward": {"field": "station", "codes": {"A1": "a", "A2": "a", "B9": "b"}},
                "ill": {"field": "outcome", "codes": {"healthy": "0", "sick": "1"}},
            }
        }
    )
    found = require_clean(open_file(path, "mrn"), schema, "mrn", mapping)
    assert found.patient_ids == ["p1", "p2", "p3"]
    np.testing.assert_array_equal(found.labels, [0, 1, 1])
    np.testing.assert_allclose(found.inputs[:, 0], [-0.6, 0.0, 0.0])
    np.testing.assert_array_equal(found.inputs[:, 1], [0, 0, 1])  # unknown
    np.testing.assert_array_equal(found.inputs[:, 2:5], [[1, 0, 0], [0, 1, 0], [1, 0, 0]])


def test_a_code_that_the_mapping_does_not_name_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("patient_id,age,ward,ill\np1,20,a,0\np2,50,b,1\n")
    columns = {name: {"field": name} for name in ("age", "ward", "ill")}
    mapping = StudyMapping.model_validate(
        {"columns": columns | {"ward": {"field": "ward", "codes": {"a": "a"}}}}
    )
    with pytest.raises(DataError, match=r"'ward': must be a code of the study's codebook .*row 2"):
        require_clean(open_file(tmp_path / "x.csv", "patient_id"), SCHEMA, "patient_id", mapping)


def test_a_file_that_this_user_may_not_read_is_named_with_the_way_out() -> None:
    """The superuser may, so the source says what the system would."""

    class Locked:
        name, is_table, has_events = "patients.csv", True, False

        def fields(self) -> list[SourceField]:
            raise PermissionError(13, "Permission denied", "/secret/patients.csv")

    with pytest.raises(DataError, match=r"patients\.csv may not be read by the user") as refused:
        ErrorBoundary(cast(DataSource, Locked())).fields()
    assert "chown" in refused.value.hint

"""Notes become numbers in a confined process, one at a time, from every table alike."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import sqlalchemy as sa

from flo.arrays import Floats
from flo.clients.data_process import encoding
from flo.clients.data_process.encoding import InstalledEncoders, TriedEncoders, tokenizer_path
from flo.clients.quality.check import (
    EncodedTable,
    check_inputs,
    encode_checked,
    inspect_table,
    require_clean,
)
from flo.clients.quality.inspection import inspection, page
from flo.clients.sources.dicom import DicomFolder
from flo.clients.sources.files import open_file
from flo.clients.sources.sql import SqlTable
from flo.errors import DataError, FloError, StudyError, TrustError, UsageError
from flo.study.columns import NoteColumn
from flo.study.schema import Schema
from tests import encoders, notes
from tests.clients.sources.images import MAPPING, write

pytestmark = pytest.mark.processes

LETTERS = (
    *("the patient has chest pain.", "no fever and no cough.", "painful cough", "xyz"),
    *("the patient has a fever and a cough and no chest pain and no", "a"),
)
PLANTED = "Mrs Erika Mustermann, born 1958-04-02, phone 030 1234567, e@x.org"


def column(folder: Path, **changes: object) -> NoteColumn:
    stated = notes.kept(folder, notes.encoder(), notes.tokenizer()) | changes
    return NoteColumn.model_validate({"kind": "note", "name": "letter", "encoder": stated})


def schema(folder: Path, missing: str = "refuse", many: str = "one") -> Schema:
    age = {"kind": "number", "name": "age", "unit": "years", "minimum": 0, "maximum": 120}
    letter = column(folder).model_dump() | {"missing": missing}
    document = {"record": "one visit", "label": "ill", "columns": [age, letter]}
    return Schema.model_validate(document | {"records_per_patient": many})


def frame(letters: Sequence[object]) -> pd.DataFrame:
    count = len(letters)
    columns: dict[str, Any] = {"id": [f"p{number}" for number in range(count)]}
    ages = 40 + np.arange(count) * 7 % 31
    return pd.DataFrame(columns | {"age": ages, "letter": letters, "ill": np.arange(count) % 2})


def read(folder: Path, letters: Sequence[object], of: Schema) -> EncodedTable:
    frame(letters).to_parquet(folder / "notes.parquet")
    source = open_file(folder / "notes.parquet", "id")
    return encode_checked(source, of, "id", (), InstalledEncoders(folder))


def test_features_are_what_a_person_computes_and_progress_is_told(tmp_path: Path) -> None:
    told = list[tuple[int, int]]()
    runs = InstalledEncoders(tmp_path, progress=lambda *one: told.append(one))
    found = runs.features(column(tmp_path), LETTERS)
    np.testing.assert_allclose(found, notes.expected(LETTERS), atol=1e-6)
    assert told == [(4, 6), (6, 6)]
    assert runs.features(column(tmp_path), []).shape == (0, notes.FEATURES)
    inputs = read(tmp_path, LETTERS, schema(tmp_path)).inputs[:, 1:]
    np.testing.assert_allclose((inputs**2).mean(axis=1), 1.0)
    np.testing.assert_allclose(inputs * found[:, :1] / inputs[:, :1], found, atol=1e-6)


@pytest.mark.parametrize(
    "other",
    [
        *(
            "",
            " \n\t ",
            "[PAD] [SEP] [CLS]",
            "pain" * 25_000,
            "pain " * 25_000,
            "\u0000\u202e\ufeff",
        ),
        *("𝒫åⅣ\ufb01 日本", "a" * 101, "\n".join(LETTERS), PLANTED),
    ],
    ids=lambda text: repr(text[:12]),
)
def test_no_note_changes_the_features_of_another_by_one_bit(tmp_path: Path, other: str) -> None:
    of = schema(tmp_path, missing="indicator")

    def numbers(letters: Sequence[str]) -> Floats:
        return read(tmp_path, letters, of).inputs[:, 1:]  # all but age

    whole, kept = numbers(LETTERS), np.arange(len(LETTERS)) != 1
    changed = [LETTERS[0], other, *LETTERS[2:]]
    np.testing.assert_array_equal(numbers(changed)[kept], whole[kept])
    np.testing.assert_array_equal(numbers([LETTERS[0], *LETTERS[2:]]), whole[kept])
    np.testing.assert_array_equal(numbers(changed[::-1])[::-1][kept], whole[kept])


def test_csv_parquet_and_a_database_give_the_same_tensors(tmp_path: Path) -> None:
    of, table = schema(tmp_path, missing="indicator"), frame([*LETTERS, None, "", "N/A"])
    table.to_csv(tmp_path / "notes.csv", index=False)
    table.to_parquet(tmp_path / "notes.parquet")
    address = f"sqlite:///{tmp_path}/notes.db"
    table.to_sql("visits", sa.create_engine(address), index=False)
    sources = (
        open_file(tmp_path / "notes.csv", "id"),
        open_file(tmp_path / "notes.parquet", "id"),
        SqlTable(address, "visits", None, "id"),
    )
    runs = InstalledEncoders(tmp_path)
    found = [encode_checked(one, of, "id", (), runs).inputs for one in sources]
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])
    assert found[0][:, -1].tolist() == [0.0] * 6 + [1.0] * 3
    assert not found[0][6:, 1:-1].any()
    alone = [check_inputs(one, of, runs) for one in sources]  # to predict for
    np.testing.assert_array_equal(alone[0], found[0])


def test_a_note_with_line_breaks_is_read_from_parquet_and_said_of_csv(tmp_path: Path) -> None:
    of, lines = schema(tmp_path), ["the patient has\nno fever", *LETTERS[1:]]
    flat = ["the patient has no fever", *LETTERS[1:]]
    np.testing.assert_array_equal(read(tmp_path, lines, of).inputs, read(tmp_path, flat, of).inputs)
    frame(lines).to_csv(tmp_path / "notes.csv", index=False)
    with pytest.raises(DataError, match="a cell of letter holds a line break") as error:
        encode_checked(open_file(tmp_path / "notes.csv", "id"), of, "id", (), None)
    assert "export notes with line breaks as Parquet" in error.value.hint
    swallowed = 'id,age,letter,ill\n1,40,"a\n2,41,b",1\n3,42,c,0\r4,43,d,1\n'
    (tmp_path / "notes.csv").write_bytes(swallowed.encode())
    with pytest.raises(DataError, match="a cell of letter holds a line break"):
        encode_checked(open_file(tmp_path / "notes.csv", "id"), of, "id", (), None)


def test_dates_and_numbers_are_no_notes(tmp_path: Path) -> None:
    for letters in ([1958, 1960], [1.5, 2.5], [True, False], [pd.Timestamp("1958-04-02")] * 2):
        with pytest.raises(DataError, match="letter': must be text, not numbers, dates"):
            read(tmp_path, letters, schema(tmp_path))


def test_what_breaks_a_rule_is_named_by_row_and_no_word_of_it_is_shown(tmp_path: Path) -> None:
    of = schema(tmp_path)
    with pytest.raises(DataError, match=r"letter': cells are missing.*\(row 2\)") as error:
        read(tmp_path, [PLANTED, None, "a"], of)
    assert "Mustermann" not in str(error.value)
    with pytest.raises(DataError, match="a note must have at most 131,072 characters") as error:
        read(tmp_path, [PLANTED * 20_000, "a"], of)
    assert "Mustermann" not in str(error.value)
    with pytest.raises(DataError, match="letter': must be text, not lists or structures"):
        read(tmp_path, [["a", "cough"], ["a"]], of)
    with pytest.raises(DataError, match=r"letter': must be text, not bytes, 1 record \(row 3\)"):
        read(tmp_path, [b"a", b"pain", b"\xff\xfe\xfa", b"a"], of)


def test_the_page_of_an_inspection_shows_lengths_and_no_word(tmp_path: Path) -> None:
    of, table = schema(tmp_path), frame([PLANTED, *LETTERS])
    table.to_parquet(tmp_path / "notes.parquet")
    looked = inspect_table(open_file(tmp_path / "notes.parquet", "id"), of, "id")
    seen = inspection(looked, of, None)
    (letter,) = [one for one in seen.columns if one.name == "letter"]
    lengths = sorted(len(one) for one in (PLANTED, *LETTERS))
    assert letter.numbers[0] == lengths[0]
    assert letter.numbers[-1] == lengths[-1]
    shown = page(seen, "study", "here", "now")
    assert "free text, of which the first 12 tokens are read" in shown
    for word in ("Erika", "Mustermann", "1958", "1234567", "e@x.org", "cough", "fever"):
        assert word not in shown
        assert word not in repr(looked.found)


def test_a_note_that_only_the_ill_have_is_asked_about(tmp_path: Path) -> None:
    of = schema(tmp_path, missing="indicator")
    ill = np.arange(200) % 2 == 1
    frame([LETTERS[place % 6] if one else None for place, one in enumerate(ill)]).to_parquet(
        tmp_path / "notes.parquet"
    )
    found = inspect_table(open_file(tmp_path / "notes.parquet", "id"), of, "id").found
    (leak,) = [one for one in found if "predicts the label almost alone" in one.rule]
    assert (leak.column, leak.level) == ("letter", "to accept")


def test_a_source_that_is_no_table_has_no_notes(tmp_path: Path) -> None:
    source = DicomFolder(*write(tmp_path, 3), "PatientID")
    with pytest.raises(UsageError, match=r"column letter holds notes, and .* has none") as error:
        inspect_table(source, schema(tmp_path), "PatientID", MAPPING)
    assert "export this population as Parquet" in error.value.hint


def test_a_panic_of_the_library_is_a_refusal_and_not_an_end() -> None:
    twice = {
        **{"type": "TemplateProcessing", "pair": [], "special_tokens": {}},
        "single": [{"Sequence": {"id": name, "type_id": 0}} for name in "AB"],
    }
    with pytest.raises(UsageError, match="cannot be used: a library failed on it"):
        encoding.examine_tokenizer(notes.tokenizer(post_processor=twice))


def test_an_approval_reads_notes_and_the_first_records_of_a_patient(tmp_path: Path) -> None:
    of = schema(tmp_path, many="many")
    table = frame(LETTERS * 30)
    table["id"] = [f"p{number // 3}" for number in range(len(table))]
    table.to_parquet(tmp_path / "notes.parquet")
    source = open_file(tmp_path / "notes.parquet", "id")
    runs = InstalledEncoders(tmp_path)
    checked = encode_checked(source, of, "id", (), runs)
    assert checked.inputs.shape == (180, 6)
    truth = notes.expected(LETTERS)
    truth /= np.sqrt((truth**2).mean(axis=1, keepdims=True))
    np.testing.assert_allclose(checked.inputs[:6, 1:], truth, atol=1e-5)
    single = schema(tmp_path)
    frame([f"the patient has a cough. {'pain ' * number}" for number in range(60)]).to_parquet(
        tmp_path / "notes.parquet"
    )
    assert require_clean(source, single, "id", None, encoders=runs).inputs.shape == (60, 6)


def test_changed_missing_and_unfit_files_are_refused(tmp_path: Path) -> None:
    other = notes.kept(tmp_path, notes.encoder(rows=15), notes.tokenizer())
    cases: list[tuple[dict[str, object], type[FloError], str]] = [
        ({"tokens": 13}, StudyError, "states tokens 13, features 5, and .* has tokens 12"),
        ({"features": 6}, StudyError, "states tokens 12, features 6, and .* features 5"),
        ({"tokenizer": "0" * 64}, UsageError, "its tokenizer, 0+, is not installed here"),
        ({"file": other["file"]}, UsageError, "has 16 tokens, and its table 15 rows"),
    ]
    for changes, kind, told in cases:
        for runs in (InstalledEncoders(tmp_path), TriedEncoders(tmp_path)):
            with pytest.raises(kind, match=told):
                runs.features(column(tmp_path, **changes), LETTERS)
    of = column(tmp_path)
    tokenizer_path(tmp_path, of.encoder.tokenizer).write_bytes(notes.tokenizer() + b" ")
    with pytest.raises(TrustError, match="is not the file of that digest any more"):
        InstalledEncoders(tmp_path).features(of, LETTERS)
    image = encoders.kept(tmp_path, encoders.encoder())
    with pytest.raises(UsageError, match="takes an image, and a tokenizer came with it"):
        InstalledEncoders(tmp_path).features(column(tmp_path, file=image["file"]), LETTERS)


def test_without_the_library_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    of = column(tmp_path)
    monkeypatch.setattr(encoding, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match="tokenizers, which is not installed") as error:
        InstalledEncoders(tmp_path).features(of, LETTERS)
    assert error.value.hint == 'pip install "flo-federated[notes]"'


def test_what_libraries_print_of_their_own_is_dropped(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A tokenizer's panic quotes the note; the process ends or fails, and the screen is silent."""
    runs = InstalledEncoders(tmp_path)
    unknown = notes.tokenizer(
        model={
            **{"type": "WordLevel", "unk_token": "[UNK]"},
            "vocab": {word: place for place, word in enumerate(notes.VOCABULARY) if place != 1},
        },
        added_tokens=[],
    )
    stated = notes.kept(tmp_path, notes.encoder(), unknown)
    of = NoteColumn.model_validate({"kind": "note", "name": "letter", "encoder": stated})
    with pytest.raises(FloError) as error:
        runs.features(of, [PLANTED])
    out, err = capfd.readouterr()
    for text in (out, err, str(error.value), error.value.hint):
        assert "Mustermann" not in text
        assert "1958" not in text

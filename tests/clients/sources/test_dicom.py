"""DICOM images become the study's pixels; tags that could tell who a patient is are never read."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest

from flo.clients.quality.check import EncodedTable, inspect_table, require_clean
from flo.clients.sources.dicom import DicomFolder
from flo.clients.sources.mapping import StudyMapping
from flo.errors import DataError, UsageError
from flo.study.schema import Schema
from tests.clients.sources.images import CT, MAPPING, SCHEMA, write


def through_the_gate(folder: tuple[Path, Path]) -> EncodedTable:
    return require_clean(DicomFolder(*folder, "PatientID"), SCHEMA, "PatientID", MAPPING)


def test_pixels_are_hounsfield_units_averaged_to_the_studys_size(tmp_path: Path) -> None:
    found = through_the_gate(write(tmp_path))
    image = pydicom.dcmread(CT)
    units = image.pixel_array * float(image.RescaleSlope) + float(image.RescaleIntercept)
    averaged = np.clip(units, -1000, 1000).reshape(8, 16, 8, 16).mean(axis=(1, 3))
    np.testing.assert_allclose(found.inputs[0].reshape(8, 8), averaged / 1000, atol=1e-9)
    assert found.patient_ids == ["p0", "p1", "p2", "p3"]
    np.testing.assert_array_equal(found.labels, [0, 1, 0, 1])


@pytest.mark.parametrize("said", ["YES", "Y", ["YES", "NO"]], ids=str)
@pytest.mark.parametrize("keyword", ["BurnedInAnnotation", "RecognizableVisualFeatures"])
def test_an_image_that_shows_who_it_is_of_is_refused(
    tmp_path: Path, keyword: str, said: Any
) -> None:
    def marked(number: int, image: Any) -> None:
        if number == 2:
            setattr(image, keyword, said)

    folder = write(tmp_path, edit=marked)
    with pytest.raises(DataError, match=r"burned into the image .*1 record \(row 3\)"):
        through_the_gate(folder)


IDENTIFYING = [
    "dicom:PatientName",
    "dicom:PatientID",
    "dicom:PatientBirthDate",
    "dicom:StudyDate",
    "dicom:StudyInstanceUID",
    "dicom:InstitutionName",
    "dicom:PatientAddress",
]


@pytest.mark.parametrize("field", IDENTIFYING)
def test_a_tag_that_may_tell_who_a_patient_is_is_no_field(tmp_path: Path, field: str) -> None:
    def told(number: int, image: Any) -> None:
        image.PatientAddress = "St James's Square"
        image.PatientBirthDate = "18151210"

    source = DicomFolder(*write(tmp_path, edit=told), "PatientID")
    assert field not in {offer.field for offer in source.fields()}
    mapping = StudyMapping.model_validate({"columns": {"x": {"field": field}}})
    with pytest.raises(UsageError, match=f"{field}: a tag of kind .. may hold"):
        list(source.read(mapping, SCHEMA))


def test_a_number_of_a_tag_is_a_field(tmp_path: Path) -> None:
    source = DicomFolder(*write(tmp_path), "PatientID")
    columns = {"x": {"field": "dicom:SliceThickness"}, "y": {"field": "dicom:PatientAge"}}
    (batch,) = source.read(StudyMapping.model_validate({"columns": columns}), SCHEMA)
    assert batch.columns["x"].to_pylist() == [5.0] * 4
    assert batch.columns["y"].to_pylist() == [0.0] * 4  # 000Y in the source


def test_images_without_a_label_and_other_files_are_no_records(tmp_path: Path) -> None:
    images, labels = write(tmp_path)
    (images / "notes.txt").write_text("not an image")
    lines = labels.read_text().splitlines()
    labels.write_text("\n".join(lines[:3]) + "\n")
    found = inspect_table(DicomFolder(images, labels, "PatientID"), SCHEMA, "PatientID", MAPPING)
    assert found.table.ids == ["p0", "p1"]


def test_a_label_without_an_image_is_refused(tmp_path: Path) -> None:
    """Such as one whose file was cut off on its way."""
    images, labels = write(tmp_path)
    (images / "1.dcm").write_bytes((images / "1.dcm").read_bytes()[:150])
    with pytest.raises(DataError, match="1 lines of the labels have no readable image"):
        inspect_table(DicomFolder(images, labels, "PatientID"), SCHEMA, "PatientID", MAPPING)


def test_what_a_file_claims_of_a_tag_does_not_count(tmp_path: Path) -> None:
    def lying(number: int, image: Any) -> None:
        image["PatientID"].VR = "CS"

    source = DicomFolder(*write(tmp_path, edit=lying), "PatientID")
    assert "dicom:PatientID" not in {offer.field for offer in source.fields()}


def test_labels_may_be_told_by_series_or_patient(tmp_path: Path) -> None:
    images, labels = write(tmp_path)
    labels.write_text("PatientID,malignant,local\nP0,1,x0\nP1,0,x1\nP2,0,x2\nP3,0,x3\n")
    found = require_clean(DicomFolder(images, labels, "local"), SCHEMA, "local", MAPPING)
    assert found.patient_ids == ["x0", "x1", "x2", "x3"]


def test_a_blank_id_in_the_labels_is_missing_and_not_the_images_own(tmp_path: Path) -> None:
    folder = write(
        tmp_path,
        heading="SOPInstanceUID,malignant,PatientID",
        more=lambda number: "," + ["S1", "", "S1", "S2"][number],
    )
    source = DicomFolder(*folder, "PatientID")
    assert [name for ids in source.ids() for name in ids.to_pylist()] == ["S1", "", "S1", "S2"]
    with pytest.raises(DataError, match=r"every record needs a patient id, 1 record \(row 2\)"):
        require_clean(source, SCHEMA, "PatientID", MAPPING)


def test_labels_may_be_a_spreadsheets_with_semicolons_and_decimal_commas(tmp_path: Path) -> None:
    images, labels = write(tmp_path)
    labels.write_text("PatientID;malignant;dose\nP0;1;1,5\nP1;0;2,5\nP2;0;3,5\nP3;1;4,5\n")
    number = {"kind": "number", "name": "dose", "unit": "mGy", "minimum": 0, "maximum": 9}
    schema = Schema.model_validate({**SCHEMA.model_dump(), "columns": [number]})
    columns = {"dose": {"field": "dose"}, "ill": {"field": "malignant"}}
    by = StudyMapping.model_validate({"columns": columns})
    found = inspect_table(DicomFolder(images, labels, "PatientID"), schema, "PatientID", by)
    assert found.table.columns["dose"].tolist() == [1.5, 2.5, 3.5, 4.5]


@pytest.mark.parametrize(
    ("outcome", "cells", "codes"),
    [
        ({"kind": "classes", "classes": ["a", "b", "c"]}, "b c a b", [1, 2, 0, 1]),
        ({"kind": "count", "unit": "nodes", "levels": [0, 2, 4]}, "0 1 4 3", [0, 0.5, 2, 1.5]),
    ],
    ids=["classes", "count"],
)
def test_the_labels_file_may_have_another_outcome_than_yes_or_no(
    tmp_path: Path, outcome: dict[str, Any], cells: str, codes: list[float]
) -> None:
    images, labels = write(tmp_path)
    lines = [f"P{number},{cell}" for number, cell in enumerate(cells.split())]
    labels.write_text("\n".join(["PatientID,malignant", *lines]) + "\n")
    schema = Schema.model_validate({**SCHEMA.model_dump(), "outcome": outcome})
    source = DicomFolder(images, labels, "PatientID")
    assert require_clean(source, schema, "PatientID", MAPPING).labels.tolist() == codes


def test_the_labels_file_may_have_a_time_to_an_event(tmp_path: Path) -> None:
    images, labels = write(tmp_path)
    labels.write_text("PatientID,malignant,days\nP0,1,10\nP1,0,40\nP2,0,90\nP3,1,35\n")
    outcome = {"kind": "time-to-event", "time": "days", "unit": "days", "horizons": [30, 60]}
    changes = {"outcome": {**outcome, "expected": 0.5}, "records_per_patient": "one"}
    schema = Schema.model_validate({**SCHEMA.model_dump(), **changes})
    columns = {**MAPPING.model_dump()["columns"], "days": {"field": "days"}}
    mapping = StudyMapping.model_validate({"columns": columns})
    source = DicomFolder(images, labels, "PatientID")
    found = require_clean(source, schema, "PatientID", mapping)
    assert found.labels.tolist() == [1, 2, 4, 3]


def test_labels_that_are_no_utf_8_are_refused_with_the_way_out(tmp_path: Path) -> None:
    images, labels = write(tmp_path)
    labels.write_bytes("PatientID,malignant,café\nP0,1,2\n".encode("cp1252"))
    with pytest.raises(DataError, match="cannot be read") as refused:
        DicomFolder(images, labels, "PatientID")
    assert "UTF-8" in refused.value.hint


@pytest.mark.slow
def test_one_image_is_held_in_memory_at_a_time(tmp_path: Path) -> None:
    def large(number: int, image: Any) -> None:
        image.Rows = image.Columns = 512
        image.PixelData = np.full((512, 512), number, np.int16).tobytes()

    source = DicomFolder(*write(tmp_path, patients=30, edit=large), "PatientID")
    next(source.read(MAPPING, SCHEMA))  # what is imported on the way
    tracemalloc.start()
    next(source.read(MAPPING, SCHEMA))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 15 * 512 * 512 * 2  # of 30


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("name,malignant\nLovelace,1\n", "no column that says which images"),
        ("PatientID,malignant\nP0,1\nP0,0\n", "row 2: its PatientID occurs twice"),
        ("PatientID,malignant\nP0,1\n,0\n", "row 2: its PatientID is missing"),
        ('PatientID,malignant\n"P0,1\n', "cannot be read as csv, row 1"),
        ("PatientID,malignant\nP0,1,Lovelace\n", "cannot be read as csv, row 1"),
    ],
)
def test_labels_that_are_none_are_refused_without_a_cell(
    tmp_path: Path, text: str, why: str
) -> None:
    images, labels = write(tmp_path)
    labels.write_text(text)
    with pytest.raises(DataError, match=why) as refused:
        DicomFolder(images, labels, "PatientID")
    assert "Lovelace" not in str(refused.value)


def test_an_image_of_another_shape_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path)
    colour = SCHEMA.model_copy(
        update={"columns": (SCHEMA.columns[0].model_copy(update={"channels": 3}),)}
    )
    with pytest.raises(DataError, match="the study needs 3 channels"):
        inspect_table(DicomFolder(*folder, "PatientID"), colour, "PatientID", MAPPING)


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    images, labels = write(tmp_path)
    for image in images.iterdir():
        image.unlink()
    with pytest.raises(DataError, match="holds no DICOM image"):
        DicomFolder(images, labels, "PatientID").fields()


def test_the_same_image_under_two_ids_is_told(tmp_path: Path) -> None:
    def same(number: int, image: Any) -> None:
        image.PixelData = pydicom.dcmread(CT).PixelData

    with pytest.raises(DataError, match="equal a record of another patient id"):
        through_the_gate(write(tmp_path, edit=same))


def test_a_list_of_fields_is_refused(tmp_path: Path) -> None:
    label = MAPPING.columns[SCHEMA.label].model_copy(update={"field": ("a", "b")})
    mapping = MAPPING.model_copy(update={"columns": {**MAPPING.columns, SCHEMA.label: label}})
    with pytest.raises(UsageError, match=f"{SCHEMA.label}: `field` is a list"):
        require_clean(DicomFolder(*write(tmp_path), "PatientID"), SCHEMA, "PatientID", mapping)

"""No image is lost in silence, none counts twice, and what shows no patient is no record."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.uid import (
    MultiFrameTrueColorSecondaryCaptureImageStorage,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
    VLPhotographicImageStorage,
)

from flo.clients.quality.check import InspectedTable, inspect_table, require_clean
from flo.clients.sources.dicom import DicomFolder
from flo.clients.sources.mapping import StudyMapping
from flo.errors import DataError
from tests.clients.sources.images import MAPPING, SCHEMA, write


def looked(folder: tuple[Path, Path]) -> InspectedTable:
    return inspect_table(DicomFolder(*folder, "PatientID"), SCHEMA, "PatientID", MAPPING)


def by_patient(folder: tuple[Path, Path]) -> InspectedTable:
    """With labels that speak of whatever the patients have."""
    folder[1].write_text("PatientID,malignant\nP0,0\nP1,1\nP2,0\nP3,1\n")
    return looked(folder)


def test_an_image_without_preamble_is_one(tmp_path: Path) -> None:
    images, labels = write(tmp_path)
    usual = looked((images, labels)).table.images["ct"]
    for number, implicit in enumerate((True, False)):
        image = pydicom.dcmread(images / f"{number}.dcm")
        image.file_meta = pydicom.dataset.FileMetaDataset()
        image.preamble = None
        image.save_as(
            images / f"{number}.dcm",
            implicit_vr=implicit,
            little_endian=True,
            enforce_file_format=False,
        )
        assert b"DICM" not in (images / f"{number}.dcm").read_bytes()[:200]
    np.testing.assert_array_equal(looked((images, labels)).table.images["ct"], usual)


def test_files_of_other_kinds_are_none(tmp_path: Path) -> None:
    images, labels = write(tmp_path)
    others = {
        "labels.csv": b"SOPInstanceUID,malignant\n1.2.3,0\n",
        "utf16.txt": "PatientID".encode("utf-16"),
        "empty": b"",
        ".DS_Store": bytes(4096),
        "raw": np.full((64, 64), 8, np.uint16).tobytes(),
        "table.npy": b"\x93NUMPY" + bytes(200),
    }
    for name, content in others.items():
        (images / name).write_bytes(content)
    assert looked((images, labels)).found == []


@pytest.mark.parametrize("kept", [150, 400, 1000])
def test_a_file_that_was_cut_in_its_header_is_doubted_by_its_number(
    tmp_path: Path, kept: int
) -> None:
    images, labels = write(tmp_path, patients=5)
    (images / "1.dcm").write_bytes((images / "1.dcm").read_bytes()[:kept])
    (images / "a.txt").write_text("another file")
    labels.write_text("PatientID,malignant\nP0,0\nP2,1\nP3,0\nP4,1\n")
    (one,) = looked((images, labels)).found
    assert (one.level, one.name) == ("to accept", "unread images")
    assert "(file 2 by path): 1" in one.rule


def test_links_to_folders_are_noted_and_not_followed(tmp_path: Path) -> None:
    images, labels = write(tmp_path)
    shutil.copytree(images, tmp_path / "elsewhere")
    (images / "outside").symlink_to(tmp_path / "elsewhere")
    (images / "loop").symlink_to(images)
    (images / "nowhere").symlink_to(tmp_path / "nowhere")
    found = looked((images, labels))
    assert len(found.table) == 4
    assert [str(one) for one in found.found] == [
        "links to folders, or to missing files, were not followed: 3"
    ]


def test_an_image_that_lies_there_twice_counts_once(tmp_path: Path) -> None:
    images, labels = write(tmp_path)
    shutil.copy(images / "0.dcm", images / "copy.dcm")
    (images / "link.dcm").symlink_to(images / "1.dcm")
    found = looked((images, labels))
    assert found.table.ids == ["p0", "p1", "p2", "p3"]
    (one,) = found.found
    assert (one.level, one.rule.rsplit(" ", 1)[-1]) == ("note", "2")


def test_one_instance_of_two_patients_is_not_dropped(tmp_path: Path) -> None:
    def same(number: int, image: Any) -> None:
        image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = "1.2.3"

    assert by_patient(write(tmp_path, edit=same)).table.ids == ["p0", "p1", "p2", "p3"]


@pytest.mark.parametrize(
    "kind",
    [SecondaryCaptureImageStorage, MultiFrameTrueColorSecondaryCaptureImageStorage, "SCREEN SAVE"],
)
def test_captures_of_a_screen_are_to_be_looked_at(tmp_path: Path, kind: str) -> None:
    def captured(number: int, image: Any) -> None:
        if number == 1 and kind == "SCREEN SAVE":
            image.ImageType = ["DERIVED", "SECONDARY", kind]
        elif number == 1:
            image.SOPClassUID = kind
        elif number == 2:  # whose number begins alike
            image.SOPClassUID = VLPhotographicImageStorage

    folder = write(tmp_path, edit=captured)
    (one,) = by_patient(folder).found
    assert (one.level, one.name) == ("to accept", "screen captures: ct")
    assert one.rule.endswith(": 1")
    with pytest.raises(DataError, match="captures of a screen"):
        require_clean(DicomFolder(*folder, "PatientID"), SCHEMA, "PatientID", MAPPING)
    accepted = MAPPING.model_copy(update={"accepted": {one.name: "looked at, no text"}})
    require_clean(
        DicomFolder(*folder, "PatientID"), SCHEMA, "PatientID", StudyMapping(**dict(accepted))
    )


def test_localizers_and_what_is_no_image_are_no_records(tmp_path: Path) -> None:
    def beside(number: int, image: Any) -> None:
        image.PatientID = f"P{number % 4}"
        if number == 4:
            image.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
        if number == 5:
            image.SOPClassUID = SegmentationStorage

    found = by_patient(write(tmp_path, patients=6, edit=beside))
    assert found.table.ids == ["p0", "p1", "p2", "p3"]
    (one,) = found.found
    assert (one.level, one.rule[-2:]) == ("note", " 2")

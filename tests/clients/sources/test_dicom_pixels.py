"""What an image stores becomes real values within the study's bounds, or the image is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import JPEGLossless

from flo.clients.quality.check import InspectedTable, inspect_table, require_clean
from flo.clients.sources.dicom import DicomFolder
from flo.errors import DataError
from tests.clients.sources.images import CT, MAPPING, SCHEMA, write

Edit = Callable[[int, Any], object]


def looked(
    folder: Path, edit: Edit = lambda number, image: None, patients: int = 4
) -> InspectedTable:
    folder.mkdir(exist_ok=True)
    source = DicomFolder(*write(folder, patients, edit), "PatientID")
    return inspect_table(source, SCHEMA, "PatientID", MAPPING)


def store(image: Any, pixels: np.ndarray, bits: int = 16) -> None:
    image.BitsStored, image.HighBit = bits, bits - 1
    image.PixelData = pixels.astype(np.int16 if image.PixelRepresentation else np.uint16).tobytes()


@pytest.mark.parametrize("signed", [0, 1])
def test_low_is_white_is_mirrored_in_the_range_that_is_stored(tmp_path: Path, signed: int) -> None:
    least, most = (-2048, 2047) if signed else (0, 4095)

    def usual(number: int, image: Any) -> None:
        pixels = np.clip(image.pixel_array, 0, 2047)
        image.Modality = "DX"
        image.PixelRepresentation = signed
        del image.PixelPaddingValue
        store(image, pixels, bits=12)

    def mirrored(number: int, image: Any) -> None:
        usual(number, image)
        store(image, least + most - image.pixel_array, bits=12)
        image.PhotometricInterpretation = "MONOCHROME1"

    np.testing.assert_array_equal(
        looked(tmp_path / "a", mirrored).table.images["ct"],
        looked(tmp_path / "b", usual).table.images["ct"],
    )


@pytest.mark.parametrize("modality", ["CT", "PT"])
def test_units_are_the_same_however_an_image_is_shown(tmp_path: Path, modality: str) -> None:
    def shown(number: int, image: Any) -> None:
        image.Modality = modality
        image.PhotometricInterpretation = "MONOCHROME1"

    np.testing.assert_array_equal(
        looked(tmp_path / "a", shown).table.images["ct"], looked(tmp_path / "b").table.images["ct"]
    )


@pytest.mark.parametrize(
    ("value", "limit", "kind"),
    [(-2000, None, "SS"), (63536, None, "US"), (-2000, -1900, "SS"), (-1900, -2000, "SS")],
)
def test_padding_is_the_least_that_the_study_allows_before_pixels_are_averaged(
    tmp_path: Path, value: int, limit: int | None, kind: str
) -> None:
    def padded(number: int, image: Any) -> None:
        pixels = image.pixel_array.copy()
        pixels[::2] = -2000
        store(image, pixels)
        image.RescaleSlope, image.RescaleIntercept = "-1", "0"  # -2000 were the greatest
        image.add_new("PixelPaddingValue", kind, value)
        if limit is not None:
            image.add_new("PixelPaddingRangeLimit", kind, limit)

    image = pydicom.dcmread(CT)
    units = np.clip(-image.pixel_array.astype(float), -1000, 1000)
    units[::2] = -1000
    np.testing.assert_allclose(
        looked(tmp_path, padded).table.images["ct"][0],
        units.reshape(8, 16, 8, 16).mean(axis=(1, 3)).ravel(),
    )


def test_a_ct_that_does_not_say_its_units_is_refused(tmp_path: Path) -> None:
    def raw(number: int, image: Any) -> None:
        if number == 2:
            del image.RescaleSlope, image.RescaleIntercept

    source = DicomFolder(*write(tmp_path, edit=raw), "PatientID")
    with pytest.raises(DataError, match=r"not Hounsfield units, 1 record \(row 3\)"):
        require_clean(source, SCHEMA, "PatientID", MAPPING)


def test_an_enhanced_ct_says_its_units_in_its_groups(tmp_path: Path) -> None:
    def enhanced(number: int, image: Any) -> None:
        values, group = Dataset(), Dataset()
        values.RescaleSlope, values.RescaleIntercept = image.RescaleSlope, image.RescaleIntercept
        del image.RescaleSlope, image.RescaleIntercept
        group.PixelValueTransformationSequence = [values]
        image.SharedFunctionalGroupsSequence = [group]

    found = looked(tmp_path / "a", enhanced)
    assert found.found == []
    np.testing.assert_array_equal(
        found.table.images["ct"], looked(tmp_path / "b").table.images["ct"]
    )


def test_images_that_cannot_be_read_are_all_told_by_their_number(tmp_path: Path) -> None:
    def broken(number: int, image: Any) -> None:
        if number == 1:
            image.NumberOfFrames = 2
            image.PixelData *= 2
        if number in (2, 3):
            image.PixelData = image.PixelData[:100]
        if number == 4:
            del image.PixelData
        if number == 5:
            image.PhotometricInterpretation = "PALETTE COLOR"
        if number == 6:
            image.SamplesPerPixel = 3

    with pytest.raises(DataError) as refused:
        looked(tmp_path, broken, patients=8)
    lines = str(refused.value).splitlines()[1:]
    assert [line.split(": ")[0].strip() for line in lines] == [
        *("file 2", "files 3, 4", "file 5", "file 6", "file 7")
    ]
    for line, why in zip(
        lines, ("frames", "fewer pixels", "no pixels", "table of colours", "channels"), strict=True
    ):
        assert why in line
    assert "incomplete" in refused.value.hint
    assert "sed -n 2p" in refused.value.hint
    assert "pylibjpeg" not in refused.value.hint


def test_a_compressed_image_that_cannot_be_decoded_is_told_with_what_decodes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def compressed(number: int, image: Any) -> None:
        if number == 1:
            image.PixelData = pydicom.encaps.encapsulate([b"\xff\xd8\xff\xd9"])
            image.file_meta.TransferSyntaxUID = JPEGLossless

    decoders = "pydicom.pixels.decoders.base.Decoder.is_available"
    monkeypatch.setattr(decoders, property(lambda self: False))
    with pytest.raises(DataError, match="file 2: it is compressed") as refused:
        looked(tmp_path, compressed)
    assert "pylibjpeg" in refused.value.hint


@pytest.mark.parametrize(("patients", "told"), [(4, ["images at a bound: ct"]), (30, [])])
def test_images_that_lie_wholly_at_a_bound_are_doubted_unless_they_are_few(
    tmp_path: Path, patients: int, told: list[str]
) -> None:
    def bright(number: int, image: Any) -> None:
        if number == 1:
            store(image, np.full((128, 128), 5000))

    found = looked(tmp_path, bright, patients).found
    assert [one.name for one in found if one.level == "to accept"] == told

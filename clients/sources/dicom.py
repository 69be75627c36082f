"""Folder with DICOM images: pixels, a few tags, and a CSV file of labels.

There is one record for each image. Fields:

    pixels               the study's pixels, see ``dicom_pixels``
    dicom:KEYWORD        a number or short code, such as dicom:SliceThickness
    COLUMN               of the labels file, whose column PatientID, SeriesInstanceUID or
                         SOPInstanceUID says which images a line describes

Only tags of kinds that cannot hold a name or a date are offered. An image is refused if its header
says that text is burned into it (0028,0301) or that it shows recognizable visual features
(0028,0302). A capture of a screen is reported to the steward. An image that occurs twice counts
once. ``dicom_files`` decides which files are images, and how links are treated.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from flo.clients.sources.dicom_files import Beside, DicomImage, images, is_of_a_screen, quiet
from flo.clients.sources.dicom_findings import Tally
from flo.clients.sources.dicom_labels import Labels
from flo.clients.sources.dicom_pixels import has_no_units, read_pixels
from flo.clients.sources.events import as_array
from flo.clients.sources.mapping import StudyMapping
from flo.clients.sources.source import Batch, SourceField
from flo.errors import DataError, UsageError
from flo.study.columns import ImageColumn
from flo.study.schema import Schema

if TYPE_CHECKING:
    from pydicom import Dataset

_HARMLESS = ("DS", "IS", "FL", "FD", "US", "SS", "UL", "SL", "CS", "AS")  # value representations
_BATCH = 256  # images
_BURNED_IN = "says that text, such as a name, is burned into the image (0028,0301)"
_NO_UNITS = "is a CT without RescaleSlope and RescaleIntercept: its values are not Hounsfield units"


@dataclass(frozen=True)
class _Record:
    """One image. ``cells``: by column, pixels for an image. ``invalid``: rules that it breaks."""

    patient: str
    cells: dict[str, Any]
    invalid: frozenset[str]


class DicomFolder:
    """``DataSource`` of images. Reads the labels file at once, the images one by one."""

    is_table = has_events = False

    def __init__(self, folder: Path, labels: Path, id_column: str) -> None:
        """``id_column``: PatientID, or a column of the labels file. Raises DataError."""
        if not folder.is_dir():
            raise DataError(f"folder {folder} does not exist", hint="set `folder` in site.toml")
        self.name, self._folder, self._id = folder.name, folder, id_column
        self._labels = Labels(labels, id_column)

    @quiet()
    def fields(self) -> list[SourceField]:
        """Return pixels, columns of the labels, and harmless tags of the first image.

        Raises DataError if there is no image.
        """
        first = next(images(self._folder, Beside()), None)
        if first is None:
            raise DataError(f"{self._folder} holds no DICOM image")
        tags = [SourceField(f"dicom:{e.keyword}", e.name) for e in first.header if _is_harmless(e)]
        known = [SourceField(name) for name in self._labels.fields]
        return [SourceField("pixels", "the image"), *known, *tags]

    def settings(self) -> dict[str, Any]:
        """Return no settings: a mapping of images needs only columns."""
        return {}

    def words(self, cells: list[str]) -> dict[str, str]:
        """Return each cell as its own meaning: images have no codebook."""
        return dict(zip(cells, cells, strict=True))

    def ids(self) -> Iterator[pa.Array]:
        """Yield one id for each image, so that a patient's id is repeated."""
        for image in images(self._folder, Beside()):
            yield pa.array([self._patient(image.header)], pa.string())

    def read(self, mapping: StudyMapping, schema: Schema) -> Iterator[Batch]:
        """Yield a record for each image that the labels describe, in batches of 256.

        Doubts and notes come with the last batch, after every file was read.

        Raises:
            DataError: images cannot be decoded or have another shape, or a line of the labels has
            no image.
            UsageError: a mapped field does not exist, or its tag may hold a name, a date or text.
        """
        pixels = {c.name: c for c in schema.columns if isinstance(c, ImageColumn)}
        pixels = {name: column for name, column in pixels.items() if name in mapping.columns}
        fields = {name: mapped.one_field(name) for name, mapped in mapping.columns.items()}
        others = {name: one for name, one in mapping.columns.items() if name not in pixels}
        told = {n: one for n, one in others.items() if not fields[n].startswith("dicom:")}
        tags = {name: fields[name] for name in others if name not in told}
        lines, doubts = self._labels.read(mapping.model_copy(update={"columns": told}), schema)
        tally, found, part = Tally(), set[str](), list[_Record]()
        for image in images(self._folder, tally.beside):
            key, patient = self._key(image.header), self._patient(image.header)
            if key not in lines:  # images without labels are no records
                continue
            found.add(key)
            if not tally.is_new(str(image.header.get("SOPInstanceUID") or ""), patient):
                continue
            if len(part) == _BATCH:
                yield _batch(part, pixels)
                part = []
            try:
                record = _record(image, patient, tags, pixels)
            except DataError as error:
                tally.add_broken(image.number, error)
                continue
            record.cells.update(lines[key])
            tally.add(of_a_screen=is_of_a_screen(image.header) and bool(pixels))
            for name, column in pixels.items():
                if not record.invalid:
                    tally.add_pixels(column, record.cells[name])
            part.append(record)
        tally.refuse_broken(self._folder)
        tally.refuse_missing(self._folder, len(lines.keys() - found), self._labels.key)
        if part:
            doubts |= tally.to_accept(next(iter(pixels), ""))
            yield replace(_batch(part, pixels), to_accept=doubts, notes=tally.notes())

    def _key(self, header: Dataset) -> str:
        return str(header.get(self._labels.key) or "").strip()

    def _patient(self, header: Dataset) -> str:
        """Return the id in the labels' id column, "" for a blank one.

        If there is no such column, return the image's own tag.
        """
        if self._labels.patients is not None:
            return self._labels.patients.get(self._key(header), "")
        return str(header.get(self._id) or "")


@quiet()
def _record(
    image: DicomImage, patient: str, tags: Mapping[str, str], pixels: Mapping[str, ImageColumn]
) -> _Record:
    header = image.header
    cells = {name: _cell(header, field) for name, field in tags.items()}
    cells |= {name: read_pixels(image.path, column) for name, column in pixels.items()}
    rules = {_BURNED_IN: _is_burned_in, _NO_UNITS: has_no_units}
    wrong = {rule for rule, is_broken in rules.items() if pixels and is_broken(header)}
    return _Record(patient, cells, frozenset(wrong))


def _batch(part: list[_Record], pixels: Mapping[str, ImageColumn]) -> Batch:
    columns: dict[str, pa.Array] = {}
    for name in part[0].cells:
        cells = [record.cells[name] for record in part]
        if name in pixels:
            flat = pa.array(np.concatenate(cells))
            columns[name] = pa.FixedSizeListArray.from_arrays(flat, len(cells[0]))
        else:
            columns[name] = as_array(cells)
    wrong = {
        (name, rule): np.array([rule in record.invalid for record in part])
        for name in pixels
        for rule in (_BURNED_IN, _NO_UNITS)
    }
    return Batch(pa.array([record.patient for record in part], pa.string()), columns, wrong)


def _is_harmless(element: Any) -> bool:
    from pydicom.datadict import dictionary_has_tag, dictionary_VR

    # By the kind in the standard, not the one that the file states.
    return dictionary_has_tag(element.tag) and dictionary_VR(element.tag) in _HARMLESS


def _is_burned_in(header: Dataset) -> bool:
    said = (header.get("BurnedInAnnotation"), header.get("RecognizableVisualFeatures"))
    return any(str(one).strip().upper() not in ("NONE", "", "NO") for one in said)


def _cell(header: Dataset, field: str) -> Any:
    keyword = field.removeprefix("dicom:")
    if keyword not in header:
        return None
    try:
        element = header[keyword]
    except Exception as error:  # noqa: BLE001 - pydicom reads a value, and fails at it, only now
        raise DataError(f"its {keyword} cannot be read ({type(error).__name__})") from None
    if not _is_harmless(element):
        raise UsageError(
            f"{field}: a tag of kind {element.VR} may hold a name, a date or free text",
            hint=f"kinds that are read: {', '.join(_HARMLESS)}",
        )
    value = element.value
    if element.VR == "AS":  # such as 063Y
        return _years(str(value))
    return float(value) if isinstance(value, int | float) else str(value)


def _years(age: str) -> float | None:
    per_year = {"Y": 1.0, "M": 12.0, "W": 52.1775, "D": 365.25}
    number, unit = age[:-1], age[-1:].upper()
    return int(number) / per_year[unit] if number.isdecimal() and unit in per_year else None

"""A folder with DICOM images: pixels, a few tags, and a CSV file with what is known beside them.

One record for each image. Fields:

    pixels               rescaled to its real values (CT: Hounsfield units), averaged to the study's
                         size, and held within its bounds, as a viewer's window does
    dicom:KEYWORD        a number or short code, such as dicom:SliceThickness
    COLUMN               of the labels file, whose column PatientID, SeriesInstanceUID or
                         SOPInstanceUID says of which images a line speaks

Of tags only kinds that cannot hold a name or a date are offered. An image that says that text is
burned into it (0028,0301), and one that is a photograph of a document, is refused.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from flo.clients.mapping import StudyMapping
from flo.clients.sources.events import as_array
from flo.clients.sources.source import Batch, Offer
from flo.errors import DataError, UsageError
from flo.schema import ImageColumn, Schema

if TYPE_CHECKING:
    from pydicom import Dataset

_KEYS = ("SOPInstanceUID", "SeriesInstanceUID", "PatientID")
_HARMLESS = ("DS", "IS", "FL", "FD", "US", "SS", "UL", "SL", "CS", "AS")  # value representations
_BATCH = 256  # images
_BURNED_IN = "says that text, such as a name, is burned into the image (0028,0301)"


class DicomFolder:
    """A ``Source`` of images. The labels file is read at once, the images one after the other."""

    is_table = False

    def __init__(self, folder: Path, labels: Path, id_column: str) -> None:
        """``id_column``: PatientID, or a column of the labels file."""
        self.name, self._folder, self._id = folder.name, folder, id_column
        self._key, self._labels = _read_labels(labels)

    def offers(self) -> list[Offer]:
        """Pixels, columns of the labels, and harmless tags of one image. Raises DataError: none."""
        first = next(self._images(pixels=False), None)
        if first is None:
            raise DataError(f"{self._folder} holds no DICOM image")
        known = next(iter(self._labels.values()), {})
        tags = [Offer(f"dicom:{e.keyword}", e.name) for e in first if _is_harmless(e)]
        return [Offer("pixels", "the image"), *(Offer(name) for name in known), *tags]

    def settings(self) -> dict[str, Any]:
        """Nothing: a mapping of images needs columns only."""
        return {}

    def words(self, cells: list[str]) -> dict[str, str]:
        """Each cell as its own meaning: no codebook comes with images."""
        return dict(zip(cells, cells, strict=True))

    def ids(self) -> Iterator[pa.Array]:
        """One id for each image: a patient's comes as often as they have images."""
        for image in self._images(pixels=False):
            yield pa.array([self._patient(image)], pa.string())

    def read(self, mapping: StudyMapping, schema: Schema) -> Iterator[Batch]:
        """A record for each image of which the labels say something, by 256.

        Raises:
            DataError: an image cannot be decoded or has another shape, or a line of the labels has
            none.
            UsageError: a mapped field is none, or its tag may hold a name, a date or free text.
        """
        images = {c.name: c for c in schema.columns if isinstance(c, ImageColumn)}
        wanted = {name: mapped.one_field(name) for name, mapped in mapping.columns.items()}
        part: list[tuple[Dataset, dict[str, str]]] = []
        seen = set[str]()
        for image in self._images(pixels="pixels" in wanted.values()):
            known = self._labels.get(str(image.get(self._key, "")))
            if known is not None:  # images of which nothing is known are no records
                part.append((image, known))
                seen.add(str(image.get(self._key)))
            if len(part) == _BATCH:
                yield self._batch(part, wanted, images)
                part = []
        if part:
            yield self._batch(part, wanted, images)
        if missing := len(self._labels.keys() - seen):
            raise DataError(f"{self.name}: {missing} lines of the labels have no readable image")

    def _batch(
        self,
        part: list[tuple[Dataset, dict[str, str]]],
        wanted: Mapping[str, str],
        images: Mapping[str, ImageColumn],
    ) -> Batch:
        columns: dict[str, pa.Array] = {}
        for name, field in wanted.items():
            if name in images:
                pixels = [_pixels(image, images[name], self.name) for image, _ in part]
                columns[name] = pa.array(pixels, pa.list_(pa.float64()))
            else:
                columns[name] = as_array([_cell(image, known, field) for image, known in part])
        burned = np.array([_is_burned_in(image) for image, _ in part])
        wrong = {(name, _BURNED_IN): burned for name in wanted if name in images}
        return Batch(
            pa.array([self._patient(image) for image, _ in part], pa.string()), columns, wrong
        )

    def _patient(self, image: Dataset) -> str:
        known = self._labels.get(str(image.get(self._key, "")), {})
        return str(known.get(self._id) or image.get(self._id) or "")

    def _images(self, *, pixels: bool) -> Iterator[Dataset]:
        """Every DICOM file of the folder that has pixels, in the order of their paths."""
        import pydicom
        from pydicom.errors import InvalidDicomError

        for path in sorted(self._folder.rglob("*")):
            if not path.is_file():
                continue
            try:
                image = pydicom.dcmread(path, stop_before_pixels=not pixels)
            except InvalidDicomError:
                continue  # other files may lie beside the images
            if "Rows" in image:
                yield image


def _read_labels(path: Path) -> tuple[str, dict[str, dict[str, str]]]:
    """Which tag lines are found by, and value of that tag -> the line. Raises DataError."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            names = reader.fieldnames or []
            key = next((name for name in _KEYS if name in names), None)
            if key is None:
                raise DataError(
                    f"{path.name} does not say of which images its lines speak",
                    hint=f"it needs a column {', '.join(_KEYS[:-1])} or {_KEYS[-1]}",
                )
            found: dict[str, dict[str, str]] = {}
            for number, line in enumerate(reader, start=1):
                if None in line:
                    raise DataError(f"{path.name}, row {number}: has more cells than the header")
                if line[key] in found:
                    raise DataError(f"{path.name}, row {number}: its {key} stands twice")
                found[line.pop(key)] = line
            return key, found
    except (OSError, csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"{path.name} cannot be read ({type(error).__name__})") from None


def _is_harmless(element: Any) -> bool:
    from pydicom.datadict import dictionary_has_tag, dictionary_VR

    # What the standard says of it, not what the file claims.
    return dictionary_has_tag(element.tag) and dictionary_VR(element.tag) in _HARMLESS


def _is_burned_in(image: Dataset) -> bool:
    said = (image.get("BurnedInAnnotation"), image.get("RecognizableVisualFeatures"))
    return any(str(one).strip().upper() not in ("NONE", "", "NO") for one in said)


def _cell(image: Dataset, known: Mapping[str, str], field: str) -> Any:
    if not field.startswith("dicom:"):
        if field not in known:
            raise UsageError(
                f"{field!r} is no field of a DICOM folder",
                hint=f"pixels, dicom:KEYWORD, or a column of the labels: {', '.join(known)}",
            )
        return known[field]
    keyword = field.removeprefix("dicom:")
    if keyword not in image:
        return None
    element = image[keyword]
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


def _pixels(image: Dataset, column: ImageColumn, name: str) -> list[float]:
    """The image as the study wants it, channel by channel, shape (channels · height · width,)."""
    import torch
    from pydicom.pixels.processing import apply_modality_lut

    try:
        values = np.asarray(apply_modality_lut(image.pixel_array, image), dtype=np.float64)
    except Exception as error:  # noqa: BLE001 - decoders raise whatever they like
        raise DataError(
            f"{name}: an image's pixels cannot be decoded ({type(error).__name__})",
            hint="pip install pylibjpeg pylibjpeg-libjpeg pylibjpeg-openjpeg for compressed ones",
        ) from None  # what it quotes may be a patient's
    if int(image.get("NumberOfFrames") or 1) > 1:
        raise DataError(f"{name}: an image has several frames; one is read")
    if values.ndim == 2:
        values = values[None]
    elif values.ndim == 3 and image.get("SamplesPerPixel", 1) == values.shape[-1]:
        values = np.moveaxis(values, -1, 0)
    if values.ndim != 3 or values.shape[0] != column.channels:
        raise DataError(
            f"{name}: an image has the shape {values.shape}, and the study wants "
            f"{column.channels} channels"
        )
    if image.get("PhotometricInterpretation") == "MONOCHROME1":  # low is white
        values = values.max() + values.min() - values
    smaller = torch.nn.functional.adaptive_avg_pool2d(
        torch.from_numpy(values), (column.height, column.width)
    )
    return smaller.clamp(column.minimum, column.maximum).flatten().tolist()

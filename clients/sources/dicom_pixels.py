"""Convert the stored values of a DICOM image to the study's pixels.

Steps, in this order:

1. Take the stored values. Mirror MONOCHROME1 (low is white) in the range that it may have, unless
   the values have units, which do not depend on the display (PS3.3 C.7.6.3.1.2: for display, after
   the modality's rescale).
2. Convert to real values.
3. Clip to the study's bounds, as a viewer's window does.
4. Set padding to the lower bound.
5. Average to the study's size.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from flo.clients.sources.dicom_files import quiet
from flo.errors import DataError
from flo.study.columns import ImageColumn

if TYPE_CHECKING:
    from pydicom import Dataset

_PLUGINS = "pip install pylibjpeg pylibjpeg-libjpeg pylibjpeg-openjpeg"
_CUT = "the file is incomplete: export it again"


@quiet()
def read_pixels(path: Path, column: ImageColumn) -> npt.NDArray[np.float64]:
    """Return the image at the study's size, by channel, shape (channels · height · width,).

    Raises DataError for a fault of the image, in words that also fit other images; OSError.
    """
    import pydicom
    import torch

    try:
        image = pydicom.dcmread(path, force=True)
        if "TransferSyntaxUID" not in image.file_meta:  # without preamble: never compressed
            image.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        _refuse_other_kinds(image, column)
        values = _held(image, column)
    except (DataError, OSError):
        raise
    except Exception as error:  # noqa: BLE001 - decoders raise whatever they like
        raise DataError(
            f"its pixels cannot be decoded ({type(error).__name__})", hint="export it again"
        ) from None  # its message may quote a patient's data
    size = (column.height, column.width)
    smaller = torch.nn.functional.adaptive_avg_pool2d(torch.from_numpy(values), size)
    return np.asarray(smaller.flatten().numpy())


def has_no_units(header: Dataset) -> bool:
    """Return whether it is a CT without a conversion to Hounsfield units."""
    is_ct = header.get("Modality") == "CT"
    return is_ct and _rescale(header) is None and not header.get("ModalityLUTSequence")


def _has_units(header: Dataset) -> bool:
    """Return whether values are in Hounsfield units, or in becquerels per millilitre."""
    return header.get("Modality") in ("CT", "PT")


def _refuse_other_kinds(image: Dataset, column: ImageColumn) -> None:
    from pydicom.pixels.decoders.base import get_decoder
    from pydicom.pixels.utils import get_expected_length

    if int(image.get("NumberOfFrames") or 1) > 1:
        raise DataError("it has several frames; FLO reads images with one frame")
    if image.get("PhotometricInterpretation") == "PALETTE COLOR":
        raise DataError(
            "it is PALETTE COLOR: its numbers are places in a table of colours, not intensities",
            hint="export it as RGB or as MONOCHROME2",
        )
    channels = int(image.get("SamplesPerPixel") or 1)
    if channels != column.channels:
        raise DataError(
            f"it has {channels} channels, and the study needs {column.channels} channels"
        )
    if not image.get("PixelData"):
        raise DataError("it has no pixels", hint=_CUT)
    syntax = image.file_meta.TransferSyntaxUID
    if not syntax.is_encapsulated:
        if len(image.PixelData) < get_expected_length(image):
            raise DataError("it has fewer pixels than its header says", hint=_CUT)
    elif not get_decoder(syntax).is_available:
        raise DataError("it is compressed, and no decoder for it is installed", hint=_PLUGINS)


def _held(image: Dataset, column: ImageColumn) -> npt.NDArray[np.float64]:
    """Return real values within the study's bounds, shape (channels, rows, columns)."""
    from pydicom.pixels.processing import apply_modality_lut
    from pydicom.pixels.utils import pixel_array

    stored = pixel_array(image)
    padding = _padding(image, stored)
    if image.get("PhotometricInterpretation") == "MONOCHROME1" and not _has_units(image):
        least, most = _stored_range(image)
        stored = least + most - stored
    values: npt.NDArray[np.float64]
    if image.get("ModalityLUTSequence"):
        values = np.array(apply_modality_lut(stored, image), dtype=np.float64)
    else:
        values = np.array(stored, dtype=np.float64)
        slope, intercept = _rescale(image) or (1.0, 0.0)
        values *= slope
        values += intercept
    np.clip(values, column.minimum, column.maximum, out=values)
    if padding is not None:
        values[padding] = column.minimum
    return values[None] if values.ndim == 2 else np.moveaxis(values, -1, 0)


def _stored_range(image: Dataset) -> tuple[int, int]:
    """Return the least and the greatest number that a pixel can store."""
    bits = int(image.BitsStored)
    return (-(1 << bits - 1), (1 << bits - 1) - 1) if _is_signed(image) else (0, (1 << bits) - 1)


def _padding(image: Dataset, stored: npt.NDArray[Any]) -> npt.NDArray[np.bool_] | None:
    """Return where there is no picture, such as in the corners around a CT; None if not stated."""
    value = image.get("PixelPaddingValue")
    if value is None or not str(image.get("PhotometricInterpretation")).startswith("MONOCHROME"):
        return None
    ends = [_as_stored(image, value)]
    if (limit := image.get("PixelPaddingRangeLimit")) is not None:
        ends.append(_as_stored(image, limit))
    return np.asarray((stored >= min(ends)) & (stored <= max(ends)))


def _as_stored(image: Dataset, value: int | bytes) -> int:
    """Return the value as this image's pixels store it, whatever sign its own element has."""
    number = int.from_bytes(value, "little") if isinstance(value, bytes) else int(value)
    least, most = _stored_range(image)
    word = number % (1 << 16)
    signed = word - (1 << 16) if _is_signed(image) and word >= 1 << 15 else word
    # pydicom cuts pixels to the bits that are in use.
    return signed if least <= signed <= most else least + (signed - least) % (most - least + 1)


def _is_signed(image: Dataset) -> bool:
    return bool(image.get("PixelRepresentation") == 1)


def _rescale(image: Dataset) -> tuple[float, float] | None:
    """Return slope and intercept, at the top or in an enhanced image's functional groups.

    None if there are none.
    """
    for place in (image, *_groups(image)):
        slope, intercept = place.get("RescaleSlope"), place.get("RescaleIntercept")
        if slope not in (None, "") and intercept not in (None, ""):
            return float(slope), float(intercept)
    return None


def _groups(image: Dataset) -> Iterator[Dataset]:
    for keyword in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
        for group in image.get(keyword) or ():
            yield from group.get("PixelValueTransformationSequence") or ()

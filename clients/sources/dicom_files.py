"""Which files of a folder are DICOM images, by their headers; and what else lies there.

Files are numbered in the order of their paths, as ``find FOLDER/ -xtype f | LC_ALL=C sort`` lists
them: so a steward finds one whose name, which may be a patient's, is not told. A link to a file is
read as that file. Links to folders are counted and not followed: no loops, and nothing is read
that does not lie in the folder or is linked one by one.
"""

from __future__ import annotations

import logging
import os
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydicom import Dataset

_SCREEN = "1.2.840.10008.5.1.4.1.1.7"  # secondary captures; with more parts, several frames
_PREAMBLE = 128  # bytes, then DICM
_READ_NOW = (  # pydicom reads a value, and complains of it, when it is asked for it
    *("SOPClassUID", "ImageType", "Modality"),
    *("PatientID", "SeriesInstanceUID", "SOPInstanceUID"),
)
_LONGEST_FIRST_VALUE = 1024  # of a file without preamble, such as a character set

# What pydicom says of a file quotes its name and its tags.
logging.getLogger("pydicom").setLevel(logging.CRITICAL)


@dataclass(frozen=True)
class DicomImage:
    """A file with an image. ``number``: its place in the order of paths, 1 = the first."""

    number: int
    path: Path
    header: Dataset


@dataclass
class Beside:
    """What one walk met beside images: ``unread`` numbers of files that look like DICOM and are
    broken; DICOM files that hold no image of a patient; links to folders or to nothing.
    """

    unread: list[int] = field(default_factory=list)
    others: int = 0
    links: int = 0


@contextmanager
def quiet() -> Iterator[None]:
    """Without pydicom's warnings, which quote tags."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def images(folder: Path, beside: Beside) -> Iterator[DicomImage]:
    """Every image of the folder and those below it, read up to its pixels; ``beside`` is filled.

    Localizers, segmentations, presentation states, reports and what else is no ``Image Storage``
    are no images. Raises OSError.
    """
    number = 0
    for path in _paths(folder, beside):
        number += 1
        if not _looks_like_dicom(path):
            continue
        header = _header(path)
        if header is None:
            beside.unread.append(number)
        elif _holds_no_image(header):
            beside.others += 1
        elif "Rows" not in header:  # cut off before it
            beside.unread.append(number)
        else:
            yield DicomImage(number, path, header)


def is_of_a_screen(header: Dataset) -> bool:
    """Whether the image was taken of a screen or a paper, where names may stand."""
    return f"{_kind(header)}.".startswith(f"{_SCREEN}.") or _is_of_type(header, "SCREEN SAVE")


def _paths(folder: Path, beside: Beside) -> list[Path]:
    found: list[Path] = []
    for place, folders, names in os.walk(folder, onerror=_stop):
        beside.links += sum(Path(place, name).is_symlink() for name in folders)
        for path in (Path(place, name) for name in names):
            if path.is_file():
                found.append(path)
            else:
                beside.links += path.is_symlink()
    return sorted(found, key=os.fsencode)


def _stop(error: OSError) -> None:
    raise error  # or a folder that may not be read would be passed over


@quiet()
def _header(path: Path) -> Dataset | None:
    import pydicom

    try:
        header = pydicom.dcmread(path, stop_before_pixels=True, force=True)
        for keyword in _READ_NOW:
            header.get(keyword)
    except OSError:
        raise
    except Exception:  # noqa: BLE001 - a broken file fails anywhere in pydicom
        return None
    return header


def _looks_like_dicom(path: Path) -> bool:
    """By its mark after the preamble; without one, if it begins as a data set does."""
    from pydicom.datadict import dictionary_has_tag
    from pydicom.valuerep import STANDARD_VR

    with path.open("rb") as file:
        start = file.read(_PREAMBLE + 4)
    if start[_PREAMBLE:] == b"DICM":
        return True
    if len(start) < 8:
        return False
    group, element, length = struct.unpack("<HHI", start[:8])
    known = element == 0 or dictionary_has_tag((group, element))
    explicit = start[4:6].decode("latin-1") in STANDARD_VR
    return group in (2, 8) and known and (explicit or length <= _LONGEST_FIRST_VALUE)


def _holds_no_image(header: Dataset) -> bool:
    from pydicom.uid import UID

    kind = UID(_kind(header))
    is_known = kind.name != kind  # a maker's own class has no name
    return (is_known and "Image Storage" not in kind.name) or _is_of_type(header, "LOCALIZER")


def _kind(header: Dataset) -> str:
    """The number of its SOP class."""
    return str(header.get("SOPClassUID") or header.file_meta.get("MediaStorageSOPClassUID", ""))


def _is_of_type(header: Dataset, word: str) -> bool:
    return word in str(header.get("ImageType", "")).upper()

"""Find the DICOM images of a folder by their headers, and count its other files.

Files are numbered in the order of their paths, as ``find FOLDER/ -xtype f | LC_ALL=C sort`` lists
them. A steward can then find a file without its name, which may be a patient's and is not reported.
A link to a file is read as that file. Links to folders are counted and not followed: this avoids
loops, and a file outside the folder is read only if it is linked itself.
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

_SCREEN = "1.2.840.10008.5.1.4.1.1.7"  # secondary capture; UIDs below it have several frames
_PREAMBLE = 128  # bytes before DICM
_READ_NOW = (  # pydicom parses a value, and reports its faults, on the first access
    *("SOPClassUID", "ImageType", "Modality"),
    *("PatientID", "SeriesInstanceUID", "SOPInstanceUID"),
)
_LONGEST_FIRST_VALUE = 1024  # bytes, in a file without preamble; such as a character set

# pydicom's messages quote a file's name and its tags.
logging.getLogger("pydicom").setLevel(logging.CRITICAL)


@dataclass(frozen=True)
class DicomImage:
    """File with an image. ``number``: its place in the order of paths, from 1."""

    number: int
    path: Path
    header: Dataset


@dataclass
class Beside:
    """Other files that one walk found.

    ``unread``: numbers of files that look like DICOM and are broken. ``others``: number of DICOM
    files without an image of a patient. ``links``: number of links to folders or to missing files.
    """

    unread: list[int] = field(default_factory=list)
    others: int = 0
    links: int = 0


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress pydicom's warnings, which quote tags."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def images(folder: Path, beside: Beside) -> Iterator[DicomImage]:
    """Yield every image of the folder and its subfolders, read up to its pixels; fill ``beside``.

    Localizers, segmentations, presentation states, reports and others that are no ``Image Storage``
    are not images. Raises OSError.
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
        elif "Rows" not in header:  # truncated before it
            beside.unread.append(number)
        else:
            yield DicomImage(number, path, header)


def is_of_a_screen(header: Dataset) -> bool:
    """Return whether the image was captured from a screen or paper, which may show names."""
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
    raise error  # os.walk would otherwise skip a folder that may not be read


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
    """Return whether a file has the mark DICM or, without a preamble, begins as a data set."""
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
    is_known = kind.name != kind  # a manufacturer's private class has no name
    return (is_known and "Image Storage" not in kind.name) or _is_of_type(header, "LOCALIZER")


def _kind(header: Dataset) -> str:
    """Return the UID of its SOP class."""
    return str(header.get("SOPClassUID") or header.file_meta.get("MediaStorageSOPClassUID", ""))


def _is_of_type(header: Dataset, word: str) -> bool:
    return word in str(header.get("ImageType", "")).upper()

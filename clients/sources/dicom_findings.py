"""Findings of one reading of a DICOM folder, worded without a patient or a file name."""

from __future__ import annotations

import shlex
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from flo.clients.sources.dicom_files import Beside
from flo.errors import DataError
from flo.study.columns import ImageColumn

_BOUND_SHARE = 0.05  # share of the images; fewer are empty slices
_SHOWN = 5  # numbers of files
_SCREEN = "captures of a screen, which may show a name although no tag says so"
_AT_A_BOUND = "images have all pixels at one of the study's bounds: are they in its unit?"
_UNREAD = "files look like DICOM images and were not read"
_OTHERS = (
    "DICOM files without an image of a patient (localizers, segmentations, presentation states, "
    "reports) are not records"
)
_LINKS = "links to folders, or to missing files, were not followed"
_TWICE = "files hold an image that another file also holds; it counts once"


@dataclass
class Tally:
    """Counts of images that became records, and of files that did not.

    ``broken``: (fault, hint) -> numbers of files, see ``dicom_files``.
    """

    beside: Beside = field(default_factory=Beside)
    broken: dict[tuple[str, str], list[int]] = field(default_factory=dict)
    instances: set[tuple[str, str]] = field(default_factory=set)
    at_a_bound: Counter[str] = field(default_factory=Counter)
    records: int = 0
    screens: int = 0
    twice: int = 0

    def is_new(self, instance: str, patient: str) -> bool:
        """Return whether the patient has no other image with this SOPInstanceUID, and store it."""
        if instance and (instance, patient) in self.instances:
            self.twice += 1
            return False
        self.instances.add((instance, patient))
        return True

    def add_broken(self, number: int, error: DataError) -> None:
        """Record that the study cannot use the image in file ``number``."""
        self.broken.setdefault((str(error), error.hint), []).append(number)

    def add(self, *, of_a_screen: bool) -> None:
        """Count a record."""
        self.records += 1
        self.screens += of_a_screen

    def add_pixels(self, column: ImageColumn, values: npt.NDArray[np.float64]) -> None:
        """Count an image without faults whose pixels all lie at one of the study's bounds."""
        least = values.min()
        alike = least == values.max()
        self.at_a_bound[column.name] += bool(alike and least in (column.minimum, column.maximum))

    def to_accept(self, column: str) -> dict[tuple[str, str, str], int]:
        """Return findings to correct or accept, as in a ``Batch``; ``column``: with the images."""
        found = {}
        if self.screens:
            found["screen captures", column, _SCREEN] = self.screens
        for name, count in self.at_a_bound.items():
            if count and count >= _BOUND_SHARE * self.records:
                found["images at a bound", name, _AT_A_BOUND] = count
        if unread := self.beside.unread:
            found["unread images", "", f"{_UNREAD} ({_files(unread)} by path)"] = len(unread)
        return found

    def notes(self) -> dict[str, int]:
        """Return findings that do not block approval, as in a ``Batch``."""
        counts = {_OTHERS: self.beside.others, _LINKS: self.beside.links, _TWICE: self.twice}
        return {rule: count for rule, count in counts.items() if count}

    def refuse_broken(self, folder: Path) -> None:
        """Raise DataError if images cannot be read; it lists all, by their numbers."""
        if not self.broken:
            return
        lines = [f"  {_files(numbers)}: {wrong}" for (wrong, _), numbers in self.broken.items()]
        ways = dict.fromkeys(way for _, way in self.broken if way)
        first = min(min(numbers) for numbers in self.broken.values())
        name_it = f"find {shlex.quote(str(folder))}/ -xtype f | LC_ALL=C sort | sed -n {first}p"
        raise DataError(
            f"{folder.name}: images cannot be read (files are counted in the order of paths):\n"
            + "\n".join(lines),
            hint="; ".join([f"repair or move them (`{name_it}` names file {first})", *ways]),
        )

    def refuse_missing(self, folder: Path, count: int, key: str) -> None:
        """Raise DataError if ``count`` lines of the labels, by their ``key``, have no image."""
        if not count:
            return
        hint = f"check that each {key} is spelt as in the images, with its leading zeros"
        for rule, files in {_UNREAD: len(self.beside.unread), **self.notes()}.items():
            hint += f"; {rule}: {files}" if files else ""
        raise DataError(
            f"{folder.name}: {count} lines of the labels have no readable image", hint=hint
        )


def _files(numbers: list[int]) -> str:
    shown = ", ".join(str(number) for number in numbers[:_SHOWN])
    more = f" and {len(numbers) - _SHOWN} more" if len(numbers) > _SHOWN else ""
    return f"file{'s' if len(numbers) > 1 else ''} {shown}{more}"

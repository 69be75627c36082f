"""CSV file of labels for DICOM images: data on a patient, a series, or one image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flo.clients.sources.files import CsvFile
from flo.clients.sources.mapping import StudyMapping
from flo.errors import DataError, UsageError
from flo.study.schema import Schema

_KEYS = ("SOPInstanceUID", "SeriesInstanceUID", "PatientID")
Doubts = dict[tuple[str, str, str], int]


class Labels:
    """Labels of a DICOM folder. ``fields``: columns other than the key.

    ``key``: tag and column that connect a line with its images. ``patients``: the key of each line
    -> the patient's id, "" for a blank one; None if the file has no id column, so that the images'
    own tag is used.
    """

    def __init__(self, path: Path, id_column: str) -> None:
        """Raises DataError if the file cannot be read, or a line's key is missing or repeated."""
        if not path.is_file():
            raise DataError(f"labels file {path} does not exist", hint="set `labels` in site.toml")
        names = [offer.field for offer in CsvFile(path, id_column).fields()]
        key = next((name for name in _KEYS if name in names), None)
        if key is None:
            raise DataError(
                f"{path.name} has no column that says which images a line describes",
                hint=f"it needs a column {', '.join(_KEYS[:-1])} or {_KEYS[-1]}",
            )
        self.key, self.fields = key, [name for name in names if name != key]
        self._file = CsvFile(path, key)
        keys = _ids(self._file)
        self.patients: dict[str, str] | None = None
        if id_column in names:
            self.patients = dict(zip(keys, _ids(CsvFile(path, id_column)), strict=True))
        seen = set[str]()
        for number, cell in enumerate(keys, start=1):
            if not cell or cell in seen:
                wrong = "occurs twice" if cell else "is missing"
                raise DataError(f"{path.name}, row {number}: its {key} {wrong}")
            seen.add(cell)

    def read(
        self, mapping: StudyMapping, schema: Schema
    ) -> tuple[dict[str, dict[str, Any]], Doubts]:
        """Return the key of each line -> the cells of the mapped columns; and the doubts on them.

        Raises UsageError if a mapped field is no column of the file.
        """
        for column in mapping.columns.values():
            if column.field not in self.fields:
                raise UsageError(
                    f"{column.field!r} is not a field of a DICOM folder",
                    hint="pixels, dicom:KEYWORD, or a column of the labels: "
                    + ", ".join(self.fields),
                )
        lines: dict[str, dict[str, Any]] = {}
        doubts: Doubts = {}
        for batch in self._file.read(mapping, schema):
            cells = {name: column.to_pylist() for name, column in batch.columns.items()}
            for place, key in enumerate(batch.ids.to_pylist()):
                lines[key.strip()] = {name: column[place] for name, column in cells.items()}
            doubts |= batch.to_accept
        return lines, doubts


def _ids(file: CsvFile) -> list[str]:
    return [cell.strip() for batch in file.ids() for cell in batch.to_pylist()]

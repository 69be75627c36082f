"""CSV and Parquet files, and tables in memory.

A CSV file is UTF-8 with a header; what separates its cells is seen in the header: comma, semicolon,
tab or bar. With semicolons a cell such as ``5,2`` is the number 5.2, as spreadsheets write it
where the comma is the decimal sign.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from flo.clients.mapping import StudyMapping
from flo.clients.sources.source import BATCH, Batch, Offer
from flo.errors import DataError
from flo.schema import Schema

_BLOCK_BYTES = 8 << 20
_LONGEST_HEADER = 4 << 20
_COMMA_NUMBER = r"^\s*([+-]?\d+),(\d+)\s*$"


class TableSource:
    """A table: ``_batches`` is what kinds of tables differ in."""

    is_table = True

    def __init__(self, name: str, id_column: str) -> None:
        self.name, self._id_column = name, id_column

    def offers(self) -> list[Offer]:
        """Its columns by name, the id column among them."""
        return [Offer(name) for name in self._names()]

    def settings(self) -> dict[str, Any]:
        """Nothing: a mapping of a table needs columns only."""
        return {}

    def words(self, cells: list[str]) -> dict[str, str]:
        """Each cell as its own meaning: a table has no codebook."""
        return dict(zip(cells, cells, strict=True))

    def ids(self) -> Iterator[pa.Array]:
        """The id column, repeated ids included; nothing where there is no such column."""
        if self._id_column in self._names():
            for batch in self._batches([self._id_column]):
                yield batch.column(0)

    def read(self, mapping: StudyMapping, schema: Schema) -> Iterator[Batch]:
        """The mapped columns in the table's order; ids are null where there is no id column."""
        fields = {name: column.one_field(name) for name, column in mapping.columns.items()}
        known = [self._id_column] if self._id_column in self._names() else []
        for batch in self._batches(list(dict.fromkeys([*known, *fields.values()]))):
            cells = dict(zip(batch.schema.names, batch.columns, strict=True))
            ids = cells.get(self._id_column, pa.nulls(len(batch)))
            yield Batch(ids, {name: cells[field] for name, field in fields.items()})

    def _names(self) -> list[str]:
        raise NotImplementedError

    def _batches(self, wanted: list[str]) -> Iterator[pa.RecordBatch]:
        raise NotImplementedError


class Frame(TableSource):
    """A table in memory, such as a data set that ships in a package."""

    def __init__(self, name: str, id_column: str, table: pa.Table) -> None:
        super().__init__(name, id_column)
        self._table = table

    def _names(self) -> list[str]:
        return list(self._table.schema.names)

    def _batches(self, wanted: list[str]) -> Iterator[pa.RecordBatch]:
        yield from self._table.select(wanted).to_batches(max_chunksize=BATCH)


class CsvFile(TableSource):
    """A CSV file in UTF-8: a header line, then rows of text, which nothing here turns into numbers.

    Its separator is that of ``, ; | `` and tab that its header has most of; with ``;`` a decimal
    comma becomes a point. Raises DataError if it does not exist.
    """

    def __init__(self, path: Path, id_column: str) -> None:
        super().__init__(path.name, id_column)
        self._path = _there(path)

    def _names(self) -> list[str]:
        return _distinct(self.name, self._open(pyarrow.csv.ConvertOptions()).schema.names)

    def _batches(self, wanted: list[str]) -> Iterator[pa.RecordBatch]:
        as_text = pyarrow.csv.ConvertOptions(
            column_types=dict.fromkeys(wanted, pa.string()),
            include_columns=wanted,
            strings_can_be_null=False,
        )
        separator, rows = self._separator(), 0
        try:
            for batch in self._open(as_text):
                rows += len(batch)
                yield batch if separator != ";" else _with_points(batch)
        except (pa.ArrowInvalid, UnicodeDecodeError) as error:
            raise _unreadable(self.name, "csv", error) from None
        with self._path.open("rb") as file:
            lines = sum(1 for line in file if line.strip()) - 1
        if lines != rows:  # a stray quote swallows all lines up to the next one
            raise DataError(
                f"{self.name} has {lines} lines below its header and {rows} rows",
                hint="a quotation mark is not closed, or a cell holds a line break",
            )

    def _open(self, convert: pyarrow.csv.ConvertOptions) -> pyarrow.csv.CSVStreamingReader:
        try:
            return pyarrow.csv.open_csv(
                self._path,
                read_options=pyarrow.csv.ReadOptions(block_size=_BLOCK_BYTES, use_threads=False),
                parse_options=pyarrow.csv.ParseOptions(
                    delimiter=self._separator(), newlines_in_values=True
                ),
                convert_options=convert,
            )
        except (pa.ArrowInvalid, UnicodeDecodeError) as error:
            raise _unreadable(self.name, "csv", error) from None

    def _separator(self) -> str:
        with self._path.open("rb") as file:
            line = file.readline(_LONGEST_HEADER)
        return max(",;\t|", key=lambda mark: line.count(mark.encode()))


class ParquetFile(TableSource):
    """A Parquet file; its columns keep their types. Raises DataError if it does not exist."""

    def __init__(self, path: Path, id_column: str) -> None:
        super().__init__(path.name, id_column)
        self._path = _there(path)

    def _names(self) -> list[str]:
        return _distinct(self.name, self._open().schema_arrow.names)

    def _batches(self, wanted: list[str]) -> Iterator[pa.RecordBatch]:
        try:
            yield from self._open().iter_batches(BATCH, columns=wanted)
        except (pa.ArrowException, OSError) as error:
            raise _unreadable(self.name, "parquet", error) from None

    def _open(self) -> pyarrow.parquet.ParquetFile:
        try:
            return pyarrow.parquet.ParquetFile(self._path)
        except (pa.ArrowException, OSError) as error:
            raise _unreadable(self.name, "parquet", error) from None


def open_file(path: Path, id_column: str) -> TableSource:
    """A source for one file, by the end of its name. Raises DataError."""
    match path.suffix.lower():
        case ".csv":
            return CsvFile(path, id_column)
        case ".parquet" | ".pq":
            return ParquetFile(path, id_column)
    raise DataError(
        f"{path.name}: only .csv and .parquet files are read",
        hint="databases, FHIR, OMOP and DICOM: see docs/connectors.md",
    )


def _there(path: Path) -> Path:
    if not path.is_file():
        raise DataError(f"data file {path} does not exist", hint="set `file` in site.toml")
    return path


def _distinct(name: str, columns: list[str]) -> list[str]:
    if len(set(columns)) != len(columns):
        raise DataError(f"{name}: the same column name stands twice")
    return columns


def _with_points(batch: pa.RecordBatch) -> pa.RecordBatch:
    arrays = [
        pc.replace_substring_regex(array, pattern=_COMMA_NUMBER, replacement=r"\1.\2")
        for array in batch.columns
    ]
    return pa.RecordBatch.from_arrays(arrays, names=batch.schema.names)


def _unreadable(name: str, kind: str, error: Exception) -> DataError:
    # Arrow quotes rows in its messages, so only its kind of complaint is passed on.
    row = re.search(r"Row #(\d+)", str(error))
    place = f", row {int(row[1]) - 1}" if row else ""
    hint = "a CSV file is UTF-8 text with a header; every row has as many cells as the header"
    return DataError(
        f"{name} cannot be read as {kind}{place} ({type(error).__name__})",
        hint=hint if kind == "csv" else "",
    )

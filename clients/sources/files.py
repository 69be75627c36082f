"""CSV and Parquet files, and tables in memory.

A CSV file is UTF-8 with a header. The header determines what separates its cells: comma, semicolon,
tab or bar. With semicolons or tabs, a cell such as ``5,2`` in a number's column is 5.2, as
spreadsheets write it where the comma is the decimal sign. There ``1.234`` may mean 1234, so the
steward is asked about it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from flo.clients.sources.mapping import StudyMapping
from flo.clients.sources.source import BATCH, Batch, SourceField
from flo.errors import DataError
from flo.study.columns import ImageColumn, NoteColumn, NumberColumn
from flo.study.schema import Schema

_BLOCK_BYTES = 8 << 20
_LONGEST_HEADER = 4 << 20
_LONGEST_TEXT, _LONGEST_LIST = 32 << 20, 1_000_000  # limits in a Parquet file's footer
_COMMA_NUMBER = r"^\s*([+-]?\d+),(\d+)\s*$"
_THOUSANDS = r"^\s*[+-]?[1-9]\d{0,2}(\.\d{3})+\s*$"
_POINT_NUMBER = r"^\s*[+-]?\d+\.(\d{1,2}|\d{4,})\s*$"
_MAY_BE_THOUSANDS = (
    "numbers such as 1.234 are read with a decimal point; if the point marks thousands, export "
    "them without it"
)


class TableSource:
    """Base class of tables; subclasses implement ``_names`` and ``_batches``."""

    is_table, has_events = True, False

    def __init__(self, name: str, id_column: str) -> None:
        self.name, self._id_column = name, id_column

    def fields(self) -> list[SourceField]:
        """Return its columns by name, including the id column."""
        return [SourceField(name) for name in self._names()]

    def settings(self) -> dict[str, Any]:
        """Return no settings: a mapping of a table needs only columns."""
        return {}

    def words(self, cells: list[str]) -> dict[str, str]:
        """Return each cell as its own meaning: a table has no codebook."""
        return dict(zip(cells, cells, strict=True))

    def ids(self) -> Iterator[pa.Array]:
        """Yield the id column with repeated ids; empty if there is no such column."""
        if self._id_column in self._names():
            for batch in self._batches([self._id_column]):
                yield batch.column(0)

    def read(self, mapping: StudyMapping, schema: Schema) -> Iterator[Batch]:
        """Yield the mapped columns in the table's order; ids are null without an id column."""
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


class DataFrameSource(TableSource):
    """Table in memory, such as a data set that ships in a package."""

    def __init__(self, name: str, id_column: str, table: pa.Table) -> None:
        super().__init__(name, id_column)
        self._table = table

    def _names(self) -> list[str]:
        return list(self._table.schema.names)

    def _batches(self, wanted: list[str]) -> Iterator[pa.RecordBatch]:
        yield from self._table.select(wanted).to_batches(max_chunksize=BATCH)


class CsvFile(TableSource):
    """CSV file in UTF-8: a header line, then rows of text, which are not converted to numbers here.

    The separator is the most frequent of comma, semicolon, bar and tab in the header, outside of
    quotes. Raises DataError if the file does not exist.
    """

    def __init__(self, path: Path, id_column: str) -> None:
        super().__init__(path.name, id_column)
        self._path = _there(path)
        self._known: list[str] | None = None  # names of the columns, once they are read

    def read(self, mapping: StudyMapping, schema: Schema) -> Iterator[Batch]:
        """Yield batches as for any table, with decimal points in place of decimal commas.

        If commas or bars separate cells, numbers are left as they are.
        """
        notes = [c.name for c in schema.columns if isinstance(c, NoteColumn)]
        if self._separator() in ",|":
            for batch in super().read(mapping, schema):
                self._refuse_line_breaks(batch, notes)
                yield batch
            return
        numbers = sorted(_numbers(schema) & mapping.columns.keys())
        thousands, points, commas = Counter[str](), Counter[str](), Counter[str]()
        held: Batch | None = None
        for batch in super().read(mapping, schema):
            self._refuse_line_breaks(batch, notes)
            cells = dict(batch.columns)
            for name in numbers:
                thousands[name] += _count(cells[name], _THOUSANDS)
                points[name] += _count(cells[name], _POINT_NUMBER)
                commas[name] += _count(cells[name], _COMMA_NUMBER)
                cells[name] = pc.replace_substring_regex(cells[name], _COMMA_NUMBER, r"\1.\2")
            if held is not None:
                yield held
            held = replace(batch, columns=cells)
        if held is not None:  # the last batch carries the doubts: only now all cells are counted
            asked = [n for n in numbers if thousands[n] and (commas[n] or not points[n])]
            doubts = {("thousands", n, _MAY_BE_THOUSANDS): thousands[n] for n in asked}
            yield replace(held, to_accept=doubts)

    def _refuse_line_breaks(self, batch: Batch, notes: list[str]) -> None:
        """Refuse a note that may have swallowed other rows: no other rule would find it."""
        for name in notes:
            if name in batch.columns and _count(batch.columns[name], r"[\r\n]"):
                raise DataError(
                    f"{self.name}: a cell of {name} holds a line break, or its quotation mark is "
                    "not closed",
                    hint="export notes with line breaks as Parquet",
                )

    def _names(self) -> list[str]:
        if self._known is None:
            try:
                names = self._open(pyarrow.csv.ConvertOptions()).schema.names
            except UnicodeDecodeError as error:  # Arrow decodes the names here, and no cells
                raise self._unreadable(error) from None
            self._known = _distinct(self.name, names)
        return self._known

    def _batches(self, wanted: list[str]) -> Iterator[pa.RecordBatch]:
        as_text = pyarrow.csv.ConvertOptions(
            column_types=dict.fromkeys(wanted, pa.string()),
            include_columns=wanted,
            strings_can_be_null=False,
        )
        rows = 0
        try:
            for batch in self._open(as_text):
                rows += len(batch)
                yield batch
        except (pa.ArrowInvalid, UnicodeDecodeError) as error:
            raise self._unreadable(error) from None
        with self._path.open("rb") as file:
            lines = sum(1 for line in file if line.strip()) - 1
        if lines != rows:  # a stray quote swallows all lines up to the next one
            raise DataError(
                f"{self.name} has {lines} lines below its header and {rows} rows",
                hint="a quotation mark is not closed, or a cell holds a line break; export notes "
                "with line breaks as Parquet",
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
            raise self._unreadable(error) from None

    def _separator(self) -> str:
        with self._path.open("rb") as file:
            line = re.sub(rb'"[^"]*"', b"", file.readline(_LONGEST_HEADER))
        return max(",;\t|", key=lambda mark: line.count(mark.encode()))

    def _unreadable(self, error: Exception) -> DataError:
        hint = "a CSV file is UTF-8 text with a header; every row has as many cells as the header"
        with self._path.open("rb") as file:
            first = file.readline(_LONGEST_HEADER)
            if first.startswith((b"\xff\xfe", b"\xfe\xff")):
                hint = "it is UTF-16: export it as UTF-8"
            elif first.lower().startswith((b"sep=", b"\xef\xbb\xbfsep=")):
                hint = "its first line is for a spreadsheet (sep=): remove that line"
            elif not all(_is_utf8(line) for line in (first, *file)):
                hint = "it is not UTF-8; from a spreadsheet, save it as CSV UTF-8"
        return _unreadable(self.name, "csv", error, hint)


class ParquetFile(TableSource):
    """Parquet file; its columns keep their types. Raises DataError if it does not exist."""

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
        """Open the file, with limits on the texts and lists that Arrow reads from its footer."""
        try:
            return pyarrow.parquet.ParquetFile(
                self._path,
                thrift_string_size_limit=_LONGEST_TEXT,
                thrift_container_size_limit=_LONGEST_LIST,
            )
        except (pa.ArrowException, OSError) as error:
            raise _unreadable(self.name, "parquet", error) from None


def open_file(path: Path, id_column: str) -> TableSource:
    """Return a source for one file, by the end of its name. Raises DataError."""
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
    if path.is_dir():
        raise DataError(
            f"data file {path} is a folder", hint="write the table as one file, and name that file"
        )
    if not path.is_file():
        raise DataError(f"data file {path} does not exist", hint="set `file` in site.toml")
    return path


def _distinct(name: str, columns: list[str]) -> list[str]:
    if len(set(columns)) != len(columns):
        raise DataError(f"{name}: the same column name occurs twice")
    return columns


def _numbers(schema: Schema) -> set[str]:
    """Return the study's columns that hold numbers, including the pixels of images."""
    found = {column.name for column in schema.columns if isinstance(column, NumberColumn)}
    return found.union(*(c.pixels for c in schema.columns if isinstance(c, ImageColumn)))


def _count(cells: pa.StringArray, pattern: str) -> int:
    return pc.sum(pc.match_substring_regex(cells, pattern)).as_py() or 0


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True


def _unreadable(name: str, kind: str, error: Exception, hint: str = "") -> DataError:
    # Arrow's messages quote rows, so report only the row's number and the type of the error.
    row = re.search(r"Row #(\d+)", str(error))
    place = f", row {int(row[1]) - 1}" if row else ""
    return DataError(f"{name} cannot be read as {kind}{place} ({type(error).__name__})", hint=hint)

"""The interface of a source, and what it hands on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from flo.clients.sources.mapping import StudyMapping
from flo.study.schema import Schema

BATCH = 65_536  # records in a batch


@dataclass(frozen=True)
class SourceField:
    """Something a source has and a mapping can name. ``text``: what people call it there."""

    field: str
    text: str = ""
    unit: str = ""


@dataclass(frozen=True)
class Batch:
    """Some records. ``ids`` and every column have one length n; an image column is a list of its
    pixels. ``invalid``: (column, rule) -> the cells that the source itself found wrong, shape (n,).
    ``to_accept``: (kind, column, rule) -> how many; what a steward mends or accepts under kind and
    column. ``notes``: what a steward should know, and of how many patients. Doubts and notes are of
    the whole source: alike in every batch, or in the last alone.
    """

    ids: pa.Array
    columns: dict[str, pa.Array]
    invalid: dict[tuple[str, str], npt.NDArray[np.bool_]] = field(default_factory=dict)
    to_accept: dict[tuple[str, str, str], int] = field(default_factory=dict)
    notes: dict[str, int] = field(default_factory=dict)


class DataSource(Protocol):
    """A place that patients are read from. Every method may raise DataError or UsageError.

    ``name``: what the steward calls it. ``is_table``: its fields are the columns of one table.
    """

    name: str
    is_table: bool

    def fields(self) -> list[SourceField]:
        """All that it has; of events and images nothing that tells who the patient is."""

    def settings(self) -> dict[str, Any]:
        """What its section of a mapping needs besides columns, as a first suggestion; None for what
        a person has to choose."""

    def words(self, cells: list[str]) -> dict[str, str]:
        """What coded cells mean, as far as it knows."""

    def ids(self) -> Iterator[pa.Array]:
        """The patient ids, as they are spelt there."""

    def read(self, mapping: StudyMapping, schema: Schema) -> Iterator[Batch]:
        """The records that the mapping asks for, in an order that does not change.

        ``schema``: the study's, for sources that know units, or have images of any size.
        """

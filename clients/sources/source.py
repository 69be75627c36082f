"""Interface of a source, and the types that it returns."""

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
    """Field of a source that a mapping can name. ``text``: its display name there.

    ``of_events``: it is no column of a table, but events beside the table.
    """

    field: str
    text: str = ""
    unit: str = ""
    of_events: bool = False


@dataclass(frozen=True)
class Batch:
    """Some records: ``ids`` and every column have the same length n.

    An image column is a list of its pixels. ``invalid``: (column, rule) -> mask (n,) of the cells
    that the source itself found wrong. ``to_accept``: (kind, column, rule) -> count; the steward
    corrects these, or accepts them under kind and column. ``notes``: note for the steward -> count.
    ``to_accept`` and ``notes`` describe the whole source: they are the same in every batch, or only
    in the last one.
    """

    ids: pa.Array
    columns: dict[str, pa.Array]
    invalid: dict[tuple[str, str], npt.NDArray[np.bool_]] = field(default_factory=dict)
    to_accept: dict[tuple[str, str, str], int] = field(default_factory=dict)
    notes: dict[str, int] = field(default_factory=dict)


class DataSource(Protocol):
    """Place that patients are read from. Every method may raise DataError or UsageError.

    ``name``: its name for the steward. ``is_table``: whether its fields are the columns of one
    table. ``has_events``: whether it puts dated events into the steps of a sequence.
    """

    name: str
    is_table: bool
    has_events: bool

    def fields(self) -> list[SourceField]:
        """Return all fields; for events and images, none that identifies the patient."""

    def settings(self) -> dict[str, Any]:
        """Return suggestions for what a mapping's section needs besides columns.

        None for a value that a person has to choose.
        """

    def words(self, cells: list[str]) -> dict[str, str]:
        """Return what coded cells mean, as far as the source knows."""

    def ids(self) -> Iterator[pa.Array]:
        """Yield the patient ids, as they are spelt in the source."""

    def read(self, mapping: StudyMapping, schema: Schema) -> Iterator[Batch]:
        """Yield the records that the mapping selects, in an order that does not change.

        ``schema``: the study's, for sources that know units, or have images of any size.
        """

"""Wrapper that turns every failure of a source into a FloError, which quotes no row."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa

from flo.clients.sources.mapping import StudyMapping
from flo.clients.sources.source import Batch, DataSource, SourceField
from flo.errors import DataError, FloError
from flo.study.schema import Schema


class ErrorBoundary:
    """Wrapper that changes only the errors of another source. Raises only FloError."""

    def __init__(self, source: DataSource) -> None:
        self._source = source
        self.name, self.is_table = source.name, source.is_table
        self.has_events = source.has_events

    def fields(self) -> list[SourceField]:
        """Return the source's fields."""
        with self._translate():
            return self._source.fields()

    def settings(self) -> dict[str, Any]:
        """Return the source's settings."""
        with self._translate():
            return self._source.settings()

    def words(self, cells: list[str]) -> dict[str, str]:
        """Return the source's meanings of cells."""
        with self._translate():
            return self._source.words(cells)

    def ids(self) -> Iterator[pa.Array]:
        """Yield the source's ids; failures during the iteration are translated, too."""
        with self._translate():
            yield from self._source.ids()

    def read(self, mapping: StudyMapping, schema: Schema) -> Iterator[Batch]:
        """Yield the source's batches; failures during the iteration are translated, too."""
        with self._translate():
            yield from self._source.read(mapping, schema)

    @contextmanager
    def _translate(self) -> Iterator[None]:
        try:
            yield
        except FloError:
            raise
        except PermissionError:
            raise DataError(
                f"{self.name} may not be read by the user that runs FLO",
                hint="let that user read it, and the folders above it: chown, chmod or setfacl",
            ) from None
        except Exception as error:  # noqa: BLE001 - libraries raise whatever they like
            raise DataError(
                f"{self.name} cannot be read ({type(error).__name__})",
                hint="its content does not fit its format; export it again, with text as UTF-8",
            ) from None  # its message may quote a patient's data

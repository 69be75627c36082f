"""A source whose every failure is a FloError: what a library quotes of a row is never passed on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa

from flo.clients.mapping import StudyMapping
from flo.clients.sources.source import Batch, Offer, Source
from flo.errors import DataError, FloError
from flo.schema import Schema


class Guarded:
    """Another source, as it is, but for its errors. Raises FloError and nothing else."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self.name, self.is_table = source.name, source.is_table

    def offers(self) -> list[Offer]:
        """As the source has it."""
        with self._told():
            return self._source.offers()

    def settings(self) -> dict[str, Any]:
        """As the source has it."""
        with self._told():
            return self._source.settings()

    def words(self, cells: list[str]) -> dict[str, str]:
        """As the source has it."""
        with self._told():
            return self._source.words(cells)

    def ids(self) -> Iterator[pa.Array]:
        """As the source has it; also what fails halfway through is told in our words."""
        with self._told():
            yield from self._source.ids()

    def read(self, mapping: StudyMapping, schema: Schema) -> Iterator[Batch]:
        """As the source has it; also what fails halfway through is told in our words."""
        with self._told():
            yield from self._source.read(mapping, schema)

    @contextmanager
    def _told(self) -> Iterator[None]:
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
                hint="something in it is not what its format says; export it anew, text as UTF-8",
            ) from None  # what it quotes may be a patient's

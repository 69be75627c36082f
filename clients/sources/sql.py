"""Table or view of a database, through SQLAlchemy; its columns are the fields."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pyarrow as pa
import sqlalchemy as sa

from flo.clients.sources.database import batches, engine, reading
from flo.clients.sources.files import TableSource
from flo.errors import DataError


class SqlTable(TableSource):
    """Table or view, read in the order of its ids, then of the other columns that are read.

    ``address``: an SQLAlchemy URL; errors never quote it.
    """

    def __init__(self, address: str, table: str, schema: str | None, id_column: str) -> None:
        super().__init__(table, id_column)
        self._engine, self._schema = engine(address), schema

    def _names(self) -> list[str]:
        with reading(self._engine, self.name) as connection:
            look = sa.inspect(connection)
            known = {*look.get_table_names(self._schema), *look.get_view_names(self._schema)}
            with suppress(NotImplementedError):  # the database has no materialized views
                known |= set(look.get_materialized_view_names(self._schema))
            if self.name not in known:
                raise DataError(
                    f"the database has no table or view {self.name!r} that this user may see",
                    hint="set `table` (and `schema_name`) under `source` in site.toml",
                )
            return [str(column["name"]) for column in look.get_columns(self.name, self._schema)]

    def _batches(self, wanted: list[str]) -> Iterator[pa.RecordBatch]:
        columns: list[sa.ColumnClause[object]] = [sa.column(name) for name in wanted]
        table = sa.table(self.name, *columns, schema=self._schema)
        # Order by the ids, so that "the first records of a patient" are always the same.
        query: sa.Select[*tuple[Any, ...]] = sa.select(*columns).order_by(*columns)
        with reading(self._engine, self.name) as connection:
            yield from batches(connection, query.select_from(table))

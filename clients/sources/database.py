"""Read a database through SQLAlchemy: one connection, rows streamed.

No function here writes. Error messages contain neither the address, which may hold a password, nor
a row. Give FLO a user of the database that may only read.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from flo.clients.sources.events import as_array
from flo.clients.sources.source import BATCH
from flo.errors import DataError, UsageError


def engine(address: str) -> sa.Engine:
    """Create an engine without connecting.

    Raises UsageError for an address that cannot be used, DataError if SQLite's file does not exist.
    """
    try:
        made = sa.create_engine(address, hide_parameters=True)
    except (ArgumentError, NoSuchModuleError, ModuleNotFoundError, ValueError) as error:
        driver = f": {error.name}" if isinstance(error, ModuleNotFoundError) else ""
        raise UsageError(
            f"the database's address cannot be used ({type(error).__name__}{driver})",
            hint="DIALECT+DRIVER://USER@HOST/DATABASE, such as postgresql+psycopg://reader@db/cdm, "
            "and the driver installed beside FLO (pip install psycopg); percent-encode @ : / in it",
        ) from None
    file = made.url.database
    if made.dialect.name == "sqlite" and not (file and Path(file).is_file()):
        raise DataError("the database's file does not exist")  # SQLite would create an empty one
    return made


@contextmanager
def reading(database: sa.Engine, name: str) -> Iterator[sa.Connection]:
    """Open a connection in one transaction, which is read-only on PostgreSQL and SQLite.

    Raises DataError.
    """
    options: dict[str, Any] = {"stream_results": True}
    if database.dialect.name == "postgresql":
        options |= {"postgresql_readonly": True, "isolation_level": "REPEATABLE READ"}
    try:
        with database.connect() as connection:
            connection = connection.execution_options(**options)
            if database.dialect.name == "sqlite":
                connection.exec_driver_sql("PRAGMA query_only = ON")
            yield connection
    except (SQLAlchemyError, UnicodeDecodeError) as error:
        raise DataError(
            f"{name} cannot be read ({type(error).__name__})",
            hint="try the address with the database's own client; the user needs read access only",
        ) from None


def batches(
    connection: sa.Connection, query: sa.Select[*tuple[Any, ...]]
) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a query.

    A column whose cells are of one type keeps that type; a mixed one becomes text.
    """
    result = connection.execute(query)
    names = list(result.keys())
    for rows in result.yield_per(BATCH).partitions():
        columns = zip(*rows, strict=True)
        yield pa.RecordBatch.from_arrays([as_array(list(cells)) for cells in columns], names=names)

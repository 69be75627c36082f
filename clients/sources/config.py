"""``source`` of a population in ``site.toml``: the place of its patients, and how to open it.

Addresses of databases hold passwords, so they are in an environment variable and not in a file.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from flo.documents.document import Document
from flo.errors import UsageError
from flo.study.names import Text

if TYPE_CHECKING:
    from flo.clients.sources.source import DataSource

Variable = Annotated[str, StringConstraints(pattern=r"^[A-Z][A-Z0-9_]{0,99}$")]


def _sql_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,62}", name):
        raise ValueError(
            "a name has at most 63 letters (A to Z, a to z), digits and _, and does not begin with "
            "a digit; for a table of another name, create a view with such a name"
        )
    return name


SqlName = Annotated[str, AfterValidator(_sql_name)]


class SqlPlace(Document):
    """Table or view with one row for each record. ``address``: the variable with its URL."""

    kind: Literal["sql"]
    address: Variable
    table: SqlName
    schema_name: SqlName | None = None

    @property
    def words(self) -> str:
        """Table and variable; never the address, which holds a password."""
        return f"{self.table} in the database that {self.address} names"

    def open(self, id_column: str) -> DataSource:
        """Open the table. Raises UsageError if the variable is not set."""
        from flo.clients.sources.sql import SqlTable

        return SqlTable(_address(self.address), self.table, self.schema_name, id_column)


class FhirPlace(Document):
    """Folder with a FHIR R4 bulk export: ``*.ndjson`` and ``*.ndjson.gz``, at any depth."""

    kind: Literal["fhir"]
    folder: Path

    @property
    def words(self) -> str:
        """The folder's own name, without its parents."""
        return f"FHIR export {self.folder.name}"

    def open(self, id_column: str) -> DataSource:
        """Open the export. Raises DataError without one, UsageError for a wrong ``id_column``."""
        from flo.clients.sources.fhir import FhirExport

        return FhirExport(self.folder, id_column)


class OmopPlace(Document):
    """Database with the OMOP common data model, version 5.3 or 5.4.

    ``vocabulary_schema``, ``cohort_schema``: schemas of the vocabulary and of the cohorts, if they
    are not in ``schema_name``, as OHDSI's tools set them up.
    """

    kind: Literal["omop"]
    address: Variable
    schema_name: SqlName | None = None
    vocabulary_schema: SqlName | None = None
    cohort_schema: SqlName | None = None

    @property
    def words(self) -> str:
        """The variable; never the address, which holds a password."""
        return f"OMOP database that {self.address} names"

    def open(self, id_column: str) -> DataSource:
        """Open the database.

        Raises UsageError if the variable is not set, or ``id_column`` is no id.
        """
        from flo.clients.sources.omop import OmopDatabase

        return OmopDatabase(
            _address(self.address),
            self.schema_name,
            id_column,
            vocabulary=self.vocabulary_schema,
            cohorts=self.cohort_schema,
        )


class DicomPlace(Document):
    """Folder with DICOM images, and a CSV file with labels and other data on them."""

    kind: Literal["dicom"]
    folder: Path
    labels: Path

    @property
    def words(self) -> str:
        """The folder's own name, without its parents."""
        return f"DICOM folder {self.folder.name}"

    def open(self, id_column: str) -> DataSource:
        """Open the folder and read its labels. Raises DataError if they cannot be read."""
        from flo.clients.sources.dicom import DicomFolder

        return DicomFolder(self.folder, self.labels, id_column)


class EventTable(Document):
    """Table of dated events beside the patients' table: ``file`` or, in its database, ``table``.

    ``patient``, ``day``, ``code``, ``value``, ``unit``: its columns; without ``patient`` the ids
    are in the column of the same name as the patients'. A table without value or unit has none.
    ``record_day``: the column of the patients' table up to whose day a record's events count.
    """

    file: Path | None = None
    table: SqlName | None = None
    patient: Text | None = None
    day: Text = "day"
    code: Text = "code"
    value: Text | None = None
    unit: Text | None = None
    record_day: Text | None = None

    @model_validator(mode="after")
    def _has_one_place(self) -> EventTable:
        if (self.file is None) == (self.table is None):
            raise ValueError("events: give either `file` or `table`")
        return self

    def beside(self, patients: DataSource, place: SqlPlace | None, id_column: str) -> DataSource:
        """Open the events of these patients, from the database at ``place`` or from a file.

        Raises DataError or UsageError if they cannot be opened.
        """
        from flo.clients.sources.event_table import EventColumns, TableWithEvents
        from flo.clients.sources.files import TableSource, open_file
        from flo.clients.sources.sql import SqlTable

        own = self.patient or id_column
        if place is not None and self.table is not None:
            events: TableSource = SqlTable(
                _address(place.address), self.table, place.schema_name, own
            )
        else:
            events = open_file(self.file or Path(), own)
        assert isinstance(patients, TableSource)
        columns = EventColumns(own, self.day, self.code, self.value, self.unit, self.record_day)
        return TableWithEvents(patients, events, columns)


DataPlace = Annotated[SqlPlace | FhirPlace | OmopPlace | DicomPlace, Field(discriminator="kind")]


def _address(variable: str) -> str:
    if not os.environ.get(variable):
        raise UsageError(
            f"the environment variable {variable} is not set",
            hint="it holds the database's address, such as postgresql+psycopg://reader@db/cdm",
        )
    return os.environ[variable]

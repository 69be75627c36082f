"""``site.toml``: the hospital, the sources of its patients, and their life budgets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from flo.clients.home.policy import Policy
from flo.clients.sources.config import DataPlace, EventTable, SqlPlace
from flo.documents.document import Document, parse, read_toml
from flo.errors import PolicyError, UsageError
from flo.keys.keystore import KeyStoreConfig
from flo.privacy.accounting.life_budget import LifetimeBudget
from flo.study.names import Text
from flo.study.terms import Identifier, largest_delta, round_size

if TYPE_CHECKING:
    from flo.clients.sources.source import DataSource


class Place(Document):
    """Where patients are read from: ``file`` (CSV or Parquet) or ``source``, and dated events of
    theirs from ``events``."""

    file: Path | None = None
    source: DataPlace | None = None
    events: EventTable | None = None

    @model_validator(mode="after")
    def _has_one_place(self) -> Self:
        if (self.file is None) == (self.source is None):
            raise ValueError("give either `file` or `source`")
        if self.events is not None:
            database = isinstance(self.source, SqlPlace)
            if self.file is None and not database:
                raise ValueError(
                    "events: only for a file or a table of a database; FHIR and OMOP have theirs"
                )
            if self.events.table is not None and not database:
                raise ValueError("events: `table` is for a database; give `file`")
        return self

    @property
    def place(self) -> str:
        """Description of the data source for people."""
        if self.source is not None:
            return self.source.words
        return self.file.name if self.file is not None else ""

    def opened(self, id_column: str) -> DataSource:
        """Open the data source. Raises DataError or UsageError if it is missing."""
        # These import Arrow, which is slow; the agent never reads a hospital's file.
        from flo.clients.sources.error_wrapper import ErrorBoundary
        from flo.clients.sources.files import open_file

        source: DataSource
        if self.source is not None:
            source = self.source.open(id_column)
        else:
            source = open_file(self.file or Path(), id_column)
        if self.events is not None:
            database = self.source if isinstance(self.source, SqlPlace) else None
            source = self.events.beside(source, database, id_column)
        return ErrorBoundary(source)


class Population(Place):
    """Patients that share one life budget, and where they are read from.

    All places that may hold the same patients belong to one population.
    """

    name: Identifier
    id_column: Text
    hold_out: Annotated[float, Field(ge=0.05, le=0.95)]
    epsilon: Annotated[float, Field(gt=0, le=10)]
    declared_size: Annotated[int, Field(ge=10)]
    statement: Text | None = None
    normalisation: Literal["strip-casefold"] = "strip-casefold"
    ignore: tuple[str, ...] = ()

    @field_validator("declared_size")
    @classmethod
    def _rounded(cls, size: int) -> int:
        if size != round_size(size):
            raise ValueError(f"declared size {size} is not rounded; write {round_size(size)}")
        return size

    def open(self) -> DataSource:
        """Open the data source. Raises DataError or UsageError if it is missing."""
        return self.opened(self.id_column)


class SiteConfig(Document):
    """``site.toml``.

    ``processes``: processes that share a training sum; with GPUs, each process has one of them.
    ``notify``: a command that notifies the steward of a new study; it gets facts as JSON on its
    standard input, never as arguments.
    """

    schema_version: Literal[1] = 1
    hospital: Identifier
    device: Literal["auto", "cpu", "cuda"] = "auto"
    processes: Annotated[int, Field(ge=1, le=64)] = 1
    populations: Annotated[tuple[Population, ...], Field(min_length=1)]
    keystore: KeyStoreConfig = KeyStoreConfig()
    notify: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _consistent(self) -> SiteConfig:
        names = [population.name for population in self.populations]
        if len(set(names)) != len(names):
            raise ValueError("the same population name occurs twice")
        return self

    def population(self, name: str | None) -> Population:
        """Return the population of that name; if None, the only one. Raises UsageError."""
        if name is None and len(self.populations) == 1:
            return self.populations[0]
        for population in self.populations:
            if population.name == name:
                return population
        known = ", ".join(population.name for population in self.populations)
        raise UsageError(f"choose a population of this site: {known}", hint="--population NAME")


def refuse_population(population: Population, policy: Policy) -> None:
    """Check ε against consent and size, before writing. Raises PolicyError or UsageError."""
    if population.epsilon >= 1 and not policy.consent_to_epsilon_of_one_or_more:
        raise PolicyError(
            f"ε = {population.epsilon:g} is 1 or more, and this site's policy does not allow that",
            hint="if the steward agrees: consent_to_epsilon_of_one_or_more = true in policy.toml, "
            "signed with `flo site policy --sign`; or --consent-to-epsilon-of-one-or-more at init",
        )
    try:
        LifetimeBudget.create(population.epsilon, largest_delta(population.declared_size))
    except ValueError as error:
        raise UsageError(f"population {population.name!r}: {error}") from error


def make_config(
    hospital: str,
    *,
    file: Path,
    id_column: str,
    epsilon: float,
    declared_size: int,
    hold_out: float,
    keystore: dict[str, str] | None = None,
) -> SiteConfig:
    """Return a site's first configuration, with one population named ``main``.

    ``file``: its patients, or a TOML file with the ``[source]`` or ``file`` to read them from, and
    with ``[events]`` if there are any.
    """
    document = {
        "hospital": hospital,
        "populations": [
            {
                "name": "main",
                **place_of(file).model_dump(mode="json", exclude_none=True),
                "id_column": id_column,
                "hold_out": hold_out,
                "epsilon": epsilon,
                "declared_size": round_size(declared_size),
            }
        ],
        "keystore": keystore or {},
    }
    return parse(SiteConfig, document, "site configuration")


def open_table(file: Path, id_column: str) -> DataSource:
    """Open a CSV or Parquet file, or the table that a TOML file describes (``place_of``).

    Raises DataError or UsageError: it is missing, or no table.
    """
    source = place_of(file).opened(id_column)
    if not source.is_table:
        raise UsageError(
            f"{file} describes {source.name}, whose columns have no study's names",
            hint="give a table with the study's columns",
        )
    return source


def place_of(file: Path) -> Place:
    """Return where the patients are: in this file, or where a TOML file says.

    It has ``file`` or ``[source]``, and ``[events]`` if there are any, relative to its own folder.
    Raises UsageError: it is no such file.
    """
    if file.suffix != ".toml":
        return Place(file=file.resolve())
    document = read_toml(file)
    for part in (document, document.get("source"), document.get("events")):
        for name in ("file", "folder", "labels"):
            if isinstance(part, dict) and isinstance(part.get(name), str):
                part[name] = str((file.parent / part[name]).resolve())
    return parse(Place, document, str(file))

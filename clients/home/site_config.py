"""``site.toml``: the hospital, the sources of its patients, and their life budgets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

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


class Population(Document):
    """Patients that share one life budget, and their data source.

    All places that may hold the same patients belong to one population. FLO reads the patients from
    ``file`` (CSV or Parquet) or ``source``, and dated events of theirs from ``events``.
    """

    name: Identifier
    file: Path | None = None
    source: DataPlace | None = None
    events: EventTable | None = None
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

    @model_validator(mode="after")
    def _has_one_place(self) -> Population:
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

    def open(self) -> DataSource:
        """Open the data source. Raises DataError or UsageError if it is missing."""
        # These import Arrow, which is slow; the agent never reads a hospital's file.
        from flo.clients.sources.error_wrapper import ErrorBoundary
        from flo.clients.sources.files import open_file

        if self.source is not None:
            source = self.source.open(self.id_column)
        else:
            source = open_file(self.file or Path(), self.id_column)
        if self.events is not None:
            database = self.source if isinstance(self.source, SqlPlace) else None
            source = self.events.beside(source, database, self.id_column)
        return ErrorBoundary(source)


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

    ``file``: its patients, or a TOML file with the ``[source]`` to read them from.
    """
    document = {
        "hospital": hospital,
        "populations": [
            {
                "name": "main",
                **_place(file),
                "id_column": id_column,
                "hold_out": hold_out,
                "epsilon": epsilon,
                "declared_size": round_size(declared_size),
            }
        ],
        "keystore": keystore or {},
    }
    return parse(SiteConfig, document, "site configuration")


class _Described(Document):
    source: DataPlace


def _place(file: Path) -> dict[str, Any]:
    if file.suffix != ".toml":
        return {"file": str(file.resolve())}
    source = parse(_Described, read_toml(file), str(file)).source
    document = source.model_dump(mode="json", exclude_none=True)
    for name in ("folder", "labels"):
        if name in document:  # relative to the TOML file's folder
            document[name] = str((file.parent / document[name]).resolve())
    return {"source": document}

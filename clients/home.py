"""A site's folder: its configuration, keys and everything it must not forget.

site.toml           who we are, which populations, our policy        (the site's own, wins)
identity.key        signs ledger rows and approvals; TLS and node key (0600)
split.key           who is held out                                   (0600, never changes)
patients.key        keyed hashes that find overlaps                   (0600)
replies.key         encrypts kept replies                             (0600)
certificate.pem  ca.pem  coordinator.json                             (after enrolment)
ledger.sqlite       every release, for life
approved/  snapshots/  replies/  extracts/
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tomli_w
from pydantic import Field, field_validator, model_validator

from flo import canonical
from flo.errors import PolicyError, RefusedError, UsageError
from flo.files import make_private_directory, write_private
from flo.identity import Identity
from flo.keystore import LocalKeyStore
from flo.privacy.ledger import Ledger
from flo.privacy.life import LifeBudget
from flo.schema import Text
from flo.settings import Document, parse, read_toml
from flo.study import Identifier, largest_delta, round_size


class Population(Document):
    """Every file that may hold the same patients, and the budget they have for life."""

    name: Identifier
    file: Path
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


class Policy(Document):
    """What this site allows; it wins over any study."""

    consent_to_epsilon_of_one_or_more: bool = False
    largest_study_epsilon: Annotated[float, Field(gt=0)] | None = None
    minimum_hospitals: Annotated[int, Field(ge=1)] = 2


class SiteConfig(Document):
    """``site.toml``."""

    schema_version: Literal[1] = 1
    hospital: Identifier
    device: Literal["auto", "cpu", "cuda"] = "auto"
    populations: Annotated[tuple[Population, ...], Field(min_length=1)]
    policy: Policy = Policy()

    @model_validator(mode="after")
    def _consistent(self) -> SiteConfig:
        names = [population.name for population in self.populations]
        if len(set(names)) != len(names):
            raise ValueError("the same population name stands twice")
        return self

    def population(self, name: str | None) -> Population:
        """The population of that name, or the only one. Raises UsageError."""
        if name is None and len(self.populations) == 1:
            return self.populations[0]
        for population in self.populations:
            if population.name == name:
                return population
        known = ", ".join(population.name for population in self.populations)
        raise UsageError(f"which population? this site has {known}", hint="give --population NAME")


@dataclass(frozen=True)
class SiteHome:
    directory: Path

    @classmethod
    def create(cls, directory: Path, config: SiteConfig) -> SiteHome:
        """Make keys, configuration and ledger, and register the populations.

        Raises:
            UsageError: the folder is a site already. PolicyError: ε >= 1 without consent.
        """
        home = cls(directory)
        if home.config_path.exists():
            raise UsageError(f"{directory} is a site already", hint="choose another --home")
        for population in config.populations:
            refuse_population(population, config.policy)
        make_private_directory(directory)
        for name in ("approved", "snapshots", "replies", "extracts"):
            make_private_directory(directory / name)
        Identity.new().save(directory / "identity.key")
        for name in ("split.key", "patients.key"):
            write_private(directory / name, os.urandom(32))
        write_private(
            home.config_path,
            tomli_w.dumps(config.model_dump(mode="json", exclude_none=True)).encode(),
        )
        home.register_populations()
        return home

    @classmethod
    def open(cls, directory: Path) -> SiteHome:
        """Raises UsageError if ``flo site init`` was not run there."""
        home = cls(directory)
        if not home.config_path.exists():
            raise UsageError(
                f"{directory} is not a site's folder",
                hint=f"run `flo site init --home {directory} ...`",
            )
        return home

    def register_populations(self) -> list[str]:
        """Register the populations of site.toml that the ledger does not know. Returns names."""
        ledger, config = self.ledger(), self.config
        added = []
        for population in config.populations:
            if population.name not in ledger.balance().lives:
                refuse_population(population, config.policy)
                if ledger.balance().lives and population.statement is None:
                    raise PolicyError(
                        f"population {population.name!r} needs the steward's statement that none "
                        "of its patients are in another population",
                        hint="write it under `statement` in site.toml; the ledger signs it",
                    )
                ledger.register_population(
                    population.name,
                    epsilon=population.epsilon,
                    declared_size=population.declared_size,
                    hold_out=population.hold_out,
                    private={
                        "id_column": population.id_column,
                        "statement": population.statement,
                        **self.key_commitments(),
                    },
                )
                added.append(population.name)
        ledger.close()
        return added

    @property
    def config_path(self) -> Path:
        return self.directory / "site.toml"

    @property
    def config(self) -> SiteConfig:
        return parse(SiteConfig, read_toml(self.config_path), str(self.config_path))

    def identity(self) -> Identity:
        return Identity.load(self.directory / "identity.key")

    def ledger(self) -> Ledger:
        return Ledger(self.directory / "ledger.sqlite", self.identity())

    def replies_keystore(self) -> LocalKeyStore:
        return LocalKeyStore(self.directory / "replies.key")

    @property
    def split_key(self) -> bytes:
        return (self.directory / "split.key").read_bytes()

    @property
    def patients_key(self) -> bytes:
        return (self.directory / "patients.key").read_bytes()

    def key_commitments(self) -> dict[str, str]:
        """What a birth row keeps of the keys that must never change."""
        return {
            "split.key": canonical.digest(self.split_key),
            "patients.key": canonical.digest(self.patients_key),
        }

    @property
    def coordinator(self) -> CoordinatorInfo:
        """Raises UsageError before enrolment."""
        path = self.directory / "coordinator.json"
        if not path.exists():
            raise UsageError(
                "this site is not enrolled", hint="run `flo site enrol INVITATION` first"
            )
        document = canonical.decode(path.read_bytes(), limit=65_536, what=str(path))
        return parse(CoordinatorInfo, document, str(path))

    @contextmanager
    def agent_lock(self) -> Iterator[None]:
        """Held by the one agent of this site. Raises RefusedError if another one runs."""
        handle = os.open(self.directory / "agent.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise RefusedError(
                    f"another agent already runs on the ledger in {self.directory}",
                    hint="stop it first; two agents on one ledger are never allowed",
                ) from error
            yield
        finally:
            os.close(handle)


class CoordinatorInfo(Document):
    """Where the coordinator is and which key signs its studies."""

    schema_version: Literal[1] = 1
    url: str
    public: str


def refuse_large_epsilon(epsilon: float, policy: Policy) -> None:
    """Raises PolicyError for ε >= 1 unless the site's own policy consents."""
    if epsilon >= 1 and not policy.consent_to_epsilon_of_one_or_more:
        raise PolicyError(
            f"ε = {epsilon:g} is 1 or more and this site's policy does not consent to that",
            hint="if the steward agrees: consent_to_epsilon_of_one_or_more = true in site.toml, or "
            "--consent-to-epsilon-of-one-or-more at init",
        )


def refuse_population(population: Population, policy: Policy) -> None:
    """Raises PolicyError or UsageError before anything is written."""
    refuse_large_epsilon(population.epsilon, policy)
    try:
        LifeBudget.born(population.epsilon, largest_delta(population.declared_size))
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
    consent: bool,
) -> SiteConfig:
    """A site's first configuration, with one population called ``main``."""
    document = {
        "hospital": hospital,
        "populations": [
            {
                "name": "main",
                "file": str(file.resolve()),
                "id_column": id_column,
                "hold_out": hold_out,
                "epsilon": epsilon,
                "declared_size": round_size(declared_size),
            }
        ],
        "policy": {"consent_to_epsilon_of_one_or_more": consent},
    }
    return parse(SiteConfig, document, "site configuration")

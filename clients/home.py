"""A site's folder: its configuration, keys and everything it must not forget.

site.toml           who we are, which populations, how keys are sealed
policy.toml         what this site allows (the site's own, wins), in force once signed
policy.signed.json  the policy in force, as it was signed
policy.waiting.json who has signed a new policy, until enough people have
mapping.toml        which of its fields are a study's columns        (where names differ)
partners.json       keys of partners that people compared
identity.key        signs ledger rows and approvals; TLS and node key (sealed, 0600)
split.key           who is held out                                   (sealed, never changes)
patients.key        keyed hashes that find overlaps                   (sealed, never changes)
keystore.key        seals the keys and kept replies (or keystore.json, opened by a passphrase)
certificate.pem  ca.pem  coordinator.json                             (after enrolment)
ledger.sqlite       every release, for life
audit.sqlite        the signed audit log
optouts.sealed      keyed hashes of patients who opted out            (sealed)
told.json           of which studies and key the notify command told
halted.json         everything is stopped here              (while it is there)
restored.json       a backup was put back and is not recovered        (while it is there)
approved/           approvals, refusals and withdrawals, as they were signed
snapshots/          each approved study's patients, as they were frozen
replies/            what was charged and may have to be sent again    (sealed)
extracts/           what auditors are shown of the ledger
erasures/           statements about patients who were taken out
log/                what the agent and the desk said
agent.lock  decision.lock  snapshots.lock   (empty: see ``SiteHome``)
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tomli_w
from pydantic import Field, field_validator, model_validator

from flo import canonical
from flo.audit_log import AuditLog, existing
from flo.clients.policy import Policy
from flo.clients.policy_file import in_force, sign, write_toml
from flo.clients.sources.places import Place
from flo.errors import PolicyError, RefusedError, TrustError, UsageError
from flo.files import is_locked, locked, make_private_directory, refuse_anothers, write_private
from flo.identity import IDENTITY_PURPOSE, Identity, fingerprint, verify
from flo.keystore import KeyStore, KeyStoreConfig, read_secret, write_secret
from flo.privacy.ledger import Ledger
from flo.privacy.life import LifeBudget
from flo.schema import Text
from flo.settings import Document, parse, read_json, read_toml
from flo.study import Identifier, largest_delta, round_size

if TYPE_CHECKING:
    from flo.clients.sources.source import Source

_DEFAULT = Policy()
_PATIENCE_SECONDS = 30.0
_LOOK_SECONDS = 0.5  # whoever looks whether the lock is held holds it for a moment
_NEVER_CHANGED = ("split.key", "patients.key")
SECRETS = {"identity.key": IDENTITY_PURPOSE, **{name: name for name in _NEVER_CHANGED}}
RESTORED = "restored.json"  # there until a restored ledger is recovered


class Population(Document):
    """Every place that may hold the same patients, and the budget they have for life.

    ``file`` (CSV or Parquet) or ``source``: where FLO reads them.
    """

    name: Identifier
    file: Path | None = None
    source: Place | None = None
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
        return self

    @property
    def place(self) -> str:
        """Where its patients are, in words."""
        if self.source is not None:
            return self.source.words
        return self.file.name if self.file is not None else ""

    def open(self) -> Source:
        """Where its patients are read. Raises DataError or UsageError: it is not there."""
        # Arrow comes with it and takes its time; the agent never reads a hospital's file.
        from flo.clients.sources.files import open_file
        from flo.clients.sources.guarded import Guarded

        if self.source is not None:
            return Guarded(self.source.open(self.id_column))
        return Guarded(open_file(self.file or Path(), self.id_column))


class SiteConfig(Document):
    """``site.toml``.

    ``notify``: a command that tells the steward of a new study; it gets facts as JSON on its
    standard input, never as arguments.
    """

    schema_version: Literal[1] = 1
    hospital: Identifier
    device: Literal["auto", "cpu", "cuda"] = "auto"
    populations: Annotated[tuple[Population, ...], Field(min_length=1)]
    keystore: KeyStoreConfig = KeyStoreConfig()
    notify: tuple[str, ...] = ()

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
    """One site's folder. Nothing of it stays in memory: what is asked for is read from the disk."""

    directory: Path

    @classmethod
    def create(cls, directory: Path, config: SiteConfig, policy: Policy = _DEFAULT) -> SiteHome:
        """Make keys, configuration, policy and ledger, and register the populations.

        Raises:
            UsageError: the folder is a site already. PolicyError: ε >= 1 without consent.
        """
        home = cls(directory)
        if home.config_path.exists():
            raise UsageError(f"{directory} is a site already", hint="choose another --home")
        for population in config.populations:
            refuse_population(population, policy)
        make_private_directory(directory)
        for name in ("approved", "snapshots", "replies", "extracts", "erasures"):
            make_private_directory(directory / name)
        keystore, identity = config.keystore.open(directory), Identity.new()
        identity.save(directory / "identity.key", keystore)
        for name in _NEVER_CHANGED:
            write_secret(directory / name, keystore, name, os.urandom(32))
        write_private(
            home.config_path,
            tomli_w.dumps(config.model_dump(mode="json", exclude_none=True)).encode(),
        )
        AuditLog(directory / "audit.sqlite", identity).close()
        home.record("site-made", fingerprint=identity.fingerprint)
        write_toml(directory / "policy.toml", policy)
        sign(directory, identity)
        home.register_populations()
        return home

    @classmethod
    def open(cls, directory: Path) -> SiteHome:
        """Raises UsageError if ``flo site init`` was not run there, or root is not its owner."""
        home = cls(directory)
        if not home.config_path.exists():
            raise UsageError(
                f"{directory} is not a site's folder",
                hint=f"run `flo site init --home {directory} ...`",
            )
        refuse_anothers(directory)
        return home

    def register_populations(self) -> list[str]:
        """Register the populations of site.toml that the ledger does not know. Returns names."""
        config, policy, added = self.config, self.policy, []
        with closing(self.ledger()) as ledger:
            for population in config.populations:
                if population.name not in ledger.balance().lives:
                    refuse_population(population, policy)
                    self._register(ledger, population)
                    added.append(population.name)
        return added

    def _register(self, ledger: Ledger, population: Population) -> None:
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
        self.record(
            "budget-born",
            population=population.name,
            epsilon=population.epsilon,
            declared_size=population.declared_size,
        )

    @property
    def config_path(self) -> Path:
        """Where the configuration is, which people edit."""
        return self.directory / "site.toml"

    @property
    def config(self) -> SiteConfig:
        """The configuration. Raises UsageError naming the fields that are wrong."""
        return parse(SiteConfig, read_toml(self.config_path), str(self.config_path))

    def keystore(self) -> KeyStore:
        """What seals this folder's keys and kept replies. Raises UsageError or TrustError."""
        return self.config.keystore.open(self.directory)

    def identity(self) -> Identity:
        """The site's own key: it signs rows and decisions. Raises UsageError or TrustError."""
        return Identity.load(self.directory / "identity.key", self.keystore())

    @property
    def policy(self) -> Policy:
        """The policy in force. Raises TrustError if it is not signed, or was edited since."""
        return in_force(self.directory, self.identity())

    def ledger(self, *, recovering: bool = False) -> Ledger:
        """Raises RefusedError for one that was restored and not yet recovered."""
        if not recovering and (self.directory / RESTORED).exists():
            raise RefusedError(
                "this site was restored from a backup, and what happened since is not charged yet",
                hint=f"flo site recover --home {self.directory}",
            )
        return Ledger(self.directory / "ledger.sqlite", self.identity())

    def audit_log(self) -> AuditLog:
        """The site's audit log, to be closed. Raises TrustError if it is gone or was edited."""
        return existing(self.directory / "audit.sqlite", self.identity())

    def record(self, kind: str, study: str | None = None, **facts: Any) -> None:
        """One entry in the audit log, for whoever has not got it open."""
        with closing(self.audit_log()) as log:
            log.append(kind, study, **facts)

    @property
    def split_key(self) -> bytes:
        """32 bytes that decide who is held out (``flo.privacy.split``); never changed."""
        return self._secret("split.key")

    @property
    def patients_key(self) -> bytes:
        """32 bytes under which patient ids are hashed to find overlaps; never changed."""
        return self._secret("patients.key")

    def _secret(self, name: str) -> bytes:
        return read_secret(self.directory / name, self.keystore(), name, plain=True)

    def key_commitments(self) -> dict[str, str]:
        """What a birth row keeps of the keys that must never change."""
        return {name: canonical.digest(self._secret(name)) for name in _NEVER_CHANGED}

    @property
    def coordinator_path(self) -> Path:
        """Where ``CoordinatorInfo`` is kept after enrolment."""
        return self.directory / "coordinator.json"

    @property
    def coordinator(self) -> CoordinatorInfo:
        """Raises UsageError before enrolment."""
        path = self.coordinator_path
        if not path.exists():
            raise UsageError(
                "this site is not enrolled", hint="run `flo site enrol INVITATION` first"
            )
        return read_json(CoordinatorInfo, path, limit=65_536)

    @contextmanager
    def deciding(self) -> Iterator[None]:
        """Held while a study is approved or refused, a patient is taken out, or the folder is
        backed up or recovered. Raises RefusedError if another decision is being made."""
        with locked(self.directory / "decision.lock", "another decision is being made here"):
            yield

    @contextmanager
    def swapping(self) -> Iterator[None]:
        """Held for moments: while frozen patients are exchanged or deleted, and while a release is
        charged that was computed on them."""
        why = "frozen patients are being exchanged here"
        with locked(self.directory / "snapshots.lock", why, patience=_PATIENCE_SECONDS):
            yield

    @contextmanager
    def agent_lock(self) -> Iterator[None]:
        """Held by the one agent of this site. Raises RefusedError if another one runs."""
        why = f"another agent already runs on the ledger in {self.directory}"
        with locked(self.directory / "agent.lock", why, patience=_LOOK_SECONDS):
            yield

    @property
    def agent_runs(self) -> bool:
        """Whether an agent of this site runs now."""
        return is_locked(self.directory / "agent.lock")


class CoordinatorInfo(Document):
    """Where the coordinator is and which key signs its studies.

    ``earlier``: keys that the present one follows; what they signed while they were in use holds.
    """

    schema_version: Literal[1] = 1
    url: str
    public: str
    earlier: tuple[str, ...] = ()

    @property
    def fingerprints(self) -> list[str]:
        """Of the present key and of those it follows."""
        return [fingerprint(bytes.fromhex(key)) for key in (self.public, *self.earlier)]

    def signer_of(self, study: bytes, signature: str) -> str:
        """Which of the keys signed this study. Raises TrustError if none did."""
        for public in self.earlier:
            with suppress(TrustError):
                verify(bytes.fromhex(public), "study", study, signature)
                return public
        try:
            verify(bytes.fromhex(self.public), "study", study, signature)
        except TrustError as error:
            raise TrustError(
                str(error),
                hint="if the coordinator has a new key, compare it by telephone, then: "
                "flo site coordinator --accept FINGERPRINT",
            ) from error
        return self.public


def refuse_population(population: Population, policy: Policy) -> None:
    """Raises PolicyError or UsageError before anything is written."""
    if population.epsilon >= 1 and not policy.consent_to_epsilon_of_one_or_more:
        raise PolicyError(
            f"ε = {population.epsilon:g} is 1 or more and this site's policy does not consent to "
            "that",
            hint="if the steward agrees: consent_to_epsilon_of_one_or_more = true in policy.toml, "
            "signed with `flo site policy --sign`; or --consent-to-epsilon-of-one-or-more at init",
        )
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
    keystore: dict[str, str] | None = None,
) -> SiteConfig:
    """A site's first configuration, with one population called ``main``.

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
    source: Place


def _place(file: Path) -> dict[str, Any]:
    if file.suffix != ".toml":
        return {"file": str(file.resolve())}
    source = parse(_Described, read_toml(file), str(file)).source
    document = source.model_dump(mode="json", exclude_none=True)
    for name in ("folder", "labels"):
        if name in document:  # seen from where the file lies
            document[name] = str((file.parent / document[name]).resolve())
    return {"source": document}

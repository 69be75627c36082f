"""A site's folder: its configuration, keys and permanent records.

site.toml           hospital, populations, how keys are sealed
policy.toml         rules of this site, which override any study; in force once signed
policy.signed.json  the policy in force, as it was signed
policy.waiting.json signatures of a new policy, until enough people have signed
mapping.toml        the site's fields for a study's columns           (if names differ)
partners.json       partners' keys that the steward has confirmed
roster.json         the coordinator's log of hospitals' keys, as fetched last
identity.key        signs ledger rows and approvals; TLS and node key (sealed, 0600)
split.key           decides which patients are held out               (sealed, never changes)
patients.key        keyed hashes that find overlaps                   (sealed, never changes)
keystore.key        seals the keys and stored replies (or keystore.json, with a passphrase)
certificate.pem  ca.pem  coordinator.json                             (after enrolment)
ledger.sqlite       every release ever made
audit.sqlite        the signed audit log
optouts.sealed      keyed hashes of patients who opted out            (sealed)
later-patients.*    patients first recorded after a recovery          (sealed)
told.json           studies and key that the notify command has reported
halted.json         emergency stop                                    (while the file exists)
restored.json       restored from a backup, not yet recovered         (while the file exists)
approved/           signed approvals, refusals and withdrawals
snapshots/          frozen patients of each approved study
replies/            charged replies that may have to be sent again    (sealed)
extracts/           ledger extracts for auditors
erasures/           signed records of patients' erasure requests
finished/           published models, finished on own patients        (sealed, not private)
models/             published models in use here, and all decisions on models
serve.toml          where models answer the record system, and who may ask  (optional)
answers/            what models answered, a signed log for each month; the server's own socket
log/                logs of the agent and the desk
agent.lock  decision.lock  snapshots.lock  partners.lock  models.lock   (empty: see ``SiteHome``)
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tomli_w

from flo.audit.log import AuditLog, existing
from flo.clients.home.coordinator_info import CoordinatorInfo
from flo.clients.home.policy import Policy
from flo.clients.home.policy_file import in_force, policy_paths, read_signed, sign, write_toml
from flo.clients.home.site_config import Population, SiteConfig, refuse_population
from flo.documents import canonical
from flo.documents.document import read_json, read_settings
from flo.errors import PolicyError, RefusedError, UsageError
from flo.keys.identity import IDENTITY_PURPOSE, Identity
from flo.keys.keystore import KeyStore, read_secret, write_secret
from flo.privacy.ledger.ledger import Ledger
from flo.storage.files import (
    UNTIL_ENDED,
    ReadT,
    UnchangedFiles,
    is_locked,
    is_unfinished,
    locked,
    made_whole,
    make_private_directory,
    refuse_anothers,
    refuse_unfinished,
    write_private,
)

_DEFAULT = Policy()
_PATIENCE_SECONDS, _DECISION_SECONDS = 30.0, 3.0
_NEVER_CHANGED = ("split.key", "patients.key")
_FOLDERS = ("approved", "snapshots", "replies", "extracts", "erasures", "finished")
_MADE = (  # by `init`, with _FOLDERS and the key store
    *("site.toml", "identity.key", *_NEVER_CHANGED, "audit.sqlite", "ledger.sqlite"),
    *("policy.toml", "policy.signed.json"),
)
SECRETS = {"identity.key": IDENTITY_PURPOSE, **{name: name for name in _NEVER_CHANGED}}
RESTORED = "restored.json"  # exists until a restored ledger is recovered


@dataclass(frozen=True)
class SiteHome:
    """One site's folder. Methods named ``read_`` and ``open_`` read files and open keys.

    ``read_unchanged`` caches its result for a minute, while the files are unchanged: one message
    needs configuration, policy, keys and approval several times, and with KMS opening a key is a
    network call.
    """

    directory: Path
    _unchanged: UnchangedFiles = field(default_factory=UnchangedFiles, compare=False, repr=False)

    @classmethod
    def create(cls, directory: Path, config: SiteConfig, policy: Policy = _DEFAULT) -> SiteHome:
        """Make keys, configuration, policy and ledger, and register the populations.

        Raises:
            UsageError: the folder already is a site. PolicyError: ε >= 1 without consent.
        """
        home = cls(directory)
        if home.config_path.exists() and not is_unfinished(directory):
            raise UsageError(f"{directory} is already a site folder", hint="choose another --home")
        for population in config.populations:
            refuse_population(population, policy)
        with made_whole(directory, [*_FOLDERS, *_MADE]):
            home._fill(config, policy)
        return home

    def _fill(self, config: SiteConfig, policy: Policy) -> None:
        directory = self.directory
        for name in _FOLDERS:
            make_private_directory(directory / name)
        keystore, identity = config.keystore.open(directory), Identity.new()
        identity.save(directory / "identity.key", keystore)
        for name in _NEVER_CHANGED:
            write_secret(directory / name, keystore, name, os.urandom(32))
        write_private(
            self.config_path,
            tomli_w.dumps(config.model_dump(mode="json", exclude_none=True)).encode(),
        )
        AuditLog(directory / "audit.sqlite", identity).close()
        self.record("site-made", fingerprint=identity.fingerprint)
        write_toml(directory / "policy.toml", policy)
        sign(directory, identity)
        self.register_populations()

    @classmethod
    def open(cls, directory: Path) -> SiteHome:
        """Open a site's folder. Raises UsageError: no site is there, or root is not its owner."""
        home = cls(directory)
        if not home.config_path.exists():
            raise UsageError(
                f"{directory} is not a site's folder",
                hint=f"run `flo site init --home {directory} ...`",
            )
        refuse_anothers(directory)
        refuse_unfinished(directory)
        return home

    def register_populations(self) -> list[str]:
        """Register the populations of site.toml that the ledger lacks. Return their names."""
        config, policy, added = self.read_config(), self.read_policy(), []
        with closing(self.open_ledger()) as ledger:
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
                **self.read_key_commitments(),
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
        """Path of the configuration, which people edit."""
        return self.directory / "site.toml"

    def read_unchanged(self, read: Callable[[], ReadT], *paths: Path) -> ReadT:
        """Return the result of ``read`` on these files, cached while they are unchanged."""
        return self._unchanged.get(read, *paths)

    def read_config(self) -> SiteConfig:
        """Return the configuration. Raises UsageError naming the fields that are wrong."""
        path = self.config_path
        return self.read_unchanged(lambda: read_settings(SiteConfig, path), path)

    def open_keystore(self) -> KeyStore:
        """Open the store that seals keys and stored replies. Raises UsageError or TrustError."""
        return self.read_config().keystore.open(self.directory)

    def open_identity(self) -> Identity:
        """Open the site's key, which signs rows and decisions. Raises UsageError or TrustError."""
        path = self.directory / "identity.key"
        return self.read_unchanged(lambda: Identity.load(path, self.open_keystore()), path)

    def read_policy(self, log: AuditLog | None = None) -> Policy:
        """Return the policy in force. ``log``: the audit log, if it is already open.

        Raises TrustError if the policy is not signed, was edited since, or is not the latest.
        """
        identity = self.open_identity()
        signed = self.read_unchanged(
            lambda: read_signed(self.directory, identity), *policy_paths(self.directory)
        )
        if log is not None:
            return in_force(self.directory, signed, log)
        with closing(self.open_audit_log()) as opened:
            return in_force(self.directory, signed, opened)

    def open_ledger(self, *, recovering: bool = False) -> Ledger:
        """Open the ledger. Raises RefusedError if it was restored and is not recovered yet."""
        if not recovering and (self.directory / RESTORED).exists():
            raise RefusedError(
                "this site was restored from a backup, and later releases are not charged yet",
                hint=f"flo site recover --home {self.directory}",
            )
        return Ledger(self.directory / "ledger.sqlite", self.open_identity())

    def open_audit_log(self) -> AuditLog:
        """Open the audit log; the caller closes it. Raises TrustError: missing or edited."""
        return existing(self.directory / "audit.sqlite", self.open_identity())

    def record(self, kind: str, study: str | None = None, **facts: Any) -> None:
        """Open the audit log, append one entry, and close it."""
        with closing(self.open_audit_log()) as log:
            log.append(kind, study, **facts)

    def open_split_key(self) -> bytes:
        """Return the 32-byte key of ``flo.privacy.patients.split``, which never changes."""
        return self._open_secret("split.key")

    def open_patients_key(self) -> bytes:
        """Return the 32-byte key that hashes patient ids to find overlaps; it never changes."""
        return self._open_secret("patients.key")

    def _open_secret(self, name: str) -> bytes:
        path = self.directory / name
        return self.read_unchanged(
            lambda: read_secret(path, self.open_keystore(), name, plain=True), path
        )

    def read_key_commitments(self) -> dict[str, str]:
        """Return digests of the keys that must never change, for a population's birth row."""
        return {name: canonical.digest(self._open_secret(name)) for name in _NEVER_CHANGED}

    @property
    def encoders_path(self) -> Path:
        """The folder of installed encoders (``flo.clients.data_process.encoding``)."""
        return self.directory / "encoders"

    @property
    def coordinator_path(self) -> Path:
        """Path of ``CoordinatorInfo`` after enrolment."""
        return self.directory / "coordinator.json"

    def read_coordinator(self) -> CoordinatorInfo:
        """Return the coordinator's address and keys. Raises UsageError before enrolment."""
        path = self.coordinator_path
        if not path.exists():
            raise UsageError(
                "this site is not enrolled", hint="run `flo site enrol INVITATION` first"
            )
        return self.read_unchanged(lambda: read_json(CoordinatorInfo, path, limit=65_536), path)

    @contextmanager
    def decision_lock(self) -> Iterator[None]:
        """Hold the lock for approving or refusing a study, taking a patient out, or backing up or
        recovering the folder. Raises RefusedError if another decision is being made; an agent that
        has just started holds it for moments."""
        why = "another decision is being made here"
        with locked(self.directory / "decision.lock", why, patience=_DECISION_SECONDS):
            yield

    @contextmanager
    def snapshot_lock(self) -> Iterator[None]:
        """Hold, for moments only, the lock for replacing or deleting snapshots and for charging a
        release that was computed on one."""
        why = "frozen patients are being replaced here"
        with locked(self.directory / "snapshots.lock", why, patience=_PATIENCE_SECONDS):
            yield

    @contextmanager
    def partners_lock(self) -> Iterator[None]:
        """Hold, for moments only, the lock for partners' keys and the roster."""
        why = "partners' keys are being stored here"
        with locked(self.directory / "partners.lock", why, patience=_PATIENCE_SECONDS):
            yield

    @contextmanager
    def models_lock(self) -> Iterator[None]:
        """Hold, for moments only, the lock for the decisions on models."""
        why = "a decision on a model is being stored here"
        with locked(self.directory / "models.lock", why, patience=_PATIENCE_SECONDS):
            yield

    @contextmanager
    def agent_lock(self) -> Iterator[None]:
        """Hold the lock of the site's only agent. Raises RefusedError if another agent runs."""
        why = f"another agent already runs on the ledger in {self.directory}"
        with locked(self.directory / "agent.lock", why, patience=UNTIL_ENDED):
            yield

    def is_agent_running(self) -> bool:
        """Return whether an agent of this site is running."""
        return is_locked(self.directory / "agent.lock")

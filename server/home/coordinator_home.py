"""The coordinator's folder: keys, certificates, configuration, database; made once by ``init``.

identity.key        signs studies, tokens, heads; its fingerprint is compared by telephone
                    (with a signing key in KMS, it is for TLS only)
ca.key  ca.pem      the certificate authority, for transport
chain.pem           its certificate, followed by those of its issuers up to the root
server.pem          the listeners' certificate (for identity.key)
keystore.key        seals the other ``*.key`` files (or keystore.json, by passphrase; or KMS)
checkpoint.key      master key from which each study's own key is derived
superexec.secret    shared with Flower's SuperExec, new at every start
coordinator.toml    the configuration
coordinator.sqlite  hospitals, studies, approvals, runs, drafts, events to be signed
audit.sqlite        the signed audit log
identity.next.key   the next identity key, while a replacement is in progress
succession.json     earlier identity keys, each signed over to the next
serve.lock          (empty: see ``CoordinatorHome.serving``)
models/             published models
states/             large vectors of saved states, while their runs are under way
flower/             Flower's own files
superexec.log       output of SuperExec and its ServerApps
log/                the coordinator's log and metrics
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

import tomli_w
from pydantic import Field

from flo.audit.log import AuditLog, existing
from flo.documents.document import Document, read_settings, spelt
from flo.errors import RefusedError, TrustError, UsageError
from flo.keys.identity import IDENTITY_PURPOSE, Identity, Signer, fingerprint
from flo.keys.keystore import (
    KeyStore,
    KeyStoreConfig,
    KmsKey,
    kms_signer,
    read_secret,
    write_secret,
)
from flo.keys.rotation import KeyRotation
from flo.keys.tls import read_certificate
from flo.server.home.aws_config import AwsConfig
from flo.server.home.carbon_config import CarbonConfig
from flo.server.keys.authority import CA_PURPOSE, Authority, days_left, names_in
from flo.server.store.store import Store
from flo.storage.artifacts import LocalArtifacts
from flo.storage.files import (
    UNTIL_ENDED,
    is_unfinished,
    locked,
    made_whole,
    refuse_anothers,
    refuse_unfinished,
    write_public,
)

_SIGNED_AT_ONCE = 50  # batch size: a failed signature discards at most one batch
REWRAPPED = ".rewrapped"  # suffix of a secret that is being moved to another key store
HOME_VARIABLE = "FLO_COORDINATOR_HOME"
SECRETS = {  # sealed files in the folder -> key store purpose
    "identity.key": IDENTITY_PURPOSE,
    "ca.key": CA_PURPOSE,
    "checkpoint.key": "checkpoints",
}
_MADE = (  # made by `init`, in addition to the key store
    *("coordinator.toml", "identity.key", "ca.key", "ca.pem", "chain.pem", "server.pem"),
    *("audit.sqlite", "coordinator.sqlite", "models"),
)
NOT_BACKED_UP = (
    "superexec.secret",
    "flower",
    "log",
    "serve.log",
    "superexec.log",
    "superexec.log.1",
)
CHECKPOINT_KEY_VARIABLE = "FLO_CHECKPOINT_KEY"  # for ServerApps: the key's path
Port = Annotated[int, Field(ge=1, le=65_535)]


class TracesConfig(Document):
    """``endpoint``: address of a collector that takes OTLP over HTTP, without ``/v1/traces``."""

    endpoint: Annotated[
        str,
        spelt(r"https?://[A-Za-z0-9._:/\[\]-]{1,500}", "an address like http://127.0.0.1:4318"),
    ]


class CoordinatorConfig(Document):
    """``coordinator.toml``."""

    schema_version: Literal[1] = 1
    host: str = "127.0.0.1"
    bind: str = "127.0.0.1"
    port: Port = 9443
    private_host: str = "127.0.0.1"
    private_port: Port = 9444
    keystore: KeyStoreConfig = KeyStoreConfig()
    signing_key: KmsKey | None = None  # if set, identity.key is for TLS only
    aws: AwsConfig | None = None
    traces: TracesConfig | None = None
    carbon: CarbonConfig | None = None


@dataclass(frozen=True)
class CoordinatorHome:
    """One coordinator's folder. Each call reads the disk again; no content is cached here."""

    directory: Path

    @classmethod
    def create(
        cls, directory: Path, config: CoordinatorConfig, ca: tuple[bytes, bytes] | None = None
    ) -> CoordinatorHome:
        """Create keys, certificate authority and configuration.

        ``ca``: certificate and key (PEM) of the consortium's own authority.

        Raises:
            UsageError: the folder is a coordinator's already, or holds some of its files.
        """
        home = cls(directory)
        if home.config_path.exists() and not is_unfinished(directory):
            raise UsageError(
                f"{directory} is already a coordinator's folder", hint="choose another --home"
            )
        with made_whole(directory, _MADE):
            home._fill(config, ca)
        return home

    def _fill(self, config: CoordinatorConfig, ca: tuple[bytes, bytes] | None) -> None:
        directory = self.directory
        keystore = config.keystore.open(directory)
        authority = (
            Authority.adopt(directory, keystore, *ca)
            if ca
            else Authority.create(directory, keystore)
        )
        tls = Identity.new()
        tls.save(self.key_path, keystore)
        (directory / "models").mkdir()
        hosts = [config.host, config.private_host]
        write_public(self.certificate_path, authority.issue_server(tls, hosts))
        identity = kms_signer(config.signing_key) if config.signing_key else tls
        document = config.model_dump(mode="json", exclude_none=True)
        write_public(self.config_path, tomli_w.dumps(document).encode())
        AuditLog(directory / "audit.sqlite", identity).close()
        with self.recording() as store:
            store.add_event(None, "coordinator-made", fingerprint=identity.fingerprint)

    @classmethod
    def open(cls, directory: Path) -> CoordinatorHome:
        """Open an existing folder.

        Raises:
            UsageError: ``init`` was not run or not finished, or this is root and the folder belongs
            to another user.
        """
        home = cls(directory)
        if not home.config_path.exists():
            raise UsageError(
                f"{directory} is not a coordinator's folder",
                hint=f"run `flo coordinator init --home {directory}`",
            )
        refuse_anothers(directory)
        refuse_unfinished(directory)
        return home

    @property
    def config_path(self) -> Path:
        """Path of the configuration, which operators edit."""
        return self.directory / "coordinator.toml"

    @property
    def certificate_path(self) -> Path:
        """Path of the listeners' certificate (PEM)."""
        return self.directory / "server.pem"

    @property
    def key_path(self) -> Path:
        """Path of the listeners' sealed key."""
        return self.directory / "identity.key"

    @property
    def ca_path(self) -> Path:
        """Path of the authority's certificate (PEM), which hospitals and jobs trust."""
        return self.directory / "ca.pem"

    @property
    def chain_path(self) -> Path:
        """Path of the authority's certificate chain, for Flower's clients on this machine."""
        return self.directory / "chain.pem"

    @property
    def checkpoint_key_path(self) -> Path:
        """Path of the sealed master key of the studies' keys."""
        return self.directory / "checkpoint.key"

    @property
    def next_key_path(self) -> Path:
        """Path of the next identity key, sealed, while a replacement is in progress."""
        return self.directory / "identity.next.key"

    def require_no_pending_rotation(self) -> None:
        """Raise RefusedError if a rewrap or key replacement was interrupted and not finished."""
        if any(self.directory.glob(f"*{REWRAPPED}")):
            raise RefusedError(
                "a move to another key store was interrupted",
                hint="finish it: `flo coordinator rewrap` with the same --keystore as before",
            )
        if self.next_key_path.exists():
            raise RefusedError(
                "a replacement of the coordinator's key was interrupted",
                hint="finish it: flo coordinator replace-key",
            )

    @property
    def succession_path(self) -> Path:
        """Path of the steps from earlier identity keys."""
        return self.directory / "succession.json"

    @property
    def superexec_log_path(self) -> Path:
        """Path of the output of SuperExec and its ServerApps; the coordinator rotates the file."""
        return self.directory / "superexec.log"

    @property
    def superexec_secret_path(self) -> Path:
        """Path of SuperExec's secret; replaced at every start, and not backed up."""
        return self.directory / "superexec.secret"

    def read_config(self) -> CoordinatorConfig:
        """Read the configuration. Raises UsageError naming the invalid fields."""
        return read_settings(CoordinatorConfig, self.config_path)

    def read_private_url(self) -> str:
        """Return the private listener's URL, for operators, jobs and runs."""
        config = self.read_config()
        return f"https://{config.private_host}:{config.private_port}"

    def open_keystore(self) -> KeyStore:
        """Open the key store that seals this folder's keys. Raises UsageError or TrustError."""
        return self.read_config().keystore.open(self.directory)

    def open_identity(self) -> Signer:
        """Open the coordinator's signing key: in KMS if configured, otherwise the TLS key."""
        key = self.read_config().signing_key
        return kms_signer(key) if key else self.open_tls_identity()

    def read_succession(self) -> KeyRotation:
        """Read the steps from earlier identity keys to this one; there is none for the first."""
        path = self.succession_path
        return KeyRotation.read(path.read_bytes()) if path.exists() else KeyRotation(steps=())

    def fingerprints(self) -> list[str]:
        """Return the fingerprints of the identity key and of earlier ones, which signed before."""
        earlier = [fingerprint(bytes.fromhex(step.old)) for step in self.read_succession().steps]
        return [self.open_identity().fingerprint, *earlier]

    def open_tls_identity(self) -> Identity:
        """Open the listeners' key; also the coordinator's identity unless that is in KMS."""
        return Identity.load(self.key_path, self.open_keystore())

    def open_authority(self) -> Authority:
        """Open the certificate authority and its key. Raises UsageError or TrustError."""
        return Authority(self.directory, self.open_keystore())

    def open_checkpoint_key(self) -> bytes:
        """Return the master key of the studies' keys; created at the first call."""
        path, keystore = self.checkpoint_key_path, self.open_keystore()
        if not path.exists():
            write_secret(path, keystore, SECRETS[path.name], secrets.token_bytes(32))
        return read_secret(path, keystore, SECRETS[path.name])

    def states(self) -> LocalArtifacts:
        """Return the store of large vectors of saved states."""
        return LocalArtifacts(self.directory / "states")

    def open_store(self) -> Store:
        """Open the database; the caller closes it. Several processes may have it open."""
        return Store(self.directory / "coordinator.sqlite")

    def open_audit_log(self) -> AuditLog:
        """Open the audit log; the caller closes it.

        Raises:
            TrustError: it is missing, or its last entry is not signed by the coordinator's key.
        """
        return existing(self.directory / "audit.sqlite", self.open_identity())

    @contextmanager
    def recording(self) -> Iterator[Store]:
        """Open the store for a command; sign the command's events at the end."""
        self.require_no_pending_rotation()
        with closing(self.open_store()) as store, closing(self.open_audit_log()) as log:
            try:
                yield store
            finally:
                sign_events(store, log)

    @contextmanager
    def serving(self) -> Iterator[None]:
        """Hold the lock of the only serving process. Raises RefusedError if another holds it."""
        why = f"a coordinator already runs on {self.directory}"
        with locked(self.directory / "serve.lock", why, patience=UNTIL_ENDED):
            yield

    def renew_certificate(self, *, days: float) -> bool:
        """Issue a new listeners' certificate if needed; return whether one was issued.

        It is needed if the current one ends within ``days``, lacks a host of coordinator.toml, is
        missing or damaged, or is not valid yet because the clock was ahead.
        """
        if self._certificate_holds(days):
            return False
        self.issue_certificate(self.open_tls_identity())
        return True

    def _certificate_holds(self, days: float) -> bool:
        try:
            found = read_certificate(self.certificate_path)
        except TrustError:
            return False
        names = {self.read_config().host, self.read_config().private_host}
        begun = found.not_valid_before_utc <= datetime.now(UTC)
        return begun and days_left(found) > days and names <= names_in(found)

    def issue_certificate(self, identity: Identity) -> None:
        """Issue the listeners' certificate for this key."""
        hosts = [self.read_config().host, self.read_config().private_host]
        write_public(self.certificate_path, self.open_authority().issue_server(identity, hosts))


def sign_events(store: Store, log: AuditLog) -> None:
    """Copy pending events from the store into the signed audit log, in order."""
    while waiting := store.events_after(log.last_source()):
        for start in range(0, len(waiting), _SIGNED_AT_ONCE):
            log.append_from(waiting[start : start + _SIGNED_AT_ONCE])

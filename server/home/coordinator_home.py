"""The coordinator's folder: keys, certificates, tokens, its database; made once by ``init``.

identity.key        signs studies, tokens, heads; its fingerprint is compared by telephone
                    (where a key in KMS does, this one is for TLS only)
ca.key  ca.pem      the certificate authority, for transport
chain.pem           the same, with those above it
server.pem          the listeners' certificate (for identity.key)
keystore.key        seals both keys and invitations' (or keystore.json, opened by a passphrase)
checkpoint.key      seals the saved states of runs
superexec.secret    shared with Flower's SuperExec, new at every start
coordinator.toml    host and ports
coordinator.sqlite  hospitals, studies, approvals, runs, events waiting to be signed
audit.sqlite        the signed audit log
identity.next.key   while a key is replaced: the one that follows
succession.json     earlier identity keys, each signed over to the next
serve.lock          (empty: see ``CoordinatorHome.serving``)
models/             published models
states/             large vectors of saved states, while their runs go on
flower/             what Flower writes for itself
superexec.log       what the process that starts ServerApps said
log/                what the coordinator said, and its metrics
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
from flo.documents.document import Document, read_settings
from flo.errors import RefusedError, TrustError, UsageError
from flo.keys.identity import IDENTITY_PURPOSE, Identity, Signer
from flo.keys.keystore import (
    KeyStore,
    KeyStoreConfig,
    KmsKey,
    kms_signer,
    read_secret,
    write_secret,
)
from flo.keys.tls import read_certificate
from flo.server.home.aws_config import AwsConfig
from flo.server.keys.authority import CA_PURPOSE, Authority, days_left, names_in
from flo.server.store.store import Store
from flo.storage.artifacts import LocalArtifacts
from flo.storage.files import (
    is_unfinished,
    locked,
    made_whole,
    refuse_anothers,
    refuse_unfinished,
    write_public,
)

_SIGNED_AT_ONCE = 50  # so that a signer which fails loses little
REWRAPPED = ".rewrapped"  # of a secret while it moves to another key store
HOME_VARIABLE = "FLO_COORDINATOR_HOME"
SECRETS = {  # what lies sealed in the folder, and for which purpose
    "identity.key": IDENTITY_PURPOSE,
    "ca.key": CA_PURPOSE,
    "checkpoint.key": "checkpoints",
}
_MADE = (  # by `init`, beside the key store
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
CHECKPOINT_KEY_VARIABLE = "FLO_CHECKPOINT_KEY"  # of a ServerApp: where its one key can be read
Port = Annotated[int, Field(ge=1, le=65_535)]


class CoordinatorConfig(Document):
    """``coordinator.toml``."""

    schema_version: Literal[1] = 1
    host: str = "127.0.0.1"
    bind: str = "127.0.0.1"
    port: Port = 9443
    private_host: str = "127.0.0.1"
    private_port: Port = 9444
    keystore: KeyStoreConfig = KeyStoreConfig()
    signing_key: KmsKey | None = None  # in KMS: it signs, and identity.key is for TLS only
    aws: AwsConfig | None = None


@dataclass(frozen=True)
class CoordinatorHome:
    """One coordinator's folder. Nothing of it stays in memory: all is read from the disk anew."""

    directory: Path

    @classmethod
    def create(
        cls, directory: Path, config: CoordinatorConfig, ca: tuple[bytes, bytes] | None = None
    ) -> CoordinatorHome:
        """Make keys, certificate authority and configuration. Refuses an existing folder.

        ``ca``: certificate and key (PEM) of an authority that the consortium brings.
        """
        home = cls(directory)
        if home.config_path.exists() and not is_unfinished(directory):
            raise UsageError(
                f"{directory} is a coordinator already", hint="choose another --home, or use it"
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
        """Raises UsageError if ``init`` was not run there, or this is root on another's folder."""
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
        """Where the configuration is, which people edit."""
        return self.directory / "coordinator.toml"

    @property
    def certificate_path(self) -> Path:
        """Where the listeners' certificate is (PEM)."""
        return self.directory / "server.pem"

    @property
    def key_path(self) -> Path:
        """Where the listeners' key is, sealed."""
        return self.directory / "identity.key"

    @property
    def ca_path(self) -> Path:
        """Where the authority's certificate is (PEM), which hospitals and jobs trust."""
        return self.directory / "ca.pem"

    @property
    def chain_path(self) -> Path:
        """The authority with those above it, for Flower's own clients on this machine."""
        return self.directory / "chain.pem"

    @property
    def checkpoint_key_path(self) -> Path:
        """The sealed key that opens saved states of runs."""
        return self.directory / "checkpoint.key"

    @property
    def next_key_path(self) -> Path:
        """Where the key that is to follow lies, sealed, while a key is being replaced."""
        return self.directory / "identity.next.key"

    def require_no_pending_rotation(self) -> None:
        """Raises RefusedError while a change of keys was cut off."""
        if any(self.directory.glob(f"*{REWRAPPED}")):
            raise RefusedError(
                "a move to another key store was cut off",
                hint="finish it: flo coordinator rewrap --keystore, as it was begun",
            )
        if self.next_key_path.exists():
            raise RefusedError(
                "a replacement of the coordinator's key was cut off",
                hint="finish it: flo coordinator replace-key",
            )

    @property
    def superexec_log_path(self) -> Path:
        """What SuperExec and its ServerApps said; the coordinator rotates it."""
        return self.directory / "superexec.log"

    @property
    def superexec_secret_path(self) -> Path:
        """Where Flower's SuperExec finds its secret; of one start only, and in no backup."""
        return self.directory / "superexec.secret"

    def read_config(self) -> CoordinatorConfig:
        """The configuration. Raises UsageError naming the fields that are wrong."""
        return read_settings(CoordinatorConfig, self.config_path)

    def read_private_url(self) -> str:
        """Where operators, jobs and runs reach this coordinator."""
        config = self.read_config()
        return f"https://{config.private_host}:{config.private_port}"

    def open_keystore(self) -> KeyStore:
        """What seals this folder's keys. Raises UsageError or TrustError."""
        return self.read_config().keystore.open(self.directory)

    def open_identity(self) -> Signer:
        """Who this coordinator is to others."""
        key = self.read_config().signing_key
        return kms_signer(key) if key else self.open_tls_identity()

    def open_tls_identity(self) -> Identity:
        """The listeners' key; the coordinator's identity, too, unless that is in KMS."""
        return Identity.load(self.key_path, self.open_keystore())

    def open_authority(self) -> Authority:
        """The certificate authority, its key opened. Raises UsageError or TrustError."""
        return Authority(self.directory, self.open_keystore())

    def open_checkpoint_key(self) -> bytes:
        """The key for saved states, made at the first call."""
        path, keystore = self.checkpoint_key_path, self.open_keystore()
        if not path.exists():
            write_secret(path, keystore, SECRETS[path.name], secrets.token_bytes(32))
        return read_secret(path, keystore, SECRETS[path.name])

    def states(self) -> LocalArtifacts:
        """Where large vectors of saved states lie."""
        return LocalArtifacts(self.directory / "states")

    def open_store(self) -> Store:
        """The database, to be closed; several processes may have it open."""
        return Store(self.directory / "coordinator.sqlite")

    def open_audit_log(self) -> AuditLog:
        """The audit log, to be closed. Raises TrustError if it is gone or was edited."""
        return existing(self.directory / "audit.sqlite", self.open_identity())

    @contextmanager
    def recording(self) -> Iterator[Store]:
        """The store, for a command; what it enters as events is signed before the command ends."""
        self.require_no_pending_rotation()
        with closing(self.open_store()) as store, closing(self.open_audit_log()) as log:
            try:
                yield store
            finally:
                sign_events(store, log)

    @contextmanager
    def serving(self) -> Iterator[None]:
        """Held by the one process that serves. Raises RefusedError if another one does."""
        with locked(
            self.directory / "serve.lock", f"a coordinator already runs on {self.directory}"
        ):
            yield

    def renew_certificate(self, *, days: float) -> bool:
        """Issue the listeners' certificate anew if it has fewer ``days`` left, coordinator.toml has
        other names now, it is gone or damaged, or it is of a clock that was ahead."""
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
        """The listeners' certificate for this identity key."""
        hosts = [self.read_config().host, self.read_config().private_host]
        write_public(self.certificate_path, self.open_authority().issue_server(identity, hosts))


def sign_events(store: Store, log: AuditLog) -> None:
    """Take events that wait in the store over into the signed audit log, in order."""
    while waiting := store.events_after(log.last_source()):
        for start in range(0, len(waiting), _SIGNED_AT_ONCE):
            log.append_from(waiting[start : start + _SIGNED_AT_ONCE])

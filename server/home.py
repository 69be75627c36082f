"""The coordinator's folder: keys, certificates, tokens, its database; made once by ``init``.

identity.key        signs studies, countersigns heads; its fingerprint is compared by telephone
ca.key  ca.pem      the certificate authority, for transport
server.pem          the listeners' certificate (for identity.key)
operator.token      bearer token of the private listener (0600)
superexec.secret    shared with Flower's SuperExec (0600)
coordinator.toml    host and ports
coordinator.sqlite  hospitals, studies, approvals, runs
models/             published models
"""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Literal

import tomli_w
from pydantic import Field

from flo.errors import UsageError
from flo.files import make_private_directory, write_private, write_public
from flo.identity import Identity
from flo.server.authority import Authority
from flo.server.store import Store
from flo.settings import Document, parse, read_toml

HOME_VARIABLE = "FLO_COORDINATOR_HOME"
Port = Annotated[int, Field(ge=1, le=65_535)]


class CoordinatorConfig(Document):
    """``coordinator.toml``."""

    schema_version: Literal[1] = 1
    host: str = "127.0.0.1"
    bind: str = "127.0.0.1"
    port: Port = 9443
    private_host: str = "127.0.0.1"
    private_port: Port = 9444


@dataclass(frozen=True)
class CoordinatorHome:
    directory: Path

    @classmethod
    def create(cls, directory: Path, config: CoordinatorConfig) -> CoordinatorHome:
        """Make keys, certificate authority and configuration. Refuses an existing folder."""
        home = cls(directory)
        if home.config_path.exists():
            raise UsageError(
                f"{directory} is a coordinator already", hint="choose another --home, or use it"
            )
        make_private_directory(directory)
        identity = Identity.new()
        identity.save(directory / "identity.key")
        authority = Authority.create(directory)
        certificate = authority.issue_server(identity, [config.host, config.private_host])
        write_public(home.certificate_path, certificate)
        write_private(directory / "operator.token", secrets.token_urlsafe(32).encode())
        write_private(home.superexec_secret_path, secrets.token_bytes(32))
        (directory / "models").mkdir()
        home.store().close()
        write_public(home.config_path, tomli_w.dumps(config.model_dump()).encode())
        return home

    @classmethod
    def open(cls, directory: Path) -> CoordinatorHome:
        """Raises UsageError if ``init`` was not run there."""
        home = cls(directory)
        if not home.config_path.exists():
            raise UsageError(
                f"{directory} is not a coordinator's folder",
                hint=f"run `flo coordinator init --home {directory}`",
            )
        return home

    @property
    def config_path(self) -> Path:
        return self.directory / "coordinator.toml"

    @property
    def certificate_path(self) -> Path:
        return self.directory / "server.pem"

    @property
    def key_path(self) -> Path:
        return self.directory / "identity.key"

    @property
    def ca_path(self) -> Path:
        return self.directory / "ca.pem"

    @property
    def superexec_secret_path(self) -> Path:
        return self.directory / "superexec.secret"

    @property
    def config(self) -> CoordinatorConfig:
        return parse(CoordinatorConfig, read_toml(self.config_path), str(self.config_path))

    @property
    def private_url(self) -> str:
        config = self.config
        return f"https://{config.private_host}:{config.private_port}"

    @property
    def token(self) -> str:
        return (self.directory / "operator.token").read_text()

    def identity(self) -> Identity:
        return Identity.load(self.key_path)

    def authority(self) -> Authority:
        return Authority(self.directory)

    def store(self) -> Store:
        return Store(self.directory / "coordinator.sqlite")


def invite(home: CoordinatorHome, hospital: str) -> bytes:
    """An invitation file: where to go, whom to trust, and a one-time certificate to enrol with.

    It holds a private key that opens enrolment once, for seven days: pass it on like a password.
    """
    bootstrap = Identity.new()
    certificate, serial = home.authority().issue_client(
        hospital, "bootstrap", bootstrap.key.public_key()
    )
    store = home.store()
    store.add_invitation(serial, hospital)
    store.close()
    config = home.config
    return json.dumps(
        {
            "schema_version": 1,
            "hospital": hospital,
            "url": f"https://{config.host}:{config.port}",
            "coordinator": home.identity().public.hex(),
            "ca": home.ca_path.read_text(),
            "certificate": certificate.decode(),
            "key": bootstrap.pem().decode(),
            "expires": (datetime.now(UTC) + timedelta(days=7)).isoformat(timespec="seconds"),
        },
        indent=1,
    ).encode()

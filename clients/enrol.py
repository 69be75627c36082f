"""Enrolment: from a one-time invitation to a certificate. The key is made here and stays here."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import NameOID
from pydantic import AwareDatetime, Field

from flo import canonical
from flo.clients.coordinator_api import CoordinatorApi, client_context
from flo.clients.home import CoordinatorInfo, SiteHome
from flo.errors import TrustError, UsageError
from flo.files import write_private, write_public
from flo.identity import fingerprint
from flo.settings import Document, parse
from flo.study import Identifier

_LIMIT = 65_536
_Pem = Annotated[str, Field(max_length=8192)]


class Invitation(Document):
    schema_version: Literal[1]
    hospital: Identifier
    url: Annotated[str, Field(pattern=r"^https://[^/\s]{1,253}$")]
    coordinator: Annotated[str, Field(pattern=r"^[0-9a-f]{200,400}$")]
    ca: _Pem
    certificate: _Pem
    key: _Pem
    expires: AwareDatetime


class _Issued(Document):
    certificate: _Pem
    coordinator: str


@dataclass(frozen=True)
class Enrolled:
    """Both fingerprints, to compare by telephone."""

    hospital: str
    own: str
    coordinator: str


def enrol(home: SiteHome, invitation_path: Path) -> Enrolled:
    """Use up an invitation.

    Raises:
        UsageError: not an invitation, expired, or for another hospital.
        TrustError: the coordinator is not the one that the invitation names, or it was used.
    """
    if not invitation_path.is_file():
        raise UsageError(f"no invitation at {invitation_path}")
    invitation = parse(
        Invitation,
        canonical.decode(invitation_path.read_bytes(), limit=_LIMIT, what="invitation"),
        str(invitation_path),
    )
    config, identity = home.config, home.identity()
    if invitation.hospital != config.hospital:
        raise UsageError(
            f"this invitation is for {invitation.hospital!r}, and this site is {config.hospital!r}"
        )
    if invitation.expires < datetime.now(UTC):
        raise UsageError(
            f"the invitation expired on {invitation.expires:%Y-%m-%d}",
            hint="ask the coordinator for a new one",
        )
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, config.hospital)])
    request = x509.CertificateSigningRequestBuilder().subject_name(name)
    signed = request.sign(identity.key, hashes.SHA384())
    pem = signed.public_bytes(serialization.Encoding.PEM).decode()
    with tempfile.TemporaryDirectory() as scratch:
        certificate, key = Path(scratch) / "bootstrap.pem", Path(scratch) / "bootstrap.key"
        write_private(certificate, invitation.certificate.encode())
        write_private(key, invitation.key.encode())
        context = client_context(invitation.ca, certificate, key)
        with CoordinatorApi(invitation.url, context) as api:
            reply = api.call("enrol", {"request": pem})
    issued = parse(_Issued, reply, "the coordinator's answer")
    if issued.coordinator != invitation.coordinator:
        raise TrustError("the coordinator's identity is not the one that the invitation names")
    write_public(home.directory / "certificate.pem", issued.certificate.encode())
    write_public(home.directory / "ca.pem", invitation.ca.encode())
    info = CoordinatorInfo(url=invitation.url, public=invitation.coordinator)
    write_public(
        home.directory / "coordinator.json", canonical.encode(info.model_dump(mode="json"))
    )
    return Enrolled(
        config.hospital, identity.fingerprint, fingerprint(bytes.fromhex(invitation.coordinator))
    )


def connect(home: SiteHome) -> CoordinatorApi:
    """The coordinator's calls with this site's certificate. Raises UsageError before enrolment."""
    info = home.coordinator
    context = client_context(
        (home.directory / "ca.pem").read_text(),
        home.directory / "certificate.pem",
        home.directory / "identity.key",
    )
    return CoordinatorApi(info.url, context)

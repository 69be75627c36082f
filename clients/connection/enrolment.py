"""Enrolment, certificate renewal, the coordinator's key rotation, and leaving.

The identity key never leaves the site; only certificate requests and signatures do.
"""

from __future__ import annotations

import ssl
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Literal

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import NameOID
from pydantic import AwareDatetime, Field

from flo.clients.connection.coordinator_api import CoordinatorApi, client_context
from flo.clients.home.coordinator_info import CoordinatorInfo
from flo.clients.home.site_home import SiteHome
from flo.documents import canonical
from flo.documents.document import Document, parse, read_json
from flo.errors import RefusedError, TrustError, UsageError
from flo.keys.identity import Identity, fingerprint, format_fingerprint, parse_fingerprint
from flo.keys.rotation import KeyRotation
from flo.keys.tls import read_certificate
from flo.storage.files import write_public
from flo.study.terms import Identifier

RENEW_DAYS = 90.0

_LIMIT = 65_536
_Pem = Annotated[str, Field(max_length=8192)]


class Invitation(Document):
    """File from the coordinator with which a hospital enrols once, before ``expires``.

    ``coordinator``: the public key (DER, hexadecimal) that signs its studies. ``ca``,
    ``certificate`` and ``key`` are PEM; the last two authorise enrolment only.
    """

    schema_version: Literal[1]
    hospital: Identifier
    url: Annotated[str, Field(pattern=r"^https://[A-Za-z0-9.:\[\]-]{1,253}$")]
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
    """Fingerprints of the hospital's and the coordinator's keys, to be compared by telephone."""

    hospital: str
    own: str
    coordinator: str


def enrol(home: SiteHome, invitation_path: Path) -> Enrolled:
    """Enrol this site with an invitation, which works once.

    Raises:
        UsageError: not an invitation, expired, or for another hospital.
        TrustError: the coordinator is not the one that the invitation names, or the invitation was
        already used.
    """
    if not invitation_path.is_file():
        raise UsageError(f"there is no invitation file at {invitation_path}")
    invitation = read_json(Invitation, invitation_path, limit=_LIMIT)
    config, identity = home.read_config(), home.open_identity()
    if invitation.hospital != config.hospital:
        raise UsageError(
            f"this invitation is for {invitation.hospital!r}, and this site is {config.hospital!r}",
            hint="ask the coordinator for an invitation in this site's name",
        )
    if invitation.expires < datetime.now(UTC):
        raise UsageError(
            f"the invitation expired on {invitation.expires:%Y-%m-%d}",
            hint="ask the coordinator for a new one",
        )
    context = client_context(
        invitation.ca, invitation.certificate.encode(), invitation.key.encode()
    )
    with CoordinatorApi(invitation.url, context) as api:
        wish = {
            "request": request(config.hospital, identity),
            "coordinator": invitation.coordinator,
        }
        reply = api.call("enrol", wish)
    issued = parse(_Issued, reply, "the coordinator's answer")
    if issued.coordinator != invitation.coordinator:
        raise TrustError("the coordinator's identity is not the one that the invitation names")
    _refuse_another_key(home, issued.certificate)
    write_public(home.directory / "ca.pem", invitation.ca.encode())
    write_public(home.directory / "certificate.pem", issued.certificate.encode())
    earlier = _earlier_keys(home, invitation)
    keep_coordinator(
        home, CoordinatorInfo(url=invitation.url, public=invitation.coordinator, earlier=earlier)
    )
    done = Enrolled(
        config.hospital, identity.fingerprint, fingerprint(bytes.fromhex(invitation.coordinator))
    )
    home.record("enrolled", fingerprint=done.own, coordinator=done.coordinator)
    return done


def _earlier_keys(home: SiteHome, invitation: Invitation) -> tuple[str, ...]:
    """Return the known coordinator keys that precede the invitation's key.

    Empty at a first enrolment, and if no chain of signed rotations leads from the known key to the
    invitation's: then it is another coordinator, which is not bound by what those keys signed.
    """
    if not home.coordinator_path.exists():
        return ()
    info = home.read_coordinator()
    if info.public == invitation.coordinator:
        return info.earlier
    with CoordinatorApi(invitation.url, context_of(home)) as api:
        follows = newest_key(home, api) == invitation.coordinator
    return (*info.earlier, info.public) if follows else ()


def renew_when_due(home: SiteHome, api: CoordinatorApi, *, days: float = RENEW_DAYS) -> bool:
    """Renew the certificate, for the same key, if it has fewer than ``days`` left.

    The old certificate works until the new one is first used, so no call is interrupted. Return
    whether the certificate was renewed.
    """
    end = read_certificate(home.directory / "certificate.pem").not_valid_after_utc
    if end - datetime.now(UTC) > timedelta(days=days):
        return False
    wish = {"request": request(home.read_config().hospital, home.open_identity())}
    issued = parse(_Issued, api.call("renew", wish), "the coordinator's answer")
    _refuse_another_key(home, issued.certificate)
    write_public(home.directory / "certificate.pem", issued.certificate.encode())
    home.record("certificate-renewed")
    return True


def leave(home: SiteHome, api: CoordinatorApi) -> None:
    """Have our certificate revoked and delete it. Data, ledger, keys and audit log stay.

    Raises:
        RefusedError: an approved study is still open here; withdraw it first.
    """
    with closing(home.open_ledger()) as ledger:
        held = [held for held in ledger.balance().reservations.values() if not held.settled]
    if held:
        raise RefusedError(
            f"{len(held)} approved studies are still open here",
            hint="withdraw them first: flo site inbox, flo site withdraw STUDY --reason ...",
        )
    api.call("leave", {})
    home.record("left")
    (home.directory / "certificate.pem").unlink()


def newest_key(home: SiteHome, api: CoordinatorApi) -> str:
    """Return the coordinator's newest public key (hex), reached by signed rotations from the key
    that this site knows. Usually they are the same.

    Raises:
        TrustError: a rotation is not signed by both keys.
        MessageError, UsageError: the coordinator's reply is not a chain of rotations.
    """
    chain = KeyRotation.read(canonical.encode(api.call("keys", {})))
    return chain.newest_after(home.read_coordinator().public)


def accept_coordinator(home: SiteHome, api: CoordinatorApi, spoken_fingerprint: str) -> str:
    """Accept the coordinator's newest key, whose fingerprint the steward compared by telephone.

    Raises:
        TrustError: the newest key has another fingerprint, or does not follow the one we know.
    """
    info = home.read_coordinator()
    newest = newest_key(home, api)
    compared = parse_fingerprint(spoken_fingerprint)
    if fingerprint(bytes.fromhex(newest)) != compared:
        raise TrustError(
            "the coordinator's newest key is not the one you compared, "
            f"{format_fingerprint(compared)[:80]!r}",
            hint="ask the coordinator to read out the whole fingerprint, which `flo coordinator "
            "hospitals` shows; if it still differs, ask for a new invitation",
        )
    if newest != info.public:
        keep_coordinator(
            home, CoordinatorInfo(url=info.url, public=newest, earlier=(*info.earlier, info.public))
        )
        home.record(
            "coordinator-accepted", old=fingerprint(bytes.fromhex(info.public)), new=compared
        )
    return compared


def request(hospital: str, identity: Identity) -> str:
    """Return a certificate signing request (PEM) for the hospital, signed by its identity key."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, hospital)])
    made = x509.CertificateSigningRequestBuilder().subject_name(name)
    signed = made.sign(identity.key, hashes.SHA384())
    return signed.public_bytes(serialization.Encoding.PEM).decode()


def keep_coordinator(home: SiteHome, info: CoordinatorInfo) -> None:
    """Write ``coordinator.json``; from now on this site accepts what this coordinator signs."""
    write_public(home.coordinator_path, info.to_bytes())


def _refuse_another_key(home: SiteHome, pem: str) -> None:
    """Raises TrustError if ``pem`` is not a certificate for our key."""
    try:
        certificate = x509.load_pem_x509_certificate(pem.encode())
        public = certificate.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    except (ValueError, UnsupportedAlgorithm) as error:
        raise TrustError("the coordinator's answer has no valid certificate") from error
    if public != home.open_identity().public:
        raise TrustError("the coordinator sent a certificate for a key that is not this site's")


def connect(home: SiteHome) -> CoordinatorApi:
    """Connect with this site's certificate. Raises UsageError before enrolment."""
    return CoordinatorApi(home.read_coordinator().url, context_of(home))


def context_of(home: SiteHome) -> ssl.SSLContext:
    """Return a TLS context for the coordinator with this site's certificate.

    Raises:
        UsageError: not enrolled. TrustError: the certificate has expired.
    """
    path = home.directory / "certificate.pem"
    if not path.exists():
        raise UsageError(
            "this site is not enrolled (or has left)", hint="run `flo site enrol INVITATION`"
        )
    end = read_certificate(path).not_valid_after_utc
    pem, ca = path.read_bytes(), (home.directory / "ca.pem").read_text()
    if end < datetime.now(UTC):
        raise TrustError(
            f"this site's certificate expired on {end:%Y-%m-%d}",
            hint="ask the coordinator for a new invitation and enrol again; the key stays the same",
        )
    return client_context(ca, pem, home.open_identity().pem())

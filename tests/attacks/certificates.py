"""Certificates as the coordinator's authority would never issue them, and keys in wrong hands."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.x509.oid import NameOID

from flo.clients.connection.enrolment import request
from flo.keys.identity import Identity
from flo.keys.keystore import read_secret
from tests.server.real_coordinator import RealCoordinator


def shows(
    coordinator: RealCoordinator,
    hospital: str,
    *,
    kind: str = "site",
    days: tuple[int, int] = (-1, 1),
    by_itself: bool = False,
) -> ssl.SSLContext:
    """A client with a fresh certificate, valid from ``days`` to ``days`` from now.

    Signed by the coordinator's own authority, whose key leaked, or ``by_itself``.
    """
    home, own = coordinator.home, Identity.new()
    key = load_pem_private_key(
        read_secret(home.directory / "ca.key", home.open_keystore(), "ca-key"), None
    )
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    subject = _name(hospital, kind)
    begin, end = (datetime.now(UTC) + timedelta(days=day) for day in days)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if by_itself else home.open_authority().certificate.subject)
        .public_key(own.key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(end)
        .sign(own.key if by_itself else key, hashes.SHA384())
    )
    return coordinator.shows(certificate.public_bytes(Encoding.PEM), own.pem())


def request_with_anothers_key(hospital: str, own: Identity, another: Identity) -> str:
    """A signing request for ``another``'s public key, which ``own`` signed."""
    honest = x509.load_pem_x509_csr(request(hospital, own).encode())
    der = honest.public_bytes(Encoding.DER)
    assert own.public in der
    forged = x509.load_der_x509_csr(der.replace(own.public, another.public))
    return forged.public_bytes(Encoding.PEM).decode()


def _name(hospital: str, kind: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.COMMON_NAME, hospital),
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, kind),
        ]
    )

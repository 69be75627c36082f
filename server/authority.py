"""The coordinator's certificate authority, for transport only.

It says who may open a connection. It does not say who a partner is: that is the fingerprint in the
study, compared by people. Three kinds of certificate: the coordinator's own (server), a hospital's
(``OU=site``), and a one-time *bootstrap* certificate inside an invitation (``OU=bootstrap``,
short-lived, good for enrolling and nothing else).
"""

from __future__ import annotations

import functools
import ipaddress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from flo.errors import TrustError
from flo.files import write_public
from flo.identity import Identity, public_bytes

_CA_DAYS, _SERVER_DAYS, _SITE_DAYS, _BOOTSTRAP_DAYS = 3650, 398, 365, 7
_LEEWAY = timedelta(minutes=5)


@dataclass(frozen=True)
class Peer:
    """Who stands behind a client certificate."""

    hospital: str
    kind: Literal["site", "bootstrap"]
    serial: str
    public: bytes


class Authority:
    """Issues and reads certificates. Keys: ``ca.key`` (0600), ``ca.pem`` beside it."""

    def __init__(self, directory: Path) -> None:
        self._identity = Identity.load(directory / "ca.key")
        self.certificate = x509.load_pem_x509_certificate((directory / "ca.pem").read_bytes())

    @classmethod
    def create(cls, directory: Path) -> Authority:
        identity = Identity.new()
        name = _name("FLO coordinator CA", "ca")
        certificate = (
            _builder(name, identity.key.public_key(), _CA_DAYS)
            .issuer_name(name)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(identity.key.public_key()), critical=False
            )
            .add_extension(_usage(signs_certificates=True), critical=True)
            .sign(identity.key, hashes.SHA384())
        )
        identity.save(directory / "ca.key")
        write_public(directory / "ca.pem", _pem(certificate))
        return cls(directory)

    @property
    def pem(self) -> bytes:
        return _pem(self.certificate)

    def issue_server(self, identity: Identity, hosts: list[str]) -> bytes:
        """A PEM certificate for the coordinator's listeners under these names or addresses."""
        names = [_general_name(host) for host in dict.fromkeys([*hosts, "localhost", "127.0.0.1"])]
        builder = self._leaf(
            _name(hosts[0], "coordinator"), identity.key.public_key(), _SERVER_DAYS
        )
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        builder = builder.add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False
        )
        return _pem(builder.sign(self._identity.key, hashes.SHA384()))

    def issue_client(
        self, hospital: str, kind: Literal["site", "bootstrap"], public: ec.EllipticCurvePublicKey
    ) -> tuple[bytes, str]:
        """A PEM certificate for a hospital and its serial number in hexadecimal."""
        days = _SITE_DAYS if kind == "site" else _BOOTSTRAP_DAYS
        certificate = (
            self._leaf(_name(hospital, kind), public, days)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
            .sign(self._identity.key, hashes.SHA384())
        )
        return _pem(certificate), f"{certificate.serial_number:x}"

    def _leaf(
        self, name: x509.Name, public: ec.EllipticCurvePublicKey, days: int
    ) -> x509.CertificateBuilder:
        authority_key = self.certificate.extensions.get_extension_for_class(
            x509.SubjectKeyIdentifier
        ).value
        return (
            _builder(name, public, days)
            .issuer_name(self.certificate.subject)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(authority_key),
                critical=False,
            )
        )


def read_request(pem: bytes, hospital: str) -> ec.EllipticCurvePublicKey:
    """The key of a certificate signing request.

    Raises:
        TrustError: it is malformed, not self-signed, not EC P-384, or for another name.
    """
    try:
        request = x509.load_pem_x509_csr(pem)
        key = request.public_key()
    except ValueError as error:
        raise TrustError("the certificate signing request is malformed") from error
    if not request.is_signature_valid:
        raise TrustError("the certificate signing request is not signed by its own key")
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp384r1":
        raise TrustError("the certificate signing request is not for an EC P-384 key")
    names = request.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    if [name.value for name in names] != [hospital]:
        raise TrustError(f"the certificate signing request is not in the name of {hospital}")
    return key


@functools.lru_cache(maxsize=4096)
def read_peer(der: bytes) -> Peer:
    """Who a verified client certificate names. Raises TrustError if it is not one of ours."""
    certificate = x509.load_der_x509_certificate(der)
    subject = certificate.subject
    common = subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    unit = subject.get_attributes_for_oid(NameOID.ORGANIZATIONAL_UNIT_NAME)
    key = certificate.public_key()
    kind = str(unit[0].value) if len(unit) == 1 else ""
    if len(common) != 1 or not isinstance(key, ec.EllipticCurvePublicKey):
        raise TrustError("the client certificate does not name a hospital")
    serial, public = f"{certificate.serial_number:x}", public_bytes(key)
    if kind == "site":
        return Peer(str(common[0].value), "site", serial, public)
    if kind == "bootstrap":
        return Peer(str(common[0].value), "bootstrap", serial, public)
    raise TrustError("the client certificate is not a hospital's")


def _builder(
    name: x509.Name, public: ec.EllipticCurvePublicKey, days: int
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _LEEWAY)
        .not_valid_after(now + timedelta(days=days))
    )


def _name(common: str, unit: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.COMMON_NAME, common),
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, unit),
        ]
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)

"""The coordinator's certificate authority, for transport only.

It is created here, or is the consortium's own (``adopt``). A certificate allows its holder to
connect. It does not identify a partner: the key fingerprint in the study does, which people
compare. There are three kinds of certificate: the coordinator's own (server), a hospital's
(``OU=site``), and a one-time *bootstrap* certificate in an invitation (``OU=bootstrap``,
short-lived, for enrolment only).
"""

from __future__ import annotations

import functools
import ipaddress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from flo.errors import TrustError, UsageError
from flo.keys.identity import Identity, public_bytes
from flo.keys.keystore import KeyStore, read_secret, write_secret
from flo.keys.tls import read_certificate
from flo.storage.files import write_public

_CA_DAYS, _SERVER_DAYS, SITE_DAYS, BOOTSTRAP_DAYS = 3650, 398, 365, 7
_LEEWAY = timedelta(days=2)  # for peers whose clocks are behind
CA_PURPOSE = "ca-key"  # key store purpose of ca.key


@dataclass(frozen=True)
class Peer:
    """Subject of a client certificate. ``serial``: hexadecimal. ``public``: its public key."""

    hospital: str
    kind: Literal["site", "bootstrap"]
    serial: str
    public: bytes


class Authority:
    """Issues certificates with ``ca.key`` (sealed, mode 0600) and ``ca.pem`` of the folder."""

    def __init__(self, directory: Path, keystore: KeyStore) -> None:
        pem = read_secret(directory / "ca.key", keystore, CA_PURPOSE)
        self._key = _signing_key(pem)
        self.certificate = read_certificate(directory / "ca.pem")

    @classmethod
    def create(cls, directory: Path, keystore: KeyStore) -> Authority:
        """Create our own root: EC P-384, valid for ten years; signs end certificates only."""
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
        write_secret(directory / "ca.key", keystore, CA_PURPOSE, identity.pem())
        for file in ("ca.pem", "chain.pem"):
            write_public(directory / file, _pem(certificate))
        return cls(directory, keystore)

    @classmethod
    def adopt(
        cls, directory: Path, keystore: KeyStore, certificate: bytes, key: bytes
    ) -> Authority:
        """Use the consortium's own CA, root or intermediate; certificate and key as PEM.

        An intermediate certificate must be followed, in the same file, by its issuers up to the
        root. Afterwards only certificates that the first one issued are trusted, not all below the
        root.

        Raises:
            UsageError: it is no CA, is not valid now, ends too soon, lacks its root, or the key is
            not that of the certificate.
        """
        try:
            found, *above = x509.load_pem_x509_certificates(certificate)
            constraints = found.extensions.get_extension_for_class(x509.BasicConstraints).value
            usage = found.extensions.get_extension_for_class(x509.KeyUsage).value
            found.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
        except (ValueError, x509.ExtensionNotFound) as error:
            raise UsageError(
                "the CA certificate cannot be read, or lacks basic constraints, key usage or its "
                "subject key identifier"
            ) from error
        if not (constraints.ca and usage.key_cert_sign):
            raise UsageError("this is not a CA certificate: it may not sign other certificates")
        if found.not_valid_before_utc > datetime.now(UTC):
            raise UsageError(
                f"the CA certificate is not valid before {found.not_valid_before_utc:%Y-%m-%d}"
            )
        _refuse_without_root([found, *above])
        if found.not_valid_after_utc < datetime.now(UTC) + timedelta(days=SITE_DAYS):
            raise UsageError(
                f"the CA certificate ends on {found.not_valid_after_utc:%Y-%m-%d}; it must be "
                f"valid for {SITE_DAYS} more days, like a hospital's certificate",
                hint="use a CA certificate with a longer validity",
            )
        if _signing_key(key).public_key() != found.public_key():
            raise UsageError("the CA's key is not the key of its certificate")
        write_secret(directory / "ca.key", keystore, CA_PURPOSE, key)
        write_public(directory / "ca.pem", _pem(found))
        write_public(directory / "chain.pem", b"".join(map(_pem, [found, *above])))
        return cls(directory, keystore)

    @property
    def pem(self) -> bytes:
        """CA certificate (PEM), which verifies certificates that this authority issued."""
        return _pem(self.certificate)

    def issue_server(self, identity: Identity, hosts: list[str]) -> bytes:
        """Issue a PEM certificate for the listeners, with these host names or addresses."""
        names = [_general_name(host) for host in dict.fromkeys([*hosts, "localhost", "127.0.0.1"])]
        builder = self._leaf(
            _name(hosts[0], "coordinator"), identity.key.public_key(), _SERVER_DAYS
        )
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        builder = builder.add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False
        )
        return _pem(builder.sign(self._key, hashes.SHA384()))

    def issue_client(
        self, hospital: str, kind: Literal["site", "bootstrap"], public: ec.EllipticCurvePublicKey
    ) -> tuple[bytes, str]:
        """Issue a hospital's certificate; return it (PEM) and its serial number (hexadecimal)."""
        days = SITE_DAYS if kind == "site" else BOOTSTRAP_DAYS
        certificate = (
            self._leaf(_name(hospital, kind), public, days)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
            .sign(self._key, hashes.SHA384())
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


def _refuse_without_root(chain: list[x509.Certificate]) -> None:
    """Raise UsageError unless each certificate was issued by the next, and the last by itself."""
    try:
        for issued, by in zip(chain, [*chain[1:], chain[-1]], strict=True):
            issued.verify_directly_issued_by(by)
    except (ValueError, TypeError, InvalidSignature) as error:
        raise UsageError(
            "the CA certificate is an intermediate one, and its issuers up to the root do not "
            "follow it in the file",
            hint="cat ca.pem issuer.pem root.pem > chain.pem; then use --ca-certificate chain.pem",
        ) from error


def _signing_key(pem: bytes) -> ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey:
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise UsageError("the CA's key is not an unencrypted PEM private key") from error
    if isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.key_size >= 256:
        return key
    if isinstance(key, rsa.RSAPrivateKey) and key.key_size >= 3072:
        return key
    raise UsageError("the CA's key must be EC of 256 bits or RSA of 3072 bits, or more")


def days_left(certificate: x509.Certificate) -> float:
    """Return the days until a certificate ends; negative afterwards."""
    return (certificate.not_valid_after_utc - datetime.now(UTC)) / timedelta(days=1)


def names_in(certificate: x509.Certificate) -> set[str]:
    """Return the host names and addresses in a listener's certificate."""
    stated = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return {str(name.value) for name in stated}


def read_request(pem: bytes, hospital: str) -> ec.EllipticCurvePublicKey:
    """Return the public key of a hospital's certificate signing request (PEM).

    Raises:
        TrustError: it is malformed, not self-signed, not EC P-384, or for another name.
    """
    try:
        request = x509.load_pem_x509_csr(pem)
        key, valid = request.public_key(), request.is_signature_valid
        names = [n.value for n in request.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    except (ValueError, UnsupportedAlgorithm) as error:
        raise TrustError("the certificate signing request is malformed") from error
    if not valid:
        raise TrustError("the certificate signing request is not signed by its own key")
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp384r1":
        raise TrustError("the certificate signing request is not for an EC P-384 key")
    if names != [hospital]:
        raise TrustError(f"the certificate signing request is not in the name of {hospital}")
    return key


@functools.lru_cache(maxsize=4096)
def read_peer(der: bytes) -> Peer:
    """Parse a verified client certificate (DER). Raises TrustError if it is not a hospital's."""
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

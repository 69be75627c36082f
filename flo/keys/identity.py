"""Identity keys: EC P-384, generated on the machine that uses them.

A private key leaves that machine only in an encrypted backup. A party is identified by its
*fingerprint*, the SHA-256 of its public key (DER, SubjectPublicKeyInfo). The study lists the
fingerprints; trust comes from there, not from a certificate authority. The same key serves TLS,
Flower's node authentication, and every signature.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import (
    decode_dss_signature,
    encode_dss_signature,
)

from flo.errors import TrustError
from flo.keys.keystore import KeyStore, read_secret, write_secret

_HASH = ec.ECDSA(hashes.SHA384())
_RESTORE = "restore it from the newest backup; if there is none, create the folder again"
_ORDER = ec.SECP384R1().group_order
IDENTITY_PURPOSE = "identity-key"  # context in which a key store seals the key


class Signer(Protocol):
    """Signs for one party, with a local key (``Identity``) or with a key that never leaves KMS.

    A verifier cannot distinguish the two.
    """

    @property
    def public(self) -> bytes:
        """The public key, DER SubjectPublicKeyInfo."""

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the public key."""

    def sign(self, purpose: str, message: bytes) -> str:
        """Sign ``purpose`` and ``message`` with ECDSA-SHA384; hexadecimal.

        A signature for one purpose is not valid for another.
        """


@dataclass(frozen=True)
class Identity:
    """A private key. ``repr`` shows only the fingerprint."""

    key: ec.EllipticCurvePrivateKey = field(repr=False)

    @classmethod
    def new(cls) -> Identity:
        """Generate a key from the operating system's randomness."""
        return cls(ec.generate_private_key(ec.SECP384R1()))

    @classmethod
    def read(cls, pem: bytes, what: str) -> Identity:
        """Parse an unencrypted PEM. Raises TrustError if it is not a P-384 key."""
        try:
            key = serialization.load_pem_private_key(pem, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise TrustError(f"{what} is not a private key", hint=_RESTORE) from error
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name != "secp384r1":
            raise TrustError(f"{what} is not an EC P-384 key", hint=_RESTORE)
        return cls(key)

    @classmethod
    def load(cls, path: Path, keystore: KeyStore) -> Identity:
        """Read a key that ``save`` wrote. Raises UsageError if it is missing, or TrustError."""
        return cls.read(read_secret(path, keystore, IDENTITY_PURPOSE, plain=True), str(path))

    def save(self, path: Path, keystore: KeyStore) -> None:
        """Write the key sealed by the folder's key store, mode 0600."""
        write_secret(path, keystore, IDENTITY_PURPOSE, self.pem())

    def pem(self) -> bytes:
        """Return the unencrypted private key (PKCS 8, PEM), to be sealed or held in memory."""
        return self.key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )

    @property
    def public(self) -> bytes:
        """The public key, DER SubjectPublicKeyInfo."""
        return public_bytes(self.key.public_key())

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the public key, which studies name and people compare."""
        return fingerprint(self.public)

    def sign(self, purpose: str, message: bytes) -> str:
        """Sign ``purpose`` and ``message`` with ECDSA-SHA384; hexadecimal.

        A signature for one purpose is not valid for another.
        """
        return low_s(self.key.sign(framed(purpose, message), _HASH).hex())


def low_s(signature: str) -> str:
    """Return the equivalent signature with the smaller s: (r, s) or (r, n - s).

    Anyone can convert one form into the other, so bytes that must not change fix the form.

    Raises:
        TrustError: it is not a signature.
    """
    try:
        r, s = decode_dss_signature(bytes.fromhex(signature))
        if not (0 < r < _ORDER and 0 < s < _ORDER):
            raise ValueError("r or s is outside 1 .. n - 1")
    except ValueError as error:
        raise TrustError("this is not a signature") from error
    return encode_dss_signature(r, min(s, _ORDER - s)).hex()


def verify(public: bytes, purpose: str, message: bytes, signature: str) -> None:
    """Check a signature made by ``Identity.sign``.

    Raises:
        TrustError: it does not match or is malformed.
    """
    try:
        key = load_public(public)
        raw = bytes.fromhex(signature)
        if raw.hex() != signature:
            raise ValueError("signature is not lowercase hexadecimal")
        key.verify(raw, framed(purpose, message), _HASH)
    except (InvalidSignature, ValueError) as error:
        raise TrustError(f"the signature of this {purpose} does not match") from error


def load_public(public: bytes) -> ec.EllipticCurvePublicKey:
    """Parse a DER public key. Raises ValueError for anything but a P-384 key."""
    try:
        key = serialization.load_der_public_key(public)
    except UnsupportedAlgorithm as error:
        raise ValueError("not a public key of a known kind") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp384r1":
        raise ValueError("not an EC P-384 public key")
    if public_bytes(key) != public:  # so that a key has only one fingerprint
        raise ValueError("not the canonical form of a public key")
    return key


def public_bytes(key: ec.EllipticCurvePublicKey) -> bytes:
    """Encode a public key as it is signed and hashed everywhere: DER, SubjectPublicKeyInfo."""
    return key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def fingerprint(public: bytes) -> str:
    """Return the SHA-256 of a DER public key, 64 lowercase hexadecimal digits."""
    return hashlib.sha256(public).hexdigest()


def format_fingerprint(fingerprint_hex: str) -> str:
    """Format a fingerprint in groups of four digits, for comparison by telephone."""
    return " ".join(fingerprint_hex[i : i + 4] for i in range(0, len(fingerprint_hex), 4))


def parse_fingerprint(text: str) -> str:
    """Parse a fingerprint that was read out or typed; ignores spaces and case."""
    return "".join(text.split()).lower()


def framed(purpose: str, message: bytes) -> bytes:
    """Return the bytes to sign: ``message``, prefixed with its purpose."""
    return b"flo/1/" + purpose.encode() + b"\x00" + message

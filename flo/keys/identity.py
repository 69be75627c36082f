"""Identity keys: EC P-384, made where they are used, never leaving that machine.

A party is known by its *fingerprint*, the SHA-256 of its public key (DER, SubjectPublicKeyInfo).
Fingerprints stand in the study; trust comes from there, not from a certificate authority.
The same key serves TLS, Flower's node authentication, and every signature.
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
_RESTORE = "restore it from the folder's newest backup; if there was none, make the folder anew"
_ORDER = ec.SECP384R1().group_order
IDENTITY_PURPOSE = "identity-key"  # for which a key store seals it


class Signer(Protocol):
    """Signs as one party: by a key of its own (``Identity``), or by one that never leaves KMS.

    Whoever verifies cannot tell them apart.
    """

    @property
    def public(self) -> bytes:
        """The public key, DER SubjectPublicKeyInfo."""

    @property
    def fingerprint(self) -> str:
        """Of the public key."""

    def sign(self, purpose: str, message: bytes) -> str:
        """ECDSA-SHA384 over ``purpose`` and ``message``, hexadecimal. Purposes never mix."""


@dataclass(frozen=True)
class Identity:
    """A private key and the signatures it makes. ``repr`` shows the fingerprint only."""

    key: ec.EllipticCurvePrivateKey = field(repr=False)

    @classmethod
    def new(cls) -> Identity:
        """A new key from the operating system's randomness."""
        return cls(ec.generate_private_key(ec.SECP384R1()))

    @classmethod
    def read(cls, pem: bytes, what: str) -> Identity:
        """From an unencrypted PEM. Raises TrustError if it is no P-384 key."""
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
        """The private key in the clear (PKCS 8, PEM), to be sealed or held in memory."""
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
        """Of the public half: what a study names and people compare."""
        return fingerprint(self.public)

    def sign(self, purpose: str, message: bytes) -> str:
        """ECDSA-SHA384 over ``purpose`` and ``message``, hexadecimal. Purposes never mix."""
        return low_s(self.key.sign(framed(purpose, message), _HASH).hex())


def low_s(signature: str) -> str:
    """The one of two equal signatures, (r, s) and (r, n - s), whose s is the smaller.

    Anybody can make one of the other, so bytes that must not change name which one they hold.
    Raises TrustError if it is no signature.
    """
    try:
        r, s = decode_dss_signature(bytes.fromhex(signature))
        if not (0 < r < _ORDER and 0 < s < _ORDER):
            raise ValueError("r or s is outside 1 .. n - 1")
    except ValueError as error:
        raise TrustError("this is no signature") from error
    return encode_dss_signature(r, min(s, _ORDER - s)).hex()


def verify(public: bytes, purpose: str, message: bytes, signature: str) -> None:
    """Check a signature made by ``Identity.sign``.

    Raises:
        TrustError: if it does not match or is malformed.
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
    """Parse a DER public key; only P-384 is accepted. Raises ValueError otherwise."""
    try:
        key = serialization.load_der_public_key(public)
    except UnsupportedAlgorithm as error:
        raise ValueError("not a public key of a known kind") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp384r1":
        raise ValueError("not an EC P-384 public key")
    if public_bytes(key) != public:  # one key has one fingerprint
        raise ValueError("not the canonical form of a public key")
    return key


def public_bytes(key: ec.EllipticCurvePublicKey) -> bytes:
    """The key as it is named, signed and hashed everywhere: DER, SubjectPublicKeyInfo."""
    return key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def fingerprint(public: bytes) -> str:
    """SHA-256 of a DER public key, 64 lowercase hexadecimal digits."""
    return hashlib.sha256(public).hexdigest()


def format_fingerprint(fingerprint_hex: str) -> str:
    """A fingerprint in groups of four, as people compare it by telephone."""
    return " ".join(fingerprint_hex[i : i + 4] for i in range(0, len(fingerprint_hex), 4))


def parse_fingerprint(text: str) -> str:
    """A fingerprint as it was read out or typed: spaces and capitals do not matter."""
    return "".join(text.split()).lower()


def framed(purpose: str, message: bytes) -> bytes:
    """What is signed."""
    return b"flo/1/" + purpose.encode() + b"\x00" + message

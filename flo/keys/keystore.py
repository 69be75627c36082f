"""Envelope encryption behind one small interface, which local keys and KMS implement.

* ``LocalKeyStore``, the default: AES-256-GCM with a key in its own file (0600). If that file is on
  another disk or a mounted token, a copy of the folder cannot be decrypted.
* ``PassphraseKeyStore``: the same, with a random key that is encrypted under a passphrase (scrypt,
  RFC 7914).
* A key in AWS's KMS (``flo.infra.aws.kms``), which never leaves it; loaded only where configured.

Every call takes a *context*, the purpose of the data, as associated data; decryption under another
context fails. ``write_secret`` and ``read_secret`` store small secrets this way: identity keys,
split key.
"""

from __future__ import annotations

import functools
import getpass
import hmac
import os
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Literal, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import GCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
from pydantic import Field, field_validator, model_validator

from flo.documents import canonical
from flo.documents.document import Document, read_json, spelt
from flo.errors import TrustError, UsageError
from flo.storage.files import write_private

if TYPE_CHECKING:
    from flo.keys.identity import Signer

Context = dict[str, str]
KmsKey = Annotated[
    str,
    spelt(
        "arn:aws[a-z-]*:kms:[a-z0-9-]+:[0-9]{12}:key/[A-Za-z0-9-]{1,64}",
        "the ARN of a KMS key, such as arn:aws:kms:eu-central-1:123456789012:key/1234abcd-...",
    ),
]
PASSPHRASE_VARIABLE = "FLO_PASSPHRASE_FILE"  # noqa: S105 - a variable's name
_SEALED = b"flo-sealed-1\n"
_SHORTEST_PASSPHRASE = 12
_LIMIT = 65_536
_NONCE, _TAG, _PIECE = 12, 16, 1 << 20
SEALED_MORE = _NONCE + _TAG  # bytes


class KeyStore(Protocol):
    """Encrypts bytes for a context; decryption requires the same context.

    A context is not secret. It prevents one sealed object from being used as another. Methods raise
    NetworkError if the key is remote and cannot be reached.
    """

    @property
    def key_id(self) -> str:
        """Public name of the key, which reveals no part of it."""

    def seal(self, context: Context, data: canonical.Bytes) -> bytes:
        """Encrypt ``data`` for ``context``."""

    def open(self, context: Context, sealed: bytes) -> bytes:
        """Decrypt. Raises TrustError if the context differs or a bit was changed."""


class AesKeyStore:
    """AES-256-GCM under one key: 12 bytes of nonce, then the ciphertext with its tag."""

    def __init__(self, key: bytes) -> None:
        self._cipher, self._algorithm = AESGCM(key), AES256(key)
        self.key_id = hmac.digest(key, b"flo/1/key-id", "sha256")[:8].hex()

    def seal(self, context: Context, data: canonical.Bytes) -> bytes:
        """Encrypt under a fresh random nonce; the context is authenticated and not stored."""
        nonce, sealed = os.urandom(_NONCE), bytearray(len(data) + SEALED_MORE)
        sealed[:_NONCE] = nonce
        within = memoryview(sealed)[_NONCE:]
        self._cipher.encrypt_into(nonce, data, canonical.encode(context), within)
        return sealed  # type: ignore[return-value] # no other reference to these bytes exists

    def seal_pieces(self, context: Context, data: canonical.Bytes) -> Iterator[bytes]:
        """Yield the output of ``seal``, ``len(data)`` + ``SEALED_MORE`` bytes, in pieces."""
        nonce, view = os.urandom(_NONCE), memoryview(data)
        encryptor = Cipher(self._algorithm, GCM(nonce)).encryptor()
        encryptor.authenticate_additional_data(canonical.encode(context))
        yield nonce
        for start in range(0, len(view), _PIECE):
            yield encryptor.update(view[start : start + _PIECE])
        yield encryptor.finalize()
        yield encryptor.tag

    def open(self, context: Context, sealed: bytes) -> bytes:
        """Decrypt. Raises TrustError also for data too short to be sealed."""
        try:
            return self._cipher.decrypt(sealed[:12], sealed[12:], canonical.encode(context))
        except (InvalidTag, ValueError) as error:
            raise TrustError("an encrypted file was changed, or is for another purpose") from error


class LocalKeyStore(AesKeyStore):
    """A 256-bit key in its own file, which only its owner may read; created on first use."""

    def __init__(self, path: Path) -> None:
        """Raise TrustError if other users may read the file, or it is not a key."""
        if not path.exists():
            write_private(path, os.urandom(32))
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            raise TrustError(f"{path} can be read by other users", hint=f"chmod 600 {path}")
        key = path.read_bytes()
        if len(key) != 32:
            raise TrustError(
                f"{path} is not a key file of 32 bytes", hint="restore it from your copy"
            )
        super().__init__(key)


class _Wrapped(Document):
    """``keystore.json``: a random key, encrypted under the passphrase's key."""

    schema_version: Literal[1] = 1
    kind: Literal["passphrase"] = "passphrase"
    salt: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
    cost: Annotated[int, Field(ge=1 << 14, le=1 << 17)] = 1 << 16
    wrapped: Annotated[str, Field(pattern=r"^[0-9a-f]{120}$")]

    @field_validator("cost")
    @classmethod
    def _is_a_power_of_two(cls, cost: int) -> int:
        if cost & (cost - 1):
            raise ValueError(f"{cost} is not a power of two")
        return cost


class PassphraseKeyStore(AesKeyStore):
    """A random key stored in ``path``, encrypted under ``passphrase``; created on first use."""

    def __init__(self, path: Path, passphrase: bytes) -> None:
        """Raise UsageError for a short passphrase at first use, TrustError for a wrong one."""
        if not path.exists():
            self.rewrap(path, passphrase, os.urandom(32))
        kept = read_json(_Wrapped, path, limit=_LIMIT)
        wrapping = by_passphrase(passphrase, bytes.fromhex(kept.salt), kept.cost, short=True)
        try:
            key = wrapping.open({"purpose": "keystore"}, bytes.fromhex(kept.wrapped))
        except TrustError as error:
            raise TrustError(
                f"this passphrase does not open {path}", hint="type it again; nothing was changed"
            ) from error
        super().__init__(key)

    @staticmethod
    def rewrap(path: Path, passphrase: bytes, key: bytes) -> None:
        """Encrypt ``key`` under this passphrase, replacing an earlier one.

        Data that ``key`` sealed stay as they are.

        Raises:
            UsageError: the passphrase is too short.
        """
        salt, cost = os.urandom(16), 1 << 16
        wrapped = by_passphrase(passphrase, salt, cost).seal({"purpose": "keystore"}, key)
        kept = _Wrapped(salt=salt.hex(), cost=cost, wrapped=wrapped.hex())
        write_private(path, kept.to_bytes())


class KeyStoreConfig(Document):
    """``[keystore]`` of a folder's configuration.

    ``path``: of the key file, if it is outside the folder. ``key``: ARN of a key in KMS.
    """

    kind: Literal["file", "passphrase", "kms"] = "file"
    path: Path | None = None
    key: KmsKey | None = None

    @model_validator(mode="after")
    def _says_where(self) -> KeyStoreConfig:
        if (self.kind == "kms") != (self.key is not None):
            raise ValueError("`key` is needed for a key store of kind kms, and only there")
        if self.kind == "kms" and self.path is not None:
            raise ValueError("a key store of kind kms has no `path`")
        return self

    def open(self, directory: Path) -> KeyStore:
        """Return the folder's key store. Prompts for a passphrase at most once per process.

        The key store is created only if the folder's identity key is not sealed: in a new folder,
        or in one of FLO 0.1.

        Raises:
            UsageError: it is missing, or a passphrase is needed and there is no way to prompt for
                it.
            TrustError: the passphrase is wrong, or other users may read the key.
        """
        if self.key is not None:
            return self.open_new(directory)
        path, identity = self._place(directory), directory / "identity.key"
        needed = identity.exists() and is_sealed(identity.read_bytes())
        if not path.exists() and (needed or not path.parent.is_dir()):
            raise UsageError(
                f"no key store at {path}, and only it opens this folder's keys",
                hint="mount the disk or token that holds it, or restore it from the newest "
                "backup; if there is none, create the folder again",
            )
        return self.open_new(directory)

    def open_new(self, directory: Path) -> KeyStore:
        """Return the key store that replaces another one; create it if it is missing."""
        if self.key is not None:
            in_kms: KeyStore = _kms().keystore(self.key)
            return in_kms
        path = self._place(directory)
        return _local(path) if self.kind == "file" else _by_passphrase(path)

    def _place(self, directory: Path) -> Path:
        name = "keystore.key" if self.kind == "file" else "keystore.json"
        return self.path or directory / name


def kms_signer(key: str) -> Signer:
    """Return the signing key with this ARN in AWS's KMS."""
    signer: Signer = _kms().signer(key)
    return signer


def _kms() -> ModuleType:
    """Import the AWS module; only called if a configuration names a key in KMS."""
    from flo.infra.aws import kms

    return kms


def by_passphrase(passphrase: bytes, salt: bytes, cost: int, *, short: bool = False) -> KeyStore:
    """Return a key store with a key derived from a passphrase, 16 bytes of salt and scrypt's cost.

    ``short``: accept a short passphrase, as decryption must.

    Raises:
        UsageError: the passphrase is too short to seal with.
    """
    if not short and len(passphrase) < _SHORTEST_PASSPHRASE:
        raise UsageError(f"the passphrase needs at least {_SHORTEST_PASSPHRASE} characters")
    if cost & (cost - 1):
        raise TrustError(f"a cost of {cost} is not a power of two")
    return AesKeyStore(_stretched(passphrase, salt, cost))


def _stretched(passphrase: bytes, salt: bytes, cost: int) -> bytes:
    return Scrypt(salt=salt, length=32, n=cost, r=8, p=1).derive(passphrase)


@functools.lru_cache(maxsize=64)
def _local(path: Path) -> KeyStore:
    return LocalKeyStore(path)


@functools.lru_cache(maxsize=64)
def _by_passphrase(path: Path) -> KeyStore:
    return PassphraseKeyStore(
        path, passphrase(f"passphrase for {path.parent}", new=not path.exists())
    )


def passphrase(prompt: str, *, new: bool, ask: Callable[[str], str] = getpass.getpass) -> bytes:
    """Read a passphrase from the file named by FLO_PASSPHRASE_FILE, else from the terminal.

    ``new``: prompt for it twice.

    Raises:
        UsageError: there is neither file nor terminal, or the two entries differ.
    """
    named = os.environ.get(PASSPHRASE_VARIABLE)
    if named:
        try:
            return Path(named).read_bytes().rstrip(b"\r\n")
        except OSError as error:
            raise UsageError(f"{PASSPHRASE_VARIABLE}={named} cannot be read") from error
    if not sys.stdin.isatty():
        raise UsageError(
            "a passphrase is needed and there is no terminal to ask for it",
            hint=f"set {PASSPHRASE_VARIABLE} to a file that only this user can read",
        )
    given = ask(f"{prompt}: ")
    if new and ask("repeat it: ") != given:
        raise UsageError("the two passphrases differ")
    return given.encode()


def write_secret(path: Path, keystore: KeyStore, purpose: str, secret: bytes) -> None:
    """Write a small secret sealed, mode 0600."""
    write_private(path, _SEALED + keystore.seal({"purpose": purpose}, secret))


def is_sealed(data: bytes) -> bool:
    """Return whether a file's content was written by ``write_secret``."""
    return data.startswith(_SEALED)


def read_secret(path: Path, keystore: KeyStore, purpose: str, *, plain: bool = False) -> bytes:
    """Read a secret that ``write_secret`` wrote.

    ``plain``: also accept an unencrypted one, as FLO 0.1 wrote it.

    Raises:
        UsageError: there is none.
        TrustError: it was changed, or is for another purpose.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise UsageError(f"no key at {path}", hint="run the init command") from error
    if plain and not is_sealed(data):
        return data
    try:
        return keystore.open({"purpose": purpose}, data.removeprefix(_SEALED))
    except TrustError as error:
        raise TrustError(
            f"{path}: {error}",
            hint=error.hint
            or "restore it from the newest backup; if there is none, create it again",
        ) from error

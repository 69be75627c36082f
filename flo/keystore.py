"""Envelope encryption behind one narrow interface, so that KMS can join without other changes.

``LocalKeyStore`` is the embedded default: AES-256-GCM, key file 0600, and a *context* (what the
data are for) as associated data. Opening under another context fails.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from flo import canonical
from flo.errors import TrustError
from flo.files import write_private

Context = dict[str, str]


class KeyStore(Protocol):
    def seal(self, context: Context, data: bytes) -> bytes:
        """Encrypt ``data`` for ``context``."""

    def open(self, context: Context, sealed: bytes) -> bytes:
        """Decrypt. Raises TrustError if the context differs or a bit was changed."""


class LocalKeyStore:
    """A 256-bit key in a file of its own, made on first use."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            write_private(path, os.urandom(32))
        self._cipher = AESGCM(path.read_bytes())

    def seal(self, context: Context, data: bytes) -> bytes:
        nonce = os.urandom(12)
        return nonce + self._cipher.encrypt(nonce, data, canonical.encode(context))

    def open(self, context: Context, sealed: bytes) -> bytes:
        try:
            return self._cipher.decrypt(sealed[:12], sealed[12:], canonical.encode(context))
        except (InvalidTag, ValueError) as error:
            raise TrustError("an encrypted file was changed, or is for another purpose") from error

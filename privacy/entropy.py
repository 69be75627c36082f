"""One random stream, keyed by the operating system anew for every release.

ChaCha20 (RFC 8439) from ``cryptography``, a fresh 256-bit key from ``os.urandom`` each time a
stream is made. A stream is made where it is used and thrown away after one release, so a fork or a
restored snapshot cannot repeat it. There is no seed and no way to set one.
"""

from __future__ import annotations

import os

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20

_BLOCK = 4096


class SystemStream:
    """Unbiased random integers from a ChaCha20 stream keyed by ``os.urandom``."""

    def __init__(self) -> None:
        cipher = Cipher(ChaCha20(os.urandom(32), bytes(4) + os.urandom(12)), mode=None)
        self._encryptor = cipher.encryptor()
        self._pid = os.getpid()
        self._buffer = b""
        self._at = 0

    def below(self, bound: int) -> int:
        """Uniform integer in [0, bound), exact (rejection sampling); ``bound`` >= 1."""
        bits = (bound - 1).bit_length()
        if bits == 0:
            return 0
        size = (bits + 7) // 8
        shift = 8 * size - bits
        while True:
            value = int.from_bytes(self._take(size), "little") >> shift
            if value < bound:
                return value

    def _take(self, size: int) -> bytes:
        if os.getpid() != self._pid:
            raise RuntimeError("a random stream must not be used across a fork")
        if self._at + size > len(self._buffer):
            self._buffer = self._buffer[self._at :] + self._encryptor.update(bytes(_BLOCK + size))
            self._at = 0
        self._at += size
        return self._buffer[self._at - size : self._at]

"""Random streams: ChaCha20 (RFC 8439) from ``cryptography``, each with a 256-bit key of its own.

The noise of every release is from a ``SystemStream``, whose key is fresh from ``os.urandom``. It is
created where it is used and discarded after one release, so a fork or a restored snapshot cannot
repeat it. It has no seed and no way to set one.

A ``KeyedStream`` is for the parts of noise that hospitals may together remove from a secure sum
(``flo.privacy.secure_sum.components``).
"""

from __future__ import annotations

import os

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20

Words = npt.NDArray[np.uint64]
_ZEROS = memoryview(bytes(1 << 18))


class KeyedStream:
    """64-bit words of the ChaCha20 stream of one 32-byte key, which must be used only once."""

    def __init__(self, key: bytes) -> None:
        self._encryptor = Cipher(ChaCha20(key, bytes(16)), mode=None).encryptor()

    def words(self, count: int) -> Words:
        """Return the next ``count`` words; any division into calls gives the same words."""
        words = np.empty(count + 8, dtype="<u8")  # update_into needs room for one more block
        room = words.data.cast("B")
        for start in range(0, 8 * count, len(_ZEROS)):
            size = min(8 * count - start, len(_ZEROS))
            self._encryptor.update_into(_ZEROS[:size], room[start:])
        return words[:count]


class SystemStream(KeyedStream):
    """Uniform 64-bit words from a ChaCha20 stream keyed by ``os.urandom``."""

    def __init__(self) -> None:
        super().__init__(os.urandom(32))
        self._pid = os.getpid()

    def words(self, count: int) -> Words:
        """Return the next ``count`` words. Raises RuntimeError in a forked process."""
        if os.getpid() != self._pid:
            raise RuntimeError("a random stream must not be used across a fork")
        return super().words(count)

"""A random stream that is keyed by the operating system for every release.

ChaCha20 (RFC 8439) from ``cryptography``, with a fresh 256-bit key from ``os.urandom`` for each
stream. A stream is created where it is used and discarded after one release, so a fork or a
restored snapshot cannot repeat it. There is no seed and no way to set one.
"""

from __future__ import annotations

import os

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20

Words = npt.NDArray[np.uint64]
_ZEROS = memoryview(bytes(1 << 18))


class SystemStream:
    """Uniform 64-bit words from a ChaCha20 stream keyed by ``os.urandom``."""

    def __init__(self) -> None:
        cipher = Cipher(ChaCha20(os.urandom(32), bytes(4) + os.urandom(12)), mode=None)
        self._encryptor = cipher.encryptor()
        self._pid = os.getpid()

    def words(self, count: int) -> Words:
        """Return the next ``count`` words. Raises RuntimeError in a forked process."""
        if os.getpid() != self._pid:
            raise RuntimeError("a random stream must not be used across a fork")
        words = np.empty(count + 8, dtype="<u8")  # update_into needs room for one more block
        room = words.data.cast("B")
        for start in range(0, 8 * count, len(_ZEROS)):
            size = min(8 * count - start, len(_ZEROS))
            self._encryptor.update_into(_ZEROS[:size], room[start:])
        return words[:count]

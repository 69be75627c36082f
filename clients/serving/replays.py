"""Memory of the tokens that were used, so that each is accepted once.

It is a file of the site's folder, so that it outlives the server. A server that begins without it
refuses tokens that are older than itself, because it cannot know whether they were used. Its rows
are not flushed one by one: a power cut may lose those of its last seconds.
"""

from __future__ import annotations

import hashlib
import os
import struct
import time
from pathlib import Path

_ROW = struct.Struct("<24sq")  # digest of caller and jti, second of expiry
_MOST_ROWS, _COMPACT_FROM = 4_000_000, 100_000


class ReplayMemory:
    """Tokens that were accepted, by digest, until they expire. Used by one process at a time."""

    def __init__(self, path: Path) -> None:
        """Open the file, or create it: its rows are read, and it is appended to.

        ``is_new``: whether it was not there.
        """
        self.is_new = not path.exists()
        file = self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._seen = dict[bytes, int]()
        self._rows, self._full = 0, _COMPACT_FROM
        now = int(time.time())
        data = os.pread(file, os.fstat(file).st_size, 0)
        whole = len(data) - len(data) % _ROW.size
        for digest, expires in _ROW.iter_unpack(data[:whole]):
            if expires >= now:
                self._seen[digest] = expires
        self._rewrite()

    def use(self, caller: str, token: str, expires: int, now: float) -> bool:
        """Remember a token; return False if it was used before.

        ``expires``: second from which on it is refused anyway.
        """
        digest = hashlib.sha256(f"{caller}\0{token}".encode()).digest()[:24]
        if digest in self._seen:
            return False
        if self._rows >= self._full:
            self._seen = {one: end for one, end in self._seen.items() if end >= now}
            self._rewrite()
        if len(self._seen) >= _MOST_ROWS:
            return False  # a flood of valid tokens: refuse rather than forget
        self._seen[digest] = expires
        self._rows += 1
        os.write(self._file, _ROW.pack(digest, expires))
        return True

    def _rewrite(self) -> None:
        rows = b"".join(_ROW.pack(digest, end) for digest, end in self._seen.items())
        os.ftruncate(self._file, 0)
        os.lseek(self._file, 0, os.SEEK_SET)
        os.write(self._file, rows)
        self._rows = len(self._seen)
        self._full = max(_COMPACT_FROM, 2 * self._rows)

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

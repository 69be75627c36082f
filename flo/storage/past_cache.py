"""Writing of large files past the operating system's page cache.

A large file, such as a sealed reply, is written once and rarely read again. Through the cache it
would be copied into a new page for every 4 KiB, which takes several times as long as encrypting
it, and would push out files that are read often. ``O_DIRECT`` (open(2), Linux) writes whole blocks
from aligned memory instead. Where a file system has no such writes, the cache takes them.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

BLOCK = 1 << 22  # bytes that go past the cache at a time
_DIRECT = getattr(os, "O_DIRECT", 0)


def write_pieces(handle: int, pieces: Iterable[bytes | memoryview]) -> None:
    """Write to a file that is open for writing, from its beginning. The caller flushes it.

    The last bytes, fewer than ``BLOCK``, go through the cache.
    """
    block, there = memoryview(mmap.mmap(-1, BLOCK, flags=mmap.MAP_PRIVATE)), 0
    for piece in pieces:
        left = memoryview(piece).cast("B")
        while left:
            size = min(len(left), BLOCK - there)
            block[there : there + size] = left[:size]
            left, there = left[size:], there + size
            if there == BLOCK:
                _write(handle, block[_write_past_cache(handle, block) :])
                there = 0
    _write(handle, block[:there])


def _write_past_cache(handle: int, block: memoryview) -> int:
    """Return how many bytes were written so; 0 where the file system or its disk cannot."""
    try:
        with _direct(handle):
            return os.write(handle, block)
    except OSError:  # of any number; a full or broken disk refuses the cache's write or flush, too
        return 0


@contextmanager
def _direct(handle: int) -> Iterator[None]:
    import fcntl  # POSIX only, while `flo audit verify` also runs on other systems

    flags = fcntl.fcntl(handle, fcntl.F_GETFL)
    fcntl.fcntl(handle, fcntl.F_SETFL, flags | _DIRECT)
    try:
        yield
    finally:
        fcntl.fcntl(handle, fcntl.F_SETFL, flags)


def _write(handle: int, data: memoryview) -> None:
    while data:
        data = data[os.write(handle, data) :]

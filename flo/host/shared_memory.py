"""Large bytes shared by two processes of one user, without a pipe or a disk (Linux).

The writer keeps an anonymous file in memory open. The reader opens it by its path under /proc and
may close it at any time.
"""

from __future__ import annotations

import mmap
import os
import re
import stat

from flo.errors import MessageError

_PLACE = re.compile(r"/proc/[0-9]{1,10}/fd/[0-9]{1,10}")


class SharedBytes:
    """Anonymous file in memory, reused for bytes of any size."""

    def __init__(self) -> None:
        self._handle = os.memfd_create("flo", os.MFD_CLOEXEC)
        os.fchmod(self._handle, 0o600)
        self.place = f"/proc/{os.getpid()}/fd/{self._handle}"

    def write(self, data: bytes | memoryview, start: int = 0) -> None:
        """Write from byte ``start`` on, over earlier content; the bytes after it stay."""
        view = memoryview(data)
        while view:
            written = os.pwrite(self._handle, view, start)
            view, start = view[written:], start + written

    def close(self) -> None:
        """Close the file: it can no longer be opened, but current readers keep their view."""
        os.close(self._handle)


def opened(place: str, size: int) -> memoryview:
    """Return a read-only view of the bytes at ``place``.

    Raises:
        MessageError: it is not a path of this kind, not ours, missing, or has fewer bytes.
    """
    if not _PLACE.fullmatch(place):
        raise MessageError("not a path of shared memory")
    try:
        handle = os.open(place, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise MessageError("this shared memory no longer exists") from error
    try:
        found = os.fstat(handle)
        ours = stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid()
        if not ours or found.st_size < size or size == 0:
            raise MessageError(f"this shared memory is not ours, or has not {size} bytes")
        flags = mmap.MAP_SHARED | mmap.MAP_POPULATE
        return memoryview(mmap.mmap(handle, size, flags, mmap.PROT_READ))
    finally:
        os.close(handle)

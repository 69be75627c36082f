"""Large bytes between two processes of one user, without a pipe and without a disk (Linux).

Whoever makes them keeps a nameless file in memory open. Another process opens it by its place under
/proc and may close it whenever it likes.
"""

from __future__ import annotations

import mmap
import os
import re
import stat

from flo.errors import MessageError

_PLACE = re.compile(r"/proc/[0-9]{1,10}/fd/[0-9]{1,10}")


class SharedBytes:
    """A nameless file in memory, used again for bytes of any size."""

    def __init__(self) -> None:
        self._handle = os.memfd_create("flo", os.MFD_CLOEXEC)
        os.fchmod(self._handle, 0o600)
        self.place = f"/proc/{os.getpid()}/fd/{self._handle}"

    def write(self, data: bytes | memoryview, start: int = 0) -> None:
        """Write from byte ``start`` on, over what was there; nothing is cut off behind it."""
        view = memoryview(data)
        while view:
            written = os.pwrite(self._handle, view, start)
            view, start = view[written:], start + written

    def close(self) -> None:
        """Nobody can open it any more; who has opened it reads on."""
        os.close(self._handle)


def opened(place: str, size: int) -> memoryview:
    """What lies at ``place``, to be read only.

    Raises:
        MessageError: it is no place of this kind, not ours, not there, or has fewer bytes.
    """
    if not _PLACE.fullmatch(place):
        raise MessageError("not a place in memory")
    try:
        handle = os.open(place, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise MessageError("nothing lies at this place in memory any more") from error
    try:
        found = os.fstat(handle)
        ours = stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid()
        if not ours or found.st_size < size or size == 0:
            raise MessageError(f"not {size} bytes of ours at this place in memory")
        flags = mmap.MAP_SHARED | mmap.MAP_POPULATE
        return memoryview(mmap.mmap(handle, size, flags, mmap.PROT_READ))
    finally:
        os.close(handle)

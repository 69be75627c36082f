"""Keep freed memory instead of giving it back to the kernel after every step.

A training step allocates the same megabytes again and again; by default glibc returns them each
time, and getting them back costs a page fault for every 4 KiB (a fifth of a small step here).
"""

from __future__ import annotations

import contextlib
import ctypes

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX, _ARENA_MAX = -1, -2, -4, -8
_MIB = 1 << 20
KEEPING = {  # the same, as the environment of a process that has threads before it calls us
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2047 * _MIB),
    "MALLOC_TOP_PAD_": str(16 * _MIB),
}


def give_back_freed_memory() -> None:
    """Return what this process has freed to the kernel, which clears it."""
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def share_arenas() -> None:
    """Let all threads of this process share two arenas, where the C library is glibc.

    By default each thread may have one of its own, which keeps what the thread once needed.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).mallopt(_ARENA_MAX, 2)


def keep_freed_memory() -> None:
    """For this process, where the C library is glibc; elsewhere nothing happens."""
    with contextlib.suppress(OSError, AttributeError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_ARENA_MAX, 1)  # other threads' would map what is large after all
        mallopt(_MMAP_MAX, 0)
        mallopt(_TRIM_THRESHOLD, 2047 * _MIB)
        mallopt(_TOP_PAD, 16 * _MIB)

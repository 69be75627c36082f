"""Keep freed memory instead of returning it to the kernel after every step.

A training step allocates the same megabytes again and again. By default glibc returns them each
time, and each new allocation costs a page fault for every 4 KiB (a fifth of a small step here).
"""

from __future__ import annotations

import contextlib
import ctypes

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX, _ARENA_MAX = -1, -2, -4, -8
_MIB = 1 << 20
KEEPING = {  # as environment variables, for a process that has threads before it calls this
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2047 * _MIB),
    "MALLOC_TOP_PAD_": str(16 * _MIB),
}


def give_back_freed_memory() -> None:
    """Return the memory that this process has freed to the kernel, which clears it."""
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def share_arenas() -> None:
    """Let all threads of this process share two arenas, if the C library is glibc.

    By default each thread may have its own arena, which retains the thread's peak memory.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).mallopt(_ARENA_MAX, 2)


def keep_freed_memory() -> None:
    """Keep freed memory in this process; it has an effect only if the C library is glibc."""
    with contextlib.suppress(OSError, AttributeError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_ARENA_MAX, 1)  # other threads' arenas would still map large blocks
        mallopt(_MMAP_MAX, 0)
        mallopt(_TRIM_THRESHOLD, 2047 * _MIB)
        mallopt(_TOP_PAD, 16 * _MIB)

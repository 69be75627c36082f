"""Freed memory is kept for the next step, and given back when it is to be forgotten."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.processes

_PROGRAM = """
import numpy as np
from flo.host.memory import give_back_freed_memory, keep_freed_memory

def megabytes():
    with open("/proc/self/status") as status:
        (line,) = [line for line in status if line.startswith("RssAnon")]
    return int(line.split()[1]) // 1000

keep_freed_memory()
before = megabytes()
large, last = np.ones(12_500_000), [bytes(1000) for _ in range(100)]
del large
kept = megabytes() - before
give_back_freed_memory()
print(kept, megabytes() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc")
def test_what_was_freed_is_kept_until_it_is_to_be_given_back() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM], capture_output=True, text=True, check=True
    )
    kept, left = map(int, done.stdout.split())
    assert kept > 90
    assert left < 10


_THREADS = """
import ctypes, os, threading
from flo.host.memory import share_arenas

if {shared}:
    share_arenas()
inside = threading.Barrier(8)

def busy():
    inside.wait()
    blocks = [bytes(5000) for _ in range(200)]
    inside.wait()

threads = [threading.Thread(target=busy) for _ in range(8)]
[t.start() for t in threads], [t.join() for t in threads]
libc = ctypes.CDLL(None)
libc.fopen.restype = ctypes.c_void_p
file = libc.fopen(b"/dev/fd/1", b"w")
libc.malloc_info(0, ctypes.c_void_p(file))
libc.fclose(ctypes.c_void_p(file))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc")
def test_threads_share_two_arenas_where_the_process_asks_for_it() -> None:
    arenas = []
    for shared in (False, True):
        script = _THREADS.format(shared=shared)
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=True
        )
        arenas.append(done.stdout.count("<heap nr="))
    alone, together = arenas
    assert alone > 2
    assert together == 2

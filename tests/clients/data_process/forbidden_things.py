"""The program of ``tests.clients.data_process.confined_process``: tries what it is told, and says
how it ended.

Its text runs as ``python -c``, with the data process's own arguments, and ends by calling
``stand_in``. It loads no more than the data process has loaded when that one locks itself in, and
loads it at once: nobody may not read our packages later.
"""

from __future__ import annotations

import ctypes
import errno
import json
import mmap
import os
import resource
import signal
import socket
import subprocess
import sys
from pathlib import Path

from flo.clients.data_process import child

NOBODY = 65534
_PR_SET_DUMPABLE = 4
_libc = ctypes.CDLL(None, use_errno=True)
MODULES = (json, os, resource, signal, socket, subprocess, sys)


def stand_in(*, free: bool, nobody: bool) -> None:
    """In the data process's place: its ``main``, with another ``serve``."""
    vars(child)["serve"] = _serve
    if free:
        vars(child)["confine"] = lambda *_, **__: {}
    if nobody:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
        _libc.prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)  # as in a program that this user has started
    child.main()


def _serve(_: str, __: object, layers: dict[str, bool]) -> None:
    hello = json.dumps({"layers": layers, "status": "ok"}, separators=(",", ":")).encode()
    sys.stdout.buffer.write(len(hello).to_bytes(4, "big") + hello + bytes(8))
    sys.stdout.flush()
    for line in sys.stdin:
        print(json.dumps(_tried(json.loads(line))), flush=True)  # noqa: T201 - its pipe


def _tried(code: str) -> str:
    names: dict[str, object] = {module.__name__: module for module in MODULES}
    names |= {"Path": Path, "site": Path(sys.argv[-1]).parent, "call": call, "run": run}
    try:
        return str(eval(code, names))
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    except ValueError as error:  # setrlimit's way to say EPERM
        return str(error)


def call(number: int, *arguments: int) -> int:
    """A system call by its number."""
    found: int = _libc.syscall(number, *map(ctypes.c_long, arguments))
    if found == -1:
        raise OSError(ctypes.get_errno(), "")
    return found


def run(code: str) -> int:
    """Machine code (hexadecimal), as a function without arguments."""
    page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(bytes.fromhex(code))
    place = ctypes.addressof(ctypes.c_char.from_buffer(page))
    return int(ctypes.CFUNCTYPE(ctypes.c_int)(place)())

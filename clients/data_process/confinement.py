"""Confinement of the child that holds patients: no network, no other files, no programs.

``confine`` is called before other modules are imported and before data are read. It cannot be
undone. Each layer is applied and then checked: landlock and seccomp *by trying to break them*, the
others by reading the process's state. The layers that held are reported and signed into extracts:

    limits         no core dump, no debugger can attach, few open files
    namespace      a network namespace of its own, which is empty (where the kernel allows it)
    no_new_privs   no program can gain privileges; superuser capabilities are dropped
    landlock       files: read what Python needs and the frozen snapshots; write none
    seccomp        no socket of any kind, no io_uring, no other process, no ptrace, no mounts, no
                   keys, no signal to other processes, no input into a terminal, no watching of
                   files, no change of a file's attributes or length

Linux on x86-64 and AArch64, by system call, so that no helper program and no root is needed. The
numbers are from the kernel's UAPI headers; the filter lists refused calls, and the kernel itself is
trusted.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import resource
import socket
import struct
import sys
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from flo.clients.data_process.seccomp import SIGNALS_OR_WATCHES, TYPED_INTO_A_TERMINAL, refuse_calls

LAYERS = ("limits", "namespace", "no_new_privs", "landlock", "seccomp")

_PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS, _PR_GET_NO_NEW_PRIVS = 4, 38, 39
_NEW_USER, _NEW_NET, _NEW_IPC = 0x10000000, 0x40000000, 0x08000000
_CAPABILITY_VERSION_3 = 0x20080522
_OPEN_FILES = 256

_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446
_READ_FILE, _READ_DIR, _WRITE_FILE, _IOCTL = 1 << 2, 1 << 3, 1 << 1, 1 << 15
_SYSTEM = (
    *("/usr", "/lib", "/lib64", "/proc", "/sys", "/dev/urandom", "/dev/null", "/dev/zero"),
    *("/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/localtime"),
    *("/etc/timezone", "/etc/passwd", "/etc/nsswitch.conf", "/etc/alternatives"),
)

_libc = ctypes.CDLL(None, use_errno=True)


def confine(readable: Iterable[Path], forbidden: Path, *, gpu: bool) -> dict[str, bool]:
    """Confine this process permanently. Return whether each of ``LAYERS`` was seen to hold.

    ``readable``: folders that it may read, such as that of frozen patients. ``forbidden``: a file
    of this hospital that must be inaccessible afterwards, as a check. ``gpu``: NVIDIA's devices may
    be used. Call it while the process has one thread.
    """
    _set_limits()
    _enter_namespace()
    _give_up_capabilities()
    _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    _restrict_files([*_python_paths(), *readable], gpu=gpu)
    refuse_calls(_libc)
    return {
        "limits": resource.getrlimit(resource.RLIMIT_CORE) == (0, 0),
        "namespace": _sees_no_network(),
        "no_new_privs": (
            _libc.prctl(_PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1 and _has_no_capability()
        ),
        "landlock": _cannot_open(forbidden),
        "seccomp": (
            _cannot_open_sockets()
            and _cannot_run_programs()
            and _cannot_fork()
            and _cannot_signal_others()
            and _cannot_type_into_terminals()
        ),
    }


def set_undumpable() -> None:
    """Keep other processes of the same user from reading this process's memory or core dump."""
    _libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def _set_limits() -> None:
    set_undumpable()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = _OPEN_FILES if most == resource.RLIM_INFINITY else min(most, _OPEN_FILES)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))


def _enter_namespace() -> None:
    """Enter an empty network namespace, in a new user namespace if the kernel allows one."""
    if _libc.unshare(_NEW_USER | _NEW_NET | _NEW_IPC) != 0:
        _libc.unshare(_NEW_NET | _NEW_IPC)


def _give_up_capabilities() -> None:
    header = struct.pack("Ii", _CAPABILITY_VERSION_3, 0)
    _libc.capset(header, bytes(24))  # effective, permitted and inheritable: none


# -- landlock -------------------------------------------------------------------------------------


def _restrict_files(readable: Iterable[Path], *, gpu: bool) -> None:
    abi = _libc.syscall(_LANDLOCK_CREATE, None, ctypes.c_size_t(0), ctypes.c_uint32(1))
    if abi < 1:
        return
    every = (1 << 13) - 1
    every |= (1 << 13) * (abi >= 2) | (1 << 14) * (abi >= 3) | _IOCTL * (abi >= 5)
    network, scope = 3 * (abi >= 4), 3 * (abi >= 6)
    size = 8 if abi < 4 else 16 if abi < 6 else 24
    attributes = struct.pack("QQQ", every, network, scope)[:size]
    ruleset = _libc.syscall(_LANDLOCK_CREATE, attributes, ctypes.c_size_t(size), ctypes.c_uint32(0))
    if ruleset < 0:
        return
    try:
        for path in {*map(Path, _SYSTEM), *readable}:
            _allow(ruleset, path, _READ_FILE | _READ_DIR)
        _allow(ruleset, Path("/dev/null"), _READ_FILE | _WRITE_FILE)
        for device in Path("/dev").glob("nvidia*") if gpu else ():
            _allow(ruleset, device, _READ_FILE | _READ_DIR | _WRITE_FILE | _IOCTL & every)
        _libc.syscall(_LANDLOCK_RESTRICT, ruleset, ctypes.c_uint32(0))
    finally:
        os.close(ruleset)


def _allow(ruleset: int, path: Path, access: int) -> None:
    try:
        handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return  # a missing path needs no permission
    try:
        if not path.is_dir():
            access &= ~_READ_DIR
        rule = struct.pack("=Qi", access, handle)
        _libc.syscall(_LANDLOCK_ADD, ruleset, ctypes.c_int(1), rule, ctypes.c_uint32(0))
    finally:
        os.close(handle)


def _python_paths() -> list[Path]:
    """Return the interpreter, its libraries, and this package with the folders it links to."""
    package = Path(__file__).parents[2]
    rooms = [path.resolve() for path in package.iterdir() if path.is_dir()]
    prefixes = {Path(sys.prefix).resolve(), Path(sys.base_prefix).resolve()}
    libraries = [
        Path(entry).resolve()
        for entry in sys.path
        if entry and any(Path(entry).resolve().is_relative_to(prefix) for prefix in prefixes)
    ]
    return [package.resolve(), *rooms, *prefixes, *libraries]


# -- checks ---------------------------------------------------------------------------------------


def _sees_no_network() -> bool:
    """Check that the network has no device but loopback (down in a new namespace)."""
    try:
        lines = Path("/proc/self/net/dev").read_text().splitlines()[2:]
    except OSError:
        return False
    return [line.split(":")[0].strip() for line in lines] in ([], ["lo"])


def _has_no_capability() -> bool:
    lines = Path("/proc/self/status").read_text().splitlines()
    held = dict(line.split(":\t") for line in lines if line.startswith("Cap"))
    return all(int(held[name], 16) == 0 for name in ("CapEff", "CapPrm", "CapInh"))


def _refused(attempt: Callable[[], object]) -> bool:
    """Return whether the kernel denies permission. Another error means no layer refused it."""
    try:
        attempt()
    except PermissionError:
        return True
    except OSError:
        return False
    return False


def _cannot_open(path: Path) -> bool:
    def opened(how: int) -> None:
        os.close(os.open(path, how | os.O_CLOEXEC))  # close it if opening was allowed

    return all(_refused(partial(opened, how)) for how in (os.O_RDONLY, os.O_WRONLY))


def _cannot_open_sockets() -> bool:
    return all(
        _refused(partial(socket.socket, family, socket.SOCK_STREAM))
        for family in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX)
    )


def _cannot_fork() -> bool:
    return _refused(lambda: os.fork() or os._exit(0))


def _cannot_signal_others() -> bool:
    """Check both ways: a signal by this process, and one sent by the kernel on its behalf."""
    return _refused(lambda: os.kill(os.getppid(), 0)) and _refused(
        lambda: fcntl.fcntl(2, SIGNALS_OR_WATCHES[0], os.getppid())
    )


def _cannot_type_into_terminals() -> bool:
    return _refused(lambda: fcntl.ioctl(2, TYPED_INTO_A_TERMINAL[0], b" "))


def _cannot_run_programs() -> bool:
    return _refused(lambda: os.execv("/nonexistent/program", ["program"]))  # noqa: S606

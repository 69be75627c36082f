"""The data process is locked in: system calls, limits, and the filter that decides about calls.

As in ``test_confinement``: tried where they are refused, and where nothing is locked.
"""

from __future__ import annotations

import os
import platform
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flo.clients.confinement import program
from tests.builders import make_site
from tests.clients.forbidden_things import NOBODY
from tests.clients.locked_in import WHO, Inside, LockedIn, started, two_processes

X86 = platform.machine() == "x86_64"

# x86-64 and AArch64 numbers, from the kernel's syscall_64.tbl and asm-generic/unistd.h
CALLS = {
    "socket": (41, 198),
    "connect": (42, 203),
    "accept": (43, 202),
    "sendto": (44, 206),
    "sendmsg": (46, 211),
    "bind": (49, 200),
    "listen": (50, 201),
    "accept4": (288, 242),
    "sendmmsg": (307, 269),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "execve": (59, 221),
    "execveat": (322, 281),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "pidfd_getfd": (438, 438),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsmount": (432, 432),
    "mount_setattr": (442, 442),
    "unshare": (272, 97),
    "setns": (308, 268),
    "open_by_handle_at": (304, 265),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "kexec_load": (246, 104),
}
READ, WRITE, OPENAT, MMAP, FUTEX = (0, 63), (1, 64), (257, 56), (9, 222), (202, 98)
CLONE, CLONE3 = (56, 220), (435, 435)
HERE = 0 if X86 else 1


@pytest.fixture(scope="module", params=WHO)
def inside(request: pytest.FixtureRequest) -> Iterator[Inside]:
    with two_processes(request.param) as both:
        yield both


# -- calls ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CALLS)
def test_a_refused_call_is_refused_by_the_kernel(inside: Inside, name: str) -> None:
    code = f"call({CALLS[name][HERE]}, -1, 0, 0, 0, 0, 0)"
    assert inside.locked.tries(code) == "EPERM"
    if inside.root:
        assert inside.free.tries(code) != "EPERM"


@pytest.mark.parametrize(
    "code",
    [
        "subprocess.run(['/bin/true'])",
        "os.posix_spawn('/bin/true', ['true'], {})",
        "os.execve(os.memfd_create('program'), ['program'], {})",
    ],
)
def test_it_runs_no_program(inside: Inside, code: str) -> None:
    inside.refuses(code)


def test_it_enters_no_new_namespace(inside: Inside) -> None:
    for flag in (0x10000000, 0x40000000, 0x00020000, 0x20000000, 0x02000000):
        code = f"call({CLONE[HERE]}, {flag | signal.SIGCHLD}, 0, 0, 0, 0) or os._exit(0)"
        inside.refuses(code, root=True)
    assert inside.locked.tries(f"call({CLONE3[HERE]}, 0, 0)") == "ENOSYS"
    assert inside.free.tries(f"call({CLONE3[HERE]}, 0, 0)") == "EINVAL"


@pytest.mark.skipif(not X86, reason="other numbers for the same calls are of x86-64 only")
@pytest.mark.parametrize(
    "code",
    [
        f"call({0x40000000 | CALLS['socket'][0]}, 2, 1, 0)",
        f"call({0x40000000 | READ[0]}, 0, 0, 0)",
        "run('b866000000cd80c3')",  # mov eax, 102 (socketcall); int 0x80; ret
        "run('b814000000cd80c3')",  # mov eax, 20 (getpid); int 0x80; ret
    ],
    ids=["x32 socket", "x32 read", "i386 socketcall", "i386 getpid"],
)
def test_a_call_by_another_architectures_number_ends_it(tmp_path: Path, code: str) -> None:
    home = make_site(tmp_path).directory
    with started(LockedIn(home)) as process:
        with pytest.raises(EOFError):
            process.tries(code)
        assert process.process.wait(timeout=10) == -signal.SIGSYS
    with started(LockedIn(home, free=True)) as process:
        process.tries(code)


# -- limits and no_new_privs ----------------------------------------------------------------------


def test_it_opens_few_files_and_cannot_raise_its_limits(tmp_path: Path) -> None:
    home = make_site(tmp_path).directory
    for free in (False, True):
        with started(LockedIn(home, free=free)) as process:
            raised = "resource.setrlimit(resource.RLIMIT_NOFILE, (300, 300))"
            assert (process.tries(raised) == "None") == free
            many = "len([os.open('/dev/null', os.O_RDONLY) for _ in range(256)])"
            assert process.tries(many) == ("256" if free else "EMFILE")


def test_it_leaves_no_core_dump(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = make_site(tmp_path).directory
    monkeypatch.chdir(tmp_path)
    before = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (before[1], before[1]))
    try:
        for free in (False, True):
            with started(LockedIn(home, free=free)) as process:
                with pytest.raises(EOFError):
                    process.tries("os.abort()")
                died = os.waitid(os.P_PID, process.process.pid, os.WEXITED | os.WNOWAIT)
                assert died is not None
                if free and before[1] == 0:
                    continue  # nothing dumps here
                assert (died.si_code == os.CLD_DUMPED) == free
    finally:
        resource.setrlimit(resource.RLIMIT_CORE, before)


# Like a debugger: opens the memory of the process it is given.
LOOKS_INSIDE = f"""
import os, sys
if os.geteuid() == 0:
    os.setgroups([]); os.setresgid(*[{NOBODY}] * 3); os.setresuid(*[{NOBODY}] * 3)
open(f"/proc/{{sys.argv[1]}}/mem", "rb").close()
"""


def test_a_debugger_of_the_same_user_does_not_attach(inside: Inside) -> None:
    if inside.root:
        pytest.skip("the superuser may debug everything")

    def looks_inside(process: LockedIn) -> bool:
        pid = str(process.process.pid)
        arguments = [sys.executable, "-I", "-S", "-c", LOOKS_INSIDE, pid]
        done = subprocess.run(arguments, capture_output=True, check=False)
        assert done.returncode == 0 or b"PermissionError" in done.stderr
        return done.returncode == 0

    assert not looks_inside(inside.locked)
    assert looks_inside(inside.free)


def test_no_program_could_give_it_rights(inside: Inside) -> None:
    for process, held in ((inside.locked, "1"), (inside.free, "0")):
        lines = process.tries("Path('/proc/self/status').read_text()").splitlines()
        assert f"NoNewPrivs:\t{held}" in lines
    take_it_back = "call(157 if os.uname().machine == 'x86_64' else 167, 38, 0, 0, 0, 0)"
    assert inside.locked.tries(take_it_back) == "EINVAL"


# -- the filter by itself -------------------------------------------------------------------------

X86_64, AARCH64, I386, ARM = 0xC000003E, 0xC00000B7, 0x40000003, 0x40000028
ALLOW, KILL, EPERM, ENOSYS = 0x7FFF0000, 0x80000000, 0x00050001, 0x00050026
MACHINES = [("x86_64", X86_64, 0), ("aarch64", AARCH64, 1)]


def decides(machine: str, architecture: int, number: int, first: int = 0) -> int:
    """What the filter returns for a call; as the kernel runs classic BPF."""
    data = {0: number, 4: architecture, 16: first & 0xFFFFFFFF, 20: first >> 32}
    lines, at, value = program(machine), 0, 0
    while True:
        code, yes, no, k = lines[at]
        at += 1
        match code:
            case 0x20:  # BPF_LD | BPF_W | BPF_ABS
                value = data[k]
            case 0x06:  # BPF_RET | BPF_K
                return k
            case 0x15 | 0x35 | 0x45:  # BPF_JMP | BPF_K with BPF_JEQ, BPF_JGE, BPF_JSET
                holds = {0x15: value == k, 0x35: value >= k, 0x45: bool(value & k)}[code]
                at += yes if holds else no
            case _:
                raise AssertionError(hex(code))


@pytest.mark.parametrize(("machine", "architecture", "column"), MACHINES)
def test_the_filter_refuses_each_call_and_allows_all_others(
    machine: str, architecture: int, column: int
) -> None:
    refused = {numbers[column] for numbers in CALLS.values()}
    for number in range(600):
        expected = ENOSYS if number == CLONE3[column] else EPERM if number in refused else ALLOW
        assert decides(machine, architecture, number) == expected
    for needed in (READ, WRITE, OPENAT, MMAP, FUTEX, CLONE):
        assert decides(machine, architecture, needed[column]) == ALLOW


@pytest.mark.parametrize(("machine", "architecture", "column"), MACHINES)
@pytest.mark.parametrize("other", [X86_64, AARCH64, I386, ARM, 0])
def test_the_filter_ends_a_process_that_calls_as_another_architecture(
    machine: str, architecture: int, column: int, other: int
) -> None:
    for number in (READ[column], CALLS["socket"][column], 102):
        ends = decides(machine, other, number) == KILL
        assert ends == (other != architecture)


@given(st.integers(0x40000000, 0xFFFFFFFF))
def test_the_filter_ends_a_process_that_calls_by_an_x32_number(number: int) -> None:
    assert decides("x86_64", X86_64, number) == KILL


@pytest.mark.parametrize(("machine", "architecture", "column"), MACHINES)
@given(flags=st.integers(0, 2**64 - 1))
def test_the_filter_lets_threads_start_and_namespaces_not(
    machine: str, architecture: int, column: int, flags: int
) -> None:
    # time, mount, cgroup, uts, ipc, user, pid and net, from the kernel's sched.h
    namespaces = (0x80, 0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000)
    asks = any(flags & flag for flag in (*namespaces, 0x40000000))
    assert decides(machine, architecture, CLONE[column], flags) == (EPERM if asks else ALLOW)
    threads = 0x3D0F00  # as the C library starts a thread
    assert decides(machine, architecture, CLONE[column], threads) == ALLOW


def test_a_machine_that_the_filter_does_not_know_has_none() -> None:
    assert program("riscv64") == []

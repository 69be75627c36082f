"""The filter by itself, for both architectures: run as the kernel runs it, on any call there is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flo.clients.data_process.seccomp import program
from tests.clients.data_process.system_calls import (
    CALLS,
    CHANGES_A_FILE,
    CLONE,
    CLONE3,
    FCNTL,
    FIONREAD,
    FORK,
    FROM_NVIDIA,
    FUTEX,
    GETFL,
    INOTIFY_INIT,
    IOCTL,
    METADATA,
    MMAP,
    NAMESPACES,
    NOTIFY,
    OPENAT,
    PRLIMIT,
    READ,
    SETLK,
    SETOWN,
    SETOWN_EX,
    SETSIG,
    TCGETS,
    TGKILL,
    THREAD,
    TIOCLINUX,
    TIOCSTI,
    VFORK,
    WRITE,
)

X86_64, AARCH64, I386, ARM = 0xC000003E, 0xC00000B7, 0x40000003, 0x40000028
ALLOW, KILL, EPERM, ENOSYS = 0x7FFF0000, 0x80000000, 0x00050001, 0x00050026
OWN = 4711  # the id of the process under the filter
MACHINES = [("x86_64", X86_64, 0), ("aarch64", AARCH64, 1)]


def decides(machine: str, architecture: int, number: int, first: int = 0, second: int = 0) -> int:
    """What the filter returns for a call; as the kernel runs classic BPF."""
    data = {0: number, 4: architecture, 16: first & 0xFFFFFFFF, 24: second & 0xFFFFFFFF}
    lines, at, value = program(machine, OWN), 0, 0
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
            case 0x54:  # BPF_ALU | BPF_AND | BPF_K
                value &= k
            case _:
                raise AssertionError(hex(code))


@pytest.mark.parametrize(("machine", "architecture", "column"), MACHINES)
def test_the_filter_refuses_each_call_and_allows_all_others(
    machine: str, architecture: int, column: int
) -> None:
    refused = {numbers[column] for numbers in (CALLS | METADATA).values()} | {CLONE[column]}
    refused |= {FORK, VFORK, INOTIFY_INIT} if column == 0 else set()
    refused |= {TGKILL[column]}  # whose first argument is not the own process here
    for number in range(600):
        expected = ENOSYS if number == CLONE3[column] else EPERM if number in refused else ALLOW
        assert decides(machine, architecture, number) == expected
    for needed in (READ, WRITE, OPENAT, MMAP, FUTEX, PRLIMIT):
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
def test_the_filter_lets_threads_start_and_nothing_else(
    machine: str, architecture: int, column: int, flags: int
) -> None:
    for asked in (flags, flags | THREAD, flags & ~sum(NAMESPACES) | THREAD):
        thread = asked & THREAD and not any(asked & flag for flag in NAMESPACES)
        assert decides(machine, architecture, CLONE[column], asked) == (ALLOW if thread else EPERM)
    as_the_c_library = 0x3D0F00
    assert decides(machine, architecture, CLONE[column], as_the_c_library) == ALLOW


@pytest.mark.parametrize(("machine", "architecture", "column"), MACHINES)
@given(wish=st.integers(0, 2**32 - 1) | st.sampled_from([TIOCSTI, TIOCLINUX, *CHANGES_A_FILE]))
def test_the_filter_lets_devices_be_driven_nothing_typed_and_no_file_changed(
    machine: str, architecture: int, column: int, wish: int
) -> None:
    refused = wish in (TIOCSTI, TIOCLINUX) or chr(wish >> 8 & 0xFF) in "fvX"
    expected = EPERM if refused else ALLOW
    assert decides(machine, architecture, IOCTL[column], 2, wish) == expected


@pytest.mark.parametrize(("machine", "architecture", "column"), MACHINES)
def test_the_filter_lets_a_terminal_be_asked_and_a_gpu_be_driven(
    machine: str, architecture: int, column: int
) -> None:
    for wish in (TCGETS, FIONREAD, FROM_NVIDIA):
        assert decides(machine, architecture, IOCTL[column], 2, wish) == ALLOW


@pytest.mark.parametrize(("machine", "architecture", "column"), MACHINES)
@given(process=st.integers(0, 2**32 - 1) | st.just(OWN))
def test_the_filter_lets_it_signal_its_own_threads_only(
    machine: str, architecture: int, column: int, process: int
) -> None:
    expected = ALLOW if process == OWN else EPERM
    assert decides(machine, architecture, TGKILL[column], process) == expected


@pytest.mark.parametrize(("machine", "architecture", "column"), MACHINES)
@given(high=st.integers(0, 2**32 - 1), pid=st.integers(1, 2**31 - 1))
def test_the_filter_looks_at_arguments_as_the_kernel_does(
    machine: str, architecture: int, column: int, high: int, pid: int
) -> None:
    for wish in (TIOCSTI, TIOCLINUX, *CHANGES_A_FILE):  # the kernel ignores the upper half
        assert decides(machine, architecture, IOCTL[column], 2, high << 32 | wish) == EPERM
    assert decides(machine, architecture, PRLIMIT[column], high << 32 | pid) == EPERM
    assert decides(machine, architecture, PRLIMIT[column], high << 32) == ALLOW


@pytest.mark.parametrize(("machine", "architecture", "column"), MACHINES)
@given(what=st.integers(0, 2**32 - 1) | st.sampled_from([SETOWN, SETSIG, SETOWN_EX, NOTIFY]))
def test_the_filter_lets_files_be_locked_and_no_kernel_be_asked_to_signal(
    machine: str, architecture: int, column: int, what: int
) -> None:
    refused = what in (SETOWN, SETSIG, SETOWN_EX, NOTIFY)
    expected = EPERM if refused else ALLOW
    assert decides(machine, architecture, FCNTL[column], 2, what) == expected
    for needed in (GETFL, SETLK):
        assert decides(machine, architecture, FCNTL[column], 2, needed) == ALLOW


def test_a_machine_that_the_filter_does_not_know_has_none() -> None:
    assert program("riscv64", OWN) == []

"""The data process is locked in: system calls and limits, as the kernel decides.

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

from tests.builders import make_site
from tests.clients.data_process.confined_process import (
    WHO,
    Inside,
    LockedIn,
    started,
    two_processes,
)
from tests.clients.data_process.forbidden_things import NOBODY
from tests.clients.data_process.system_calls import (
    CALLS,
    CHANGES_A_FILE,
    CLONE,
    CLONE3,
    FCNTL,
    FORK,
    IOCTL,
    METADATA,
    NOTIFY,
    READ,
    SETOWN,
    SETOWN_EX,
    SETSIG,
    TGKILL,
    TIOCLINUX,
    TIOCSTI,
    VFORK,
)

pytestmark = pytest.mark.processes

X86 = platform.machine() == "x86_64"

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
    if inside.root and name != "setsid":  # refused to one who leads a session already
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


def test_it_starts_threads_and_no_process(inside: Inside) -> None:
    inside.refuses("os.fork() or os._exit(0)")
    if X86:
        assert inside.locked.tries(f"call({FORK})") == "EPERM"
        assert inside.locked.tries(f"call({VFORK})") == "EPERM"
    started_one = "__import__('threading').Thread(target=int).start()"
    assert inside.locked.tries(started_one) == "None"


def test_it_types_nothing_into_a_terminal(inside: Inside) -> None:
    for wish in (TIOCSTI, TIOCLINUX):
        inside.refuses(f"call({IOCTL[HERE]}, 2, {wish}, 0)")


def test_it_changes_no_attribute_of_a_file_that_it_may_read(inside: Inside) -> None:
    frozen = "os.open(site / 'snapshots' / 'study.npz', os.O_RDONLY)"
    for wish in CHANGES_A_FILE:
        assert inside.locked.tries(f"call({IOCTL[HERE]}, {frozen}, {wish}, 0)") == "EPERM"
    assert inside.free.tries(f"call({IOCTL[HERE]}, {frozen}, {CHANGES_A_FILE[0]}, 0)") != "EPERM"


def test_it_cuts_no_file_short(inside: Inside) -> None:
    """By its path, which Landlock refuses since Linux 6.2 only: the filter does before."""
    inside.refuses("os.truncate(site / 'snapshots' / 'cut.npz', 1)")
    assert inside.locked.tries(f"call({METADATA['truncate'][HERE]}, 0, 0)") == "EPERM"


def test_it_watches_nobody_write(inside: Inside) -> None:
    """An inotify instance and a watch of the site's folder would tell when a ledger row is made."""
    inside.refuses(f"call({CALLS['inotify_init1'][HERE]}, 0)")
    assert inside.locked.tries(f"call({CALLS['inotify_add_watch'][HERE]}, 0, 0, 1)") == "EPERM"


def test_it_signals_no_other_process_and_may_end_itself(inside: Inside) -> None:
    for code in (
        "os.kill(os.getppid(), 0)",
        f"call({TGKILL[HERE]}, os.getppid(), os.getppid(), 0)",
    ):
        assert inside.locked.tries(code) == "EPERM"
        if inside.root:
            assert inside.free.tries(code) != "EPERM"
    for what in (SETOWN, SETSIG, SETOWN_EX, NOTIFY):
        asks = f"call({FCNTL[HERE]}, 2, {what}, os.getppid())"
        assert inside.locked.tries(asks) == "EPERM"
        assert inside.free.tries(asks) != "EPERM"
    assert inside.locked.tries("signal.raise_signal(signal.SIGCONT)") == "None"


def test_it_changes_the_limits_of_no_other_process(inside: Inside) -> None:
    inside.refuses("resource.prlimit(os.getppid(), resource.RLIMIT_NOFILE)", root=True)
    own = "resource.prlimit(0, resource.RLIMIT_CORE)"
    assert inside.locked.tries(own) == "(0, 0)"


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

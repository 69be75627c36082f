"""The data process is locked in: what each layer forbids is tried in there, and refused.

"in there": ``tests.clients.locked_in``, started as the agent starts the data process. The same
things are tried in a process that is free, where they work, so that a refusal means the layer.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flo.clients.confinement import LAYERS, program
from flo.clients.home import SiteHome
from flo.clients.policy import Policy, sign, write_toml
from flo.clients.worker import Worker
from flo.errors import EXIT_REFUSED
from tests.builders import make_site
from tests.clients.forbidden_things import NOBODY
from tests.clients.locked_in import LockedIn
from tests.server.stage import flo

ROOT = os.geteuid() == 0
X86 = platform.machine() == "x86_64"
REFUSED = {"EPERM", "EACCES"}

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


# -- the processes --------------------------------------------------------------------------------


@dataclass
class Inside:
    """The same two processes, but for the locks. ``root``: they run as the superuser."""

    locked: LockedIn
    free: LockedIn
    root: bool

    def refuses(self, code: str, *, root: bool = False) -> None:
        """``root``: only the superuser could do it where nothing is locked."""
        assert self.locked.tries(code) in REFUSED
        if self.root or not root:
            assert self.free.tries(code) not in REFUSED


@contextmanager
def folder(*, nobody: bool) -> Iterator[Path]:
    """A site's folder whose owner is who runs the process; not below another user's."""
    above = Path(tempfile.mkdtemp(prefix="flo-locked-in-"))
    try:
        home = make_site(above / "made").directory
        snapshots = home / "snapshots"
        for name in ("study", "cut", "gone", "moved"):
            (snapshots / f"{name}.npz").write_bytes(b"frozen")
        (snapshots / "key").symlink_to(home / "identity.key")
        if nobody:
            for path in (above, *above.rglob("*")):
                os.chown(path, NOBODY, NOBODY, follow_symlinks=False)
        yield home
    finally:
        shutil.rmtree(above)


@contextmanager
def started(process: LockedIn) -> Iterator[LockedIn]:
    process.start()
    try:
        yield process
    finally:
        process.stop()


WHO = ["this user", *(["nobody"] if ROOT else [])]  # the superuser passes by file modes


@pytest.fixture(scope="module", params=WHO)
def inside(request: pytest.FixtureRequest) -> Iterator[Inside]:
    nobody = request.param == "nobody"
    with (
        folder(nobody=nobody) as one,
        folder(nobody=nobody) as two,
        started(LockedIn(one, nobody=nobody)) as locked,
        started(LockedIn(two, nobody=nobody, free=True)) as free,
    ):
        yield Inside(locked, free, ROOT and not nobody)


# -- all of them ----------------------------------------------------------------------------------


def test_every_layer_holds_on_this_machine(tmp_path: Path) -> None:
    home = make_site(tmp_path)
    worker = Worker("cpu", home.directory / "snapshots", home.directory / "identity.key")
    worker.start()
    layers = worker.layers
    worker.stop()
    assert layers == dict.fromkeys(LAYERS, True)


def test_every_layer_holds_for_a_user_without_rights_too(inside: Inside) -> None:
    assert inside.locked.layers == dict.fromkeys(LAYERS, True)
    assert inside.free.layers == {}


def test_the_data_process_can_do_its_work(inside: Inside) -> None:
    assert inside.locked.tries("(site / 'snapshots' / 'study.npz').read_bytes()") == "b'frozen'"
    assert inside.locked.tries("Path('/dev/null').write_bytes(b'x')") == "1"
    assert inside.locked.tries("len(os.listdir('/usr')) > 0") == "True"


# -- landlock: files ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "code",
    [
        "(site / 'identity.key').read_bytes()",
        "(site / 'keystore.key').read_bytes()",
        "(site / 'ledger.sqlite').read_bytes()",
        "(site / 'policy.toml').read_bytes()",
        "(site.parent / 'patients.csv').read_bytes()",
        "(site / 'snapshots' / 'key').read_bytes()",  # a link to the identity key
        "Path('/proc/self/root', *(site / 'identity.key').parts[1:]).read_bytes()",
        "Path('/proc/self/cwd', '..', *(['..'] * 20), *site.parts[1:], 'split.key').read_bytes()",
        "os.listdir(site)",
        "os.listdir('/tmp')",
        "os.listdir('/')",
    ],
)
def test_it_reads_no_file_but_the_snapshots_and_what_python_needs(
    inside: Inside, code: str
) -> None:
    inside.refuses(code)


@pytest.mark.parametrize(
    "code",
    [
        "(site / 'snapshots' / 'new.npz').write_bytes(b'patients')",
        "os.open(site / 'snapshots' / 'study.npz', os.O_WRONLY)",
        "os.open(site / 'snapshots' / 'study.npz', os.O_RDWR)",
        "os.truncate(site / 'snapshots' / 'cut.npz', 3)",
        "os.unlink(site / 'snapshots' / 'gone.npz')",
        "os.rename(site / 'snapshots' / 'moved.npz', site / 'moved.npz')",
        "os.link(site / 'identity.key', site / 'snapshots' / 'linked')",
        "os.symlink('/etc', site / 'snapshots' / 'etc')",
        "os.mkdir(site / 'snapshots' / 'folder')",
        "os.mkfifo(site / 'snapshots' / 'pipe')",
        "os.open(site, os.O_TMPFILE | os.O_WRONLY)",
        "os.open('/tmp', os.O_TMPFILE | os.O_WRONLY)",
        "os.open('/dev/shm', os.O_TMPFILE | os.O_WRONLY)",
        "os.open('/dev/ptmx', os.O_RDWR)",
        "Path('/proc/self/comm').write_text('x')",
    ],
)
def test_it_writes_no_file(inside: Inside, code: str) -> None:
    inside.refuses(code)


@pytest.mark.parametrize("name", ["environ", "maps", "mem", "auxv", "cwd/flo", "fd/0"])
def test_it_does_not_look_into_the_agent(inside: Inside, name: str) -> None:
    inside.refuses(f"os.open(f'/proc/{{os.getppid()}}/{name}', os.O_RDONLY)", root=True)


# -- seccomp and namespace: network ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "root"),
    [
        ("socket.AF_INET, socket.SOCK_STREAM", False),
        ("socket.AF_INET, socket.SOCK_DGRAM", False),
        ("socket.AF_INET6, socket.SOCK_STREAM", False),
        ("socket.AF_UNIX, socket.SOCK_STREAM", False),
        ("socket.AF_NETLINK, socket.SOCK_RAW", False),
        ("socket.AF_PACKET, socket.SOCK_RAW", True),
        ("socket.AF_INET, socket.SOCK_RAW, 1", True),
    ],
)
def test_it_opens_no_socket_of_any_kind(inside: Inside, kind: str, root: bool) -> None:
    inside.refuses(f"socket.socket({kind})", root=root)


def test_it_is_in_a_network_of_its_own_with_nothing_in_it(inside: Inside) -> None:
    here = "[line.split(':')[0].strip() for line in Path('/proc/self/net/dev').open()][2:]"
    assert inside.locked.tries(here) in ("['lo']", "[]")
    for kind in ("net", "ipc"):
        where = f"os.readlink('/proc/self/ns/{kind}')"
        assert inside.free.tries(where) == os.readlink(f"/proc/self/ns/{kind}")  # noqa: PTH115
        assert inside.locked.tries(where) != inside.free.tries(where)


def test_a_socket_that_it_inherits_takes_it_nowhere(tmp_path: Path) -> None:
    home = make_site(tmp_path).directory
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.socket() as fresh,
        socket.create_connection(server.getsockname()) as connected,
    ):
        numbers = tuple(each.fileno() for each in (server, fresh, connected))
        waiting, new, open_ = (f"socket.socket(fileno=os.dup({number}))" for number in numbers)
        tries = [
            f"{new}.connect({server.getsockname()})",
            f"{new}.bind(('127.0.0.1', 0))",
            f"{waiting}.listen()",
            f"{waiting}.accept()",
            f"{open_}.send(b'patients')",
            f"{open_}.sendmsg([b'patients'])",
        ]
        for free in (False, True):
            with started(LockedIn(home, inherits=numbers, free=free)) as process:
                refused = [process.tries(code) in REFUSED for code in tries]
            assert refused == [not free] * len(tries)


def test_it_inherits_its_three_pipes_and_nothing_else(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.set_inheritable(True)
        with started(LockedIn(make_site(tmp_path).directory)) as process:
            here = "[n for n in range(256) if Path(f'/proc/self/fd/{n}').exists()]"
            assert process.tries(here) == "[0, 1, 2]"
            kinds = "[os.readlink(f'/proc/self/fd/{n}').split(':')[0] for n in (0, 1)]"
            assert process.tries(kinds) == "['pipe', 'pipe']"


# -- seccomp: calls -------------------------------------------------------------------------------


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


# -- limits and no_new_privs ------------------------------------------------------------------------


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


# -- its environment --------------------------------------------------------------------------------


def test_its_environment_holds_nothing_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_SECRET_ACCESS_KEY", "FLO_PASSPHRASE_FILE", "HTTPS_PROXY", "PYTHONPATH"):
        monkeypatch.setenv(name, "swordfish")
    for name in ("LC_ALL", "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.setenv(name, "C")
    monkeypatch.setenv("MY_OMP_NUM_THREADS", "swordfish")
    with started(LockedIn(make_site(tmp_path).directory)) as process:
        known = set(json.loads(process.tries("json.dumps(list(os.environ))")))
        assert "swordfish" not in process.tries("Path('/proc/self/environ').read_bytes()")
    assert {"PATH", "LC_ALL", "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES"} <= known
    allowed = {"PATH", "HOME", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH"}
    prefixes = ("OMP_", "OPENBLAS_", "MKL_", "CUDA_", "NVIDIA_")
    # LC_CTYPE is Python's own, from no environment
    assert {n for n in known - allowed if not n.startswith(prefixes)} <= {"LC_CTYPE"}


# -- the policy ---------------------------------------------------------------------------------------


@pytest.fixture
def readable_home() -> Iterator[SiteHome]:
    """A site in a place that Python needs to read, so that Landlock hides nothing of it."""
    above = Path(tempfile.mkdtemp(prefix="flo-", dir="/dev/shm"))
    try:
        yield make_site(above)
    finally:
        shutil.rmtree(above)


def test_an_agent_whose_policy_asks_for_a_layer_that_does_not_hold_does_not_start(
    readable_home: SiteHome,
) -> None:
    policy = Policy(confinement=("landlock", "seccomp"))
    write_toml(readable_home.directory / "policy.toml", policy)
    sign(readable_home.directory, readable_home.identity())
    done = flo("site", "run", "--home", readable_home.directory)
    assert done.returncode == EXIT_REFUSED
    assert "the process that holds patients is not confined by landlock\n" in done.stderr
    with closing(readable_home.audit_log()) as log:
        (entry,) = [entry for entry in log.entries() if entry.kind == "agent-started"]
    assert set(entry.facts["confinement"]) == set(LAYERS) - {"landlock"}


# -- the filter by itself -----------------------------------------------------------------------------

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

"""The data process is locked in: what each layer forbids is tried in there, and refused.

"in there": ``tests.clients.data_process.confined_process``, started as the agent starts the data
process. The same things are tried in a process that is free, where they work, so that a refusal
means the layer. System calls are in ``test_confinement_calls``.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from flo import SILENT
from flo.clients.data_process.confinement import LAYERS
from flo.clients.data_process.worker import DataProcess
from flo.clients.home.policy import ConfinementLayer, Policy
from flo.clients.home.policy_file import EXPLAINED, sign, write_toml
from flo.clients.home.site_home import SiteHome
from flo.errors import EXIT_REFUSED, RefusedError
from tests.builders import make_site, small_study
from tests.clients.data_process.confined_process import (
    REFUSED,
    WHO,
    Inside,
    LockedIn,
    started,
    two_processes,
)
from tests.commands import flo_process


@pytest.fixture(scope="module", params=WHO)
def inside(request: pytest.FixtureRequest) -> Iterator[Inside]:
    with two_processes(request.param) as both:
        yield both


# -- all of them ----------------------------------------------------------------------------------


@pytest.mark.processes
def test_every_layer_holds_on_this_machine(tmp_path: Path) -> None:
    home = make_site(tmp_path)
    worker = DataProcess(
        "cpu", home.directory / "snapshots", home.directory / "identity.key", tuple
    )
    worker.start()
    layers = worker.layers
    worker.stop()
    assert layers == dict.fromkeys(LAYERS, True)


def test_a_policy_can_ask_for_every_layer_and_for_no_other() -> None:
    assert set(get_args(ConfinementLayer)) == set(LAYERS)
    assert set(json.loads(EXPLAINED["confinement"][0])) == set(LAYERS)


@pytest.mark.processes
def test_every_layer_holds_for_a_user_without_rights_too(inside: Inside) -> None:
    assert inside.locked.layers == dict.fromkeys(LAYERS, True)
    assert inside.free.layers == {}


@pytest.mark.processes
def test_the_data_process_can_do_its_work(inside: Inside) -> None:
    assert inside.locked.tries("(site / 'snapshots' / 'study.npz').read_bytes()") == "b'frozen'"
    assert inside.locked.tries("Path('/dev/null').write_bytes(b'x')") == "1"
    assert inside.locked.tries("len(os.listdir('/usr')) > 0") == "True"


# -- landlock: files ------------------------------------------------------------------------------


@pytest.mark.processes
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
        "os.listdir('/etc')",
        "os.listdir('/dev')",
    ],
)
def test_it_reads_no_file_but_the_snapshots_and_what_python_needs(
    inside: Inside, code: str
) -> None:
    inside.refuses(code)


@pytest.mark.processes
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


@pytest.mark.processes
@pytest.mark.parametrize("name", ["environ", "maps", "mem", "auxv", "cwd/flo", "fd/0"])
def test_it_does_not_look_into_the_agent(inside: Inside, name: str) -> None:
    inside.refuses(f"os.open(f'/proc/{{os.getppid()}}/{name}', os.O_RDONLY)", root=True)


# -- seccomp and namespace: network ----------------------------------------------------------------


@pytest.mark.processes
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


@pytest.mark.processes
def test_it_is_in_a_network_of_its_own_with_nothing_in_it(inside: Inside) -> None:
    here = "[line.split(':')[0].strip() for line in Path('/proc/self/net/dev').open()][2:]"
    assert inside.locked.tries(here) in ("['lo']", "[]")
    for kind in ("net", "ipc"):
        where = f"os.readlink('/proc/self/ns/{kind}')"
        assert inside.free.tries(where) == os.readlink(f"/proc/self/ns/{kind}")  # noqa: PTH115
        assert inside.locked.tries(where) != inside.free.tries(where)


@pytest.mark.processes
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


@pytest.mark.processes
def test_it_inherits_its_three_pipes_and_nothing_else(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.set_inheritable(True)
        with started(LockedIn(make_site(tmp_path).directory)) as process:
            here = "[n for n in range(256) if Path(f'/proc/self/fd/{n}').exists()]"
            assert process.tries(here) == "[0, 1, 2]"
            kinds = "[os.readlink(f'/proc/self/fd/{n}').split(':')[0] for n in (0, 1)]"
            assert process.tries(kinds) == "['pipe', 'pipe']"


# -- its environment ------------------------------------------------------------------------------


@pytest.mark.processes
def test_it_runs_no_code_from_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ctypes.py").write_text("raise SystemExit('foreign code')")
    with started(LockedIn(make_site(tmp_path).directory)) as process:
        assert process.tries("sys.path.count('') + sys.path.count(os.getcwd())") == "0"


@pytest.mark.processes
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
    # LC_CTYPE is Python's own, from no environment, and SILENT is what FLO sets itself
    own = {"LC_CTYPE", *SILENT}
    assert {n for n in known - allowed if not n.startswith(prefixes)} <= own


# -- the policy -----------------------------------------------------------------------------------


@pytest.fixture
def readable_home() -> Iterator[SiteHome]:
    """A site in a place that Python needs to read, so that Landlock hides nothing of it."""
    above = Path(tempfile.mkdtemp(prefix="flo-", dir=sys.prefix))
    try:
        yield make_site(above)
    finally:
        shutil.rmtree(above)


@pytest.mark.processes
def test_an_agent_whose_policy_asks_for_a_layer_that_does_not_hold_does_not_start(
    readable_home: SiteHome,
) -> None:
    policy = Policy(confinement=("landlock", "seccomp"))
    write_toml(readable_home.directory / "policy.toml", policy)
    sign(readable_home.directory, readable_home.open_identity())
    done = flo_process("site", "run", "--home", readable_home.directory, seconds=40)
    assert done.returncode == EXIT_REFUSED
    assert "the data process is not confined by landlock, which" in done.stderr
    with closing(readable_home.open_audit_log()) as log:
        (entry,) = [entry for entry in log.entries() if entry.kind == "agent-started"]
    assert set(entry.facts["confinement"]) == set(LAYERS) - {"landlock"}


@pytest.mark.processes
def test_a_child_that_is_not_locked_in_as_required_is_asked_for_nothing(tmp_path: Path) -> None:
    """Also one that was started anew after the first died."""
    home = make_site(tmp_path)
    worker = LockedIn(home.directory, free=True)
    worker.start()
    try:
        worker._required = lambda: ("seccomp", "limits")
        assert worker.missing == ["limits", "seccomp"]
        with pytest.raises(RefusedError, match="not ready"):
            worker.release(small_study(), tmp_path, "a" * 64, "training", np.zeros(6), 3)
    finally:
        worker.stop()

"""One coordinator and its sites as supervised processes, each site behind a relay of its own.

What dies is started again after a moment, as systemd does; nobody else helps.
"""

from __future__ import annotations

import contextlib
import math
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from flo.cli.coordinator.operator import Operator
from flo.clients.approvals.approve import approve
from flo.clients.approvals.fingerprints import AddressBook
from flo.clients.connection.enrolment import connect, keep_coordinator
from flo.clients.connection.offers import choose, offered_studies
from flo.clients.home.site_home import SiteHome
from flo.errors import FloError
from flo.server.home.coordinator_home import CoordinatorConfig, CoordinatorHome
from tests.builders import make_site, small_study, study_document
from tests.faults.clocks import Clock
from tests.faults.processes import TOKEN, processes
from tests.faults.relay import Relay
from tests.faults.schedule import COORDINATOR, Fault, clock_off
from tests.ports import free_ports
from tests.server.real_coordinator import RealCoordinator

SITES = ("east", "north", "south", "west")
STEPS, RETRIES, DEADLINE_SECONDS = 12, 8, 3
_RESTART_SECONDS, _DISK = 0.3, 128 << 20
MODES: tuple[dict[str, Any], ...] = (
    {"masking": "on", "noise": "distributed", "dropouts": 1},
    {"masking": "on"},
    {"masking": "off"},
)


class Supervised:
    """A process in a group of its own, started again whenever it ends."""

    def __init__(self, command: list[str], log: Path, clock: Clock) -> None:
        """``log``: in the federation's folder, after which its processes are marked."""
        self._command, self._log, self.clock = command, log, clock
        self._ending = threading.Event()
        self._process = self._start()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def send(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def stop(self) -> None:
        """End it as an administrator does; SIGKILL if it does not listen."""
        self._ending.set()
        self.send(signal.SIGCONT)
        self.send(signal.SIGTERM)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self.send(signal.SIGKILL)
            self._process.wait(10)
        self._thread.join(10)

    def _start(self) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as log:
            return subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={
                    **os.environ,
                    "OMP_NUM_THREADS": "1",
                    "FLO_DEVICE": "cpu",
                    TOKEN: str(self._log.parent),
                    **self.clock.environment,
                },
            )

    def _watch(self) -> None:
        while True:
            self._process.wait()
            if self._ending.wait(_RESTART_SECONDS):
                return
            self._process = self._start()


@dataclass
class Member:
    """A site, its relay and what was seen of it."""

    home: SiteHome
    relay: Relay
    orders: Path
    sent: Path
    agent: Supervised | None = None

    def order(self, *words: object) -> None:
        with self.orders.open("a") as file:
            file.write(" ".join(map(str, words)) + "\n")


@dataclass
class Federation:
    folder: Path
    home: CoordinatorHome
    clocks: dict[str, float]  # seconds by which they are ahead from the start
    members: dict[str, Member] = field(default_factory=dict)
    coordinator: Supervised | None = None
    _versions: int = 0
    _disks: list[Path] = field(default_factory=list)
    outlived: list[str] = field(default_factory=list)  # what still ran once it had ended

    @classmethod
    @contextlib.contextmanager
    def running(cls, folder: Path, *, disks: bool) -> Iterator[Federation]:
        """Enrolled and started. ``disks``: folders of their own size, so that they can fill up.

        No site's clock is as the coordinator's, where there is a compiler.
        """
        folder.mkdir(parents=True)
        chosen = random.Random(folder.name)
        made = cls(
            folder, CoordinatorHome(folder / COORDINATOR), {n: clock_off(chosen) for n in SITES}
        )
        try:
            made._make(disks=disks)
            yield made
        finally:
            made._end()

    def _make(self, *, disks: bool) -> None:
        if disks:
            self._mount(self.home.directory)
        port, private_port = free_ports(2)
        config = CoordinatorConfig(port=port, private_port=private_port)
        self.home = CoordinatorHome.create(self.home.directory, config)
        enrolling = RealCoordinator(self.home)
        try:
            enrolling.wait_until_ready()
            for name in SITES:
                if disks:
                    self._mount(self.folder / name)
                home = make_site(self.folder / name, name)
                enrolling.admit(home)
                relay = Relay(port)
                url = f"https://127.0.0.1:{relay.port}"
                keep_coordinator(home, home.read_coordinator().model_copy(update={"url": url}))
                beside = self.folder / f"{name}.orders", self.folder / f"{name}.sent"
                self.members[name] = Member(home, relay, *beside)
        finally:
            enrolling.stop()
        prints = {name: m.home.open_identity().fingerprint for name, m in self.members.items()}
        for name, member in self.members.items():
            others = {other: shown for other, shown in prints.items() if other != name}
            AddressBook.confirm(member.home, others)
        self.coordinator = self._supervise(
            COORDINATOR, "flo.cli", "coordinator", "serve", "--home", self.home.directory
        )
        for name, m in self.members.items():
            m.agent = self._supervise(
                name, "tests.faults.faulty_agent", m.home.directory, m.orders, m.sent
            )

    def _supervise(self, name: str, *command: str | Path) -> Supervised:
        words = [sys.executable, "-m", *map(str, command)]
        clock = Clock(self.folder / f"{name}.clock", self.clocks.get(name, 0.0))
        return Supervised(words, self.folder / f"{name}.screen", clock)

    def _mount(self, folder: Path) -> None:
        folder.mkdir()
        size = ["-o", f"size={_DISK},mode=0700"]
        subprocess.run(["mount", "-t", "tmpfs", *size, "none", folder], check=True)
        self._disks.append(folder)

    def _end(self) -> None:
        for process in [self.coordinator, *(m.agent for m in self.members.values())]:
            if process is not None:
                process.stop()
        for member in self.members.values():
            member.relay.close()
        self.outlived = list(processes(self.folder).values())
        for folder in self._disks:
            subprocess.run(["umount", "-l", folder], check=True)

    # -- a study -----------------------------------------------------------------------------------

    def launch(self, mode: dict[str, Any]) -> str:
        """The digest of a new study, approved by everyone."""
        self._versions += 1
        hospitals = [{"id": name, "declared_size": 40} for name in SITES]
        limits = {"deadline_seconds": DEADLINE_SECONDS, "minimum_cohort": 2}
        document = study_document(version=self._versions, hospitals=hospitals, limits=limits)
        document["mechanism"] |= {**mode, "steps": STEPS, "retry_allowance": RETRIES}
        document["evaluation"] |= {"retry_allowance": RETRIES}
        study = small_study(**document).with_epsilon(0.02)
        digest = str(_patiently(lambda: self._offer(study.canonical_bytes)))
        for member in self.members.values():
            _patiently(partial(_approve, member.home, digest))
        return digest

    def _offer(self, document: bytes) -> str:
        with Operator(self.home.directory) as operator:
            return str(operator.call("POST", "studies", body=document)["digest"])

    def status(self, digest: str) -> str:
        """As the coordinator keeps it, whether it runs or not."""
        path = self.home.directory / "coordinator.sqlite"
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10)) as database:
            found = database.execute("SELECT status FROM studies WHERE digest = ?", (digest,))
            (status,) = found.fetchone()
        return str(status)

    # -- faults ------------------------------------------------------------------------------------

    def strike(self, fault: Fault) -> Callable[[], None] | None:
        """Let it happen; returns what ends it, if it lasts."""
        member = self.members.get(fault.whom)
        process = self.coordinator if member is None else member.agent
        assert process is not None
        match fault.kind:
            case "kill":
                process.send(signal.SIGKILL)
            case "pause":
                process.send(signal.SIGSTOP)
                return lambda: process.send(signal.SIGCONT)
            case "clock step of":
                process.clock.step(fault.ahead)
                return process.clock.right
            case "clock drift of":
                process.clock.drift(math.copysign(0.5, fault.ahead))
                return process.clock.right
            case "kill the launcher of" | "kill the data process of":
                _signal_child(process.pid, signal.SIGKILL)
            case "pause the launcher of" | "pause the data process of":
                paused = _signal_child(process.pid, signal.SIGSTOP)
                return lambda: _signal(paused, signal.SIGCONT)
            case "disk full":
                folder = self.home.directory if member is None else self.folder / fault.whom
                return _fill(folder)
        if member is None:
            return None
        relay = member.relay
        match fault.kind:
            case "partition":
                relay.refusing = True
                relay.cut()
            case "stall":
                relay.stalled = True
            case "delay":
                relay.delay = 0.15
            case "slow link":
                relay.rate = 30_000
            case "cut connections of":
                relay.cut()
            case "corrupt bytes of":
                relay.corrupt = 3
            case "duplicate" | "replay" | "reorder":
                member.order(fault.kind)
            case "late answer":
                member.order("late", 1.5)
        return relay.heal if fault.seconds else None


def _approve(home: SiteHome, digest: str) -> None:
    with connect(home) as api:
        offer = choose(offered_studies(api, home.read_coordinator()), digest)
        approve(home, api, offer, home.read_config().population(None))


def _patiently(do: Callable[[], Any]) -> Any:
    """Until it works: the faults before this study are over."""
    end = time.monotonic() + 30
    while True:
        try:
            return do()
        except FloError:
            if time.monotonic() > end:
                raise
            time.sleep(0.1)


def _fill(folder: Path) -> Callable[[], None]:
    ballast = folder / "ballast"
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        while file.write(bytes(1 << 16)):
            pass
    return lambda: ballast.unlink(missing_ok=True)


def _signal_child(process: int, number: int) -> list[int]:
    """Signal what this process started itself: its data process or launcher. Returns which."""
    try:
        tasks = Path(f"/proc/{process}/task").iterdir()
        children = [int(pid) for task in tasks for pid in (task / "children").read_text().split()]
    except OSError:  # it has just ended
        return []
    _signal(children, number)
    return children


def _signal(processes: list[int], number: int) -> None:
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, number)

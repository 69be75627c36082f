"""``make bench-load``: many sites with a large model, and what it takes the coordinator.

python -m tests.load [SITES]... [--megabytes 100]
python -m tests.load [SITES]... --absent 0.05 [--rounds 40]

Real coordinator and ServerApp; the sites are threads of this process that speak the whole protocol
over mutual TLS, with ledgers of their own, but know no torch: they release ones. Without
``--absent`` these are under masks of zero, which the coordinator cannot tell from others, and sums
survive no dropout. With it masks and deals are real, the model is small, and in so many of its
rounds each site's agent dies at some request and starts again: which attempts are lost?
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from random import SystemRandom
from typing import Any

import numpy as np

from flo.bench.made_up import PATIENTS, study_of, write
from flo.cli.coordinator.operator import Operator
from flo.clients.agent import handler
from flo.clients.agent.run_keys import RunKeys
from flo.clients.approvals.approve import approve
from flo.clients.approvals.fingerprints import AddressBook
from flo.clients.connection.coordinator_clock import CoordinatorClock
from flo.clients.connection.cosigning import confirm_head
from flo.clients.connection.enrolment import connect, context_of
from flo.clients.connection.flower import FleetLink
from flo.clients.connection.offers import choose, offered_studies
from flo.clients.home.site_config import make_config
from flo.clients.home.site_home import SiteHome
from flo.errors import NetworkError
from flo.host.memory import keep_freed_memory
from flo.privacy.accounting.plan import Plan, ring_of
from flo.protocol.messages import RINGS, RequestHeader, Values
from flo.study.document import Study
from flo.study.parameters import Vector
from flo.study.terms import Purpose
from tests.end_to_end.running import all_events
from tests.faults.processes import processes
from tests.server.real_coordinator import RealCoordinator, new_home, served

_STEPS = 3
_LOOK_SECONDS = 0.02
_REQUESTS_A_ROUND = 2.5  # upload, reveal, and sign where somebody is missing
_AT_ONCE = threading.Lock()  # sites compute one after the other, as this is one machine


@dataclass
class Held:
    """MiB of coordinator, superexec and ServerApp: each process's own, and shared memory once."""

    coordinator: RealCoordinator
    peak: float = 0.0
    _over: threading.Event = field(default_factory=threading.Event)

    def now(self) -> float:
        own = sum(map(_own, processes(self.coordinator.home.directory)))
        return (own + _field("/proc/meminfo", "Shmem")) / 1024

    @contextlib.contextmanager
    def watched(self) -> Iterator[Held]:
        thread = threading.Thread(target=self._watch)
        thread.start()
        try:
            yield self
        finally:
            self._over.set()
            thread.join()

    def _watch(self) -> None:
        while not self._over.wait(_LOOK_SECONDS):
            self.peak = max(self.peak, self.now())


def _own(pid: int) -> int:
    try:
        return _field(f"/proc/{pid}/status", "RssAnon")
    except OSError:  # it ended
        return 0


def _field(path: str, name: str) -> int:
    for line in Path(path).read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    return 0  # a process that is ending


class Ones:
    """Stands in for the child that holds patients: every sum is one grid step."""

    def warm_up(self, *_: Any) -> None:
        """Nothing is to be loaded."""

    def unload(self, study: str) -> None:
        """Nothing is kept."""

    def release(
        self, study: Study, path: Path, digest: str, purpose: Purpose, weights: Vector, cohort: int
    ) -> Values:
        return np.ones(Plan.of(study).purpose(purpose).mechanism.length, dtype=np.int32)


def _masks_of_zero(
    study: Study, header: RequestHeader, own: Any, noisy: Values, ready: None = None
) -> Values:
    ring = ring_of(study, Plan.of(study).purpose(header.purpose), len(header.cohort))
    return noisy.astype(RINGS[ring])


def _site(folder: Path, hospital: str, coordinator: RealCoordinator) -> SiteHome:
    config = make_config(
        hospital,
        file=folder / f"{hospital}.csv",
        id_column="patient_id",
        epsilon=0.9,
        declared_size=PATIENTS,
        hold_out=0.3,
    )
    home = SiteHome.create(folder / hospital / "site", config)
    coordinator.admit(home)
    return home


def _approve(home: SiteHome, digest: str, prints: dict[str, str]) -> None:
    others = {name: key for name, key in prints.items() if name != home.read_config().hospital}
    AddressBook.confirm(home, others)
    with connect(home) as api:
        offer = choose(offered_studies(api, home.read_coordinator()), digest)
        approve(home, api, offer, home.read_config().population(None))


def _serve(home: SiteHome, over: threading.Event, absent: float = 0.0) -> None:
    """An agent's loop: it connects anew when a connection is lost.

    ``absent``: the chance that it dies at a request, and starts again with new run keys.
    """
    with closing(home.open_ledger()) as ledger:
        with connect(home) as api:
            confirm_head(api, ledger)
        keys, chance = RunKeys(home.open_identity()), SystemRandom()
        while not over.is_set():
            answering = handler.Handler(home, ledger, Ones(), keys, lambda study: None)
            link = FleetLink(
                home.read_coordinator().url,
                context_of(home),
                home.open_identity(),
                CoordinatorClock(),
            )
            with contextlib.suppress(NetworkError, _Dead), closing(answering), link:
                try:
                    while not over.is_set():
                        _answer(link, answering, lambda: chance.random() < absent)
                except _Dead:
                    keys = RunKeys(home.open_identity())
                    raise


class _Dead(Exception):
    """The agent died here."""


def _answer(link: FleetLink, answering: handler.Handler, dies: Callable[[], bool]) -> None:
    incoming = link.pull()
    if incoming is None:
        return
    if dies():
        raise _Dead
    with _AT_ONCE:
        reply = answering.answer(incoming.data)
    if reply is not None:
        link.reply(incoming, reply)


def measured(sites: int, megabytes: float) -> dict[str, float]:
    """Seconds a round, and the peak over idle in updates."""
    study = study_of(sites, megabytes, steps=_STEPS)
    study = study.with_mechanism(momentum=0.9, dropouts=0)
    with _offered(study) as (coordinator, homes, digest):
        return _followed(coordinator, homes, digest, megabytes)


def survived(sites: int, rounds: int, absent: float) -> str:
    """What became of the attempts of a run whose sites are absent from a share of its rounds."""
    study = study_of(sites, None, steps=rounds)
    over, a_request = threading.Event(), 1 - (1 - absent) ** (1 / _REQUESTS_A_ROUND)
    with _offered(study) as (coordinator, homes, digest):
        threads = [
            threading.Thread(target=_serve, args=(home, over, a_request), daemon=True)
            for home in homes
        ]
        for thread in threads:
            thread.start()
        while (status := _status(coordinator, digest)) == "running":
            time.sleep(0.2)
        over.set()
        events = all_events(coordinator.home, digest)
    done = [event["facts"] for event in events if event["kind"] == "round"]
    lost = [event["facts"] for event in events if event["kind"] == "attempt-failed"]
    gone = [sites - len(one["cohort"]) for one in done]
    seconds = statistics.median(one["seconds"] for one in done)
    return (
        f"{status}; {len(done)} sums, {sum(gone)} absences from them (at most {max(gone)}, "
        f"{study.dropouts} survive); {len(lost)} attempts lost: "
        f"{[one.get('why') for one in lost]}; {seconds:.1f} s a round"
    )


@contextlib.contextmanager
def _offered(study: Study) -> Iterator[tuple[RealCoordinator, list[SiteHome], str]]:
    """A coordinator whose sites have all approved the study."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write(study, folder)
        # "pass": a process whose command names the folder, by which its memory is found.
        with served(RealCoordinator(new_home(folder / "coordinator"), "pass")) as coordinator:
            homes = [_site(folder, hospital.id, coordinator) for hospital in study.hospitals]
            with Operator(coordinator.home.directory) as operator:
                offered = operator.call("POST", "studies", body=study.canonical_bytes)
            digest = str(offered["digest"])
            prints = {
                home.read_config().hospital: home.open_identity().fingerprint for home in homes
            }
            for home in homes:
                _approve(home, digest, prints)
            yield coordinator, homes, digest


def _followed(
    coordinator: RealCoordinator, homes: list[SiteHome], digest: str, megabytes: float
) -> dict[str, float]:
    held, over = Held(coordinator), threading.Event()
    while len(processes(coordinator.home.directory)) < 3:
        time.sleep(0.1)
    time.sleep(5)  # the ServerApp has started, and waits for its hospitals
    idle = held.now()
    threads = [threading.Thread(target=_serve, args=(home, over), daemon=True) for home in homes]
    with held.watched():
        for thread in threads:
            thread.start()
        while (status := _status(coordinator, digest)) == "running":
            time.sleep(0.2)
        over.set()
    if status != "done":
        raise AssertionError(f"the study is {status}")
    seconds = [
        event["facts"]["seconds"]
        for event in all_events(coordinator.home, digest)
        if event["kind"] == "round"
    ]
    update = megabytes * 1e6 / 2**20
    return {
        "idle": idle,
        "updates": (held.peak - idle) / update,
        "round": statistics.median(seconds[:_STEPS]),
        "evaluation": seconds[-1],
    }


def _status(coordinator: RealCoordinator, digest: str) -> str:
    with Operator(coordinator.home.directory) as operator:
        return str(operator.call("GET", f"studies/{digest}")["status"])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("sites", nargs="*", type=int, default=[16, 64])
    parser.add_argument("--megabytes", type=float, default=100.0)
    parser.add_argument("--absent", type=float, default=0.0)
    parser.add_argument("--rounds", type=int, default=40)
    wanted = parser.parse_args()
    keep_freed_memory()
    if wanted.absent:
        for sites in wanted.sites:
            print(f"{sites} sites: {survived(sites, wanted.rounds, wanted.absent)}")  # noqa: T201
        return
    vars(handler)["mask"] = _masks_of_zero
    for sites in wanted.sites:
        found = measured(sites, wanted.megabytes)
        print(  # noqa: T201
            f"{sites} sites × {wanted.megabytes:g} MB: peak over idle {found['updates']:.2f} "
            f"updates (idle {found['idle']:.0f} MiB), {found['round']:.1f} s a round, "
            f"evaluation {found['evaluation']:.1f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()

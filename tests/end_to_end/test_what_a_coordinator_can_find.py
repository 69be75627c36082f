"""The coordinator's files and memory, and all that it is sent, searched for a hospital's numbers.

Real processes: the agents write down what they were about to mask, and the test looks for it, as
whole numbers of 32 and 64 bits and as real numbers, in the coordinator's folder and in the memory
of every process of it. With masking off the same search finds it, so it can.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from flo.cli.coordinator.operator import Operator
from flo.privacy.accounting.plan import Plan
from flo.study.document import Study
from flo.study.loading import from_canonical
from tests.builders import small_study, study_document
from tests.commands import flo
from tests.end_to_end.agents import agent
from tests.server.real_coordinator import RealCoordinator, new_home

SITES = ("north", "south", "west")
STEPS = 30
LENGTH = 6  # parameters of the small study
pytestmark = pytest.mark.slow


def study_with(masking: str) -> Study:
    document = study_document()
    document["mechanism"] |= {"masking": masking, "steps": STEPS}
    return small_study(**document)


def processes_of(folder: Path) -> list[int]:
    """Every process whose command line or environment names the coordinator's folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            about = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
            if str(folder).encode() in about:
                found.append(int(process.name))
    return found


def memory_of(process: int) -> Iterator[bytes]:
    """Readable private memory, mapping by mapping; what goes away meanwhile is left out."""
    maps = Path(f"/proc/{process}/maps").read_text().splitlines()
    with Path(f"/proc/{process}/mem").open("rb", buffering=0) as memory:
        for line in maps:
            span, mode, *_ = line.split()
            low, high = (int(part, 16) for part in span.split("-"))
            if mode.startswith("rw") and high - low < 1 << 30:
                with contextlib.suppress(OSError, OverflowError, ValueError):
                    memory.seek(low)
                    yield memory.read(high - low)


def traces(noisy: npt.NDArray[np.int64], study: Study) -> list[bytes]:
    """What four coordinates of a vector look like in memory: a chance match is hopeless."""
    part = noisy[:4]
    real = Plan.of(study).purpose("training").mechanism.to_real(part)
    return [
        part.astype("<i8").tobytes(),
        part.astype("<i4").tobytes(),
        real.astype("<f8").tobytes(),
        part.astype("<f8").tobytes(),
    ]


@dataclass
class Search:
    """Looks for what the agents noted, again and again while the run goes on."""

    folder: Path
    study: Study
    vectors: int = 0
    searched: int = 0
    found: int = 0

    def noted(self, last: int) -> list[npt.NDArray[np.int64]]:
        """The ``last`` training vectors that each agent noted."""
        vectors = []
        for path in sorted(self.folder.glob("*.noisy")):
            data = path.read_bytes()
            whole = min(STEPS, len(data) // (8 * LENGTH))
            noted = np.frombuffer(data[: 8 * LENGTH * whole], dtype="<i8").reshape(-1, LENGTH)
            vectors += list(noted[-last:])
        return vectors

    def in_memory(self) -> None:
        """The newest vectors, in every process of the coordinator."""
        wanted = [trace for noisy in self.noted(3) for trace in traces(noisy, self.study)]
        for process in processes_of(self.folder / "coordinator"):
            with contextlib.suppress(OSError):
                for part in memory_of(process):
                    self._look(part, wanted)

    def in_files_and_traffic(self) -> None:
        """All vectors, in every file of the coordinator and in every reply of the agents."""
        vectors = self.noted(STEPS)
        self.vectors = len(vectors)
        wanted = [trace for noisy in vectors for trace in traces(noisy, self.study)]
        for path in [*(self.folder / "coordinator").rglob("*"), *self.folder.glob("*.sent")]:
            if path.is_file():
                self._look(path.read_bytes(), wanted)

    def _look(self, part: bytes, wanted: list[bytes]) -> None:
        self.searched += len(part)
        self.found += sum(trace in part for trace in wanted)


def search_a_run(folder: Path, masking: str) -> Search:
    coordinator = RealCoordinator(new_home(folder / "coordinator"))
    with contextlib.ExitStack() as stack:
        stack.callback(coordinator.stop)
        coordinator.wait_until_ready()
        homes = [coordinator.enrol(folder / name, name) for name in SITES]
        with Operator(coordinator.home.directory) as operator:
            offered = operator.call("POST", "studies", body=study_with(masking).canonical_bytes)
            search = Search(folder, from_canonical(str(offered["study"]).encode()))
            for home in homes:
                digest = search.study.digest
                done = flo("site", "approve", digest, "--yes", "--home", home.directory)
                assert done.returncode == 0, done.stderr
                stem = str(folder / home.read_config().hospital)
                recorded = ("tests.end_to_end.recording_agent", f"{stem}.noisy", f"{stem}.sent")
                stack.enter_context(agent(home, *recorded))
            end, asked = time.monotonic() + 120, f"studies/{offered['digest']}"
            while operator.call("GET", asked)["status"] in ("offered", "running"):
                assert time.monotonic() < end, "the run did not end"
                search.in_memory()
                if search.found:
                    search.in_files_and_traffic()
                    return search
                time.sleep(0.2)
            assert operator.call("GET", asked)["status"] == "done"
        search.in_memory()
    search.in_files_and_traffic()
    return search


def test_no_hospitals_numbers_are_in_files_memory_or_traffic(tmp_path: Path) -> None:
    search = search_a_run(tmp_path, "on")
    print(f"{search.vectors} vectors, {search.searched / 1e9:.1f} GB searched")  # noqa: T201
    assert all(path.stat().st_size > 10_000 for path in tmp_path.glob("*.sent"))
    assert len(list(tmp_path.glob("*.sent"))) == len(SITES)
    assert search.vectors == len(SITES) * STEPS
    assert search.searched > 100_000_000
    assert search.found == 0


def test_without_masks_the_same_search_finds_them(tmp_path: Path) -> None:
    assert search_a_run(tmp_path, "off").found > 0

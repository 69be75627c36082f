"""An agent whose noise follows from what it is asked, so that two runs can end in one model.

    python -m tests.end_to_end.keyed_agent HOME

All else is the real agent: ledger, kept replies, run keys, masks. Only the child that holds the
patients is a trainer in this process, whose noise is keyed by hospital, purpose and weights.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from flo.clients.agent import agent
from flo.clients.data_process.trainer import Trainer
from flo.clients.home.site_home import SiteHome
from flo.clients.records.snapshot import Snapshot
from flo.documents import canonical
from flo.study.document import Study


class KeyedNoise:
    """Gaussian integers of a generator that a test can key; never what a site may use."""

    def __init__(self, hospital: str) -> None:
        self.hospital, self.asked = hospital, ""

    def sample(self, variance: int, size: int) -> npt.NDArray[np.int64]:
        key = canonical.digest(canonical.encode([self.hospital, self.asked]))
        drawn = np.random.default_rng(int(key, 16)).standard_normal(size)
        noise: npt.NDArray[np.int64] = np.rint(drawn * variance**0.5).astype(np.int64)
        return noise

    def choose(self, probability: float, count: int) -> npt.NDArray[np.bool_]:
        raise AssertionError("full batches only")


class KeyedWorker:
    """Stands in for ``flo.clients.data_process.worker.DataProcess``."""

    layers: dict[str, bool] = {}  # noqa: RUF012
    missing: tuple[str, ...] = ()
    loaded: tuple[str, ...] = ()  # nothing is to be loaded again

    def __init__(self, hospital: str) -> None:
        self._noise = KeyedNoise(hospital)
        self._trainers: dict[str, Trainer] = {}

    def start(self) -> None:
        """Nothing to start."""

    stop = start

    def unload(self, study: str) -> None:
        self._trainers.pop(study, None)

    def warm_up(self, study: Study, snapshot: Path, snapshot_digest: str) -> None:
        if study.digest not in self._trainers:
            frozen = Snapshot.read(snapshot, snapshot_digest)
            self._trainers[study.digest] = Trainer(study, frozen, noise=self._noise)

    def release(
        self,
        study: Study,
        snapshot: Path,
        snapshot_digest: str,
        purpose: Any,
        weights: npt.NDArray[np.float64],
        cohort_size: int,
    ) -> npt.NDArray[np.int64]:
        self.warm_up(study, snapshot, snapshot_digest)
        self._noise.asked = purpose + canonical.digest(weights.astype("<f8").tobytes())
        return self._trainers[study.digest].release(purpose, weights, cohort_size)


def main(directory: str) -> None:
    home = SiteHome.open(Path(directory))
    vars(agent)["DataProcess"] = lambda *_, **__: KeyedWorker(home.read_config().hospital)
    agent.Agent(home, "cpu").run()


if __name__ == "__main__":
    main(*sys.argv[1:])

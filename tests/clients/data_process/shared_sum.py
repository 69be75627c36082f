"""A data process whose noise is zero, with real helpers: prints what it would have released.

    python -m tests.clients.data_process.shared_sum PROCESSES SNAPSHOTS STUDY...

STUDY is a file with a study's bytes; its patients are in SNAPSHOTS, as STUDY's name with .npz. For
each it prints a line of JSON: the digest of the released sum, and how many numbers of noise were
drawn.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt

from flo.clients.data_process.child import serve
from flo.clients.data_process.confinement import confine
from flo.clients.data_process.helpers import StudyHelpers, fork


def main() -> None:
    """Fork helpers, which serve as they always do; play the data process here."""
    processes, folder, *studies = sys.argv[1:]
    place = fork(int(processes))
    if place.number:
        serve("cpu", place, confine(Path(folder), Path(folder), gpu=False))
        return
    from flo.clients.data_process.trainer import Trainer
    from flo.clients.records.snapshot import Snapshot
    from flo.privacy.gradients.batches import Slot
    from flo.study.loading import from_canonical
    from tests.privacy.frozen import requests

    place.helpers.answers()  # their first words
    for file in studies:
        study = from_canonical(Path(file).read_bytes())
        path = Path(file).with_suffix(".npz")
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        wish = {"do": "load", "path": str(path), "digest": digest}
        place.helpers.begin({**wish, "study": study.canonical_bytes.decode()})
        noise = Recording()
        trainer = Trainer(
            study,
            Snapshot.read(path, digest),
            noise=noise,
            slot=Slot(0, int(processes)),
            others=StudyHelpers(place.helpers, study.digest, digest),
        )
        place.helpers.answers()
        sums = [trainer.release("training", w, 3) for w in requests(study, "training")]
        released = hashlib.sha256(b"".join(one.tobytes() for one in sums)).hexdigest()
        found = {"released": released, "drawn": noise.drawn, "size": len(sums[0])}
        sys.stdout.write(json.dumps(found) + "\n")


class Recording:
    """Noise of zero, and coins whose falls are always the same."""

    def __init__(self) -> None:
        self.drawn = 0
        self._coins = np.random.default_rng(7)

    def sample(self, variance: int, size: int) -> npt.NDArray[np.int64]:
        """Count the numbers drawn."""
        self.drawn += size
        return np.zeros(size, dtype=np.int64)

    def choose(self, probability: float, count: int) -> npt.NDArray[np.bool_]:
        """Fall as the last run's coins did."""
        return self._coins.random(count) < probability


if __name__ == "__main__":
    main()

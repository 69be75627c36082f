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
from flo.clients.data_process.helpers import fork


def main() -> None:
    """Fork helpers, which serve as they always do; play the data process here."""
    processes, folder, *studies = sys.argv[1:]
    place = fork(int(processes))
    if place.number:
        serve("cpu", place, confine([Path(folder)], Path(folder), gpu=False))
        return
    import torch

    from flo.clients.data_process.loaded_studies import LoadedStudies
    from flo.privacy.gradients.batches import Slot
    from flo.study.loading import from_canonical
    from tests.privacy.frozen import requests

    place.helpers.answers()  # their first words
    torch.set_num_threads(1)
    lead = LoadedStudies("cpu", Slot(0, place.processes), place.helpers)
    for file in studies:
        study = from_canonical(Path(file).read_bytes())
        path = Path(file).with_suffix(".npz")
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        asked = {"study": study.canonical_bytes.decode(), "path": str(path), "digest": digest}
        lead.answer_agent({"do": "load", **asked}, memoryview(b""))
        noise = lead._loaded[study.digest].trainer._noise = Recording()
        sums = []
        for weights in requests(study, "training"):
            wish = {
                **{"do": "release", "study": study.digest, "purpose": "training"},
                **{"cohort_size": 3, "kind": weights.dtype.str},
            }
            sums.append(lead.answer_agent(wish, memoryview(weights.tobytes()))[1].astype(np.int64))
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

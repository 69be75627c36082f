"""Child process: loads approved snapshots, answers with noisy releases, and uses no network.

Started by ``flo.clients.data_process.worker`` as ``child DEVICE PROCESSES SNAPSHOTS FORBIDDEN``. It
forks its helpers (``flo.clients.data_process.helpers``) and confines itself before it imports other
code or reads data, and its first frame reports which layers hold. It ends when the parent closes
the pipe or dies. A helper runs the same code, and answers with exact sums, to this process only.
"""

from __future__ import annotations

import gc
import logging
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flo.clients.data_process.confinement import confine
from flo.clients.data_process.helpers import Helpers, Place, StudyHelpers, end_with_parent, fork

if TYPE_CHECKING:
    from flo.arrays import Integers
    from flo.clients.data_process.trainer import Trainer
    from flo.privacy.gradients.batches import Slot
    from flo.privacy.secure_sum.ring import Int32Array

log = logging.getLogger("flo.clients.data_process.child")


def main() -> None:
    """Fork helpers, confine this process, then serve frames."""
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    device, processes, snapshots, forbidden = sys.argv[1:]
    place = fork(int(processes))
    serve(device, place, confine(Path(snapshots), Path(forbidden), gpu=device != "cpu"))


def serve(wanted: str, place: Place, layers: dict[str, bool]) -> None:
    """Answer until the other side closes the pipe. Only from here: import numpy, load patients."""
    import torch

    from flo.clients.data_process.trainer import choose_device
    from flo.clients.data_process.worker import read_frame, write_frame
    from flo.errors import StudyError
    from flo.host.logs import JsonFormatter
    from flo.host.memory import keep_freed_memory
    from flo.privacy.gradients.batches import Slot

    keep_freed_memory()
    sys.stdout = sys.stderr  # printed text must not reach the pipe
    screen = logging.StreamHandler()
    screen.setFormatter(JsonFormatter())  # logs type and place of an error, never its text
    logging.getLogger().addHandler(screen)
    torch.set_num_threads(max(1, torch.get_num_threads() // place.processes))
    device = choose_device(wanted, place.number)
    kind = torch.device(device).type
    for hello, _ in place.helpers.answers():
        if hello["device"] != kind:
            raise SystemExit("a site's processes need devices of one kind")  # blocks depend on it
        layers = {name: holds and hello["layers"][name] for name, holds in layers.items()}
    write_frame(place.pipes.writer, {"status": "ok", "layers": layers, "device": kind})
    studies = _Studies(device, Slot(place.number, place.processes), place.helpers)
    answer = studies.answer_agent if place.number == 0 else studies.answer_data_process
    while (frame := read_frame(place.pipes.reader)) is not None:
        try:
            values = answer(*frame)
            head = {"status": "ok", "kind": values.dtype.str}
            write_frame(place.pipes.writer, head, values.tobytes())
        except StudyError as error:  # its text is about the study and this device
            log.error(f"{error}; {error.hint}")
            write_frame(place.pipes.writer, {"status": "not-ready"})
        except Exception:  # of any kind: reply one code, log the place
            log.exception("the child could not answer")
            write_frame(place.pipes.writer, {"status": "not-ready"})


class _Studies:
    """The studies that this process has loaded."""

    def __init__(self, device: str, slot: Slot, helpers: Helpers) -> None:
        self._device, self._slot, self._helpers = device, slot, helpers
        self._loaded: dict[str, tuple[str, Trainer]] = {}  # study -> snapshot, trainer

    def answer_agent(self, header: dict[str, Any], body: memoryview) -> Integers | Int32Array:
        """Load or forget a study in all processes, or return a noisy release."""
        import numpy as np

        from flo.privacy.secure_sum.ring import as_int32_if_fits

        if header["do"] == "release":
            _, trainer = self._loaded[header["study"]]
            weights = np.frombuffer(body, dtype=header["kind"])
            return as_int32_if_fits(
                trainer.release(header["purpose"], weights, header["cohort_size"])
            )
        self._helpers.begin(header)
        try:
            return self._load_or_forget(header)
        finally:
            self._helpers.answers()

    def answer_data_process(self, header: dict[str, Any], body: memoryview) -> Integers:
        """As a helper, load or forget a study, or return the exact sum of this process's blocks."""
        import numpy as np

        if header["do"] != "sum":
            return self._load_or_forget(header)
        snapshot, trainer = self._loaded[header["study"]]
        if snapshot != header["snapshot"]:
            raise RuntimeError("a helper has other patients than the data process")
        weights = np.frombuffer(body[: header["weights"]], dtype=header["kind"])
        chosen = np.frombuffer(body[header["weights"] :], dtype=np.bool_)
        return trainer.gradient_sum(weights, chosen if len(chosen) else None)

    def _load_or_forget(self, header: dict[str, Any]) -> Integers:
        import numpy as np

        from flo.clients.data_process.trainer import Trainer
        from flo.clients.records.snapshot import Snapshot
        from flo.host.memory import give_back_freed_memory
        from flo.study.loading import from_canonical

        if header["do"] == "forget":
            self._loaded.pop(header["study"], None)
            gc.collect()
            give_back_freed_memory()
        elif header["do"] == "load":
            study = from_canonical(header["study"].encode())
            self._loaded.pop(
                study.digest, None
            )  # if loading fails, no process has the old patients
            snapshot = Snapshot.read(Path(header["path"]), header["digest"])
            others = StudyHelpers(self._helpers, study.digest, header["digest"])
            trainer = Trainer(study, snapshot, device=self._device, slot=self._slot, others=others)
            self._loaded[study.digest] = (header["digest"], trainer)
        else:
            raise ValueError("an unknown request")
        return np.empty(0, dtype=np.int64)


if __name__ == "__main__":
    main()

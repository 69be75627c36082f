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

from flo.clients.data_process.confinement import confine
from flo.clients.data_process.helpers import Place, end_with_parent, end_with_pipe, fork

log = logging.getLogger("flo.clients.data_process.child")


def main() -> None:
    """Fork helpers, confine this process, then serve frames."""
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    device, processes, snapshots, forbidden = sys.argv[1:]
    place = fork(int(processes))
    serve(device, place, confine([Path(snapshots)], Path(forbidden), gpu=device != "cpu"))


def serve(wanted: str, place: Place, layers: dict[str, bool]) -> None:
    """Answer until the other side closes the pipe. Only from here: import numpy, load patients."""
    gc.disable()  # imports leave hardly any garbage, and looking for it is a sixth of their time
    import torch

    from flo.clients.data_process.child_process import read_frame, write_frame
    from flo.clients.data_process.loaded_studies import LoadedStudies, Values
    from flo.clients.data_process.trainer import choose_device
    from flo.errors import StudyError
    from flo.host.logs import JsonFormatter
    from flo.host.memory import keep_freed_memory
    from flo.privacy.gradients.batches import Slot

    gc.freeze()
    gc.enable()
    if place.number:
        end_with_pipe(place.pipes.reader)
    keep_freed_memory()
    sys.stdout = sys.stderr  # printed text must not reach the pipe
    screen = logging.StreamHandler()
    screen.setFormatter(JsonFormatter())  # logs type and place of an error, never its text
    logging.getLogger().addHandler(screen)
    torch.set_num_threads(max(1, torch.get_num_threads() // place.processes))
    device = choose_device(wanted, place.number)
    for hello, _ in place.helpers.answers():
        layers = {name: holds and hello["layers"][name] for name, holds in layers.items()}
    write_frame(place.pipes.writer, {"status": "ok", "layers": layers})
    studies = LoadedStudies(device, Slot(place.number, place.processes), place.helpers)
    answer = studies.answer_agent if place.number == 0 else studies.answer_data_process
    values: Values | None = None
    while (frame := read_frame(place.pipes.reader)) is not None:
        try:
            facts, values = answer(*frame)
            head = {"status": "ok", "kind": values.dtype.str, **facts}
            write_frame(place.pipes.writer, head, values.tobytes())
        except StudyError as error:  # its text is about the study and this device
            log.error(f"{error}; {error.hint}")
            write_frame(place.pipes.writer, {"status": "not-ready"})
        except Exception:  # of any kind: reply one code, log the place
            log.exception("the child could not answer")
            write_frame(place.pipes.writer, {"status": "not-ready"})
        del frame
        values = None  # a helper's last sum does not stay in memory


if __name__ == "__main__":
    main()

"""Child process: loads approved snapshots, answers with noisy releases, and uses no network.

Started by ``flo.clients.data_process.worker`` as ``child DEVICE SNAPSHOTS FORBIDDEN``. It confines
itself before it imports other code or reads data, and its first frame reports which layers hold. It
ends when the parent closes the pipe or dies.
"""

from __future__ import annotations

import ctypes
import gc
import logging
import signal
import sys
from pathlib import Path

from flo.clients.data_process.confinement import confine

log = logging.getLogger("flo.clients.data_process.child")
_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Confine the process, then serve frames on standard input and output."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    device, snapshots, forbidden = sys.argv[1:]
    serve(device, confine(Path(snapshots), Path(forbidden), gpu=device != "cpu"))


def serve(wanted: str, layers: dict[str, bool]) -> None:
    """Answer until the parent closes the pipe. Import numpy and load patients only from here."""
    import numpy as np

    from flo.clients.data_process.trainer import Trainer, choose_device
    from flo.clients.data_process.worker import read_frame, write_frame
    from flo.clients.records.snapshot import Snapshot
    from flo.host.logs import JsonFormatter
    from flo.host.memory import give_back_freed_memory, keep_freed_memory
    from flo.privacy.secure_sum.ring import as_int32_if_fits
    from flo.study.loading import from_canonical

    keep_freed_memory()
    wishes, answers = sys.stdin.buffer, sys.stdout.buffer
    sys.stdout = sys.stderr  # printed text must not reach the pipe
    screen = logging.StreamHandler()
    screen.setFormatter(JsonFormatter())  # logs type and place of an error, never its text
    logging.getLogger().addHandler(screen)
    device = choose_device(wanted)
    write_frame(answers, {"status": "ok", "layers": layers})
    trainers: dict[str, Trainer] = {}
    while (frame := read_frame(wishes)) is not None:
        header, body = frame
        try:
            if header["do"] == "load":
                study = from_canonical(header["study"].encode())
                snapshot = Snapshot.read(Path(header["path"]), header["digest"])
                trainers[study.digest] = Trainer(study, snapshot, device=device)
                write_frame(answers, {"status": "ok"})
            elif header["do"] == "forget":
                trainers.pop(header["study"], None)
                gc.collect()
                give_back_freed_memory()
                write_frame(answers, {"status": "ok"})
            else:
                values = trainers[header["study"]].release(
                    header["purpose"],
                    np.frombuffer(body, dtype=header["kind"]),
                    header["cohort_size"],
                )
                sent = as_int32_if_fits(values)
                head = {"status": "ok", "kind": sent.dtype.str}
                write_frame(answers, head, sent.data.cast("B"))
        except Exception:  # of any kind: reply one code, log the place
            log.exception("the child could not answer")
            write_frame(answers, {"status": "not-ready"})


if __name__ == "__main__":
    main()

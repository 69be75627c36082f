"""The child process: loads approved snapshots, answers with noisy releases, and knows no network.

Started by ``flo.clients.worker``. It ends when the parent closes the pipe or dies.
"""

from __future__ import annotations

import ctypes
import logging
import signal
import sys
from pathlib import Path

import numpy as np

from flo.clients.snapshot import Snapshot
from flo.clients.trainer import Trainer, choose_device
from flo.clients.worker import read_frame, write_frame
from flo.logs import JsonFormatter
from flo.memory import keep_freed_memory
from flo.study import from_canonical

log = logging.getLogger("flo.clients.child")
_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Serve frames on standard input and output until the parent goes away."""
    keep_freed_memory()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    wishes, answers = sys.stdin.buffer, sys.stdout.buffer
    sys.stdout = sys.stderr  # nothing that prints may reach the pipe
    screen = logging.StreamHandler()
    screen.setFormatter(JsonFormatter())  # type and place of an error, never its text
    logging.getLogger().addHandler(screen)
    device = choose_device(sys.argv[1])
    trainers: dict[str, Trainer] = {}
    while (frame := read_frame(wishes)) is not None:
        header, body = frame
        try:
            if header["do"] == "load":
                study = from_canonical(header["study"].encode())
                snapshot = Snapshot.read(Path(header["path"]), header["digest"])
                trainers[study.digest] = Trainer(study, snapshot, device=device)
                write_frame(answers, {"status": "ok"})
            else:
                values = trainers[header["study"]].release(
                    header["purpose"],
                    np.frombuffer(body, dtype="<f8").astype(np.float64),
                    header["cohort_size"],
                )
                data = np.ascontiguousarray(values, dtype="<i8").tobytes()
                write_frame(answers, {"status": "ok"}, data)
        except Exception:
            # Whatever went wrong, the outside learns one code; the site's own log has the place.
            log.exception("the child could not answer")
            write_frame(answers, {"status": "not-ready"})


if __name__ == "__main__":
    main()

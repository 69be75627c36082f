"""The ServerApp that Flower's SuperExec starts here: one run, from its checkpoint to its model.

Loaded by name from the app descriptor (``flo.server.runs.app:app``). It reads its run from the
coordinator's folder; ``flo.server.runs.execute`` carries it out.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from flo.errors import UsageError
from flo.keys.keystore import AesKeyStore
from flo.server.flower.grid import server_app
from flo.server.home.coordinator_home import CHECKPOINT_KEY_VARIABLE, HOME_VARIABLE, CoordinatorHome
from flo.server.keys.study_keys import study_key
from flo.server.runs.execute import execute_run
from flo.server.runs.local_store import LocalRunStore
from flo.server.studies.publish import write_tensors


def _main(grid: Any, run: str) -> None:
    home = CoordinatorHome.open(Path(os.environ[HOME_VARIABLE]))
    store = home.open_store()
    record = store.run(run)
    offer = store.offer(record.study) if record else None
    if record is None or offer is None:
        raise UsageError(f"run {run} is not in the coordinator's database")
    study = offer.study
    master = Path(os.environ[CHECKPOINT_KEY_VARIABLE]).read_bytes()
    keystore = AesKeyStore(study_key(master, store.salt(study.digest), study.digest))
    stored = LocalRunStore(store, run, study, keystore, home.states())
    execute_run(
        study,
        run,
        grid,
        stored,
        lambda state: str(write_tensors(home, study, run, state)),
        here=True,
    )
    store.close()


app = server_app(_main)

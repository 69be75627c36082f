"""Several processes at one site: one sum, one noise, and nothing that one process would not do."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flo.arrays import Integers
from flo.clients.data_process.worker import DataProcess
from flo.clients.records.snapshot import Snapshot
from flo.errors import RefusedError
from flo.privacy.accounting.plan import Plan
from flo.privacy.patients.patients import Patients
from flo.privacy.secure_sum.ring import Int32Array
from flo.study.document import Study
from flo.study.models import initial_weights, largest_batch
from flo.study.synthetic import made_up_inputs
from tests.builders import small_study
from tests.flo.studies import SEQUENCE
from tests.privacy.frozen import SAMPLED, STUDIES

TRAINED = {name: study for name, study in STUDIES.items() if not study.survey} | {
    f"{name}, sampled": study for name, study in SAMPLED.items()
}
STUDY = small_study(model=SEQUENCE)
WEIGHTS = initial_weights(STUDY)


def frozen_patients(study: Study, count: int, seed: int = 1) -> Snapshot:
    """More blocks of patients than there are processes, and a last block that is not full."""
    inputs = np.resize(made_up_inputs(study.data), (count, made_up_inputs(study.data).shape[1]))
    generator = np.random.default_rng(seed)
    owner = np.arange(count)
    if study.data.records_per_patient == "many":
        owner = np.sort(generator.integers(0, count // 2, count))
        _, owner = np.unique(owner, return_inverse=True)
    labels = generator.integers(0, 2, count).astype(np.float64)
    patients = Patients(generator.permutation(inputs), labels, owner, int(owner[-1]) + 1)
    return Snapshot(patients, patients)


def shared(processes: int, folder: Path, studies: list[Path]) -> list[dict[str, Any]]:
    """What a data process with so many processes would release without noise, for each study."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "tests.clients.data_process.shared_sum", str(processes)),
            *(str(folder), *map(str, studies)),
        ],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.slow
def test_one_two_and_four_processes_release_the_same_integers_and_draw_noise_once(
    tmp_path: Path,
) -> None:
    places = []
    for number, study in enumerate(TRAINED.values()):
        place = tmp_path / f"{number}.study"
        place.write_bytes(study.canonical_bytes)
        count = 5 * largest_batch(study) + 3
        frozen_patients(study, count).write(place.with_suffix(".npz"))
        places.append(place)
    alone, two, four = (shared(processes, tmp_path, places) for processes in (1, 2, 4))
    assert len(alone) == len(TRAINED)
    assert alone == two == four
    assert all(row["drawn"] % row["size"] == 0 and row["drawn"] >= 2 * row["size"] for row in alone)


@contextmanager
def started(folder: Path, processes: int = 3) -> Iterator[DataProcess]:
    worker = DataProcess("cpu", folder, Path(__file__), tuple, processes=processes)
    worker.start()
    try:
        assert worker.layers["seccomp"]
        yield worker
    finally:
        worker.stop()


def release(digest: str, path: Path, worker: DataProcess) -> Integers | Int32Array:
    return worker.release(STUDY, path, digest, "training", WEIGHTS, 3)


def helpers_of(worker: DataProcess) -> list[int]:
    assert worker._child is not None
    pid = worker._child.pid
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.processes
def test_the_noise_of_a_release_is_that_of_one_process(tmp_path: Path) -> None:
    """Three draws would have √3 times the deviation. 60 releases of 177 numbers: 1 % error."""
    digest = frozen_patients(STUDY, 1100).write(tmp_path / "s.npz")
    asked = partial(release, digest, tmp_path / "s.npz")
    with started(tmp_path) as worker:
        released = np.array([asked(worker) for _ in range(60)], dtype=np.float64)
    expected = Plan.of(STUDY).purpose("training").mechanism.variance_steps() ** 0.5
    assert released.std(axis=0, ddof=1).mean() == pytest.approx(expected, rel=0.05)


@pytest.mark.processes
def test_helpers_are_confined_and_cannot_reach_the_agents_pipe(tmp_path: Path) -> None:
    with started(tmp_path) as worker:
        child, helpers = worker._child, helpers_of(worker)
        assert child is not None
        assert len(helpers) == 2
        lead = {Path(f"/proc/{child.pid}/fd/{number}").readlink() for number in (0, 1)}
        for pid in helpers:
            status = Path(f"/proc/{pid}/status").read_text()
            assert "Seccomp:\t2" in status
            assert "NoNewPrivs:\t1" in status
            opened = {path.readlink() for path in Path(f"/proc/{pid}/fd").iterdir()}
            assert not opened & lead
            assert Path(f"/proc/{pid}/ns/net").readlink() != Path("/proc/self/ns/net").readlink()


@pytest.mark.processes
def test_a_helper_that_dies_makes_the_site_not_ready_and_all_are_started_again(
    tmp_path: Path,
) -> None:
    digest = frozen_patients(STUDY, 1100).write(tmp_path / "s.npz")
    asked = partial(release, digest, tmp_path / "s.npz")
    with started(tmp_path) as worker:
        asked(worker)
        first = worker._child
        assert first is not None
        os.kill(helpers_of(worker)[1], signal.SIGKILL)
        with pytest.raises(RefusedError, match=r"^not ready$"):
            asked(worker)
        os.waitid(os.P_PID, first.pid, os.WEXITED | os.WNOWAIT)
        assert asked(worker).shape == WEIGHTS.shape
        assert len(helpers_of(worker)) == 2
        for pipe in (first.stdin, first.stdout):
            with contextlib.suppress(BrokenPipeError):
                pipe.close()  # type: ignore[union-attr]


@pytest.mark.processes
@pytest.mark.parametrize("how", ["killed", "stopped", "its pipe closed"])
def test_no_helper_outlives_the_data_process(tmp_path: Path, how: str) -> None:
    with started(tmp_path) as worker:
        handles = [os.pidfd_open(pid) for pid in helpers_of(worker)]
        child = worker._child
        assert child is not None
        assert child.stdin is not None
        if how == "killed":
            child.kill()
        elif how == "stopped":
            worker.stop()
        else:
            child.stdin.close()
        for handle in handles:
            assert select.select([handle], [], [], 30)[0] == [handle]
            os.close(handle)


@pytest.mark.processes
def test_a_study_that_was_unloaded_is_in_no_process_and_can_be_loaded_again(tmp_path: Path) -> None:
    digest = frozen_patients(STUDY, 1100).write(tmp_path / "s.npz")
    asked = partial(release, digest, tmp_path / "s.npz")
    with started(tmp_path) as worker:
        asked(worker)
        worker.unload(STUDY.digest)
        worker._loaded[STUDY.digest] = digest  # as if the agent were mistaken
        with pytest.raises(RefusedError, match=r"^not ready$"):
            asked(worker)
        worker._loaded.clear()
        assert asked(worker).shape == WEIGHTS.shape


@pytest.mark.processes
def test_after_an_opt_out_no_process_counts_the_patients_of_before(tmp_path: Path) -> None:
    """Blocks move when a patient leaves: old and new ones in one sum would count some twice."""
    before, after = frozen_patients(STUDY, 1100), frozen_patients(STUDY, 1099, seed=2)
    digests = [one.write(tmp_path / f"{k}.npz") for k, one in enumerate((before, after))]
    with started(tmp_path) as worker:
        for k, digest in enumerate(digests):
            release(digest, tmp_path / f"{k}.npz", worker)
        (tmp_path / "0.npz").write_bytes(b"changed")
        with pytest.raises(RefusedError, match=r"^not ready$"):
            release(digests[0], tmp_path / "0.npz", worker)
        worker._loaded[STUDY.digest] = digests[1]
        with pytest.raises(RefusedError, match=r"^not ready$"):  # loading failed: nothing is kept
            release(digests[1], tmp_path / "1.npz", worker)


def test_a_snapshot_that_a_helper_does_not_have_is_refused() -> None:
    from flo.clients.data_process.child import _Studies
    from flo.clients.data_process.helpers import Helpers
    from flo.privacy.gradients.batches import Slot

    helper = _Studies("cpu", Slot(1, 2), Helpers([]))
    helper._loaded["a study"] = ("one snapshot", None)  # type: ignore[assignment]
    with pytest.raises(RuntimeError, match="other patients than the data process"):
        helper.answer_data_process(
            {"do": "sum", "study": "a study", "snapshot": hashlib.sha256().hexdigest()},
            memoryview(b""),
        )


@pytest.mark.parametrize("asked", ["sum", "release ", "exec"])
def test_the_agent_cannot_ask_for_an_exact_sum(asked: str) -> None:
    from flo.clients.data_process.child import _Studies
    from flo.clients.data_process.helpers import Helpers
    from flo.privacy.gradients.batches import Slot

    lead = _Studies("cpu", Slot(0, 2), Helpers([]))
    with pytest.raises(ValueError, match="unknown request"):
        lead.answer_agent({"do": asked, "study": "a study"}, memoryview(b""))

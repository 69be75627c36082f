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
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from flo.arrays import Integers
from flo.clients.data_process.child_process import write_frame
from flo.clients.data_process.helpers import Helpers, Pipes, StudyHelpers
from flo.clients.data_process.loaded_studies import LoadedStudies
from flo.clients.data_process.worker import DataProcess
from flo.clients.records.snapshot import Snapshot
from flo.errors import RefusedError
from flo.privacy.accounting.plan import Plan
from flo.privacy.gradients.batches import Slot
from flo.privacy.patients.patients import Patients
from flo.privacy.secure_sum.ring import Int32Array
from flo.study.document import Study
from flo.study.models import initial_weights, largest_batch
from flo.study.synthetic import made_up_inputs
from tests.builders import small_study
from tests.flo.studies import SEQUENCE
from tests.privacy.frozen import SAMPLED, STUDIES

TRAINED = {name: study for name, study in STUDIES.items() if not study.statistics} | {
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
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
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
@pytest.mark.skipif(os.geteuid() != 0, reason="only root may look into a confined process")
def test_helpers_are_confined_and_cannot_reach_the_agents_pipe(tmp_path: Path) -> None:
    with started(tmp_path) as worker:
        child, helpers = worker._child, helpers_of(worker)
        assert child is not None
        assert len(helpers) == 2
        errors, theirs = {Path(f"/proc/{child.pid}/fd/2").readlink(), Path(os.devnull)}, set[Path]()
        lead = {Path(f"/proc/{child.pid}/fd/{number}").readlink() for number in (0, 1)}
        for pid in helpers:
            status = Path(f"/proc/{pid}/status").read_text()
            assert "Seccomp:\t2" in status
            assert "NoNewPrivs:\t1" in status
            opened = {path.readlink() for path in Path(f"/proc/{pid}/fd").iterdir()}
            assert not opened & lead
            assert not (opened & theirs) - errors  # no pipe of another helper
            theirs |= opened
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


@contextmanager
def one_helper() -> Iterator[tuple[Helpers, LoadedStudies, subprocess.Popen[bytes]]]:
    """A data process, played here, with one real helper, which is a process of the test's own."""
    program = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from flo.clients.data_process.child import serve\n"
        "from flo.clients.data_process.helpers import Helpers, Pipes, Place\n"
        "pipes = Pipes(sys.stdin.buffer, os.fdopen(os.dup(1), 'wb'))\n"
        "serve('cpu', Place(1, 2, pipes, Helpers([])), {})\n"
    )
    helper = subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "2"},
    )
    assert helper.stdin is not None
    assert helper.stdout is not None
    helpers = Helpers([Pipes(helper.stdout, helper.stdin)])
    threads = torch.get_num_threads()
    try:
        helpers.answers()  # its first words
        torch.set_num_threads(1)  # as a helper of two processes has, of two threads
        yield helpers, LoadedStudies("cpu", Slot(0, 2), helpers), helper
    finally:
        torch.set_num_threads(threads)
        helper.kill()
        helper.communicate()


def asked_to_load(folder: Path, name: str, snapshot: Snapshot) -> dict[str, Any]:
    path = folder / name
    digest = snapshot.write(path)
    study = STUDY.canonical_bytes.decode()
    return {"do": "load", "study": study, "path": str(path), "digest": digest}


NOTHING = memoryview(b"")


def asked_for_sum(snapshot: str) -> tuple[dict[str, Any], bytes]:
    body = WEIGHTS.tobytes()
    known = {"study": STUDY.digest, "snapshot": snapshot}
    return {"do": "sum", "weights": len(body), "kind": WEIGHTS.dtype.str, **known}, body


@pytest.mark.processes
def test_a_helper_ends_with_its_pipe_in_the_middle_of_work(tmp_path: Path) -> None:
    """No signal of a confined parent may reach it, and it does not look at the pipe meanwhile."""
    with one_helper() as (_, lead, helper):
        load = asked_to_load(tmp_path, "s.npz", frozen_patients(STUDY, 40_000))
        lead.answer_agent(load, NOTHING)
        assert helper.stdin is not None
        write_frame(helper.stdin, *asked_for_sum(load["digest"]))
        began = time.monotonic()
        helper.stdin.close()
        helper.stdin = None
        assert helper.wait(timeout=30) == 1  # not 0, which is the end of its loop
        assert time.monotonic() - began < 5


@pytest.mark.processes
def test_after_a_study_is_forgotten_neither_process_has_it(tmp_path: Path) -> None:
    with one_helper() as (helpers, lead, _):
        load = asked_to_load(tmp_path, "s.npz", frozen_patients(STUDY, 1100))
        lead.answer_agent(load, NOTHING)
        header, body = asked_for_sum(load["digest"])
        assert len(helpers.along(header, dict, body)[1]) == 1
        lead.answer_agent({"do": "forget", "study": STUDY.digest}, NOTHING)
        assert not lead._loaded
        with pytest.raises(RuntimeError, match="a helper could not answer"):
            helpers.along(header, dict, body)


@pytest.mark.processes
@pytest.mark.parametrize("fails", ["lead", "helper"])
def test_a_study_that_one_process_cannot_load_is_in_none(
    tmp_path: Path, fails: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with one_helper() as (helpers, lead, _):
        load = asked_to_load(tmp_path, "s.npz", frozen_patients(STUDY, 1100))
        lead.answer_agent(load, NOTHING)
        later = asked_to_load(tmp_path, "later.npz", frozen_patients(STUDY, 1099, seed=2))
        if fails == "lead":
            monkeypatch.setattr(lead, "_load", lambda header: 1 / 0)
        else:
            read = Path(later["path"]).read_bytes()
            Path(later["path"]).unlink()
            monkeypatch.setattr(lead, "_load", lambda header: {})
        with pytest.raises((ZeroDivisionError, RuntimeError)):
            lead.answer_agent(later, NOTHING)
        if fails == "helper":
            Path(later["path"]).write_bytes(read)
        assert not lead._loaded
        for digest in (load["digest"], later["digest"]):
            header, body = asked_for_sum(digest)
            with pytest.raises(RuntimeError, match="a helper could not answer"):
                helpers.along(header, dict, body)


@pytest.mark.processes
def test_a_sum_for_other_patients_than_the_helpers_is_refused(tmp_path: Path) -> None:
    """Blocks move when a patient leaves: old and new ones in one sum would count some twice."""
    with one_helper() as (helpers, lead, _):
        load = asked_to_load(tmp_path, "s.npz", frozen_patients(STUDY, 1100))
        lead.answer_agent(load, NOTHING)
        others = StudyHelpers(helpers, STUDY.digest, hashlib.sha256(b"other").hexdigest())
        with pytest.raises(RuntimeError, match="a helper could not answer"):
            others.total(WEIGHTS, None, lambda: np.zeros((2, len(WEIGHTS)), dtype=np.int64))


@pytest.mark.processes
@pytest.mark.parametrize(("fact", "value"), [("threads", 7), ("device", "A100"), ("method", "x")])
def test_processes_that_would_compute_differently_release_nothing(
    tmp_path: Path, fact: str, value: str | int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A patient who leaves moves others to another process; none of their bits may change."""
    with one_helper() as (_, lead, _):
        load = asked_to_load(tmp_path, "s.npz", frozen_patients(STUDY, 1100))
        own = lead._load

        def elsewhere(header: dict[str, Any]) -> dict[str, str | int]:
            return own(header) | {fact: value}

        monkeypatch.setattr(lead, "_load", elsewhere)
        with pytest.raises(RuntimeError, match="processes would compute differently"):
            lead.answer_agent(load, NOTHING)
        assert not lead._loaded


@pytest.mark.processes
def test_where_one_process_has_less_memory_all_compute_fewer_records_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with one_helper() as (_, lead, _):
        load = asked_to_load(tmp_path, "s.npz", frozen_patients(STUDY, 1100))
        own, asked = lead._load, list[int | None]()

        def cramped(header: dict[str, Any]) -> dict[str, str | int]:
            asked.append(header["at_once"])
            return own(header | {"at_once": 8})

        monkeypatch.setattr(lead, "_load", cramped)
        lead.answer_agent(load, NOTHING)
        assert asked == [None, 8]
        assert lead._loaded[STUDY.digest].trainer.manner["at_once"] == 8


@pytest.mark.parametrize("asked", ["sum", "release ", "exec"])
def test_the_agent_cannot_ask_for_an_exact_sum(asked: str) -> None:
    lead = LoadedStudies("cpu", Slot(0, 2), Helpers([]))
    with pytest.raises(ValueError, match="unknown request"):
        lead.answer_agent({"do": asked, "study": "a study"}, NOTHING)

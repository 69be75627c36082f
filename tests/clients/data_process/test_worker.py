"""The warm child: a real process that may die at any time, and says nothing but "not ready"."""

from __future__ import annotations

import contextlib
import io
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest

from flo.clients.data_process.child_process import read_frame, write_frame
from flo.clients.data_process.worker import DataProcess
from flo.clients.quality.check import encode_checked
from flo.clients.records.snapshot import Snapshot
from flo.clients.sources.files import open_file
from flo.errors import MessageError, RefusedError
from flo.privacy.patients.patients import Patients
from flo.study.document import Study
from flo.study.models import initial_weights
from flo.study.terms import Purpose
from tests.builders import csv_text, small_study
from tests.flo.studies import SEQUENCE

STUDY = small_study()
WEIGHTS = initial_weights(STUDY)


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DataProcess]:
    """One child for the whole file: torch takes seconds to load."""
    made = new_worker(tmp_path_factory)
    made.start()
    yield made
    child = child_of(made)
    made.stop()
    close(child)


def new_worker(tmp_path_factory: pytest.TempPathFactory) -> DataProcess:
    """Its child may read what the tests freeze, and nothing else of theirs."""
    return DataProcess("cpu", tmp_path_factory.getbasetemp(), Path(__file__), tuple)


def child_of(worker: DataProcess) -> subprocess.Popen[bytes]:
    assert worker._child is not None
    return worker._child


def close(child: subprocess.Popen[bytes]) -> None:
    """Close our ends of the pipes, so that no warning about them fails another test."""
    for pipe in (child.stdin, child.stdout):
        if pipe is not None:
            with contextlib.suppress(BrokenPipeError):
                pipe.close()


@pytest.fixture
def snapshot(tmp_path: Path) -> Snapshot:
    (tmp_path / "patients.csv").write_text(csv_text())
    return Snapshot.of(
        encode_checked(
            open_file(tmp_path / "patients.csv", "patient_id"), STUDY.data, "patient_id"
        ),
        b"k" * 32,
        0.3,
    )


def fresh(name: str) -> Study:
    """A study that no child has loaded yet."""
    return small_study(name=name)


@pytest.mark.processes
def test_a_release_has_the_shape_of_its_purpose(
    worker: DataProcess, snapshot: Snapshot, tmp_path: Path
) -> None:
    path = tmp_path / "s.npz"
    digest = snapshot.write(path)
    training = worker.release(STUDY, path, digest, "training", WEIGHTS, 3)
    evaluation = worker.release(STUDY, path, digest, "evaluation", WEIGHTS, 3)
    assert (training.shape, training.dtype) == ((6,), np.dtype(np.int32))  # they all fit
    assert evaluation.shape == (130,)


@pytest.mark.processes
def test_opacus_layers_are_trained_in_the_confined_process(
    worker: DataProcess, snapshot: Snapshot, tmp_path: Path
) -> None:
    path, study = tmp_path / "s.npz", small_study(model=SEQUENCE)
    digest = snapshot.write(path)
    weights = initial_weights(study)
    training = worker.release(study, path, digest, "training", weights, 3)
    evaluation = worker.release(study, path, digest, "evaluation", weights, 3)
    assert (training.shape, evaluation.shape) == (weights.shape, (130,))


@pytest.mark.processes
def test_what_was_prepared_is_not_loaded_again(
    worker: DataProcess, snapshot: Snapshot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, path = fresh("prepared"), tmp_path / "s.npz"
    frozen = (path, snapshot.write(path))
    worker.warm_up(study, *frozen)
    asked, ask = [], DataProcess._ask

    def asking(self: DataProcess, header: dict[str, Any], *rest: Any, **named: Any) -> Any:
        asked.append(header["do"])
        return ask(self, header, *rest, **named)

    monkeypatch.setattr(DataProcess, "_ask", asking)
    worker.release(study, *frozen, "training", WEIGHTS, 3)
    assert asked == ["release"]


@pytest.mark.processes
def test_no_two_releases_carry_the_same_noise(
    worker: DataProcess, snapshot: Snapshot, tmp_path: Path
) -> None:
    digest = snapshot.write(tmp_path / "s.npz")
    one, two = (
        worker.release(STUDY, tmp_path / "s.npz", digest, "training", WEIGHTS, 3) for _ in "ab"
    )
    # σ is some 10^5 grid steps: six equal draws by chance are rarer than 1 in 10^30
    assert one.tolist() != two.tolist()


@pytest.mark.processes
def test_a_child_killed_while_it_is_asked_is_not_ready_and_later_is(
    worker: DataProcess, snapshot: Snapshot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = snapshot.write(tmp_path / "s.npz")
    worker.release(STUDY, tmp_path / "s.npz", digest, "training", WEIGHTS, 3)
    first = child_of(worker)
    os.kill(first.pid, signal.SIGSTOP)  # so that it cannot answer before it dies

    def ask_and_kill(pipe: IO[bytes], header: dict[str, Any], body: bytes = b"") -> None:
        write_frame(pipe, header, body)
        os.kill(first.pid, signal.SIGKILL)

    with monkeypatch.context() as deadly:
        deadly.setattr("flo.clients.data_process.worker.write_frame", ask_and_kill)
        with pytest.raises(RefusedError, match=r"^not ready$"):
            worker.release(STUDY, tmp_path / "s.npz", digest, "training", WEIGHTS, 3)
    os.waitid(os.P_PID, first.pid, os.WEXITED | os.WNOWAIT)
    values = worker.release(STUDY, tmp_path / "s.npz", digest, "training", WEIGHTS, 3)
    assert values.shape == (6,)
    assert child_of(worker).pid != first.pid
    close(first)


@pytest.mark.slow
def test_a_child_that_died_between_rounds_is_started_again(
    worker: DataProcess, snapshot: Snapshot, tmp_path: Path
) -> None:
    digest = snapshot.write(tmp_path / "s.npz")
    worker.release(STUDY, tmp_path / "s.npz", digest, "training", WEIGHTS, 3)
    first = child_of(worker)
    os.kill(first.pid, signal.SIGKILL)
    os.waitid(os.P_PID, first.pid, os.WEXITED | os.WNOWAIT)
    values = worker.release(STUDY, tmp_path / "s.npz", digest, "training", WEIGHTS, 3)
    assert values.shape == (6,)
    assert child_of(worker).pid != first.pid
    close(first)


@pytest.mark.processes
def test_a_child_that_does_not_answer_is_ended_and_started_again(
    snapshot: Snapshot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Frozen, or in a library that never returns: without a limit its agent would wait for ever."""
    codes: list[int] = []
    worker = DataProcess("cpu", tmp_path, Path(__file__), tuple, codes.append)
    worker.start()
    digest = snapshot.write(tmp_path / "s.npz")
    worker.release(STUDY, tmp_path / "s.npz", digest, "training", WEIGHTS, 3)
    first = child_of(worker)
    os.kill(first.pid, signal.SIGSTOP)
    with monkeypatch.context() as short:
        short.setattr("flo.clients.data_process.worker._patience", lambda study: 0.5)
        with pytest.raises(RefusedError, match=r"^not ready$"):
            worker.release(STUDY, tmp_path / "s.npz", digest, "training", WEIGHTS, 3)
    os.waitid(os.P_PID, first.pid, os.WEXITED | os.WNOWAIT)
    values = worker.release(STUDY, tmp_path / "s.npz", digest, "training", WEIGHTS, 3)
    assert values.shape == (6,)
    assert codes == [-signal.SIGKILL]
    worker.stop()
    close(first)


def poisoned(patients: Patients) -> Patients:
    return Patients(patients.inputs * np.nan, patients.labels, patients.patient, patients.count)


@pytest.mark.processes
@pytest.mark.parametrize(("purpose", "length"), [("training", 6), ("evaluation", 130)])
def test_values_that_are_not_finite_never_stop_a_round(
    worker: DataProcess, snapshot: Snapshot, tmp_path: Path, purpose: Purpose, length: int
) -> None:
    bad = Snapshot(poisoned(snapshot.training), poisoned(snapshot.held_out))
    digest = bad.write(tmp_path / "s.npz")
    study = fresh(f"poisoned-{purpose}")
    got = worker.release(study, tmp_path / "s.npz", digest, purpose, WEIGHTS, 3)
    assert got.shape == (length,)


@pytest.mark.processes
@pytest.mark.parametrize("what", ["missing", "changed", "no archive", "a folder"])
def test_a_snapshot_that_is_not_the_approved_one_is_not_ready(
    worker: DataProcess, snapshot: Snapshot, tmp_path: Path, what: str
) -> None:
    path = tmp_path / "s.npz"
    digest = snapshot.write(path)
    good = path.read_bytes()
    study = fresh(what.replace(" ", "-"))
    path.unlink()
    if what == "changed":
        path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    elif what == "no archive":
        path.write_bytes(b"secretcode")
    elif what == "a folder":
        path.mkdir()
    before = child_of(worker).pid
    with pytest.raises(RefusedError) as refusal:
        worker.release(study, path, digest, "training", WEIGHTS, 3)
    assert (str(refusal.value), refusal.value.hint) == ("not ready", "")
    if what == "a folder":
        path.rmdir()
    path.write_bytes(good)
    assert worker.release(study, path, digest, "training", WEIGHTS, 3).shape == (6,)
    assert child_of(worker).pid == before


@pytest.mark.processes
def test_a_model_of_another_shape_is_not_ready(
    worker: DataProcess, snapshot: Snapshot, tmp_path: Path
) -> None:
    digest = snapshot.write(tmp_path / "s.npz")
    study = fresh("shape")
    with pytest.raises(RefusedError, match=r"^not ready$"):
        worker.release(study, tmp_path / "s.npz", digest, "training", np.zeros(3), 3)
    assert worker.release(study, tmp_path / "s.npz", digest, "training", WEIGHTS, 3).shape == (6,)


@pytest.mark.processes
def test_the_child_ends_by_itself_when_the_parent_closes_the_pipe(worker: DataProcess) -> None:
    child = child_of(worker)
    assert child.stdin is not None
    child.stdin.close()
    assert child.wait(timeout=60) == 0
    close(child)


@pytest.mark.slow
def test_the_child_ends_when_the_parent_is_killed() -> None:
    script = (
        "import sys, time; from pathlib import Path\n"
        "from flo.clients.data_process.worker import DataProcess\n"
        "worker = DataProcess('cpu', Path('/var/empty'), Path('/root'), tuple); worker.start()\n"
        "print(worker._child.pid, flush=True)\n"
        "sys.stdin.read()"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    handle = os.pidfd_open(child)
    parent.kill()
    parent.communicate()
    assert select.select([handle], [], [], 30)[0] == [handle]
    os.close(handle)


@pytest.mark.processes
def test_stopping_ends_the_child_and_stopping_again_does_nothing(tmp_path: Path) -> None:
    worker = DataProcess("cpu", tmp_path, tmp_path, tuple)
    worker.start()
    child = child_of(worker)
    worker.stop()
    worker.stop()
    assert child.returncode is not None
    close(child)


@pytest.mark.processes
def test_no_pipe_of_a_stopped_child_stays_open(tmp_path: Path) -> None:
    worker = DataProcess("cpu", tmp_path, tmp_path, tuple)
    worker.start()
    child = child_of(worker)
    worker.stop()
    left = [pipe for pipe in (child.stdin, child.stdout) if pipe is not None and not pipe.closed]
    close(child)
    assert left == []


# -- frames --------------------------------------------------------------------------------------


def framed(header: dict[str, str], body: bytes) -> bytes:
    pipe = io.BytesIO()
    write_frame(pipe, header, body)
    return pipe.getvalue()


def test_a_frame_reads_back() -> None:
    pipe = io.BytesIO(framed({"do": "x"}, b"bits") + framed({"do": "y"}, b""))
    for expected in (({"do": "x"}, b"bits"), ({"do": "y"}, b"")):
        found = read_frame(pipe)
        assert found is not None
        assert (found[0], bytes(found[1])) == expected
    assert read_frame(pipe) is None


@pytest.mark.parametrize("left", [0, 3, -1])
def test_a_frame_that_ends_early_is_the_end(left: int) -> None:
    assert read_frame(io.BytesIO(framed({"do": "x"}, b"bits")[:left])) is None


def test_a_frame_that_is_no_json_or_too_large_is_refused() -> None:
    with pytest.raises(MessageError):
        read_frame(io.BytesIO(b"\0\0\0\x02{}"[:4] + b"{x" + b"\0" * 8))
    with pytest.raises(MessageError, match="a frame's body of 18446744073709551615 bytes, limit"):
        read_frame(io.BytesIO(b"\0\0\0\x02{}" + b"\xff" * 8))


def test_a_header_that_is_too_large_is_refused_before_it_is_read() -> None:
    pipe = io.BytesIO((2**20 + 1).to_bytes(4, "big") + bytes(100))
    with pytest.raises(MessageError, match="a frame's header of 1048577 bytes, limit 1048576"):
        read_frame(pipe)
    assert pipe.tell() == 4


def test_a_frame_that_is_cut_off_anywhere_is_none() -> None:
    whole = io.BytesIO()
    write_frame(whole, {"status": "ok"}, b"values")
    data = whole.getvalue()
    head = 4 + int.from_bytes(data[:4], "big")
    for end in (0, 3, *range(head, len(data))):
        assert read_frame(io.BytesIO(data[:end])) is None, end
    assert read_frame(io.BytesIO(data)) is not None

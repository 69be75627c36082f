"""Large vectors of saved states: written once, sealed, and gone when no state names them."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from flo.documents import canonical
from flo.errors import RefusedError, TrustError
from flo.keys.keystore import AesKeyStore
from flo.server.rounds import checkpoint_vectors
from flo.server.rounds.checkpoint_vectors import REUSED, KeptVectors
from flo.server.rounds.state import RunState
from flo.server.runs import remote_store
from flo.server.runs.local_store import LocalRunStore
from flo.server.runs.remote_client import RemoteRunClient
from flo.server.runs.remote_documents import ClaimedRun, RunReport, RunStatus, Saved
from flo.server.runs.remote_store import RemoteRunStore
from flo.server.store.store import Store
from flo.storage.artifacts import LocalArtifacts
from tests.builders import small_study

STUDY = small_study(model={"kind": "mlp", "hidden": [150, 150]}, name="wide")
START = RunState.start(STUDY)
KEYS = AesKeyStore(bytes(32))
CONTEXT = {"purpose": "checkpoint", "study": STUDY.digest, "run": "run-1"}


def after(state: RunState, number: int) -> RunState:
    """A state after a round: new weights, and from the second round on a tail."""
    weights = state.weights + np.float32(number)
    tail = state.tail_sum + weights if number > 1 else state.tail_sum
    return replace(state, round=number + 1, weights=weights, tail_sum=tail, tail_count=number - 1)


@pytest.fixture
def artifacts(tmp_path: Path) -> LocalArtifacts:
    return LocalArtifacts(tmp_path / "states")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with closing(Store(tmp_path / "coordinator.sqlite")) as store:
        store.add_study(STUDY, "00")
        store.start_run("run-1", STUDY.digest)
        yield store


def stored(store: Store, artifacts: LocalArtifacts) -> LocalRunStore:
    return LocalRunStore(store, "run-1", STUDY, KEYS, artifacts)


def test_a_state_is_the_same_to_the_bit_after_a_restart(
    store: Store, artifacts: LocalArtifacts
) -> None:
    state, run = START, stored(store, artifacts)
    for number in (1, 2, 3):
        state = after(state, number)
        run.save(state)
        found = stored(store, artifacts).load()
        assert found is not None
        for name in ("weights", "velocity", "tail_sum"):
            kept, given = getattr(found, name), getattr(state, name)
            assert kept.dtype == given.dtype == np.float32
            assert kept.tobytes() == given.tobytes()
            assert kept.flags.writeable
        run = stored(store, artifacts)


def test_the_database_holds_no_large_vector(store: Store, artifacts: LocalArtifacts) -> None:
    stored(store, artifacts).save(after(START, 2))
    record = store.run("run-1")
    assert record is not None
    assert record.state is not None
    assert len(record.state) < 10_000 < START.weights.nbytes


def test_a_vector_is_written_once_and_zeros_are_not(
    store: Store, artifacts: LocalArtifacts
) -> None:
    run, state = stored(store, artifacts), after(START, 1)
    for attempt in (1, 2, 3):
        run.save(replace(state, attempt=attempt, cohort=("north",)))
    (only,) = artifacts.keys("")
    assert only.endswith("-weights.sealed")


def test_what_no_state_needs_is_removed_and_at_the_end_all_is(
    store: Store, artifacts: LocalArtifacts
) -> None:
    run, state = stored(store, artifacts), START
    for number in range(1, 9):
        state = after(state, number)
        run.save(state)
    assert len(artifacts.keys("")) == 2 * 3  # weights and tail of the last three saves
    run.end("stopped", {"rounds": 8})
    assert artifacts.keys("") == []


def test_a_process_of_an_earlier_launch_removes_nothing_of_a_later_one(
    store: Store, artifacts: LocalArtifacts
) -> None:
    first = stored(store, artifacts)
    first.save(after(START, 2))
    second, state = stored(store, artifacts), after(START, 3)
    second.save(state)
    with pytest.raises(RefusedError, match="another process carries it out"):
        first.save(after(START, 4))
    first._remove_all_but(set())
    found = stored(store, artifacts).load()
    assert found is not None
    assert found.weights.tobytes() == state.weights.tobytes()


def test_a_save_that_fails_leaves_the_last_state_as_it_was(
    store: Store, artifacts: LocalArtifacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, state = stored(store, artifacts), after(START, 2)
    run.save(state)

    def full(key: str, pieces: Iterator[bytes]) -> None:
        raise OSError("no space left on device")

    with monkeypatch.context() as disk:
        disk.setattr(artifacts, "put_pieces", full)
        with pytest.raises(OSError, match="no space left"):
            run.save(after(state, 3))
    found = stored(store, artifacts).load()
    assert found is not None
    assert found.weights.tobytes() == state.weights.tobytes()


def test_missing_cut_changed_and_exchanged_vectors_are_refused_by_name(
    store: Store, artifacts: LocalArtifacts, tmp_path: Path
) -> None:
    run, state = stored(store, artifacts), after(START, 2)
    run.save(state)
    tail, weights = (tmp_path / "states" / key for key in artifacts.keys(""))
    good = weights.read_bytes()
    for bad, why in (
        (good[:-1], "was cut or extended"),
        (good[:-1] + bytes([good[-1] ^ 1]), "was changed"),
        (tail.read_bytes(), "was sealed for vector"),
    ):
        weights.write_bytes(bad)
        with pytest.raises(TrustError, match=rf"the saved weights .*{why}"):
            stored(store, artifacts).load()
    weights.unlink()
    with pytest.raises(TrustError, match=r"the saved weights .* are missing"):
        stored(store, artifacts).load()
    weights.write_bytes(good)
    assert stored(store, artifacts).load() is not None


def test_a_vector_is_written_anew_before_the_states_that_name_it_are_cleared(
    artifacts: LocalArtifacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = KeptVectors(artifacts, KEYS, CONTEXT)
    first = kept.keep("weights", START.weights, 1, "first")
    assert kept.keep("weights", START.weights, REUSED, "second") == first == "first"
    assert kept.keep("weights", START.weights, REUSED + 1, "third") == "third"
    assert artifacts.keys("") == ["first", "third"]
    monkeypatch.setattr(checkpoint_vectors, "MAX_MESSAGE_BYTES", 1000)
    with pytest.raises(TrustError, match="more than"):
        kept.load("weights", "first", np.dtype("<f4"), len(START.weights))


def test_a_vector_of_another_length_or_type_is_refused(artifacts: LocalArtifacts) -> None:
    kept = KeptVectors(artifacts, KEYS, CONTEXT)
    kept.keep("weights", START.weights, 1, "first")
    for kind, length in (("<f4", 3), ("<f8", len(START.weights))):
        with pytest.raises(TrustError, match="bytes, not"):
            kept.load("weights", "first", np.dtype(kind), length)


# -- elsewhere -------------------------------------------------------------------------------------


class Link:
    """A coordinator that knows the last saved state's place, and nothing else."""

    def __init__(self) -> None:
        self.saved: Saved | None = None

    def post(self, call: str, body: bytes) -> Any:
        look = RunStatus(nodes={}, connections={}, heads={}, stop=False)
        if call == "take":
            text = STUDY.canonical_bytes.decode()
            return ClaimedRun(study=text, launch=1, saved=self.saved, look=look).model_dump(
                mode="json"
            )
        told = RunReport.model_validate(canonical.decode(body, limit=1 << 20, what="told"))
        self.saved = told.saved or self.saved
        return look.model_dump(mode="json")


def taken(link: Link, artifacts: LocalArtifacts) -> RemoteRunStore:
    return RemoteRunStore(cast(RemoteRunClient, link), "run-1", STUDY.digest, artifacts, KEYS)


def test_elsewhere_every_state_that_is_kept_can_be_gone_on_from(
    artifacts: LocalArtifacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also the oldest: its vectors were written up to ``REUSED`` states before it."""
    for module, name in ((checkpoint_vectors, "REUSED"), (remote_store, "REUSED")):
        monkeypatch.setattr(module, name, 4)
    monkeypatch.setattr(remote_store, "_KEEP", 6)
    monkeypatch.setattr(remote_store, "_CLEAR_EVERY", 2)
    link, state, places = Link(), after(START, 2), []
    run = taken(link, artifacts)
    for number in range(1, 21):
        state = after(state, number) if number % 7 == 0 else replace(state, attempt=number % 16 + 1)
        run.save(state)
        places.append((link.saved, state))
    for place, expected in places[-6:]:
        link.saved = place
        found = taken(link, artifacts).load()
        assert found is not None
        assert found.weights.tobytes() == expected.weights.tobytes()
        assert found.attempt == expected.attempt
    assert len(artifacts.keys("")) < 6 + 2 + 2 * 6


def test_elsewhere_nothing_is_left_at_the_end(artifacts: LocalArtifacts) -> None:
    run = taken(Link(), artifacts)
    run.save(after(START, 2))
    assert len(artifacts.keys("")) == 3
    run.end("stopped", {"rounds": 1, "epsilon": 0.9, "delta": 1e-6})
    assert artifacts.keys("") == []


def test_a_vector_that_a_state_has_no_more_is_not_held_in_memory(
    store: Store, artifacts: LocalArtifacts
) -> None:
    run, state = stored(store, artifacts), after(START, 2)
    held = weakref.ref(state.tail_sum)
    run.save(state)
    state = replace(state, tail_sum=np.zeros(0))
    assert held() is not None, "it may be in the next state, too"
    run.save(state)
    assert held() is None

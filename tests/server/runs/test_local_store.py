"""A run's saved state: sealed, for one run only, and written by its latest launch."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from flo.errors import RefusedError, TrustError
from flo.keys.keystore import LocalKeyStore
from flo.server.home.coordinator_home import CoordinatorConfig, CoordinatorHome
from flo.server.rounds.state import RunState
from flo.server.runs.local_store import LocalRunStore
from flo.server.store.store import Store
from flo.storage.artifacts import LocalArtifacts
from tests.builders import small_study

STUDY = small_study()
WIDE = small_study(name="wide", model={"kind": "mlp", "hidden": [150, 150]})  # vectors of 90 KB


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with closing(Store(tmp_path / "coordinator.sqlite")) as store:
        store.add_study(STUDY, "00")
        store.start_run("run-1", STUDY.digest)
        yield store


@pytest.fixture
def keystore(tmp_path: Path) -> LocalKeyStore:
    return LocalKeyStore(tmp_path / "checkpoint.key")


@pytest.fixture
def artifacts(tmp_path: Path) -> LocalArtifacts:
    return LocalArtifacts(tmp_path / "states")


def test_a_saved_state_is_read_again_and_shows_nothing_to_who_has_no_key(
    store: Store, keystore: LocalKeyStore, artifacts: LocalArtifacts, tmp_path: Path
) -> None:
    run, state = LocalRunStore(store, "run-1", STUDY, keystore, artifacts), RunState.start(STUDY)
    assert run.load() is None
    run.save(state)
    found, record = run.load(), store.run("run-1")
    assert found is not None
    assert record is not None
    assert record.state is not None
    np.testing.assert_array_equal(found.weights, state.weights)
    assert b"weights" not in record.state
    with pytest.raises(TrustError):
        LocalRunStore(
            store, "run-1", STUDY, LocalKeyStore(tmp_path / "another.key"), artifacts
        ).load()


def test_a_state_that_was_changed_or_is_another_runs_is_refused(
    store: Store, keystore: LocalKeyStore, artifacts: LocalArtifacts
) -> None:
    other = small_study(name="other")
    store.add_study(other, "00")
    store.start_run("run-2", other.digest)
    run, second = (
        LocalRunStore(store, "run-1", STUDY, keystore, artifacts),
        LocalRunStore(store, "run-2", other, keystore, artifacts),
    )
    run.save(RunState.start(STUDY))
    record = store.run("run-1")
    assert record is not None
    assert record.state is not None
    store.save_state("run-2", store.take_run("run-2"), record.state)
    with pytest.raises(TrustError):
        second.load()
    changed = record.state[:-1] + bytes([record.state[-1] ^ 1])
    store.save_state("run-1", store.take_run("run-1"), changed)
    with pytest.raises(TrustError):
        run.load()


def test_a_process_of_an_earlier_launch_saves_nothing_any_more(
    store: Store, keystore: LocalKeyStore, artifacts: LocalArtifacts
) -> None:
    first = LocalRunStore(store, "run-1", STUDY, keystore, artifacts)
    second = LocalRunStore(store, "run-1", STUDY, keystore, artifacts)
    second.save(RunState.start(STUDY))
    with pytest.raises(RefusedError, match="another process carries it out"):
        first.save(RunState.start(STUDY))
    with pytest.raises(RefusedError, match="another process carries it out"):
        first.save_round(RunState.start(STUDY), round=1)
    assert store.events(STUDY.digest) == [], "an event of a round whose state was refused"
    with pytest.raises(RefusedError, match="another process carries it out"):
        first.end("done", {})


def test_a_state_whose_event_cannot_be_stored_is_not_stored_either(
    store: Store, keystore: LocalKeyStore, artifacts: LocalArtifacts, tmp_path: Path
) -> None:
    run = LocalRunStore(store, "run-1", STUDY, keystore, artifacts)
    run.save(before := RunState.start(STUDY))
    with sqlite3.connect(tmp_path / "coordinator.sqlite") as db:
        db.execute("CREATE TRIGGER full BEFORE INSERT ON events BEGIN SELECT RAISE(FAIL, ''); END")
    with pytest.raises(sqlite3.Error):
        run.save_round(replace(before, round=2), round=1)
    found = run.load()
    assert found is not None
    assert found.round == before.round


def test_the_key_for_saved_states_is_made_once_and_kept_sealed(tmp_path: Path) -> None:
    home = CoordinatorHome.create(tmp_path / "home", CoordinatorConfig())
    key = home.open_checkpoint_key()
    assert len(key) == 32
    assert CoordinatorHome.open(home.directory).open_checkpoint_key() == key
    assert key not in (home.directory / "checkpoint.key").read_bytes()


def test_a_key_in_memory_is_read_by_a_path_while_it_is_held_and_not_after(tmp_path: Path) -> None:
    from flo.storage.files import in_memory

    key = os.urandom(32)
    with in_memory(key) as path:
        sealed = LocalKeyStore(Path(path)).seal({"purpose": "test"}, b"state")
    assert not Path(path).exists()
    assert LocalKeyStore(_written(tmp_path, key)).open({"purpose": "test"}, sealed) == b"state"


def _written(folder: Path, key: bytes) -> Path:
    path = folder / "same.key"
    path.write_bytes(key)
    path.chmod(0o600)
    return path

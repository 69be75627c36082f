"""Shredding a study: its key is gone from the file, and every sealed copy with it."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from flo.cli.coordinator.operator import Operator
from flo.errors import FloError, RefusedError, StudyError, TrustError
from flo.keys import sealed
from flo.keys.keystore import AesKeyStore
from flo.server.home.coordinator_home import CoordinatorConfig, CoordinatorHome
from flo.server.keys.study_keys import job_secret, study_key
from flo.server.store.store import Offer, Store
from flo.server.studies.erase import shred
from flo.server.studies.publish import result_path, tensors_path
from flo.storage.artifacts import LocalArtifacts
from tests.builders import small_study
from tests.commands import flo
from tests.monitored import period
from tests.server.real_coordinator import kinds, serving

STUDY, OTHER = small_study(), small_study(name="other")
MASTER = bytes(range(32))


@pytest.fixture
def home(tmp_path: Path) -> CoordinatorHome:
    return CoordinatorHome.create(tmp_path / "coordinator", CoordinatorConfig())


def over(store: Store, status: str = "done") -> Offer:
    """The study, with a run that has a state, ended like that."""
    store.add_study(STUDY, "00")
    store.start_run("run-1", STUDY.digest)
    store.save_state("run-1", store.take_run("run-1"), b"THE SEALED STATE")
    store.set_status(STUDY.digest, status)
    offer = store.offer(STUDY.digest)
    assert offer is not None
    return offer


def test_the_salt_and_the_states_are_overwritten_in_the_files(home: CoordinatorHome) -> None:
    with closing(home.open_store()) as store:
        offer, salt = over(store), store.salt(STUDY.digest)
        files = [*home.directory.glob("coordinator.sqlite*")]
        assert any(salt in file.read_bytes() for file in files)
        shred(home, store, offer, "Ada", None)
        for file in home.directory.glob("coordinator.sqlite*"):
            assert salt not in file.read_bytes(), file
            assert b"THE SEALED STATE" not in file.read_bytes(), file
        with pytest.raises(RefusedError, match="was shredded"):
            store.salt(STUDY.digest)


def test_a_copy_that_nobody_could_reach_opens_no_more(home: CoordinatorHome) -> None:
    context = {"purpose": "checkpoint", "study": STUDY.digest}
    with closing(home.open_store()) as store:
        offer = over(store)
        key = study_key(MASTER, store.salt(STUDY.digest), STUDY.digest)
        copy = sealed.seal(AesKeyStore(key), context, b"weights")
        assert sealed.unseal(AesKeyStore(key), context, copy, "copy") == b"weights"
        shred(home, store, offer, "Ada", None)
    without = AesKeyStore(study_key(MASTER, bytes(32), STUDY.digest))
    with pytest.raises(TrustError):
        sealed.unseal(without, context, copy, "copy")


def test_models_and_objects_go_and_other_studies_stay(
    home: CoordinatorHome, tmp_path: Path
) -> None:
    artifacts = LocalArtifacts(tmp_path / "artifacts")
    artifacts.put("runs/run-1/state-1.sealed", b"x")
    artifacts.put("models/m.sealed", b"x")
    with closing(home.open_store()) as store:
        offer = over(store)
        store.add_study(OTHER, "00")
        others = store.salt(OTHER.digest)
        tensors_path(home, STUDY, "run-1").write_bytes(b"tensors")
        (home.directory / "models" / "other-run-9.safetensors").write_bytes(b"tensors")
        assert shred(home, store, offer, "Ada", artifacts) == 3
        assert shred(home, store, offer, "Ada", artifacts) == 0
        assert store.salt(OTHER.digest) == others
    assert artifacts.keys("") == []
    assert [p.name for p in (home.directory / "models").iterdir()] == ["other-run-9.safetensors"]


def test_a_monitors_sums_go_with_its_signed_result(home: CoordinatorHome) -> None:
    study = period()
    with closing(home.open_store()) as store:
        store.add_study(study, "00")
        store.start_run("run-1", study.digest)
        sums = {"monitor": {"values": [1.0, 2.0]}, "rounds": 1}
        store.end_run("run-1", store.take_run("run-1"), "done", sums)
        store.set_status(study.digest, "done")
        result_path(home, study, "run-1").write_bytes(b"signed")
        offer = store.offer(study.digest)
        assert offer is not None
        assert shred(home, store, offer, "Ada", None) == 1
        record = store.run("run-1")
        assert record is not None
        assert record.result == {"rounds": 1}
    assert not list((home.directory / "models").iterdir())


@pytest.mark.parametrize("status", ["offered", "running", "paused"])
def test_a_study_under_way_is_not_shredded(home: CoordinatorHome, status: str) -> None:
    with closing(home.open_store()) as store:
        offer, salt = over(store, status), store.salt(STUDY.digest)
        with pytest.raises(StudyError, match=f"is {status}"):
            shred(home, store, offer, "Ada", None)
        assert store.salt(STUDY.digest) == salt


def test_a_study_whose_model_is_being_compared_is_not_shredded(home: CoordinatorHome) -> None:
    model = {"card": "ab" * 32, "name": STUDY.name, "version": STUDY.version}
    model |= {"model": {"kind": "logistic"}, "columns": ["age"]}
    terms = {"epsilon": 0.5, "current": "ab" * 32, "models": [model]}
    gated = small_study(schema_version=4, name="gated", gate=terms)
    with closing(home.open_store()) as store:
        offer = over(store, "done")
        store.add_study(gated, "00")
        with pytest.raises(StudyError, match="is offered and compares or watches this"):
            shred(home, store, offer, "Ada", None)
        store.set_status(gated.digest, "stopped")
        shred(home, store, offer, "Ada", None)


def test_keys_of_studies_and_jobs_are_all_different() -> None:
    found = {
        make(MASTER, salt, name)
        for make in (study_key, job_secret)
        for salt in (bytes(32), bytes([1]) * 32)
        for name in ("a", "b")
    }
    assert len(found) == 8
    assert {len(key) for key in found} == {32}


@pytest.mark.processes
def test_an_operator_shreds_by_command_after_saying_yes(tmp_path: Path) -> None:
    with serving(tmp_path / "home") as real:
        for name in ("north", "south", "west"):
            real.enrol(tmp_path / name, name)
        directory = real.home.directory
        with Operator(directory) as operator:
            study = small_study().canonical_bytes
            digest = operator.call("POST", "studies", body=study)["digest"]
            with pytest.raises(FloError, match="is offered"):
                operator.call("POST", f"studies/{digest}/shred")
        assert flo("study", "stop", digest, "--yes", "--home", directory).returncode == 0
        refused = flo("study", "shred", digest, "--home", directory)
        assert refused.returncode == 3
        done = flo("study", "shred", digest, "--yes", "--home", directory)
        assert done.returncode == 0, done.stderr
        assert "earlier backups of the coordinator still contain the key" in done.stdout
    assert kinds(real.home).count("shredded") == 1


@pytest.mark.processes
def test_the_coordinators_key_is_replaced_after_a_shred(home: CoordinatorHome) -> None:
    with closing(home.open_store()) as store:
        offer = over(store)
        path = tensors_path(home, STUDY, "run-1")
        path.write_bytes(b"tensors")
        store.end_run("run-1", store.take_run("run-1"), "done", {"model": str(path)})
        shred(home, store, offer, "Ada", None)
    done = flo("coordinator", "replace-key", "--yes", "--home", home.directory)
    assert done.returncode == 0, done.stderr


def test_the_statistics_of_a_study_are_gone_from_folder_and_database(home: CoordinatorHome) -> None:
    with closing(home.open_store()) as store:
        store.add_study(STUDY, "00")
        store.start_run("run-1", STUDY.digest)
        sums = {"values": [12345.5], "hospitals": ["north"]}
        result = {"rounds": 1, "epsilon": 0.5, "delta": 1e-6, "statistics": sums}
        store.end_run("run-1", store.take_run("run-1"), "done", result)
        store.set_status(STUDY.digest, "done")
        path = result_path(home, STUDY, "run-1")
        path.parent.mkdir(exist_ok=True)
        path.write_text("12345.5")
        offer = store.offer(STUDY.digest)
        assert offer is not None
        assert shred(home, store, offer, "Ada", None) == 1
        record = store.last_run(STUDY.digest)
        assert record is not None
        assert record.result == {"rounds": 1, "epsilon": 0.5, "delta": 1e-6}
        assert not path.exists()

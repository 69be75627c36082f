"""The model that a run continues is there before it starts, sealed, and gone when it is over."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flo.errors import RefusedError, StudyError, TrustError
from flo.keys.keystore import AesKeyStore
from flo.privacy.releases import asked_model, gate
from flo.server.home.coordinator_home import CoordinatorConfig, CoordinatorHome
from flo.server.keys.study_keys import study_key
from flo.server.rounds import checkpoint
from flo.server.rounds.state import RunState
from flo.server.runs import earlier, local_store, remote_store
from flo.server.runs.local_store import LocalRunStore
from flo.server.store.run_tables import RunRecord
from flo.server.store.store import Store
from flo.server.studies.gated import with_models
from flo.server.studies.own_models import OwnModels
from flo.study.document import Study, from_document
from flo.study.gate_draft import draft
from flo.study.models import request_length
from tests.builders import small_study
from tests.flo.published_models import weights_of
from tests.server.continued import publish
from tests.server.runs.test_scheduler import Scene, scene

__all__ = ["scene"]
RUN = "run-1"
FIRST = small_study(schema_version=4)


class Kept:
    """A coordinator that has published a model, and a run that continues it."""

    def __init__(self, home: CoordinatorHome, store: Store) -> None:
        self.home, self.store = home, store
        self.card = publish(home, FIRST)
        self.study = continuing(self.card.digest)
        store.add_study(self.study, "00")
        store.start_run(RUN, self.study.digest)
        self.key = earlier.key_of(RUN, local_store.EARLIER, "earlier")

    def keep(self) -> None:
        earlier.keep(
            self.home, self.store, self.study, RUN, self.home.states(), local_store.EARLIER
        )

    def run(self, master: bytes = b"") -> LocalRunStore:
        salt = self.store.salt(self.study.digest)
        key = study_key(master or self.home.open_checkpoint_key(), salt, self.study.digest)
        states = self.home.states()
        return LocalRunStore(self.store, RUN, self.study, AesKeyStore(key), states)

    @property
    def file(self) -> Path:
        return self.home.directory / "states" / self.key


def key_of(record: RunRecord) -> str:
    return earlier.key_of(record.id, local_store.EARLIER, "earlier")


def continuing(card: str) -> Study:
    lineage = {"card": card, "study": FIRST.digest, "name": "tiny", "version": 1}
    lineage |= {"epsilon": 0.9, "delta": 1e-6, "worth": 72.9}
    return small_study(
        schema_version=4, version=2, continues={"models": [card], "lineage": [lineage]}
    )


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Kept]:
    home = CoordinatorHome.create(tmp_path / "home", CoordinatorConfig())
    with closing(home.open_store()) as store:
        yield Kept(home, store)


def test_a_run_finds_the_model_of_the_card_that_its_study_names(kept: Kept) -> None:
    kept.keep()
    found = kept.run().earlier()
    assert found is not None
    np.testing.assert_array_equal(found.weights, weights_of(FIRST))
    assert found.worth == 72.9
    assert weights_of(FIRST).tobytes() not in kept.file.read_bytes(), "it is sealed"
    with pytest.raises(TrustError):
        kept.run(master=bytes(32)).earlier()


def test_a_run_of_a_study_that_continues_nothing_finds_none(kept: Kept) -> None:
    earlier.keep(kept.home, kept.store, FIRST, RUN, kept.home.states(), local_store.EARLIER)
    assert not kept.file.exists()
    other = LocalRunStore(kept.store, RUN, FIRST, AesKeyStore(bytes(32)), kept.home.states())
    assert other.earlier() is None


def test_a_run_finds_the_models_that_its_gate_compares(kept: Kept) -> None:
    """A study that trains has the current model there; one that compares, its whole request."""
    second = small_study(schema_version=4, name="other")
    other = publish(kept.home, second)
    terms: dict[str, Any] = {"epsilon": 0.5, "current": kept.card.digest}
    trains = small_study(schema_version=4, name="new", gate=terms)
    both = (other.digest, second), (kept.card.digest, FIRST)
    compares = from_document(draft(*both, epsilon=0.5, prevalence=0.3))
    models = OwnModels(kept.home)
    for number, wish in enumerate((trains, compares)):
        study, run = with_models(wish, models.card), f"run-{number + 7}"
        kept.store.add_study(study, "00")
        kept.store.start_run(run, study.digest)
        states = kept.home.states()
        earlier.keep(kept.home, kept.store, study, run, states, local_store.EARLIER)
        salt = kept.store.salt(study.digest)
        key = AesKeyStore(study_key(kept.home.open_checkpoint_key(), salt, study.digest))
        here = LocalRunStore(kept.store, run, study, key, states)
        current = asked_model.scorer(weights_of(FIRST), None)
        found = here.compared()
        assert here.earlier() is None
        expected = current
        if study.compares:
            candidate = asked_model.scorer(weights_of(small_study()), None)
            expected = gate.request(candidate, current, 0.3)
            assert len(expected) == request_length(study, "gate")
        np.testing.assert_array_equal(found, expected)
        state = RunState.start(study, None, found)
        again = checkpoint.from_bytes(checkpoint.to_bytes(state))
        np.testing.assert_array_equal(again.compared, expected)
        assert state.phase == ("gate" if study.compares else "training")
        other_file = (
            kept.home.directory / "states" / earlier.key_of(run, local_store.EARLIER, "compared")
        )
        assert expected[:5].tobytes() not in other_file.read_bytes(), "it is sealed"


def test_it_is_kept_once_and_removed_with_the_runs_states(kept: Kept) -> None:
    kept.keep()
    before = kept.file.read_bytes()
    kept.keep()
    assert kept.file.read_bytes() == before
    run = kept.run()
    run.save(RunState.start(kept.study, run.earlier()))
    kept.file.unlink()
    kept.keep()  # a state is saved, which has it
    assert not kept.file.exists()
    kept.file.write_bytes(before)
    run.end("done", {})
    assert not kept.file.exists()


def test_a_changed_file_is_refused(kept: Kept) -> None:
    kept.keep()
    data = bytearray(kept.file.read_bytes())
    data[-1] ^= 1
    kept.file.write_bytes(data)
    with pytest.raises(TrustError, match="saved earlier"):
        kept.run().earlier()


def test_a_model_that_was_erased_since_is_named(kept: Kept) -> None:
    for file in (kept.home.directory / "models").glob("*.safetensors"):
        file.unlink()
    with pytest.raises(StudyError, match="were erased, or moved away"):
        kept.keep()


def test_a_study_that_was_shredded_gets_no_sealed_copy(kept: Kept) -> None:
    kept.store.erase_salt(kept.study.digest)
    with pytest.raises(RefusedError, match="was shredded"):
        kept.keep()


def test_its_key_elsewhere_comes_before_every_states(kept: Kept) -> None:
    key = earlier.key_of(RUN, remote_store.EARLIER, "earlier")
    assert key < f"runs/{RUN}/state-00000001.sealed"
    assert key.startswith(f"runs/{RUN}/state-")


def test_a_run_whose_model_is_gone_is_paused_and_says_why(scene: Scene) -> None:
    card = publish(scene.home, FIRST)
    for file in (scene.home.directory / "models").glob("*.safetensors"):
        file.unlink()
    digest = scene.offers(continuing(card.digest))
    scene.runs.watch()
    assert scene.status(digest) == "paused"
    scene.link.online = {1, 2, 3}
    assert scene.after(9) == 0
    assert scene.kinds(digest).count("resumed") in (2, 3, 4), "tried less and less often"
    (event, *_) = [e for e in scene.store.events(digest) if e["kind"] == "paused"]
    assert "a model that it needs could not be put in place" in event["facts"]["why"]


def test_a_run_whose_model_is_there_starts(scene: Scene) -> None:
    digest = scene.offers(continuing(publish(scene.home, FIRST).digest))
    assert scene.after(1) == 1
    record = scene.store.last_run(digest)
    assert record is not None
    assert (scene.home.directory / "states" / key_of(record)).is_file()


def test_nothing_sealed_is_left_of_a_run_that_is_given_up(scene: Scene) -> None:
    digest = scene.offers(continuing(publish(scene.home, FIRST).digest))
    scene.runs.watch()
    record = scene.store.last_run(digest)
    assert record is not None
    file = scene.home.directory / "states" / key_of(record)
    assert file.is_file()
    scene.store.request_stop(digest)
    for launch in range(1, 7):
        scene.link.finished.add(launch)
        scene.runs.watch()
    assert scene.status(digest) == "ended"
    assert not file.exists()


@pytest.mark.parametrize("restarts", [False, True])
def test_nothing_sealed_is_left_if_a_process_dies_after_the_end(
    scene: Scene, *, restarts: bool
) -> None:
    digest = scene.offers(continuing(publish(scene.home, FIRST).digest))
    scene.runs.watch()
    record = scene.store.last_run(digest)
    assert record is not None
    file = scene.home.directory / "states" / key_of(record)
    scene.store.end_run(record.id, scene.store.take_run(record.id), "done", {})
    assert file.is_file()
    if restarts:
        scene.restarted().recover()
    else:
        scene.runs.watch()
    assert not file.exists()


def test_a_disk_that_is_full_stops_no_other_run(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(earlier, "keep", full)
    digest = scene.offers(continuing(publish(scene.home, FIRST).digest))
    other = scene.offers(small_study(name="other"))
    scene.runs.watch()
    assert scene.status(digest) == "paused"
    assert scene.status(other) == "running"
    assert len(scene.link.started) == 1


def test_a_backup_that_has_the_run_can_open_what_is_kept_for_it(scene: Scene) -> None:
    digest = scene.offers(continuing(publish(scene.home, FIRST).digest))
    scene.store.start_run(RUN, digest)
    with closing(scene.home.open_store()) as copy:
        salts = copy._all("SELECT salt FROM salts WHERE study = ?", digest)
    assert salts == [(scene.store.salt(digest),)]

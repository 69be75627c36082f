"""A run that is carried out elsewhere: real TLS, a real coordinator, states in a folder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from flo.documents import canonical
from flo.errors import FloError, NetworkError, RefusedError, TrustError
from flo.keys.claims import LedgerHead
from flo.keys.identity import Identity
from flo.keys.keystore import AesKeyStore
from flo.privacy.releases import second_moments
from flo.server.home.coordinator_home import CoordinatorConfig, CoordinatorHome
from flo.server.http.tokens import issue
from flo.server.keys.study_keys import study_key
from flo.server.rounds.state import RunState
from flo.server.runs import earlier, remote_store
from flo.server.runs.execute import _result
from flo.server.runs.remote_client import RemoteRunClient
from flo.server.runs.remote_store import RemoteRunStore
from flo.server.store.run_tables import new_run_id
from flo.server.store.store import Store
from flo.server.studies.publish import tensors_name
from flo.storage.artifacts import LocalArtifacts
from flo.study.document import Study
from flo.study.models import parameter_count
from tests.builders import HOSPITALS, make_site, small_study, study_document
from tests.flo.continued import ancestor, continuing
from tests.flo.published_models import weights_of
from tests.server.continued import publish
from tests.server.real_coordinator import RealCoordinator, new_home, served, serving

pytestmark = pytest.mark.processes

LIMIT = 1 << 24
SUMS = {"values": [1.0], "hospitals": ["nobody"]}
RESULT = {"rounds": 1, "epsilon": 0.9, "delta": 1e-6}


def _event(kind: str, **facts: Any) -> dict[str, Any]:
    return {"kind": kind, "facts": facts}


@pytest.fixture(scope="module")
def coordinator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealCoordinator]:
    """It leaves runs alone, also those that it finds at its start: a test carries them out."""
    nothing = "lambda self: None"
    alone = f"from flo.server.runs.scheduler import Runs\nRuns.watch = Runs.recover = {nothing}"
    home = new_home(tmp_path_factory.mktemp("remote") / "home")
    with served(RealCoordinator(home, before=alone)) as real:
        yield real


@pytest.fixture
def stage(coordinator: RealCoordinator, tmp_path: Path) -> Iterator[Elsewhere]:
    with closing(coordinator.home.open_store()) as store:
        elsewhere = Elsewhere(coordinator, store, tmp_path)
        yield elsewhere
        for link in elsewhere.links:
            link.close()


class Elsewhere:
    """One run that waits to be carried out, and whoever wants to."""

    def __init__(
        self, coordinator: RealCoordinator, store: Store, folder: Path, **changes: Any
    ) -> None:
        self.coordinator, self.store, self.folder = coordinator, store, folder
        self.sites = [make_site(folder / name, name) for name in HOSPITALS]
        self.run = new_run_id()
        self.study = self._offered(**changes)
        self.artifacts = LocalArtifacts(folder / "artifacts")
        self.keystore = AesKeyStore(bytes(32))
        self.links: list[RemoteRunClient] = []

    def _offered(self, **changes: Any) -> Study:
        keys = {
            site.read_config().hospital: site.open_identity().fingerprint for site in self.sites
        }
        name = f"study-{self.run[4:]}"[:40]
        study = small_study(name=name, **changes).with_fingerprints(keys)
        self.store.add_study(study, "00", "sagemaker")
        self.store.start_run(self.run, study.digest)
        return study

    def link(self, run: str = "", **token: Any) -> RemoteRunClient:
        asked = {"role": "aggregator", "seconds": 60, "name": self.run, **token}
        identity = self.coordinator.home.open_identity()
        text, _ = issue(identity, asked["name"], asked["role"], asked["seconds"], asked.get("now"))
        home = self.coordinator.home
        ca = home.ca_path.read_text()
        self.links.append(
            RemoteRunClient(home.read_private_url(), ca, text, run or self.run, patience=0.2)
        )
        return self.links[-1]

    def taken(self, study: str = "") -> RemoteRunStore:
        return RemoteRunStore(
            self.link(), self.run, study or self.study.digest, self.artifacts, self.keystore
        )

    def saved(self, number: int = 3) -> RunState:
        """The newest of so many states."""
        remote, state = self.taken(), RunState.start(self.study)
        for round_ in range(1, number + 1):
            state = replace(state, round=round_)
            remote.save(state)
        return state

    def newest(self) -> str:
        return self.artifacts.keys("runs/")[-1]

    def replace_newest(self, data: bytes) -> None:
        newest = self.newest()
        self.artifacts.remove(newest)
        self.artifacts.put(newest, data)

    def events(self) -> list[str]:
        return [event["kind"] for event in self.store.events(self.study.digest)]


# -- the state -------------------------------------------------------------------------------------


def test_what_a_run_came_to_is_kept_as_it_is_here(stage: Elsewhere) -> None:
    estimate = {"auc": 0.8, "low": 0.7, "high": 0.9, "level": 0.9, "noise_share": 0.5, "bias": 0.1}
    name = tensors_name(stage.study, stage.run)
    given = {**RESULT, "estimate": estimate, "subgroups": {"ward=a": estimate}, "model": name}
    stage.taken().end("done", {**given, "model_digest": "ab" * 32})
    record = stage.store.run(stage.run)
    assert record is not None
    assert record.status == "done"
    where = str(stage.coordinator.home.directory / "models" / name)
    assert record.result == {**given, "model": where, "model_digest": "ab" * 32}
    assert stage.events() == ["done"]


def test_what_a_card_says_of_its_model_comes_from_a_job_as_from_here(
    coordinator: RealCoordinator, tmp_path: Path
) -> None:
    """Golden cases, noise and average of a real result, and none of them of another study."""
    mechanism = study_document()["mechanism"]
    mechanism |= {"algorithm": "whitened", "steps": 4, "clip": 0.2, "learning_rate": 4}
    with closing(coordinator.home.open_store()) as store:
        stage = Elsewhere(coordinator, store, tmp_path, schema_version=4, mechanism=mechanism)
        size = parameter_count(stage.study)
        state = replace(
            RunState.start(stage.study),
            phase="done",
            weights=np.linspace(-1, 1, size),
            released=np.ones(second_moments.length(stage.study)),
            released_by=tuple(sorted(hospital.id for hospital in stage.study.hospitals)),
        )
        result = _result(stage.study, state, tensors_name(stage.study, stage.run))
        assert {"golden", "noise", "average"} <= set(result)
        wrong = result | {"noise": result["noise"][:-1]}
        with pytest.raises(FloError, match="noise is not of this study"):
            stage.taken().end("done", wrong)
        wrong = result | {"golden": {**result["golden"], "log_odds": [0.5]}}
        with pytest.raises(FloError, match="golden cases are not of this study"):
            stage.taken().end("done", wrong)
        stage.taken().end("done", result)
        record = store.run(stage.run)
        assert record is not None
        assert record.result is not None
        for name in ("golden", "noise", "average"):
            assert record.result[name] == result[name]
        (event,) = [e for e in store.events(stage.study.digest) if e["kind"] == "done"]
        assert not {"golden", "noise", "average"} & set(event["facts"]), "they are in no audit log"
        for link in stage.links:
            link.close()


def test_who_takes_the_run_over_goes_on_from_the_state_that_was_saved_last(
    stage: Elsewhere,
) -> None:
    assert stage.taken().load() is None
    state = stage.saved(5)
    found = stage.taken().load()
    assert found is not None
    assert found.round == 5
    np.testing.assert_array_equal(found.weights, state.weights)


ROUND: dict[str, Any] = {"phase": "training", "cohort": ["north"], "seconds": 0.5}


def test_a_round_and_its_state_are_kept_together_or_not_at_all(
    stage: Elsewhere, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job that is killed after it stored a state, and before its report, told of no round."""
    remote, state = stage.taken(), RunState.start(stage.study)
    remote.save_round(replace(state, round=2), round=1, **ROUND)
    monkeypatch.setattr(RemoteRunClient, "post", _killed)
    with pytest.raises(Killed):
        remote.save_round(replace(state, round=3), round=2, **ROUND)
    monkeypatch.undo()
    found = stage.taken().load()
    assert found is not None
    assert found.round == 2
    assert [event["facts"]["round"] for event in stage.store.events(stage.study.digest)] == [1]


class Killed(Exception):
    """The job is killed at this instant."""


def _killed(*_: Any) -> None:
    raise Killed


def test_a_report_that_is_sent_again_tells_of_its_round_once(
    stage: Elsewhere, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The coordinator stored it, and its answer was lost on the way."""
    remote, state = stage.taken(), RunState.start(stage.study)
    once = RemoteRunClient.post

    def twice(link: RemoteRunClient, call: str, body: bytes) -> Any:
        once(link, call, body)
        return once(link, call, body)

    monkeypatch.setattr(RemoteRunClient, "post", twice)
    for number in (1, 2):
        remote.save_round(replace(state, round=number + 1), round=number, **ROUND)
    assert [event["facts"]["round"] for event in stage.store.events(stage.study.digest)] == [1, 2]


def test_a_state_shows_nothing_to_who_has_no_key(stage: Elsewhere) -> None:
    stage.saved()
    assert b"weights" not in stage.artifacts.get(stage.newest(), LIMIT)
    stage.keystore = AesKeyStore(bytes([1]) * 32)
    with pytest.raises(TrustError, match="was sealed by another key"):
        stage.taken().load()


def test_a_missing_state_is_named(stage: Elsewhere) -> None:
    stage.saved()
    stage.artifacts.remove(stage.newest())
    with pytest.raises(TrustError, match=r"the saved state of training 3 \(runs/.*\) is missing"):
        stage.taken().load()


def _flipped(stage: Elsewhere, kept: bytes) -> bytes:
    return kept[:-1] + bytes([kept[-1] ^ 1])


def _cut(stage: Elsewhere, kept: bytes) -> bytes:
    return kept[:-1]


def _older(stage: Elsewhere, kept: bytes) -> bytes:
    return stage.artifacts.get(stage.artifacts.keys("runs/")[-2], LIMIT)


def _nothing(stage: Elsewhere, kept: bytes) -> bytes:
    return b""


@pytest.mark.parametrize("spoil", [_flipped, _cut, _older, _nothing])
def test_a_state_that_is_not_the_saved_one_is_refused_and_named(
    stage: Elsewhere, spoil: Callable[[Elsewhere, bytes], bytes]
) -> None:
    stage.saved()
    stage.replace_newest(spoil(stage, stage.artifacts.get(stage.newest(), LIMIT)))
    with pytest.raises(TrustError, match=r"saved state of training 3 .* is not the last one saved"):
        stage.taken().load()


def test_a_job_finds_the_model_that_its_study_continues_until_the_end(
    coordinator: RealCoordinator, tmp_path: Path
) -> None:
    home, first = coordinator.home, small_study(schema_version=4)
    card = publish(home, first)
    lineage = continuing(ancestor(card=card.digest, worth=72.9), models=(card.digest,)).continues
    assert lineage is not None
    with closing(home.open_store()) as store:
        changes = {"schema_version": 4, "continues": lineage.model_dump(mode="json")}
        stage = Elsewhere(coordinator, store, tmp_path, **changes)
        salt = store.salt(stage.study.digest)
        key = study_key(home.open_checkpoint_key(), salt, stage.study.digest)
        stage.keystore = AesKeyStore(key)
        earlier.keep(home, store, stage.study, stage.run, stage.artifacts, remote_store.EARLIER)
        remote = stage.taken()
        found = remote.earlier()
        assert found is not None
        assert found.weights.tobytes() == weights_of(first).tobytes()
        assert found.worth == 72.9
        remote.save(RunState.start(stage.study, found))
        remote.end("ended", RESULT)
        assert stage.artifacts.keys("runs/") == []
        for link in stage.links:
            link.close()


def test_old_states_are_cleared_away_and_all_of_them_at_the_end(
    stage: Elsewhere, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_store, "_KEEP", 2)
    monkeypatch.setattr(remote_store, "_CLEAR_EVERY", 16)
    stage.saved(40)
    assert 2 <= len(stage.artifacts.keys("runs/")) <= 18
    remote = stage.taken()
    remote.end("ended", RESULT)
    assert stage.artifacts.keys("runs/") == []


# -- two who carry out the same run ----------------------------------------------------------------


def test_whoever_took_the_run_before_saves_nothing_any_more(stage: Elsewhere) -> None:
    first, state = stage.taken(), RunState.start(stage.study)
    first.save(state)
    second = stage.taken()
    second.save(replace(state, round=2))
    for late in (
        lambda: first.save(replace(state, round=7)),
        lambda: first.end("done", RESULT),
        lambda: first.pause(round=1, phase="training"),
        lambda: first.heads(),
    ):
        with pytest.raises(RefusedError, match="another process carries it out"):
            late()
    found = stage.taken().load()
    assert found is not None
    assert found.round == 2


def test_a_state_that_an_earlier_one_left_behind_is_no_obstacle(stage: Elsewhere) -> None:
    state = stage.saved(2)
    stage.artifacts.put(stage.newest().replace("02.sealed", "03.sealed"), b"of one that died")
    remote = stage.taken()
    remote.save(replace(state, round=9))
    assert stage.newest().endswith("state-00000004.sealed")
    found = stage.taken().load()
    assert found is not None
    assert found.round == 9


def test_an_end_by_an_earlier_one_leaves_the_run_as_it_is(stage: Elsewhere) -> None:
    first = stage.taken()
    stage.taken()
    with pytest.raises(RefusedError):
        first.end("done", RESULT)
    record = stage.store.run(stage.run)
    assert record is not None
    assert record.status == "running"
    assert "done" not in stage.events()


# -- what the coordinator takes --------------------------------------------------------------------


def test_events_arrive_with_the_next_word_and_heads_are_checked(stage: Elsewhere) -> None:
    remote = stage.taken()
    remote.event("online", hospitals=["north"])
    assert stage.events() == []
    remote.save(RunState.start(stage.study))
    assert stage.events() == ["online"]
    with closing(stage.sites[0].open_ledger()) as ledger:
        head = ledger.head()
    assert head is not None
    remote.keep_head(HOSPITALS[0], head)
    assert remote.heads()[HOSPITALS[0]] == head
    forged = LedgerHead(
        sequence=9, hash="0" * 64, signature="00", public=Identity.new().public.hex()
    )
    with pytest.raises(TrustError):
        remote.keep_head(HOSPITALS[0], forged)
    body = _tell(heads={HOSPITALS[0]: forged.model_dump(mode="json")}, launch=1)
    with pytest.raises(RefusedError):
        stage.link().post("tell", body)
    assert stage.store.heads()[HOSPITALS[0]] == head


def _tell(**what: Any) -> bytes:
    return canonical.encode({"launch": 1, "heads": {}, **what})


@pytest.mark.parametrize(
    ("what", "named"),
    [
        pytest.param({"events": [{"kind": "approved", "facts": {}}]}, "events", id="event kind"),
        pytest.param({"events": [{"kind": "round"}]}, "facts", id="no facts"),
        pytest.param({"events": [{"kind": "round", "facts": {}}] * 1001}, "events", id="flood"),
        pytest.param({"events": [_event("round")]}, "events", id="a round without facts"),
        pytest.param(
            {"events": [_event("excluded", hospital="north", study="x")]}, "events", id="a name"
        ),
        pytest.param(
            {"events": [_event("failed", why=[[[["deep"]]]])]}, "events", id="facts of another kind"
        ),
        pytest.param({"events": [_event("failed", why="x" * 501)]}, "events", id="a long text"),
        pytest.param(
            {"events": [_event("refused", hospital="north", code="\x1b[2J")]}, "events", id="escape"
        ),
        pytest.param({"end": {"status": "running"}}, "end.status", id="no end"),
        pytest.param({"end": {"status": "done"}}, "result", id="no result"),
        pytest.param(
            {"end": {"status": "done", "result": {"more": 1}}}, "result", id="no such result"
        ),
        pytest.param(
            {"end": {"status": "done", "result": {**RESULT, "model": "../x"}}}, "model", id="path"
        ),
        pytest.param(
            {"end": {"status": "done", "result": {**RESULT, "statistics": SUMS}}},
            "statistics are not of this study",
            id="statistics of a study that trains",
        ),
        pytest.param({"saved": {"number": -1}}, "saved.number", id="number"),
        pytest.param({"launch": "x"}, "launch", id="launch"),
        pytest.param({"more": 1}, "more", id="a name too many"),
        pytest.param({"heads": {"nobody": 1}}, "heads", id="heads"),
    ],
)
def test_what_a_run_cannot_say_is_refused_and_changes_nothing(
    stage: Elsewhere, what: dict[str, Any], named: str
) -> None:
    stage.taken()
    before = stage.store.run(stage.run)
    with pytest.raises(RefusedError, match=named):
        stage.link().post("tell", _tell(**what))
    assert stage.store.run(stage.run) == before
    assert stage.events() == []


@pytest.mark.parametrize("body", [b"", b"[]", b"{", bytes(9 << 20)])
def test_what_is_no_document_is_refused(stage: Elsewhere, body: bytes) -> None:
    stage.taken()
    with pytest.raises(FloError):
        stage.link().post("tell", body)
    assert stage.events() == []


def test_a_paused_run_is_taken_by_nobody(stage: Elsewhere) -> None:
    stage.taken().pause(round=1, phase="training")
    assert stage.events() == ["paused"]
    with pytest.raises(RefusedError, match="is paused"):
        stage.taken()


def test_a_number_that_came_as_text_is_kept_as_a_number(stage: Elsewhere) -> None:
    stage.taken()
    facts = {"phase": "training", "round": "1", "cohort": ["north"], "seconds": "0.5"}
    stage.link().post("tell", _tell(events=[_event("round", **facts)]))
    (event,) = stage.store.events(stage.study.digest)
    assert event["facts"] == {**facts, "round": 1, "seconds": 0.5}


def test_a_head_of_a_hospital_that_is_not_in_the_study_is_refused(stage: Elsewhere) -> None:
    stage.taken()
    with closing(stage.sites[0].open_ledger()) as ledger:
        head = ledger.head()
    assert head is not None
    with pytest.raises(RefusedError):
        stage.link().post("tell", _tell(heads={"nobody": head.model_dump(mode="json")}))
    assert "nobody" not in stage.store.heads()


# -- who may ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("token", "named", "logged"),
    [
        pytest.param({"now": 1_700_000_000}, "expired", "denied", id="expired"),
        pytest.param(
            {"role": "operator"}, "operator may not carry out a run", "denied", id="a person's"
        ),
        pytest.param(
            {"name": "run-0-000000"},
            "this token is for another run",
            "refused-call",
            id="another run's",
        ),
    ],
)
def test_only_the_runs_own_token_opens_it(
    stage: Elsewhere, token: dict[str, Any], named: str, logged: str
) -> None:
    def refused() -> Counter[str]:
        return Counter(kind for _, _, kind, _, _ in stage.store.events_after(0))

    before = refused()
    link = stage.link(**token)
    for call in (link.status, lambda: link.post("take", b""), lambda: link.post("tell", _tell())):
        with pytest.raises(FloError, match=named):
            call()
    assert refused() - before == {logged: 3}


def test_a_jobs_token_opens_nothing_else(stage: Elsewhere) -> None:
    text, _ = issue(stage.coordinator.home.open_identity(), stage.run, "aggregator", 60)
    headers = {"authorization": f"Bearer {text}"}
    for method, path in (("GET", "/v1/flo/studies"), ("GET", "/v1/flo/audit")):
        assert stage.coordinator.private(method, path, headers=headers).status == 403


def test_a_job_that_is_not_there_is_given_no_run(stage: Elsewhere) -> None:
    for path in (
        "/job/flo-run-0-000000-1/v1/runtime/acquire-task",
        "/job/x/v1/flo/studies",
        "/job/",
    ):
        assert stage.coordinator.private("POST", path).status == 401


def test_another_study_than_the_job_was_launched_for_is_refused(stage: Elsewhere) -> None:
    with pytest.raises(TrustError, match="another study than this job is for"):
        stage.taken(study="0" * 64)


def test_a_coordinator_that_is_away_is_waited_for_and_then_named(stage: Elsewhere) -> None:
    slept: list[float] = []
    ca = stage.coordinator.home.ca_path.read_text()
    link = RemoteRunClient(
        "https://127.0.0.1:1", ca, "-", stage.run, patience=0.3, sleep=slept.append
    )
    with (
        closing(link),
        pytest.raises(NetworkError, match=r"127\.0\.0\.1:1 has not answered for 0\.3 seconds"),
    ):
        link.status()
    assert slept


def test_a_coordinator_that_stumbles_is_waited_for_and_then_named(tmp_path: Path) -> None:
    before = """
from flo.server.store.store import Store
def fails(self, run):
    raise RuntimeError("of whatever kind")
Store.run = fails
"""
    with serving(tmp_path / "home", before) as real:
        text, _ = issue(real.home.open_identity(), "run-1-000001", "aggregator", 60)
        ca = real.home.ca_path.read_text()
        link = RemoteRunClient(real.home.read_private_url(), ca, text, "run-1-000001", patience=0.3)
        with closing(link), pytest.raises(NetworkError, match=r"has answered 500 for 0\.3"):
            link.status()


def test_another_authoritys_coordinator_is_not_talked_to(stage: Elsewhere, tmp_path: Path) -> None:
    with serving(tmp_path / "other") as other:
        ca = stage.coordinator.home.ca_path.read_text()
        link = RemoteRunClient(other.home.read_private_url(), ca, "-", stage.run, patience=0.1)
        with closing(link), pytest.raises(NetworkError):
            link.status()


def test_a_compressed_reply_is_an_error_of_the_network(tmp_path: Path) -> None:
    ca = CoordinatorHome.create(tmp_path / "home", CoordinatorConfig()).ca_path.read_text()

    def compressed(request: httpx.Request) -> httpx.Response:
        raise httpx.DecodingError("a compressed reply is refused", request=request)

    with RemoteRunClient("https://127.0.0.1:1", ca, "-", "run-1", patience=0.0) as link:
        link.http = httpx.Client(base_url=link.url, transport=httpx.MockTransport(compressed))
        with pytest.raises(NetworkError, match="has not answered"):
            link.status()

"""What the coordinator keeps survives a restart, to the bit."""

from __future__ import annotations

import stat
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pydantic import ValidationError

from flo.documents import canonical
from flo.errors import MessageError, RefusedError, TrustError, UsageError
from flo.keys.claims import HeadAttestation, LedgerHead
from flo.keys.identity import Identity
from flo.privacy.releases.calibration import Calibration
from flo.privacy.releases.score_waves import Estimate
from flo.server.rounds import checkpoint
from flo.server.rounds.state import RunState
from flo.server.store.hospitals import Member
from flo.server.store.store import Store
from tests.builders import small_study
from tests.partners import partner, run_key, signed

KEY = run_key(partner("north"), "a" * 64)[1]
HEAD = signed(partner("north"), 7)
VOUCHER = HeadAttestation.given(partner("south"), "a" * 64, "run-1", KEY, None)
VECTORS = arrays(np.float64, 7, elements=st.floats(allow_nan=False, allow_infinity=False, width=64))
CALIBRATION = Calibration(
    log_odds=(-1.0, 1.0), risk=(0.25, 0.75), low=(0.125, 0.5), high=(0.5, 0.875), level=0.9
)


# -- the checkpoint ----------------------------------------------------------------------------


@given(weights=VECTORS, velocity=VECTORS, tail=VECTORS, auc=st.floats(0, 1))
def test_a_checkpoint_gives_back_every_bit(
    weights: np.ndarray, velocity: np.ndarray, tail: np.ndarray, auc: float
) -> None:
    estimate = Estimate(auc, 0.1, 0.9, 0.9, 0.5)
    state = RunState(
        phase="evaluation",
        round=3,
        attempt=2,
        weights=weights,
        velocity=velocity,
        tail_sum=tail,
        tail_count=4,
        retries=1,
        cohort=("north", "west"),
        heads={"north": HEAD},
        keys={"north": KEY},
        vouchers={"north": VOUCHER},
        estimate=estimate,
        calibration=CALIBRATION,
    )
    data = checkpoint.to_bytes(state)
    again = checkpoint.from_bytes(data)
    for name in ("weights", "velocity", "tail_sum"):
        assert getattr(again, name).tobytes() == getattr(state, name).tobytes()
    assert again.cohort == ("north", "west")
    assert (again.keys, again.vouchers) == ({"north": KEY}, {"north": VOUCHER})
    assert again.heads == {"north": HEAD}
    assert (again.phase, again.round, again.attempt) == ("evaluation", 3, 2)
    assert (again.tail_count, again.retries, again.estimate) == (4, 1, estimate)
    assert again.calibration == CALIBRATION
    assert checkpoint.to_bytes(again) == data


def test_a_continued_state_can_be_changed() -> None:
    state = checkpoint.from_bytes(checkpoint.to_bytes(RunState.start(small_study())))
    assert state.weights.flags.writeable


@pytest.mark.parametrize("schema", [0, 1, 2, 3, 4, 11, "6", None], ids=repr)
def test_an_unknown_schema_is_refused(schema: object) -> None:
    document = canonical.decode(
        checkpoint.to_bytes(RunState.start(small_study())), limit=1 << 20, what="checkpoint"
    )
    with pytest.raises(TrustError, match="schema"):
        checkpoint.from_bytes(canonical.encode({**document, "schema_version": schema}))


@pytest.mark.parametrize("data", [b"", b"{", b"\x80\x04K\x01."], ids=["empty", "cut", "pickle"])
def test_what_is_no_checkpoint_is_refused(data: bytes) -> None:
    with pytest.raises(MessageError):
        checkpoint.from_bytes(data)


# -- the store ---------------------------------------------------------------------------------


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "coordinator.sqlite"


def _head(sequence: int) -> LedgerHead:
    return LedgerHead(sequence=sequence, hash=f"{sequence:064x}", signature="00", public="00")


def _member(name: str) -> Member:
    identity = Identity.new()
    return Member(name, identity.public, identity.fingerprint, "ab", False, None)


def test_everything_survives_reopening(path: Path) -> None:
    study, member = small_study(), _member("north")
    head = LedgerHead(sequence=3, hash="a" * 64, signature="ff", public="00")
    store = Store(path)
    store.add_invitation("1f", "north")
    assert store.enrol("1f", member)
    store.set_node(member.public, (1 << 64) - 1)
    store.add_connection("north")
    store.add_connection("north")
    store.add_study(study, "00")
    assert store.add_approval(study.digest, "north", b"{}", "00", 3)
    assert store.start_run("run-1", study.digest)
    store.save_state("run-1", store.take_run("run-1"), b"state")
    store.keep_head("north", head)
    store.add_event(study.digest, "started", run="run-1")
    store.add_extract(study.digest, "north", b"extract")
    store.close()

    again = Store(path)
    (kept,) = again.members()
    assert kept.certified
    assert replace(kept, certified="") == Member(*_fields(member), (1 << 63) - 1)
    assert again.nodes() == {"north": (1 << 64) - 1}
    assert again.connections() == {"north": 2}
    assert not again.invited("1f", "north")
    offer = again.offer(study.digest)
    assert offer is not None
    assert (offer.study, offer.status) == (study, "running")
    assert again.approvals(study.digest) == ["north"]
    run = again.run("run-1")
    assert run is not None
    assert (run.status, run.state) == ("running", b"state")
    assert again.heads() == {"north": head}
    assert [event["kind"] for event in again.events(study.digest)] == ["started"]
    assert again.extracts(study.digest) == {"north": b"extract"}
    again.close()


def _fields(member: Member) -> tuple[str, bytes, str, str, bool]:
    return (member.id, member.public, member.fingerprint, member.serial, member.revoked)


def test_the_database_is_readable_by_its_owner_only(path: Path) -> None:
    Store(path).close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_database_of_another_schema_is_refused(path: Path) -> None:
    store = Store(path)
    store._write("UPDATE meta SET value = '2' WHERE name = 'schema'")
    store.close()
    with pytest.raises(UsageError, match="schema 2"):
        Store(path)


@pytest.mark.parametrize(
    ("seen", "kept"), [((1, 2, 3), 3), ((3, 1, 2), 3), ((2, 2), 2)], ids=["up", "down", "equal"]
)
def test_only_the_highest_head_is_kept(path: Path, seen: tuple[int, ...], kept: int) -> None:
    store = Store(path)
    for sequence in seen:
        store.keep_head("north", _head(sequence))
    assert store.heads()["north"].sequence == kept
    assert store.heads()["north"].hash == f"{kept:064x}"
    store.close()


@pytest.mark.parametrize("sequence", [0, -1, 1 << 63, 10**30])
def test_a_head_of_absurd_height_cannot_even_be_said(sequence: int) -> None:
    with pytest.raises(ValidationError):
        LedgerHead(sequence=sequence, hash="0" * 64, signature="00", public="00")


@pytest.mark.parametrize("connections", [1, 2], ids=["one connection", "two connections"])
def test_an_invitation_is_used_once_even_by_two_at_the_same_instant(
    path: Path, connections: int
) -> None:
    stores = [Store(path) for _ in range(connections)]
    stores[0].add_invitation("1f", "north")
    start, outcomes = threading.Barrier(8), []

    def use(number: int) -> None:
        start.wait(timeout=20)
        outcomes.append(stores[number % connections].enrol("1f", _MEMBERS[number]))

    threads = [threading.Thread(target=use, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert sorted(outcomes) == [False] * 7 + [True]
    assert len(stores[0].members()) == 1
    for store in stores:
        store.close()


_MEMBERS = [_member("north") for _ in range(8)]


def test_an_invitation_is_for_the_hospital_it_names(path: Path) -> None:
    store = Store(path)
    store.add_invitation("1f", "north")
    assert not store.enrol("1f", _member("south"))
    assert not store.invited("1f", "south")
    assert store.members() == []
    store.close()


def test_a_revoked_hospital_has_no_node(path: Path) -> None:
    store = Store(path)
    store.add_invitation("1f", "north")
    member = _member("north")
    store.enrol("1f", member)
    store.set_node(member.public, 7)
    assert store.nodes() == {"north": 7}
    assert store.revoke("north")
    assert store.nodes() == {}
    assert not store.revoke("nobody")
    store.close()


def test_a_node_of_a_key_that_was_replaced_meanwhile_is_not_kept(path: Path) -> None:
    store = Store(path)
    before, now = _member("north"), _member("north")
    for serial, member in (("1f", before), ("2f", now)):
        store.add_invitation(serial, "north")
        store.enrol(serial, member)
    store.set_node(now.public, 8)
    store.set_node(before.public, 7)
    assert store.nodes() == {"north": 8}
    store.close()


def test_connections_are_counted_for_each_hospital_from_its_enrolment_on(path: Path) -> None:
    store = Store(path)
    store.add_connection("north")  # not enrolled: nobody to count for
    assert store.connections() == {}
    for serial, name in (("1f", "north"), ("2f", "south")):
        store.add_invitation(serial, name)
        assert store.enrol(serial, _member(name))
    store.add_connection("south")
    assert store.connections() == {"north": 0, "south": 1}
    store.close()


def test_a_study_is_started_once(path: Path) -> None:
    store, study = Store(path), small_study()
    assert not store.start_run("run-0", study.digest), "it was never offered"
    store.add_study(study, "00")
    assert store.start_run("run-1", study.digest)
    assert not store.start_run("run-2", study.digest)
    assert [run.id for run in store.runs()] == ["run-1"]
    store.close()


def test_an_earlier_launch_of_a_run_writes_nothing_any_more(path: Path) -> None:
    store, study = Store(path), small_study()
    store.add_study(study, "00")
    store.start_run("run-1", study.digest)
    first = store.take_run("run-1")
    store.save_state("run-1", first, b"one")
    second = store.take_run("run-1")
    writes: list[Callable[[int], None]] = [
        lambda launch: store.save_state("run-1", launch, b"two"),
        lambda launch: store.pause_run("run-1", launch),
        lambda launch: store.end_run("run-1", launch, "done", {}),
    ]
    for write in writes:
        with pytest.raises(RefusedError, match="another process carries it out"):
            write(first)
    run = store.run("run-1")
    assert run is not None
    assert (run.status, run.state) == ("running", b"one")
    writes[2](second)
    for write in writes:
        with pytest.raises(RefusedError, match="is over, or another"):
            write(second)
    store.close()


def test_a_paused_run_keeps_its_state_and_goes_on(path: Path) -> None:
    store, study = Store(path), small_study()
    store.add_study(study, "00")
    store.start_run("run-1", study.digest)
    launch = store.take_run("run-1")
    store.save_state("run-1", launch, b"one")
    store.pause_run("run-1", launch)
    store.set_status(study.digest, "paused")
    assert not store.start_run("run-2", study.digest)
    with pytest.raises(RefusedError):
        store.save_state("run-1", launch, b"two")
    store.resume_run("run-1")
    offer, run = store.offer(study.digest), store.run("run-1")
    assert (offer and offer.status, run and run.status, run and run.state) == (
        "running",
        "running",
        b"one",
    )
    store.close()


@pytest.mark.parametrize("pause", [False, True])
def test_a_run_under_way_is_stopped_when_asked(path: Path, pause: bool) -> None:
    store, study = Store(path), small_study()
    store.add_study(study, "00")
    store.start_run("run-1", study.digest)
    if pause:
        store.pause_run("run-1", store.take_run("run-1"))
    assert store.request_stop(study.digest)
    assert store.stop_requested("run-1")
    store.resume_run("run-1")
    store.end_run("run-1", store.take_run("run-1"), "stopped", {})
    assert not store.request_stop(study.digest)
    store.close()

"""The coordinator's decisions on its models: what a gate forbids, what is stored and logged."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from flo.errors import NetworkError, StudyError
from flo.keys.identity import Identity
from flo.published.gate_passed import GATE
from flo.published.gate_result import GateResult, GateSums
from flo.published.model_card import ModelCard
from flo.published.model_states import ModelStates
from flo.server.home.coordinator_home import CoordinatorConfig, CoordinatorHome
from flo.server.maintenance.key_rotation import replace_key
from flo.server.store.hospitals import Member
from flo.server.store.store import Store
from flo.server.studies.gated import described
from flo.server.studies.model_decisions import (
    Step,
    all_states,
    decide,
    listed_models,
    refuse_withdrawn,
    sign_anew,
    states_of,
)
from flo.server.studies.registry_states import RegistryStates
from flo.server.studies.signing import StudySigner
from flo.study.document import Study, from_document
from flo.study.gate_draft import draft
from tests.builders import small_study
from tests.server.continued import finished, publish

PASS, FAIL, UNSURE = (
    [200.0, 50.0, 0.0, 500.0],
    [-4000.0, 400.0, 0.0, 5000.0],
    [0.0, 40.0, 0.0, 500.0],
)
QUALITY = {"auc": 0.8, "low": 0.7, "high": 0.9, "level": 0.9}


class Desk:
    """A coordinator's folder, and a person who decides."""

    def __init__(self, home: CoordinatorHome, store: Store) -> None:
        self.home, self.store = home, store

    def published(self, study: Study, gate: list[float] | None = None) -> ModelCard:
        changes: dict[str, Any] = {"schema_version": 4} if study.gate else {}
        if gate is not None:
            changes |= {"gate": sums(gate), "evaluation": QUALITY}
        card = publish(self.home, study, run=f"run-{study.version}", **changes)
        stem = f"{study.name}-{study.version}-{study.digest[:8]}"
        path = self.home.directory / "models" / f"{stem}.safetensors"
        finished(self.home, study, {"rounds": 3, "epsilon": 1.0, "model": str(path)}, "")
        return card

    def decide(self, step: Step, study: Study, why: str = "as agreed") -> ModelStates:
        offer = self.store.offer(study.digest)
        assert offer is not None
        return decide(self.home, self.store, offer, step, why, "Ada")

    def later_gate(self, model: Study, card: ModelCard, values: list[float]) -> None:
        """The signed result of a later gate about this model, in the folder of models."""
        old = small_study(schema_version=4, name="old")
        current = publish(self.home, old)
        study = from_document(
            draft((card.digest, model), (current.digest, old), epsilon=0.5, prevalence=0.3)
        )
        study = study.with_compared([described(card.digest, model), described(current.digest, old)])
        identity = self.home.open_identity()
        result = GateResult(
            study=study.canonical_bytes.decode(),
            study_signature=identity.sign("study", study.canonical_bytes),
            run="run-7",
            made="2026-01-02T03:04:05+00:00",
            report=None,
            without_extract=("north",),
            coordinator=identity.public.hex(),
            sums=GateSums.model_validate(sums(values)),
        ).signed(identity)
        (self.home.directory / "models" / f"gate-run-7{GATE}").write_bytes(result.to_bytes())


def sums(values: list[float]) -> dict[str, Any]:
    return {"asked": "ab" * 32, "hospitals": ["north", "south", "west"], "values": values}


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    home = CoordinatorHome.create(tmp_path / "home", CoordinatorConfig())
    with closing(home.open_store()) as store:
        yield Desk(home, store)


PLAIN = small_study(schema_version=4, name="plain")
GATED = small_study(schema_version=4, name="gated", gate={"epsilon": 0.5})


def test_a_decision_is_signed_stored_and_logged(desk: Desk) -> None:
    card = desk.published(PLAIN)
    desk.decide("approve", PLAIN)
    states = desk.decide("promote", PLAIN, "for the winter")
    states.check([desk.home.open_identity().fingerprint])
    assert states_of(desk.store, "plain") == states
    assert all_states(desk.store) == [states]
    assert states.state_of(PLAIN.digest) == "current"
    last = desk.store.last_event(PLAIN.digest, "model-decided")
    assert last == {
        **{"state": "current", "by": "Ada", "why": "for the winter"},
        **{"version": 1, "card": card.digest},
    }
    (listed,) = listed_models(desk.store)
    assert (listed.name, listed.model.card, listed.state) == ("plain", card.digest, "current")
    assert listed.decided == states.decisions[-1]


def test_lists_are_signed_anew_after_the_coordinators_key_was_replaced(desk: Desk) -> None:
    desk.published(PLAIN)
    before = desk.decide("approve", PLAIN)
    replace_key(desk.home)
    sign_anew(desk.store, desk.home.open_identity())
    (anew,) = all_states(desk.store)
    anew.check([desk.home.open_identity().fingerprint])
    assert anew.decisions == before.decisions
    assert desk.decide("promote", PLAIN).continues(before)


def test_a_version_without_its_files_is_withdrawn_all_the_same(desk: Desk) -> None:
    """Nothing else tells the hospitals that have it."""
    desk.published(PLAIN)
    desk.decide("approve", PLAIN)
    for path in (desk.home.directory / "models").glob("plain-*"):
        path.write_bytes(b"damaged")
    (listed,) = listed_models(desk.store)
    assert listed.state == "approved"
    assert desk.decide("withdraw", PLAIN).state_of(PLAIN.digest) == "withdrawn"
    for path in (desk.home.directory / "models").glob("plain-*"):
        path.unlink()
    assert [one.state for one in listed_models(desk.store)] == ["withdrawn"]
    with pytest.raises(StudyError, match="has no published model"):
        desk.decide("approve", PLAIN)


def test_a_rollback_does_not_put_back_what_is_gone(desk: Desk) -> None:
    later = small_study(schema_version=4, name="plain", version=2)
    for study in (PLAIN, later):
        desk.published(study)
        desk.decide("approve", study)
        desk.decide("promote", study)
    (tensors,) = (desk.home.directory / "models").glob("plain-1-*.safetensors")
    tensors.unlink()
    with pytest.raises(StudyError, match="version 1 of plain, which was in use before, cannot be"):
        desk.decide("rollback", later)
    assert states_of(desk.store, "plain").state_of(later.digest) == "current"
    desk.decide("withdraw", PLAIN)
    with pytest.raises(StudyError, match="no version of plain that can be used"):
        desk.decide("rollback", later)


def test_the_entry_of_a_decision_is_of_the_study_that_it_is_about(desk: Desk) -> None:
    later = small_study(schema_version=4, name="plain", version=2)
    for study in (PLAIN, later):
        desk.published(study)
        desk.decide("approve", study)
        desk.decide("promote", study)
    desk.decide("rollback", later)
    for study, state in ((PLAIN, "current"), (later, "withdrawn")):
        last = desk.store.last_event(study.digest, "model-decided")
        assert last is not None
        assert (last["state"], last["version"]) == (state, study.version)


def test_a_study_does_not_continue_a_withdrawn_model(desk: Desk) -> None:
    keys = [("north", "a"), ("south", "b"), ("west", "c")]
    for name, number in keys:
        key = Identity.new()
        desk.store.add_invitation(number, name)
        desk.store.enrol(number, Member(name, key.public, key.fingerprint, number, False, None))
    plain = PLAIN.with_fingerprints(desk.store.keys())
    card = desk.published(plain)
    asked = small_study(
        schema_version=4, name="later", continues={"models": [card.digest]}
    ).with_fingerprints(desk.store.keys())
    signer = StudySigner(desk.home, desk.store)
    assert signer.complete(asked).lineage
    desk.decide("withdraw", plain, "wrong units")
    with pytest.raises(StudyError, match=r"version 1 was withdrawn on .* by Ada: wrong units"):
        signer.complete(asked)


@pytest.mark.parametrize(
    ("gate", "why"), [(FAIL, "fail"), (UNSURE, "cannot tell"), (None, "no result of gated")]
)
def test_a_model_that_did_not_pass_its_gate_is_not_promoted(
    desk: Desk, gate: list[float] | None, why: str
) -> None:
    desk.published(GATED, gate)
    with pytest.raises(StudyError, match=f"has not passed its release gate .*{why}"):
        desk.decide("approve", GATED)
    assert all_states(desk.store) == []
    assert desk.store.last_event(GATED.digest, "model-decided") is None
    desk.decide("withdraw", GATED)


def test_a_model_that_passed_its_gate_is_promoted(desk: Desk) -> None:
    desk.published(GATED, PASS)
    assert desk.decide("approve", GATED).decisions[-1].state == "approved"


def test_a_later_gate_that_failed_counts_too_and_one_that_passed_makes_good(desk: Desk) -> None:
    card = desk.published(PLAIN)
    desk.later_gate(PLAIN, card, FAIL)
    with pytest.raises(StudyError, match="has not passed its release gate"):
        desk.decide("approve", PLAIN)
    desk.later_gate(PLAIN, card, PASS)
    desk.decide("approve", PLAIN)


def test_a_model_waits_for_a_gate_under_way(desk: Desk) -> None:
    card = desk.published(PLAIN)
    old = small_study(schema_version=4, name="old")
    current = publish(desk.home, old)
    gate = from_document(
        draft((card.digest, PLAIN), (current.digest, old), epsilon=0.5, prevalence=0.3)
    )
    desk.store.add_study(gate, "00")
    with pytest.raises(StudyError, match=rf"\(no result of {gate.name}\)"):
        desk.decide("approve", PLAIN)
    desk.store.set_status(gate.digest, "stopped")
    desk.decide("approve", PLAIN)


def test_a_study_without_a_model_has_nothing_to_decide_on(desk: Desk) -> None:
    desk.store.add_study(PLAIN, "00")
    for step in ("approve", "promote", "withdraw"):
        with pytest.raises(StudyError, match="plain, version 1, has no published model"):
            desk.decide(step, PLAIN)


def test_a_withdrawn_version_is_named_with_the_reason(desk: Desk) -> None:
    desk.published(PLAIN)
    states = desk.decide("withdraw", PLAIN, "wrong units")
    with pytest.raises(StudyError, match=r"version 1 was withdrawn on .* by Ada: wrong units"):
        refuse_withdrawn([states], PLAIN.digest)


# -- a registry elsewhere follows ------------------------------------------------------------------


class Registry:
    """A registry that is away for some models, and whose states somebody changes by hand."""

    def __init__(self) -> None:
        self.away, self.told = {"other", "plain"}, list[ModelStates]()

    def set_states(self, states: ModelStates) -> int:
        if states.name in self.away:
            raise NetworkError("no answer")
        self.told.append(states)
        return 1


def test_a_registry_follows_and_is_tried_again(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr("flo.server.studies.registry_states.time.monotonic", lambda: now[0])
    other = small_study(schema_version=4, name="other")
    desk.published(PLAIN)
    desk.published(other)
    registry = Registry()
    following = RegistryStates(registry, desk.store.model_states, lambda: all_states(desk.store))
    following.follow_if_due()
    assert following.failed == 0, "nothing to tell"
    desk.decide("approve", other)
    states = desk.decide("approve", PLAIN)
    following.follow_if_due()
    assert following.failed == 2
    registry.away = {"other"}
    following.follow_if_due()
    assert registry.told == [], "not before a minute"
    now[0] += 61
    following.follow_if_due()
    assert registry.told == [states], "one that fails keeps no other from being told"
    registry.away = set()
    now[0] += 61
    following.follow_if_due()
    following.follow_if_due()
    assert [one.name for one in registry.told[1:]] == ["other", "plain"]
    states = desk.decide("promote", PLAIN)
    following.follow_if_due()
    assert registry.told[-1] == states, "a decision at once"
    now[0] += 3601
    following.follow_if_due()
    assert len(registry.told) == 7, "and all again every hour"

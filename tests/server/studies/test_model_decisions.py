"""The coordinator's decisions on its models: what a gate forbids, what is stored and logged."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from flo.errors import NetworkError, StudyError
from flo.published.gate_passed import GATE
from flo.published.gate_result import GateResult, GateSums
from flo.published.model_card import ModelCard
from flo.published.model_states import ModelStates
from flo.server.home.coordinator_home import CoordinatorConfig, CoordinatorHome
from flo.server.maintenance.key_rotation import replace_key
from flo.server.store.store import Store
from flo.server.studies.gated import described
from flo.server.studies.model_decisions import (
    Step,
    all_states,
    decide,
    published_models,
    refuse_withdrawn,
    states_of,
)
from flo.server.studies.registry_states import RegistryStates
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
    desk.decide("promote", PLAIN)
    states = desk.decide("promote", PLAIN, "for the winter")
    states.check([desk.home.open_identity().fingerprint])
    assert states_of(desk.store, "plain") == states
    assert all_states(desk.store) == [states]
    assert states.state_of(card.digest) == "current"
    last = desk.store.last_event(PLAIN.digest, "model-decided")
    assert last == {
        **{"state": "current", "by": "Ada", "why": "for the winter"},
        **{"version": 1, "card": card.digest},
    }
    (listed,) = published_models(desk.store)
    assert (listed.name, listed.run, listed.state) == ("plain", "run-1", "current")
    assert listed.decided == states.decisions[-1]


def test_earlier_decisions_hold_after_the_coordinators_key_was_replaced(desk: Desk) -> None:
    desk.published(PLAIN)
    before = desk.decide("promote", PLAIN)
    replace_key(desk.home)
    after = desk.decide("promote", PLAIN)
    assert after.continues(before)
    after.check([desk.home.open_identity().fingerprint])


@pytest.mark.parametrize(
    ("gate", "why"), [(FAIL, "gated: fail"), (UNSURE, "gated: cannot tell"), (None, "cannot tell")]
)
def test_a_model_that_did_not_pass_its_gate_is_not_promoted(
    desk: Desk, gate: list[float] | None, why: str
) -> None:
    desk.published(GATED, gate)
    with pytest.raises(StudyError, match=f"has not passed its release gate .*{why}"):
        desk.decide("promote", GATED)
    assert all_states(desk.store) == []
    assert desk.store.last_event(GATED.digest, "model-decided") is None
    desk.decide("withdraw", GATED)


def test_a_model_that_passed_its_gate_is_promoted(desk: Desk) -> None:
    desk.published(GATED, PASS)
    assert desk.decide("promote", GATED).decisions[-1].state == "approved"


def test_a_later_gate_that_failed_counts_too_and_one_that_passed_makes_good(desk: Desk) -> None:
    card = desk.published(PLAIN)
    desk.later_gate(PLAIN, card, FAIL)
    with pytest.raises(StudyError, match="has not passed its release gate"):
        desk.decide("promote", PLAIN)
    desk.later_gate(PLAIN, card, PASS)
    desk.decide("promote", PLAIN)


def test_a_study_without_a_model_has_nothing_to_decide_on(desk: Desk) -> None:
    desk.store.add_study(PLAIN, "00")
    for step in ("promote", "withdraw"):
        with pytest.raises(StudyError, match="plain, version 1, has no published model"):
            desk.decide(step, PLAIN)


def test_a_withdrawn_version_is_named_with_the_reason(desk: Desk) -> None:
    card = desk.published(PLAIN)
    states = desk.decide("withdraw", PLAIN, "wrong units")
    with pytest.raises(StudyError, match=r"version 1 of plain was withdrawn on .*: wrong units"):
        refuse_withdrawn(states, card.digest)


# -- a registry elsewhere follows ------------------------------------------------------------------


class Registry:
    """A registry that is away at first, and whose states somebody changes by hand."""

    def __init__(self) -> None:
        self.away, self.told = True, list[ModelStates]()

    def set_states(self, states: ModelStates) -> int:
        if self.away:
            raise NetworkError("no answer")
        self.told.append(states)
        return 1


def test_a_registry_follows_and_is_tried_again(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr("flo.server.studies.registry_states.time.monotonic", lambda: now[0])
    desk.published(PLAIN)
    registry = Registry()
    following = RegistryStates(registry, lambda: all_states(desk.store))
    following.follow_if_due()
    assert following.failed == 0, "nothing to tell"
    states = desk.decide("promote", PLAIN)
    following.follow_if_due()
    assert following.failed == 1
    registry.away = False
    following.follow_if_due()
    assert registry.told == [], "not before a minute"
    now[0] += 61
    following.follow_if_due()
    following.follow_if_due()
    assert registry.told == [states]
    states = desk.decide("promote", PLAIN)
    following.follow_if_due()
    assert registry.told[1:] == [states], "a decision at once"
    now[0] += 3601
    following.follow_if_due()
    assert registry.told[2:] == [states], "and all again every hour"

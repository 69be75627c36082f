"""Models that FLO trains, evaluates and publishes on real patients, in the clear."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from flo.clients.data_process.trainer import Trainer
from flo.clients.records.snapshot import Snapshot
from flo.documents import canonical
from flo.keys.identity import Identity
from flo.lab.folds import Fold, within
from flo.lab.hospitals import enrol
from flo.lab.in_the_clear import round_in_the_clear, trainers_of
from flo.privacy.report.wording import trust
from flo.published.model_card import ModelCard, PublishedModel
from flo.server.rounds.state import RunState
from flo.server.runs.execute import _result
from flo.server.studies.publish import _quality, tensors_of
from flo.study.document import Study
from tests.builders import offered

_COORDINATOR = Identity.new()

Fault = Callable[[dict[str, Snapshot], Study, np.random.Generator], None]


def published(
    study: Study,
    fold: Fold,
    fault: Fault | None = None,
    poison: float | None = None,
    generator: np.random.Generator | None = None,
) -> PublishedModel:
    """Train, evaluate and publish on a fold.

    ``fault`` changes the patients before. ``poison``: by what one hospital multiplies its sums.
    """
    signed = offered(study, [], _COORDINATOR)
    enrolled, _ = enrol(study)
    snapshots = dict(fold.snapshots)
    if fault is not None:
        assert generator is not None
        fault(snapshots, study, generator)
    trainers: dict[str, Any] = dict(trainers_of(enrolled, Fold(snapshots)))
    if poison is not None:
        (name,) = largest(snapshots)
        trainers[name] = _Poisoner(trainers[name], poison)
    state = RunState.start(enrolled)
    while state.phase != "done":
        state = round_in_the_clear(enrolled, trainers, state)
    result = _result(signed.study, state, "m")
    tensors = tensors_of(signed.study, "run-1", state)
    card = ModelCard(
        schema_version=5,
        study=signed.study.canonical_bytes.decode(),
        study_signature=signed.signature,
        run="run-1",
        made="2026-01-02T03:04:05+00:00",
        file=canonical.digest(tensors),
        rounds=result["rounds"],
        epsilon=result["epsilon"],
        delta=result["delta"],
        trust_model=trust(signed.study),
        evaluation=_quality(result["estimate"]),
        subgroups={name: _quality(one) for name, one in result["subgroups"].items()},
        calibration=result["calibration"],
        evaluated=result.get("evaluated"),
        golden=result["golden"],
        noise=result.get("noise"),
        average=result.get("average"),
        average_deviation=result.get("average_deviation"),
        report=None,
        without_extract=(signed.study.hospitals[0].id,),
        coordinator=_COORDINATOR.public.hex(),
    ).signed(_COORDINATOR)
    return PublishedModel.of(card, tensors, _COORDINATOR.fingerprint)


@dataclass
class _Poisoner:
    """A hospital that multiplies the sums of its training."""

    trainer: Trainer
    factor: float

    def release(self, purpose: Any, *asked: Any) -> Any:
        released = self.trainer.release(purpose, *asked)
        return np.rint(released * self.factor) if purpose == "training" else released


def fold_of(hospitals: Mapping[str, Any], key: str, share: float) -> Fold:
    """Hold out this share of each hospital's patients, as the key says."""
    digest = hashlib.sha256(key.encode()).digest()
    aside = {name: within(one, digest, 0, share) for name, one in hospitals.items()}
    return Fold({n: Snapshot.divided(one, aside[n]) for n, one in hospitals.items()})


def largest(snapshots: dict[str, Snapshot]) -> list[str]:
    """The hospital with most patients to train on, as a list of one."""
    return [max(snapshots, key=lambda name: snapshots[name].training.count)]

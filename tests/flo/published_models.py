"""Published models for tests: a signed study, tensors and a signed card."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save

from flo.arrays import Floats
from flo.documents import canonical
from flo.keys.identity import Identity
from flo.privacy.accounting.plan import Plan
from flo.privacy.releases import evaluation, score_waves
from flo.privacy.releases.calibration import Calibration
from flo.privacy.report.wording import trust
from flo.published.evaluated import EvaluatedSums
from flo.published.golden import Golden
from flo.published.model_card import ModelCard, PublishedModel, paths_of
from flo.study.document import Study, from_document
from flo.study.models import named, parameter_count
from flo.study.parameters import Vector
from tests.builders import offered, small_study
from tests.flo.continued import ancestor, continuing
from tests.flo.studies import JOINED, imaging, with_history

RUN = "run-1"
COORDINATOR = Identity.new()
MALLORY = Identity.new()  # another coordinator, with a key of its own
STUDIES = {
    "logistic": small_study(),
    "mlp": small_study(model={"kind": "mlp", "hidden": [7, 3]}),
    "cnn": from_document(imaging()),
    "gru": with_history(kind="gru", hidden=5),
    "lstm": with_history("visit", kind="lstm", hidden=5),
    "attention": with_history(kind="attention", width=4, heads=2),
    "steps": with_history("visit"),
    "joined": small_study(model=JOINED),
    "continued": continuing(ancestor()),
    "gated": small_study(schema_version=4, version=9, gate={"epsilon": 0.5}),
    "gated again": small_study(schema_version=4, version=10, gate={"epsilon": 0.5}),
}

EVALUATED_BY_WARD = small_study(
    schema_version=4,
    version=9,
    gate={"epsilon": 0.5},
    evaluation={"epsilon": 0.9, "retry_allowance": 0, "subgroups": ["ward"]},
)


def weights_of(study: Study, seed: int = 1) -> Floats:
    return np.random.default_rng(seed).normal(size=parameter_count(study))


def tensors_of(study: Study, seed: int = 1) -> dict[str, Vector]:
    return named(study, weights_of(study, seed))


@dataclass(frozen=True)
class Made:
    """A model as it is handed on: the card's JSON may be changed before it is written."""

    card: ModelCard
    tensors: bytes

    @property
    def document(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self.card.to_bytes())
        return document

    def open(self, coordinator: Identity = COORDINATOR) -> PublishedModel:
        return PublishedModel.of(self.card, self.tensors, coordinator.fingerprint)

    def write(self, folder: Path, stem: str = "tiny-run-1") -> Path:
        """Both files in ``folder``; returns the card's path."""
        card, tensors = paths_of(folder / stem)
        folder.mkdir(parents=True, exist_ok=True)
        card.write_bytes(self.card.to_bytes())
        tensors.write_bytes(self.tensors)
        return card


@cache
def signed_study(kind: str = "logistic", signer: Identity = COORDINATOR) -> tuple[Study, str]:
    found = offered(STUDIES[kind], [], signer)
    return found.study, found.signature


def made(
    kind: str = "logistic",
    *,
    tensors: Mapping[str, npt.NDArray[Any]] | bytes | None = None,
    signer: Identity = COORDINATOR,
    **changes: Any,
) -> Made:
    """A published model. ``changes`` are in the card before it is signed."""
    study, signature = signed_study(kind)
    ours = tensors is None
    if tensors is None:
        tensors = tensors_of(study)
    data = tensors if isinstance(tensors, bytes) else save(dict(tensors))
    document: dict[str, Any] = {
        "study": study.canonical_bytes.decode(),
        "study_signature": signature,
        "run": RUN,
        "made": "2026-01-02T03:04:05+00:00",
        "file": canonical.digest(data),
        "rounds": 3,
        "epsilon": Plan.of(study).epsilon,
        "delta": study.mechanism.delta,
        "trust_model": trust(study),
        "evaluation": {"auc": 0.75, "low": 0.5, "high": 0.875, "level": 0.95},
        "subgroups": {"ward=a": {"auc": 0.625, "low": 0.5, "high": 0.75, "level": 0.95}},
        "calibration": {
            **{"log_odds": [-2.0, 0.5, 2.0], "risk": [0.125, 0.375, 0.75], "level": 0.9},
            **{"low": [0.0625, 0.25, 0.625], "high": [0.25, 0.5, 0.875]},
        },
        "report": "ab" * 32,
        "without_extract": ["west"],
        "coordinator": signer.public.hex(),
    }
    if study.schema_version >= 4:
        life = {"epsilon": 0.9, "delta": 1e-6}
        document |= {"schema_version": 4, "life": life, "without_extract": []}
    if study.gate:
        sums = {
            "asked": "cd" * 32,
            "hospitals": ["north", "south"],
            "values": [30.5, 8.25, -2.0, 15.0],
        }
        document |= {"gate": sums}
        if changes.get("schema_version", 5) >= 5:
            document |= {"schema_version": 5, "evaluated": _evaluated(study)}
    if changes.get("evaluation", "") is None:
        changes.setdefault("calibration", None)
    document |= changes
    if document.get("evaluated") and "evaluation" not in changes:
        document |= _auc(study, document["evaluated"])
    if document.get("schema_version", 2) >= 4 and ours and "golden" not in changes:
        document["golden"] = _golden(study, document["calibration"])
    return Made(ModelCard.model_validate(document).signed(signer), data)


def _evaluated(study: Study) -> dict[str, Any]:
    """Sums of 400 patients without the outcome, whose scores are lower, and 400 with it."""
    places = (np.arange(400) + 0.5) / 400
    waves = [score_waves.vectors(p).sum(0) for p in (0.8 * places, 0.2 + 0.8 * places)]
    groups = sum(map(len, evaluation.groupings(study).values()))
    values = np.concatenate([*waves] * groups) / groups
    return {"hospitals": ["north", "south"], "values": (values + 0.125).round(6).tolist()}


def _auc(study: Study, sums: dict[str, Any]) -> dict[str, Any]:
    """The AUCs that follow from the sums, and one of a group of an earlier form."""
    parsed = EvaluatedSums.model_validate(sums)
    names = ("auc", "low", "high", "level")
    if not parsed.follow_from(study):
        return {}
    estimate, subgroups = evaluation.read(study, *parsed.sums(study))
    found = {name: {n: getattr(one, n) for n in names} for name, one in subgroups.items()}
    usual = {"ward=a": {"auc": 0.625, "low": 0.5, "high": 0.75, "level": 0.95}}
    return {"evaluation": {n: getattr(estimate, n) for n in names}, "subgroups": found or usual}


def _golden(study: Study, calibration: dict[str, Any] | None) -> dict[str, Any]:
    curve = Calibration.model_validate(calibration) if calibration else None
    found = Golden.of(study, weights_of(study), curve)
    assert found is not None
    return found.model_dump(mode="json")

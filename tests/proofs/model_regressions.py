"""Seeded regressions of published models, and what finds each.

Real patients, models that FLO trained. Where a hospital's installation is at fault (tensors,
encoder, reader, ONNX, calibration) the golden cases of the card are to find it; whether scores
really differ is decided on the other made-up patients, 4,096 of them. Where the training is at
fault (poisoned sums, mirrored labels, exchanged columns, drifted missing values, ...) the
comparison with the current model is to find it, if more than noise differs on those patients. What
only real patients can show is listed with what the paid gate says of it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from flo.arrays import Floats
from flo.clients.prediction.scoring_ways import as_a_table, golden_cases
from flo.errors import FloError
from flo.lab.folds import Fold
from flo.privacy.patients.patients import Patients
from flo.published.drift import drift
from flo.published.golden import Cells
from flo.published.model_card import PublishedModel
from flo.study import usual
from flo.study.document import Study, from_document
from flo.study.synthetic import encoded, made_up_cells
from tests.proofs import release_gate
from tests.proofs.hospitals import CHOSEN_ON, GENERAL, Consortium
from tests.proofs.installation_faults import CALIBRATIONS, INSTALLATIONS, Score
from tests.proofs.publishing import fold_of, published
from tests.proofs.release_gate import with_gate
from tests.proofs.rows import Row
from tests.proofs.training_faults import TRAININGS

_SETS = {"heart": 0.9, "support2": 0.5, "nass": 0.5}  # ε
_EACH, _QUICK_EACH = 11, 1  # regressions of each kind and set
_TRAININGS_EACH, _GATE_DRAWS = 5, 200
_SOUND, _QUICK_SOUND = {"heart": 400, "support2": 300, "nass": 300}, 8
_HELD_OUT, _OTHERS = 0.3, 0.5
_TOLERATED = 1e-9  # relative difference of log odds by arithmetic alone


def rows(quick: bool) -> Iterator[Row]:
    """Installations at fault, trainings at fault, and sound candidates."""
    began, looking = time.monotonic(), 0.0
    seeded, missed, alarms, sound = 0, list[str](), 0, 0
    hidden = dict[str, list[Found]]()
    for name, epsilon in list(_SETS.items())[: 1 if quick else None]:
        world = World.of(name, epsilon)
        for found in world.installations(_QUICK_EACH if quick else _EACH):
            seeded, looking = seeded + 1, looking + found.seconds
            missed += [] if found.said else [f"{name}: {found.kind}"]
        for found in world.trainings(1 if quick else _TRAININGS_EACH):
            title = f"{name}: {found.kind}"
            if found.is_beyond_noise:
                seeded, looking = seeded + 1, looking + found.seconds
                missed += [] if found.said else [f"{title} ({found.ratio:.2f})"]
            else:
                hidden.setdefault(title, []).append(found)
        count = _QUICK_SOUND if quick else _SOUND[name]
        alarms += sum(world.false_alarms(count))
        sound += count
    seconds = time.monotonic() - began
    share, unseen = 1 - len(missed) / seeded, "; ".join(missed)
    yield Row(f"seeded regressions found {unseen}".strip(), share, seeded, seconds, 0.999)
    yield Row("seconds to look at all of them", looking, seeded, seconds, most=300)
    for title, those in hidden.items():
        passed = float(np.mean([found.passes for found in those]))
        told = f"{title}: noise hides {len(those)} on made-up patients; the paid gate passes"
        yield Row(told, passed, len(those) * _GATE_DRAWS, seconds)
    yield Row("sound candidates: false alarms", alarms / sound, sound, seconds, most=0.001)


@dataclass(frozen=True)
class Found:
    """A seeded regression. ``said``: whether it was found, in ``seconds``.

    ``ratio``: of a training, on all made-up patients; whether that ``is_beyond_noise``.
    ``passes``: how often one that noise hides there passes the paid gate.
    """

    kind: str
    said: bool
    seconds: float
    ratio: float = math.inf
    is_beyond_noise: bool = True
    passes: float = 0.0


@dataclass
class World:
    """A set's hospitals, the current model, and another sound one of the same patients."""

    name: str
    study: Study
    consortium: Consortium
    fold: Fold
    current: PublishedModel
    other: PublishedModel

    @classmethod
    def of(cls, name: str, epsilon: float, hidden: Sequence[int] = ()) -> World:
        consortium = (CHOSEN_ON | GENERAL)[name]()
        document = consortium.study.model_dump(mode="json") | {"schema_version": 4}
        everyone = sum(hospital.planned for hospital in consortium.study.hospitals)
        document["mechanism"] |= usual.whitened(everyone, epsilon) | {"epsilon": epsilon}
        document["evaluation"] = {"epsilon": 0.7}
        if hidden:
            document["model"] = {"kind": "mlp", "hidden": list(hidden)}
        study, fold = from_document(document), fold_of(consortium.hospitals, "current", _HELD_OUT)
        models = published(study, fold), published(study, fold)
        return cls(name, study, consortium, fold, *models)

    def installations(self, each: int) -> Iterator[Found]:
        """Seed faults that change scores; say of each whether the golden cases find it."""
        own, there = self.current, made_up_cells(self.study.data)
        expected = own.log_odds(encoded(own.study.data, there))
        for kind, damage in INSTALLATIONS.items():
            for seed in range(each):
                score = damage(own, self.other, np.random.default_rng([seed, len(kind)]))
                if _differs(score, there, expected):
                    yield self._looked(kind, own, {"installed": score})
        for kind, change in CALIBRATIONS.items():
            for seed in range(each):
                assert own.card.calibration is not None
                curve = change(own.card.calibration, np.random.default_rng([seed, len(kind)]))
                card = own.card.model_copy(update={"calibration": curve})
                risks = curve.of(expected)[0], own.card.calibration.of(expected)[0]
                if np.allclose(*risks, rtol=_TOLERATED):
                    continue
                yield self._looked(kind, replace(own, card=card), {})

    def _looked(self, kind: str, model: PublishedModel, ways: Mapping[str, Score]) -> Found:
        began = time.monotonic()
        said = _is_found(model, ways)
        return Found(kind, said, time.monotonic() - began)

    def trainings(self, each: int) -> Iterator[Found]:
        """Train with a fault on the same patients; compare with the current model."""
        for kind, (fault, poison) in TRAININGS.items():
            for seed in range(each):
                generator = np.random.default_rng([seed, len(kind)])
                candidate = published(self.study, self.fold, fault, poison, generator)
                began, ratio = time.monotonic(), self._true_ratio(candidate)
                found, seconds = drift(candidate, self.current), time.monotonic() - began
                beyond = ratio > found.limit
                passes = 0.0 if beyond else self._passes(candidate)
                yield Found(kind, found.is_beyond_noise, seconds, ratio, beyond, passes)

    def _true_ratio(self, candidate: PublishedModel) -> float:
        inputs = encoded(self.study.data, made_up_cells(self.study.data))
        rows = np.hstack([inputs, np.ones((len(inputs), 1))])
        difference = rows @ (candidate.weights - self.current.weights)
        assert candidate.noise is not None
        assert self.current.noise is not None
        noise = candidate.noise + self.current.noise
        return float(np.sqrt(np.mean(difference**2 / np.sum((rows @ noise) * rows, axis=1))))

    def _passes(self, candidate: PublishedModel) -> float:
        """How often it passes the paid gate, of draws of the patients who were held out."""
        held = [snapshot.held_out for snapshot in self.fold.snapshots.values()]
        inputs = np.concatenate([one.inputs for one in held])
        labels = np.concatenate([one.labels for one in held])
        everyone = Patients(inputs, labels, np.arange(len(labels)), len(labels))
        world = release_gate.World(with_gate(self.consortium.study), everyone, [], [], [])
        losses = world.losses(*(_risks(one, inputs) for one in (self.current, candidate)))
        many = release_gate.EVALUATED.get(self.name, len(labels))
        return world.passes(world.study, losses, many, _GATE_DRAWS)

    def false_alarms(self, count: int) -> Iterator[bool]:
        """Of models of the same hospitals, with other noise, every second on other patients."""
        for number in range(count):
            other = fold_of(self.consortium.hospitals, f"sound {number}", _OTHERS)
            candidate = published(self.study, other if number % 2 else self.fold)
            table = {"table": partial(_as_installed, candidate)}
            yield _is_found(candidate, table) or drift(candidate, self.current).is_beyond_noise


def _is_found(model: PublishedModel, ways: Mapping[str, Score]) -> bool:
    try:
        found = golden_cases(model, ways)
    except FloError:
        return True
    return not all(case.same for cases in found.values() for case in cases)


def _as_installed(model: PublishedModel, cells: Cells) -> Floats:
    return model.log_odds(as_a_table(model.study.data, cells))


def _risks(model: PublishedModel, inputs: Floats) -> Floats:
    assert model.card.calibration is not None
    return model.card.calibration.of(model.log_odds(inputs))[0]


def _differs(score: Score, cells: Cells, expected: Floats) -> bool:
    """Whether scores differ for one of many made-up patients, or none can be computed."""
    try:
        found = score(cells)
    except FloError:
        return True
    with np.errstate(invalid="ignore"):
        same = np.abs(found - expected) <= _TOLERATED * (1 + np.abs(expected))
    return not bool(same.all())

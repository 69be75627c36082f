"""Seeded regressions of published models, and what finds each.

Real patients, models that FLO trained. Where a hospital's installation is at fault (tensors,
encoder, reader, ONNX, calibration) the golden cases of the card are to find it; whether scores
really differ is decided on the other made-up patients, 4,096 of them. Where the training is at
fault (poisoned sums, mirrored labels, exchanged columns, drifted missing values, ...) the
comparison with the current model is to find it, if more than noise differs on those patients. What
only real patients can show is listed with what the paid gate says of it.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from flo.arrays import Floats
from flo.clients.data_process.trainer import Trainer
from flo.clients.prediction.scoring_ways import as_a_table, golden_cases
from flo.clients.records.snapshot import Snapshot
from flo.documents import canonical
from flo.errors import FloError
from flo.keys.identity import Identity
from flo.lab.folds import Fold, within
from flo.lab.hospitals import enrol
from flo.lab.in_the_clear import round_in_the_clear, trainers_of
from flo.privacy.patients.patients import Patients
from flo.privacy.releases.calibration import Calibration
from flo.privacy.report.wording import trust
from flo.published.drift import drift
from flo.published.golden import Cells
from flo.published.model_card import ModelCard, PublishedModel
from flo.published.onnx import onnx_scores, to_onnx
from flo.server.rounds.state import RunState
from flo.server.runs.execute import _result
from flo.server.studies.publish import _quality, tensors_of
from flo.study import usual
from flo.study.document import Study, from_document
from flo.study.features import input_names
from flo.study.models import log_odds
from flo.study.parameters import Vector
from flo.study.schema import CategoryColumn, Column, NumberColumn, Schema
from flo.study.synthetic import encoded, made_up_cells
from tests.builders import offered
from tests.proofs import release_gate
from tests.proofs.hospitals import CHOSEN_ON, GENERAL, Consortium
from tests.proofs.release_gate import with_gate
from tests.proofs.rows import Row

_SETS = {"heart": 0.9, "support2": 0.5, "nass": 0.5}  # ε
_EACH, _QUICK_EACH = 11, 1  # regressions of each kind and set
_TRAININGS_EACH, _GATE_DRAWS = 5, 200
_SOUND, _QUICK_SOUND = {"heart": 400, "support2": 300, "nass": 300}, 8
_HELD_OUT, _OTHERS = 0.3, 0.5
_TOLERATED = 1e-9  # relative difference of log odds by arithmetic alone
_COORDINATOR = Identity.new()

Score = Callable[[Cells], Floats]
Reweight = Callable[[Vector, Vector, np.random.Generator], Vector]
Damage = Callable[[PublishedModel, PublishedModel, np.random.Generator], Score]


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
    def of(cls, name: str, epsilon: float) -> World:
        consortium = (CHOSEN_ON | GENERAL)[name]()
        document = consortium.study.model_dump(mode="json") | {"schema_version": 4}
        everyone = sum(hospital.planned for hospital in consortium.study.hospitals)
        document["mechanism"] |= usual.whitened(everyone, epsilon) | {"epsilon": epsilon}
        document["evaluation"] = {"epsilon": 0.7}
        study, fold = from_document(document), _fold(consortium.hospitals, "current", _HELD_OUT)
        models = published(study, fold), published(study, fold)
        return cls(name, study, consortium, fold, *models)

    def installations(self, each: int) -> Iterator[Found]:
        """Seed faults that change scores; say of each whether the golden cases find it."""
        own, there = self.current, made_up_cells(self.study.data)
        expected = own.log_odds(encoded(own.study.data, there))
        for kind, damage in _INSTALLATIONS.items():
            for seed in range(each):
                score = damage(own, self.other, np.random.default_rng([seed, len(kind)]))
                if _differs(score, there, expected):
                    yield self._looked(kind, own, {"installed": score})
        for kind, change in _CALIBRATIONS.items():
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
        for kind, (fault, poison) in _TRAININGS.items():
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
            other = _fold(self.consortium.hospitals, f"sound {number}", _OTHERS)
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


# -- trainings -------------------------------------------------------------------------------------

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
        (largest,) = _largest(snapshots)
        trainers[largest] = _Poisoner(trainers[largest], poison)
    state = RunState.start(enrolled)
    while state.phase != "done":
        state = round_in_the_clear(enrolled, trainers, state)
    result = _result(signed.study, state, "m")
    tensors = tensors_of(signed.study, "run-1", state)
    card = ModelCard(
        schema_version=4,
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
        subgroups={},
        calibration=result["calibration"],
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


def _fold(hospitals: Mapping[str, Any], key: str, share: float) -> Fold:
    digest = hashlib.sha256(key.encode()).digest()
    aside = {name: within(one, digest, 0, share) for name, one in hospitals.items()}
    return Fold({n: Snapshot.divided(one, aside[n]) for n, one in hospitals.items()})


def _changed(
    snapshots: dict[str, Snapshot], names: list[str], change: Callable[[Patients], Patients]
) -> None:
    for name in names:
        one = snapshots[name]
        snapshots[name] = replace(one, training=change(one.training))


def _largest(snapshots: dict[str, Snapshot]) -> list[str]:
    return [max(snapshots, key=lambda name: snapshots[name].training.count)]


def _mirrored(snapshots: dict[str, Snapshot], study: Study, generator: np.random.Generator) -> None:
    _changed(snapshots, _largest(snapshots), lambda p: replace(p, labels=1 - p.labels))


def _all_mirrored(
    snapshots: dict[str, Snapshot], study: Study, generator: np.random.Generator
) -> None:
    _changed(snapshots, list(snapshots), lambda p: replace(p, labels=1 - p.labels))


def _shuffled(snapshots: dict[str, Snapshot], study: Study, generator: np.random.Generator) -> None:
    _changed(
        snapshots, list(snapshots), lambda p: replace(p, labels=generator.permutation(p.labels))
    )


def _columns_exchanged(everywhere: bool) -> Fault:
    def fault(snapshots: dict[str, Snapshot], study: Study, generator: np.random.Generator) -> None:
        count = len(input_names(study.data))
        order = np.arange(count)
        one, other = generator.choice(count, 2, replace=False)
        order[[one, other]] = order[[other, one]]
        names = list(snapshots) if everywhere else _largest(snapshots)
        _changed(snapshots, names, lambda p: replace(p, inputs=p.inputs[:, order]))

    return fault


def _all_columns_moved(
    snapshots: dict[str, Snapshot], study: Study, generator: np.random.Generator
) -> None:
    by = int(generator.integers(1, len(input_names(study.data))))
    _changed(snapshots, list(snapshots), lambda p: replace(p, inputs=np.roll(p.inputs, by, axis=1)))


def _unit(everywhere: bool) -> Fault:
    def fault(snapshots: dict[str, Snapshot], study: Study, generator: np.random.Generator) -> None:
        place = int(generator.choice(_number_inputs(study.data)))
        factor = float(generator.choice([0.01, 0.1, 0.5, 2.0, 10.0]))

        def change(p: Patients) -> Patients:
            inputs = p.inputs.copy()
            inputs[:, place] = np.clip((inputs[:, place] + 1) * factor - 1, -1, 1)
            return replace(p, inputs=inputs)

        _changed(snapshots, list(snapshots) if everywhere else _largest(snapshots), change)

    return fault


def _all_missing(
    snapshots: dict[str, Snapshot], study: Study, generator: np.random.Generator
) -> None:
    names = input_names(study.data)
    places = [i for i, name in enumerate(names) if name.endswith("=missing")]
    if not places:
        return
    place = int(generator.choice(places))
    own = [i for i, n in enumerate(names) if n.startswith(names[place].split("=")[0])]

    def change(p: Patients) -> Patients:
        inputs = p.inputs.copy()
        inputs[:, own], inputs[:, place] = 0.0, 1.0
        return replace(p, inputs=inputs)

    _changed(snapshots, list(snapshots), change)


def _without_largest(
    snapshots: dict[str, Snapshot], study: Study, generator: np.random.Generator
) -> None:
    nobody = np.zeros(0, dtype=np.int64)

    def change(p: Patients) -> Patients:
        return Patients(p.inputs[:0], p.labels[:0], nobody, 0)

    _changed(snapshots, _largest(snapshots), change)


def _constant_label(
    snapshots: dict[str, Snapshot], study: Study, generator: np.random.Generator
) -> None:
    value = float(generator.integers(2))
    _changed(snapshots, list(snapshots), lambda p: replace(p, labels=np.full_like(p.labels, value)))


_TRAININGS: dict[str, tuple[Fault | None, float | None]] = {
    "labels mirrored at the largest hospital": (_mirrored, None),
    "labels mirrored everywhere": (_all_mirrored, None),
    "labels shuffled": (_shuffled, None),
    "labels constant": (_constant_label, None),
    "two inputs exchanged at the largest hospital": (_columns_exchanged(False), None),
    "two inputs exchanged everywhere": (_columns_exchanged(True), None),
    "all inputs moved": (_all_columns_moved, None),
    "another unit at the largest hospital": (_unit(False), None),
    "another unit everywhere": (_unit(True), None),
    "a column became missing": (_all_missing, None),
    "the largest hospital absent": (_without_largest, None),
    "poisoned sum, turned": (None, -1.0),
    "poisoned sum, turned three times": (None, -3.0),
    "poisoned sum, five times": (None, 5.0),
}


# -- installations ---------------------------------------------------------------------------------


def _with_weights(change: Reweight) -> Damage:
    """The tensors are other ones."""

    def damage(
        model: PublishedModel, other: PublishedModel, generator: np.random.Generator
    ) -> Score:
        weights = change(model.weights.copy(), other.weights, generator)
        return lambda cells: log_odds(model.study, weights, as_a_table(model.study.data, cells))

    return damage


def _with_schema(change: Callable[[Column, np.random.Generator], Column | None]) -> Damage:
    """One column is encoded otherwise."""

    def damage(
        model: PublishedModel, other: PublishedModel, generator: np.random.Generator
    ) -> Score:
        columns = list(model.study.data.columns)
        changed = list[Column]()
        for place in generator.permutation(len(columns)):
            new = change(columns[place], generator)
            if new is not None:
                changed = [*columns[:place], new, *columns[place + 1 :]]
                break
        if not changed:
            return lambda cells: model.log_odds(encoded(model.study.data, cells))
        schema = model.study.data.model_copy(update={"columns": tuple(changed)})
        return lambda cells: model.log_odds(encoded(schema, cells))

    return damage


def _with_cells(
    change: Callable[[Schema, dict[str, Floats], np.random.Generator], dict[str, Floats]],
) -> Damage:
    """The table is read otherwise."""

    def damage(
        model: PublishedModel, other: PublishedModel, generator: np.random.Generator
    ) -> Score:
        schema, state = model.study.data, generator.bit_generator.state

        def score(cells: Cells) -> Floats:
            generator.bit_generator.state = state
            read = change(schema, dict(cells), generator)
            return model.log_odds(as_a_table(schema, read))

        return score

    return damage


def _with_inputs(change: Callable[[Floats, np.random.Generator], Floats]) -> Damage:
    """The encoded inputs are handed on otherwise."""

    def damage(
        model: PublishedModel, other: PublishedModel, generator: np.random.Generator
    ) -> Score:
        state = generator.bit_generator.state

        def score(cells: Cells) -> Floats:
            generator.bit_generator.state = state
            return model.log_odds(change(as_a_table(model.study.data, cells), generator))

        return score

    return damage


def _onnx_of(change: Reweight) -> Damage:
    def damage(
        model: PublishedModel, other: PublishedModel, generator: np.random.Generator
    ) -> Score:
        weights = change(model.weights.copy(), other.weights, generator)
        score = onnx_scores(to_onnx(replace(model, weights=weights)), model.study)
        return lambda cells: score(encoded(model.study.data, cells))

    return damage


def _exchanged(weights: Vector, other: Vector, generator: np.random.Generator) -> Vector:
    one, two = generator.choice(len(weights), 2, replace=False)
    weights[[one, two]] = weights[[two, one]]
    return weights


def _one(change: Callable[[float, np.random.Generator], float]) -> Any:
    def changed(weights: Vector, other: Vector, generator: np.random.Generator) -> Vector:
        place = generator.integers(len(weights))
        weights[place] = change(weights[place], generator)
        return weights

    return changed


def _cut_short(weights: Vector, other: Vector, generator: np.random.Generator) -> Vector:
    weights[-int(generator.integers(1, len(weights))) :] = 0.0
    return weights


def _bfloat16(weights: Vector, other: Vector, generator: np.random.Generator) -> Vector:
    bits = weights.astype(np.float32).view(np.uint32) & np.uint32(0xFFFF0000)
    return np.asarray(bits.view(np.float32).astype(np.float64))


def _eight_bits(weights: Vector, other: Vector, generator: np.random.Generator) -> Vector:
    step = np.abs(weights).max() / 127
    return np.asarray(np.round(weights / step) * step)


def _one_bit(weights: Vector, other: Vector, generator: np.random.Generator) -> Vector:
    place, bit = generator.integers(len(weights)), np.uint64(generator.integers(30, 63))
    words = weights.view(np.uint64)
    words[place] ^= np.uint64(1) << bit
    return weights


def _bounds(column: Column, generator: np.random.Generator) -> Column | None:
    if not isinstance(column, NumberColumn):
        return None
    wider = column.maximum + float(generator.choice([0.001, 0.1, 1.0])) * (
        column.maximum - column.minimum
    )
    return column.model_copy(update={"maximum": wider})


def _filled(column: Column, generator: np.random.Generator) -> Column | None:
    if not isinstance(column, NumberColumn) or column.missing != "indicator":
        return None
    return column.model_copy(update={"missing_value": column.minimum})


def _moved_codes(
    schema: Schema, cells: dict[str, Floats], generator: np.random.Generator
) -> dict[str, Floats]:
    column = _pick(schema, CategoryColumn, generator)
    own, count = cells[column.name], len(column.codes)
    cells[column.name] = np.where(own < 0, own, (own + 1) % count)
    return cells


def _two_codes_exchanged(
    schema: Schema, cells: dict[str, Floats], generator: np.random.Generator
) -> dict[str, Floats]:
    column = _pick(schema, CategoryColumn, generator)
    one, two = generator.choice(len(column.codes), 2, replace=False)
    own = cells[column.name]
    cells[column.name] = np.where(own == one, two, np.where(own == two, one, own))
    return cells


def _code_unknown(
    schema: Schema, cells: dict[str, Floats], generator: np.random.Generator
) -> dict[str, Floats]:
    """A code that is no longer known is read as missing, or as the first where none may be."""
    column = _pick(schema, CategoryColumn, generator)
    code, own = generator.integers(1, len(column.codes)), cells[column.name]
    cells[column.name] = np.where(own == code, -1 if column.missing == "indicator" else 0, own)
    return cells


def _other_unit(
    schema: Schema, cells: dict[str, Floats], generator: np.random.Generator
) -> dict[str, Floats]:
    column = _pick(schema, NumberColumn, generator)
    factor = float(generator.choice([0.0555, 0.1, 0.4536, 2.2046, 10.0, 18.018]))
    cells[column.name] = np.clip(cells[column.name] * factor, column.minimum, column.maximum)
    return cells


def _rounded(
    schema: Schema, cells: dict[str, Floats], generator: np.random.Generator
) -> dict[str, Floats]:
    column = _pick(schema, NumberColumn, generator)
    whole = np.round(cells[column.name], int(generator.integers(0, 3)))
    cells[column.name] = np.clip(whole, column.minimum, column.maximum)
    return cells


def _missing_as_minimum(
    schema: Schema, cells: dict[str, Floats], generator: np.random.Generator
) -> dict[str, Floats]:
    for column in schema.columns:
        if isinstance(column, NumberColumn):
            own = cells[column.name]
            cells[column.name] = np.where(np.isnan(own), column.minimum, own)
    return cells


def _two_columns_exchanged(
    schema: Schema, cells: dict[str, Floats], generator: np.random.Generator
) -> dict[str, Floats]:
    """Their values, brought within the other's bounds."""
    numbers = [column for column in schema.columns if isinstance(column, NumberColumn)]
    one, two = (numbers[i] for i in generator.choice(len(numbers), 2, replace=False))
    first, second = cells[one.name], cells[two.name]
    if one.missing == two.missing:
        cells[one.name] = np.clip(second, one.minimum, one.maximum)
        cells[two.name] = np.clip(first, two.minimum, two.maximum)
    return cells


def _rows_moved(
    schema: Schema, cells: dict[str, Floats], generator: np.random.Generator
) -> dict[str, Floats]:
    """One column is a row too low, as after a wrong join."""
    name = str(generator.choice([column.name for column in schema.columns]))
    cells[name] = np.roll(cells[name], 1)
    return cells


def _pick(schema: Schema, kind: Any, generator: np.random.Generator) -> Any:
    found = [column for column in schema.columns if isinstance(column, kind)]
    return found[generator.integers(len(found))]


def _number_inputs(schema: Schema) -> list[int]:
    names = input_names(schema)
    return [names.index(c.name) for c in schema.columns if isinstance(c, NumberColumn)]


def _inputs_exchanged(inputs: Floats, generator: np.random.Generator) -> Floats:
    one, two = generator.choice(inputs.shape[1], 2, replace=False)
    inputs[:, [one, two]] = inputs[:, [two, one]]
    return inputs


def _input_lost(inputs: Floats, generator: np.random.Generator) -> Floats:
    inputs[:, generator.integers(inputs.shape[1])] = 0.0
    return inputs


def _single(inputs: Floats, generator: np.random.Generator) -> Floats:
    return np.asarray(inputs.astype(np.float32).astype(np.float64))


_INSTALLATIONS: dict[str, Damage] = {
    "tensors: two weights exchanged": _with_weights(_exchanged),
    "tensors: a sign turned": _with_weights(_one(lambda w, g: -w)),
    "tensors: a weight lost": _with_weights(_one(lambda w, g: 0.0)),
    "tensors: a weight a little larger": _with_weights(_one(lambda w, g: w * 1.001)),
    "tensors: another intercept": _with_weights(
        lambda w, o, g: np.append(w[:-1], w[-1] + g.uniform(0.001, 1))
    ),
    "tensors: all a little smaller": _with_weights(lambda w, o, g: w * g.uniform(0.5, 0.999)),
    "tensors: cut short": _with_weights(_cut_short),
    "tensors: float32": _with_weights(lambda w, o, g: w.astype(np.float32).astype(np.float64)),
    "tensors: float16": _with_weights(lambda w, o, g: w.astype(np.float16).astype(np.float64)),
    "tensors: bfloat16": _with_weights(_bfloat16),
    "tensors: eight bits": _with_weights(_eight_bits),
    "tensors: one bit turned": _with_weights(_one_bit),
    "tensors: of another run": _with_weights(lambda w, o, g: o),
    "tensors: in reverse order": _with_weights(lambda w, o, g: w[::-1].copy()),
    "encoder: other bounds": _with_schema(_bounds),
    "encoder: missing filled otherwise": _with_schema(_filled),
    "reader: codes in another order": _with_cells(_moved_codes),
    "reader: two codes exchanged": _with_cells(_two_codes_exchanged),
    "reader: a code not known": _with_cells(_code_unknown),
    "reader: another unit": _with_cells(_other_unit),
    "reader: values rounded": _with_cells(_rounded),
    "reader: missing read as the minimum": _with_cells(_missing_as_minimum),
    "reader: two columns exchanged": _with_cells(_two_columns_exchanged),
    "reader: a column a row too low": _with_cells(_rows_moved),
    "inputs: two exchanged": _with_inputs(_inputs_exchanged),
    "inputs: one lost": _with_inputs(_input_lost),
    "inputs: float32": _with_inputs(_single),
    "ONNX: of another run": _onnx_of(lambda w, o, g: o),
    "ONNX: two weights exchanged": _onnx_of(_exchanged),
    "ONNX: a weight lost": _onnx_of(_one(lambda w, g: 0.0)),
}


def _risks_changed(change: Callable[[Floats, np.random.Generator], Floats]) -> Any:
    def changed(curve: Calibration, generator: np.random.Generator) -> Calibration:
        risk = np.clip(change(np.array(curve.risk), generator), 1e-9, 1 - 1e-9)
        return curve.model_copy(update={"risk": tuple(risk.tolist())})

    return changed


_CALIBRATIONS: dict[str, Callable[[Calibration, np.random.Generator], Calibration]] = {
    "calibration: all risks lower": _risks_changed(lambda r, g: r * g.uniform(0.5, 0.999)),
    "calibration: one point moved": _risks_changed(
        lambda r, g: np.where(np.arange(len(r)) == g.integers(len(r)), r * 0.9, r)
    ),
    "calibration: not applied": _risks_changed(lambda r, g: np.linspace(0.01, 0.99, len(r))),
}


def _differs(score: Score, cells: Cells, expected: Floats) -> bool:
    """Whether scores differ for one of many made-up patients, or none can be computed."""
    try:
        found = score(cells)
    except FloError:
        return True
    with np.errstate(invalid="ignore"):
        same = np.abs(found - expected) <= _TOLERATED * (1 + np.abs(expected))
    return not bool(same.all())

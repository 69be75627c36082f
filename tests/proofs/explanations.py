"""Reasons that a model gives are those of a model without noise, and hold when noise is redrawn.

Real patients; models that FLO trained again and again on the same patients. The truth is an
ordinary logistic regression on these patients, beside their true average. Where the outcome is
rare, clipping bends a private model away from it however little noise there is, so such a set is
also compared with the mean of its own redrawn models, which is what the model would be without
noise.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from flo.arrays import Floats
from flo.clients.prediction.regression import unprotected
from flo.published.drift import drift
from flo.published.explanation import Contributions, contributions, effects, places_of
from flo.published.golden import edges_of
from flo.published.model_card import PublishedModel
from flo.published.what_if import aim_of, what_ifs
from flo.study.columns import CellColumn
from flo.study.document import Study, from_document
from flo.study.features import input_names, names_of
from flo.study.parameters import Vector
from flo.study.synthetic import encoded, made_up_cells, made_up_inputs
from tests.proofs.model_regressions import World
from tests.proofs.publishing import published
from tests.proofs.rows import Row

# Set, ε: least correlation with the model without noise, and least of the top 5 that are the same.
_PROMISED = {("heart", 0.9): (0.8, 4.0), ("support2", 0.5): (0.9, 3.5)}
_OTHERS = [("heart", 0.3), ("nass", 0.5)]
_NETWORKS = [("heart", 0.9, [16]), ("support2", 0.5, [64]), ("nass", 0.5, [16])]
_REDRAWS_OF_NETWORKS, _LATER = 15, 5
_REDRAWS, _QUICK_REDRAWS, _PATIENTS, _TOP = 50, 5, 300, 5
_ROOM, _FEW_TOP, _MANY_TOP = 0.1, 1.0, 0.3  # 3.5 standard errors of 5 and of 50 redraws
# One redraw in 40 shows 4 % of wrong changes and the others none: sd .005 (80 redraws of heart).
_WRONG, _FEW_WRONG = 0.01, 0.01
_DEVIATIONS = (0.7, 1.5)  # stated by true
_EXACT = 0.9  # of a deletion curve with the true average


def rows(quick: bool) -> Iterator[Row]:
    """Overlap of the most important columns, correlation of each patient's, and wrong signs."""
    for name, epsilon in [("heart", 0.9)] if quick else [*_PROMISED, *_OTHERS]:
        yield from _of_set(name, epsilon, quick)
    for name, epsilon, hidden in [] if quick else _NETWORKS:
        yield from _of_network(name, epsilon, hidden)


def _of_set(name: str, epsilon: float, quick: bool) -> Iterator[Row]:
    began, world = time.monotonic(), World.of(name, epsilon)
    snapshots = list(world.fold.snapshots.values())
    held = np.concatenate([one.held_out.inputs for one in snapshots])[:_PATIENTS]
    ordinary = _weights(world, unprotected([one.training for one in snapshots], None))
    redraws = _QUICK_REDRAWS if quick else _REDRAWS
    models = [published(world.study, world.fold) for _ in range(redraws)]
    mean = np.mean([model.weights[:-1] for model in models], axis=0)
    told = [contributions(model, held) for model in models]
    average = np.concatenate([one.training.inputs for one in snapshots]).mean(axis=0)
    truths = [_truth(models[0], ordinary, held, average)] * redraws
    overlap = [_overlap(model, ordinary, average) for model in models]
    seconds = time.monotonic() - began
    promised = (name, epsilon) in _PROMISED
    what = f"{name}, ε {epsilon:g}"
    least, least_top = _PROMISED.get((name, epsilon), (0.0, 0.0))
    room = _ROOM if quick else 0.0
    title = f"{what}: of the top 5 columns, the same"
    by_chance = _FEW_TOP if quick else _MANY_TOP
    yield Row(title, float(np.mean(overlap)), redraws, seconds, least_top - by_chance)
    alike = [_alike(one.values, true) for one, true in _pairs(told, truths)]
    title = f"{what}: median correlation of a patient's reasons"
    yield Row(title, float(np.mean(alike)), redraws, seconds, least - room)
    shown, wrong = _signs(told, truths)
    wrong_at_most = _WRONG + (_FEW_WRONG if quick else 0.0)
    most = wrong_at_most if promised else 1.0
    title = f"{what}: shown signs that are wrong, beside an ordinary regression"
    yield Row(title, wrong, shown, seconds, most=most)
    shown, wrong = _signs(told, [_truth(models[0], mean, held, average)] * redraws)
    title = f"{what}: shown signs that are wrong, beside training without noise"
    yield Row(title, wrong, shown, seconds, most=wrong_at_most)
    with_reasons = np.mean([bool(one.reasons(i)) for one in told for i in range(len(held))])
    yield Row(f"{what}: patients with reasons", float(with_reasons), redraws, seconds)
    for beside, weights, limit in (
        ("an ordinary regression", ordinary, most),
        ("training without noise", mean, wrong_at_most),
    ):
        shown, wrong = _changes(models, weights, held)
        title = f"{what}: shown changes that raise the risk, beside {beside}"
        yield Row(title, wrong, shown, seconds, most=limit)
    exact, zero = _deletion(models, told, held, average)
    title = f"{what}: deletion curve, by that with the true average"
    yield Row(title, exact, redraws, seconds, _EXACT - room if promised else 0.0)
    title = f"{what}: deletion curve, by that with inputs of 0"
    yield Row(title, zero, redraws, seconds, 1.0 - room if promised else 0.0)
    if not quick:
        title = f"{what}: stated deviation of log odds by that of the redrawn models"
        yield Row(title, _deviations(models), redraws, seconds, *_DEVIATIONS)
        title = f"{what}: 95 % intervals that hold the effect without noise"
        yield Row(title, _held(models, mean, average), redraws, seconds, 0.9 if promised else 0.0)


def _of_network(name: str, epsilon: float, hidden: list[int]) -> Iterator[Row]:
    """The same of networks, beside an ordinary regression and beside networks without noise."""
    began, world = time.monotonic(), World.of(name, epsilon, hidden)
    snapshots = list(world.fold.snapshots.values())
    held = np.concatenate([one.held_out.inputs for one in snapshots])[:_PATIENTS]
    average = np.concatenate([one.training.inputs for one in snapshots]).mean(axis=0)
    models = [published(world.study, world.fold) for _ in range(_REDRAWS_OF_NETWORKS)]
    told = [contributions(model, held) for model in models]
    ordinary = _weights(world, unprotected([one.training for one in snapshots], None))
    truth = _truth(models[0], ordinary, held, average)
    exact = [contributions(_with_average(model, average), held).values for model in models]
    seconds = time.monotonic() - began
    what, many = f"{name}, ε {epsilon:g}, network {hidden}", len(models)
    alike = float(np.mean([_alike(one.values, truth) for one in told]))
    yield Row(f"{what}: median correlation of a patient's reasons", alike, many, seconds, 0.8)
    for beside, true in (
        ("an ordinary regression", truth),
        ("training without noise", np.mean(exact, axis=0)),
    ):
        shown, wrong = _signs(told, [true] * many)
        bent = name == "nass" and true is truth  # clipping bends it away where the outcome is rare
        title = f"{what}: shown signs that are wrong, beside {beside}"
        yield Row(title, wrong, shown, seconds, most=1.0 if bent else _WRONG)
    with_reasons = np.mean([bool(one.reasons(i)) for one in told for i in range(len(held))])
    yield Row(f"{what}: patients with reasons", float(with_reasons), many, seconds)
    title = f"{what}: stated deviation of log odds by that of the redrawn models"
    yield Row(title, _deviations(models), many, seconds, *_DEVIATIONS)
    document = world.study.model_dump(mode="json") | {"version": world.study.version + 1}
    other = from_document(document)  # and so another start
    later = [published(other, world.fold) for _ in range(_LATER)]
    alarms = [drift(one, two).is_beyond_noise for one in models for two in later]
    title = f"{what}: sound later versions that are said to differ by more than noise"
    yield Row(title, float(np.mean(alarms)), len(alarms), seconds, most=0.02)


def _with_average(model: PublishedModel, average: Floats) -> PublishedModel:
    card = model.card.model_copy(update={"average": tuple(average.tolist())})
    return replace(model, card=card)


def _weights(world: World, score: object) -> Vector:
    """The weights of a linear score, without the intercept."""
    assert callable(score)
    size = len(input_names(world.study.data))
    return np.asarray(score(np.eye(size)) - score(np.zeros((1, size))), dtype=np.float64).ravel()


def _truth(model: PublishedModel, weights: Vector, held: Floats, average: Floats) -> Floats:
    """What each column adds by other weights, beside this average patient."""
    apart, start, found = held - average, 0, []
    for column in model.study.data.columns:
        own = slice(start, start + len(names_of(column)))
        found.append(apart[:, own] @ weights[own])
        start = own.stop
    return np.stack(found, axis=1)


def _pairs(
    told: list[Contributions], truths: list[Floats]
) -> Iterator[tuple[Contributions, Floats]]:
    yield from zip(told, truths, strict=True)


def _overlap(model: PublishedModel, weights: Vector, average: Floats) -> int:
    """How many of the columns that ``flo model explain`` lists first are so by other weights."""
    inputs = made_up_inputs(model.study.data)
    true = np.abs(_truth(model, weights, inputs, average)).mean(axis=0)
    names = [column.name for column in model.study.data.columns]
    first = {names[place] for place in np.argsort(-true)[:_TOP]}
    return len(first & {column.name for column in effects(model)[:_TOP]})


def _deletion(
    models: list[PublishedModel], told: list[Contributions], held: Floats, average: Floats
) -> tuple[float, float]:
    """How far log odds fall while columns are deleted in the order that a model states, by how far
    with the attributions of SHAP and Captum for the same model.

    Of a linear model both are w(x - baseline): with the true average as baseline, which a private
    model does not have, and with Captum's usual one, inputs of 0.
    """
    found = []
    for model, one in zip(models, told, strict=True):
        adds = _truth(model, model.weights[:-1], held, average)
        zero = _truth(model, model.weights[:-1], held, np.zeros_like(average))
        found.append([_fall(values, adds) for values in (one.values, adds, zero)])
    own, exact, other = np.mean(found, axis=0)
    return float(own / exact), float(own / other)


def _fall(values: Floats, adds: Floats) -> float:
    """Mean fall of log odds over the steps of deleting columns, the most raising first; and their
    rise, the most lowering first."""
    fall = 0.0
    for sign in (1.0, -1.0):
        order = np.argsort(-sign * values, axis=1)
        fall += sign * float(np.take_along_axis(adds, order, axis=1).cumsum(axis=1).mean())
    return fall


def _alike(values: Floats, true: Floats) -> float:
    return float(np.median([np.corrcoef(a, b)[0, 1] for a, b in zip(values, true, strict=True)]))


def _signs(told: list[Contributions], truths: list[Floats]) -> tuple[int, float]:
    """How many reasons are shown, and which share of them has the wrong sign."""
    shown = wrong = 0
    for one, true in _pairs(told, truths):
        for patient in range(len(true)):
            for column, value in one.reasons(patient):
                shown += 1
                wrong += bool(value * true[patient, one.columns.index(column)] < 0)
    return shown, wrong / max(shown, 1)


def _changes(models: list[PublishedModel], weights: Vector, held: Floats) -> tuple[int, float]:
    """How many changes are said to lower a risk, and which share of them raises it by other
    weights; if care could bring everybody to the middle of every number, and to every first code.
    """
    shown = wrong = 0
    for above in ("above", "below"):
        study = _changeable(models[0], above)
        places = places_of(study.data)
        ordinary = {one.name: one for one in study.data.columns}
        for model in models:
            for row, found in zip(held, what_ifs(replace(model, study=study), held), strict=True):
                for one in found:
                    own, column = places[one.column], ordinary[one.column]
                    assert isinstance(column, CellColumn)
                    shown += 1
                    wrong += bool((aim_of(column)[0] - row[own]) @ weights[own] > 0)
    return shown, wrong / max(shown, 1)


def _changeable(model: PublishedModel, side: str) -> Study:
    document = model.study.model_dump(mode="json")
    for column in document["data"]["columns"]:
        column["about"] = None
        if column["kind"] == "number":
            middle = (column["minimum"] + column["maximum"]) / 2
            column |= {"changeable_to": middle, "changeable_from": side}
        else:
            column["changeable_to"] = column["codes"][0]
    return from_document(document)


def _deviations(models: list[PublishedModel]) -> float:
    """The mean ratio over made-up patients of what cards state and what redrawing shows."""
    inputs = made_up_inputs(models[0].study.data)[:500]
    rows = np.hstack([inputs, np.ones((len(inputs), 1))])
    real = np.std([model.log_odds(inputs) for model in models], axis=0, ddof=1)
    stated = [np.sqrt(((rows @ _noise(model)) * rows).sum(axis=1)) for model in models]
    return float(np.mean(np.array(stated) / real))


def _noise(model: PublishedModel) -> Floats:
    assert model.noise is not None
    return model.noise


def _held(models: list[PublishedModel], mean: Vector, average: Floats) -> float:
    """How often the interval of an effect holds it without noise, beside the true average."""
    schema = models[0].study.data
    ordinary, held = made_up_cells(schema, 1), list[bool]()
    for model in models:
        stated = {column.name: column.effects for column in effects(model)}
        for number, column in enumerate(schema.columns):
            for effect, (_, cell) in zip(stated[column.name], edges_of(column), strict=True):
                inputs = encoded(schema, ordinary | {column.name: np.array([cell])})
                low, high = effect.interval
                held.append(bool(low <= _truth(model, mean, inputs, average)[0, number] <= high))
    return float(np.mean(held))

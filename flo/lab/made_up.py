"""Made-up patients of a study, on whom ``flo study check`` tries it: no patient data is used.

They are as many as declared, within the study's bounds and codebooks. A *law* relates their inputs
to the outcome by s, a weighted sum of inputs with deviation 1. In a *world*:

- yes or no: patients with and without the label are drawn with probability ∝ e^(±t·s), so that the
  log odds of the label are 2·t·s and a constant;
- time to an event: the log odds of the hazard are 2·t·s and a constant, the same in every period,
  and a fifth of the patients is lost at any time;
- quantity: so are those of the share that is reached of each step, and steps lie evenly apart;
- classes: the softmax of √2·t·s_k and a constant for each class k, with a sum s_k of its own, so
  that the log odds of one class against another have the deviation 2·t.

Worlds differ in t and in how frequent the outcome is.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.special import expit, ndtri, softmax

from flo.arrays import Floats
from flo.clients.prediction.margins import stated, usual_places
from flo.clients.records.snapshot import Snapshot
from flo.lab.folds import Fold
from flo.privacy.patients.patients import Patients
from flo.privacy.report.sheet import ASSUMED_HOLD_OUT
from flo.study.classes import Classes
from flo.study.document import Study, from_document
from flo.study.outcome import Outcome
from flo.study.quantity import Quantity
from flo.study.synthetic import made_up_inputs
from flo.study.terms import round_size
from flo.study.time_to_event import TimeToEvent

_STRONG, _WEAK = 0.75, 0.35  # t
_LOST = 0.2  # of patients, who are not followed until the last horizon
_FEWEST, _MOST = 5, 8  # made-up laws per world
_MANY_PATIENTS = 30_000
_HELD_OUT = 8000  # made-up patients per AUC
_LEAST_SHARE = 0.01
_GOLDEN, _TINY = (math.sqrt(5) - 1) / 2, 1e-12


@dataclass(frozen=True)
class World:
    """``strength``: t. ``share``: of patients with the label, or with the event by the last
    horizon; of the steps that a quantity reaches on average; or of the smallest class."""

    share: float
    strength: float


def worlds(outcome: Outcome | None) -> list[World]:
    """Return the worlds in which a study is tried. In the last one columns tell little.

    Of classes one world has equal ones, and the others have shares that fall evenly.
    """
    match outcome:
        case TimeToEvent(expected=expected):
            strong, weak = [expected, max(expected / 2, _LEAST_SHARE)], expected
        case Quantity():
            strong, weak = [0.5, 0.2], 0.2
        case Classes(codes=codes):
            least = float(_falling(codes)[-1])
            strong, weak = [1 / codes, least], least
        case _:
            strong, weak = [0.5, 0.2, 0.1], 0.2
    return [*(World(share, _STRONG) for share in strong), World(weak, _WEAK)]


def share_of(outcome: Outcome | None) -> str:
    """Return of what ``World.share`` is the share, in words."""
    match outcome:
        case TimeToEvent():
            return "with the event"
        case Quantity():
            return "of the steps on average"
        case Classes():
            return "in the smallest class"
        case _:
            return "with the label"


def in_these_worlds(outcome: Outcome | None) -> str:
    """Return what is true of the outcome in all worlds, in words."""
    least = min(world.share for world in worlds(outcome))
    match outcome:
        case TimeToEvent(expected=expected):
            return f"{least:.0%} to {expected:.0%} of the patients have the event"
        case Quantity():
            return f"values reach {least:.0%} to 50% of the steps on average"
        case Classes():
            return f"the smallest class has {least:.0%} of the patients or more"
        case _:
            return "one patient in ten or more has the label"


def laws_for(study: Study) -> range:
    """Return the laws to try: more for small studies, whose results vary more."""
    everyone = sum(hospital.planned for hospital in study.hospitals)
    return range(min(max(_MANY_PATIENTS // everyone, _FEWEST), _MOST))


def of_at_most(study: Study, patients: int) -> Study:
    """Return the study, or a copy with smaller hospitals: with more patients noise matters less."""
    part = patients / sum(hospital.planned for hospital in study.hospitals)
    if part >= 1:
        return study
    document = study.model_dump(mode="json")
    for hospital in document["hospitals"]:
        planned = hospital.pop("expected") or hospital["declared_size"]
        hospital["declared_size"] = max(10, round_size(int(part * planned)))
    return from_document(document)


def made_up(study: Study, law: int, world: World, draw: int = 0) -> Fold:
    """Make up patients for each hospital; law number ``law`` relates their inputs to the outcome.

    ``draw``: of other patients under the same law.
    """
    inputs = made_up_inputs(study.data)
    if study.data.outcome is None:
        some = _of_yes_or_no(inputs, law, world)
    else:
        some = _of_codes(study.data.outcome, inputs, law, world)
    return Fold(
        {
            hospital.id: Snapshot(
                some(hospital.planned * (1 - ASSUMED_HOLD_OUT), 2 * number),
                some(_HELD_OUT / len(study.hospitals), 2 * number + 1),
            )
            for number, hospital in enumerate(study.hospitals, draw * len(study.hospitals))
        }
    )


Some = Callable[[float, int], Patients]


def _of_yes_or_no(inputs: Floats, law: int, world: World) -> Some:
    score = _sums(inputs, [law])[:, 0]
    tilted = [np.cumsum(np.exp(sign * world.strength * score)) for sign in (-1, 1)]

    def some(size: float, number: int) -> Patients:
        """Choose ``size`` patients (2 or more), some with the label, by sequence ``number``."""
        count = max(round(size), 2)
        order = (np.arange(count) * math.sqrt(3) + number * _GOLDEN) % 1
        labels = (order.argsort().argsort() < max(1, round(world.share * count))).astype(np.int64)
        places = _places(count, number)
        chosen = np.zeros(count, dtype=np.int64)
        for label, crowd in enumerate(tilted):
            of_them = labels == label
            chosen[of_them] = np.searchsorted(crowd, places[of_them] * crowd[-1])
        return Patients(inputs[chosen], labels.astype(np.float64), np.arange(count), count)

    return some


def _of_codes(outcome: Outcome, inputs: Floats, law: int, world: World) -> Some:
    chances = _chances(outcome, inputs, law, world).cumsum(axis=1)

    def some(size: float, number: int) -> Patients:
        """Choose ``size`` patients (2 or more) and their codes, by sequence ``number``."""
        count = max(round(size), 2)
        places, steps = _places(count, number), np.arange(1, count + 1)
        chosen = (places * len(inputs)).astype(np.int64)
        drawn = (steps * math.sqrt(3) + number * _GOLDEN) % 1
        codes = (drawn[:, None] > chances[chosen, :-1]).sum(1).astype(np.float64)
        if isinstance(outcome, TimeToEvent):
            left = (steps * math.sqrt(7) + number * math.sqrt(11)) % 1 / _LOST
            last = np.floor(left * outcome.periods)  # periods through which they were followed
            codes = np.where((left < 1) & (codes > 2 * last), 2 * last, codes)
        return Patients(inputs[chosen], codes, np.arange(count), count)

    return some


def _chances(outcome: Outcome, inputs: Floats, law: int, world: World) -> Floats:
    """Return the chance of each code, (n, codes), of patients with inputs (n, d)."""
    places, _ = usual_places(outcome)
    if isinstance(outcome, Classes):
        others = [law + _MOST * number for number in range(outcome.codes)]  # beyond those tried
        sums = _sums(inputs, others)
        even = world.share >= 1 / outcome.codes - _TINY
        frequent = np.ones(outcome.codes) if even else _falling(outcome.codes)
        at = math.sqrt(2) * world.strength * sums + np.log(frequent)
        return np.asarray(softmax(at, axis=1))
    at = 2 * world.strength * _sums(inputs, [law]) + places

    def apart(level: float) -> float:
        if isinstance(outcome, TimeToEvent):
            return float(stated(outcome, at + level)[:, -1].mean()) - world.share
        return float(expit(at + level).mean()) - world.share

    at = at + brentq(apart, -40.0, 40.0)
    if isinstance(outcome, TimeToEvent):
        hazard = expit(at)
        before = np.cumprod(np.hstack([np.ones((len(at), 1)), 1 - hazard]), axis=1)
        chances = np.zeros((len(at), outcome.codes))
        chances[:, 1::2], chances[:, -1] = before[:, :-1] * hazard, before[:, -1]
        return chances
    reached = np.hstack([np.ones((len(at), 1)), expit(at), np.zeros((len(at), 1))])
    return np.asarray(reached[:, :-1] - reached[:, 1:])


def _places(count: int, number: int) -> Floats:
    """Return where patients of sequence ``number`` lie among all, 0 to 1, (count,)."""
    return np.asarray((np.arange(1, count + 1) * _GOLDEN + number * math.sqrt(2)) % 1)


def _falling(classes: int) -> Floats:
    """Return shares of classes that fall evenly, (classes,)."""
    falling = np.arange(classes, 0, -1)
    return np.asarray(falling / falling.sum())


def _sums(inputs: Floats, laws: list[int]) -> Floats:
    """Return weighted sums of inputs (n, d) with mean 0 and deviation 1, (n, laws)."""
    sums = inputs @ np.stack([_weights(inputs.shape[1], law) for law in laws], axis=1)
    return np.asarray((sums - sums.mean(0)) / np.maximum(sums.std(0), _TINY))


def _weights(inputs: int, law: int) -> Floats:
    """Return weights of a law, (inputs,), from SHAKE-256: the same on every machine.

    Cubes of normal numbers: as in real data, a few inputs matter most.
    """
    stream = hashlib.shake_256(f"made-up law {law}".encode())
    words = np.frombuffer(stream.digest(8 * inputs), dtype="<u8")
    return np.asarray(ndtri((words + 0.5) / 2.0**64) ** 3, dtype=np.float64)

"""Studies, files that differ in one patient, and noise that stands still: for record and replay."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from flo.arrays import Floats, Integers, Mask
from flo.clients.records.snapshot import Snapshot
from flo.lab.canaries import request_for
from flo.privacy.patients.patients import Patients
from flo.study.document import Study
from flo.study.models import initial_weights, request_length
from flo.study.parameters import Vector
from flo.study.synthetic import made_up_inputs
from flo.study.terms import Purpose
from tests.builders import WHITENED, small_study, study_document
from tests.flo.studies import JOINED, SEQUENCE, with_history
from tests.privacy.slow_step import without

Call = tuple[str, float, int | None]

IMAGE = {"kind": "image", "name": "px", "height": 8, "width": 8, "minimum": 0, "maximum": 255}
MANY = 40
REGRESSION = {
    **{"kind": "regression", "name": "who", "family": "logistic", "outcome": "ill"},
    "predictors": ["age", "ward"],
}
ONCE: dict[str, Any] = {"epsilon": 0.9, "retry_allowance": 0}
STUDIES: dict[str, Study] = {
    "logistic": small_study(),
    "by ward": small_study(evaluation=ONCE | {"subgroups": ["ward"]}),
    "mlp": small_study(model={"kind": "mlp", "hidden": [8]}, evaluation=ONCE),
    "cnn": small_study(model={"kind": "cnn"}, data=study_document()["data"] | {"columns": [IMAGE]}),
    "whitened": small_study(
        data=study_document()["data"] | {"records_per_patient": "many"}, evaluation=ONCE
    ).with_mechanism(**WHITENED),
    "whitened mlp": small_study(
        data=study_document()["data"] | {"records_per_patient": "many"},
        model={"kind": "mlp", "hidden": [8, 4]},
        mechanism=study_document()["mechanism"] | WHITENED,
    ),
    "sequence": small_study(model=SEQUENCE, evaluation=ONCE),
    "joined": small_study(model=JOINED, evaluation=ONCE),
    "gru": with_history(kind="gru", hidden=3),
    "attention": with_history("visit", kind="attention", width=4, heads=2),
    "gated": small_study(
        schema_version=4,
        data=study_document()["data"] | {"records_per_patient": "many"},
        evaluation=ONCE | {"epsilon": 0.7},
        gate={"epsilon": 0.5, "subgroups": ["ward"]},
    ),
    "statistics": small_study().with_questions(
        "survey",
        0.3,
        {"kind": "table", "name": "table", "columns": ["age", "ward"], "by": "ill"},
        {"kind": "survival", "name": "curve", "time": "age", "event": "ill", "edges": [30, 60]},
        {"kind": "catalogue", "name": "all"},
        REGRESSION,
        REGRESSION
        | {"name": "older", "family": "linear", "outcome": "age", "predictors": ["ward"]},
        REGRESSION
        | {"name": "count", "family": "poisson", "outcome": "age", "predictors": ["ward"]},
    ),
}
SAMPLED = {name: STUDIES[name].with_mechanism(sampling=0.3) for name in ("logistic", "mlp", "cnn")}


@dataclass
class Frozen:
    """Noise that is the same on both files, with coins fixed for each patient; notes all calls."""

    coins: Mask
    calls: list[Call] = field(default_factory=list)

    def sample(self, variance: int, size: int) -> Integers:
        self.calls.append(("sample", variance, size))
        return (np.arange(size, dtype=np.int64) * 7919) % 100_003

    def choose(self, probability: float, count: int) -> Mask:
        self.calls.append(("choose", probability, None))  # a coin for each patient, by nature
        assert count == len(self.coins)
        return self.coins


def ordinary(study: Study) -> Patients:
    inputs = made_up_inputs(study.data)[:12]
    patient = np.array([0, 0, 0, 1, 2, 3, 3, 4, 5, 6, 7, 8], dtype=np.int64)
    return Patients(inputs, (np.arange(12) % 2).astype(np.float64), patient, 9)


def strange(study: Study, value: float) -> Patients:
    """The patients 0 (of three records) and 5 have nothing but that value."""
    file = ordinary(study)
    gone = np.isin(file.patient, [0, 5])[:, None]
    return replace(file, inputs=np.where(gone, value, file.inputs))


def of_one(study: Study) -> Patients:
    file = ordinary(study)
    return Patients(file.inputs[:1], file.labels[:1], file.patient[:1], 1)


def duplicates(study: Study) -> Patients:
    file = ordinary(study)
    return replace(file, inputs=np.repeat(file.inputs[:1], 12, axis=0), labels=np.ones(12))


def many_records(study: Study) -> Patients:
    file = ordinary(study)
    inputs = made_up_inputs(study.data)[100 : 100 + MANY]
    return Patients(
        np.concatenate([file.inputs, inputs]),
        np.concatenate([file.labels, np.arange(MANY) % 3 % 2]),
        np.concatenate([file.patient, np.full(MANY, 4)]),
        file.count,
    )


CASES: dict[str, tuple[Callable[[Study], Patients], int]] = {
    "ordinary": (ordinary, 3),
    "a patient of NaN": (lambda study: strange(study, np.nan), 0),
    "beside patients of NaN": (lambda study: strange(study, np.nan), 3),
    "a patient of 1e38": (lambda study: strange(study, 1e38), 0),
    "the only patient": (of_one, 0),
    "duplicate records": (duplicates, 0),
    "the patient with many records": (many_records, 4),
    "beside the patient with many records": (many_records, 0),
}


def neighbours(study: Study, purpose: Purpose, case: str) -> tuple[Snapshot, Snapshot, Mask, Mask]:
    """A file and the file without one patient, with coins for those who train in each."""
    make, who = CASES[case]
    file, rest = make(study), ordinary(study)
    smaller = without(file, who)
    coins = np.arange(file.count) % 3 != 1
    coins[who] = True
    if purpose in ("moments", "training"):
        fewer = np.delete(coins, who)
        return Snapshot(file, rest), Snapshot(smaller, rest), coins, fewer
    same = np.ones(rest.count, dtype=np.bool_)
    return Snapshot(rest, file), Snapshot(rest, smaller), same, same


def requests(study: Study, purpose: Purpose) -> Iterator[Vector]:
    """What requests carry: the initial model, a steep one, and one with a strange W."""
    for weights in (initial_weights(study), steep_weights(study)):
        yield request_for(study, purpose, weights)
    if study.mechanism.algorithm == "whitened" and purpose == "training":
        of_w = request_length(study, purpose) - len(weights)
        numbers = 10.0 ** np.linspace(-6, 6, of_w)
        yield np.concatenate([weights, np.where(np.arange(len(numbers)) % 3, numbers, -numbers)])


def steep_weights(study: Study) -> Floats:
    """A model under which gradients are much longer than the clip norm."""
    weights = initial_weights(study).astype(np.float64)
    return weights + np.where(np.arange(len(weights)) % 2, 1.0, -1.0)

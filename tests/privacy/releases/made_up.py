"""Made-up patients of the small study, for releases that sum products of inputs."""

from __future__ import annotations

import numpy as np

from flo.privacy.patients.patients import Patients
from flo.study.features import input_names
from tests.builders import small_study

D = len(input_names(small_study().data)) + 1  # inputs and an intercept


def made_up(patients: int, seed: int = 0, records: int = 1) -> Patients:
    numbers = np.random.default_rng(seed)
    inputs = numbers.uniform(-1, 1, size=(patients * records, D - 1))
    ill = inputs @ np.linspace(2, -1, D - 1) + numbers.normal(size=len(inputs)) > 0.3
    return Patients(inputs, ill.astype(float), np.arange(len(inputs)) // records, patients)


def without(patients: Patients, gone: int) -> Patients:
    kept = patients.patient != gone
    _, renumbered = np.unique(patients.patient[kept], return_inverse=True)
    return Patients(
        patients.inputs[kept], patients.labels[kept], renumbered, len(np.unique(renumbered))
    )


def alone(patients: Patients, one: int) -> Patients:
    theirs = patients.patient == one
    count = int(theirs.sum())
    return Patients(
        patients.inputs[theirs], patients.labels[theirs], np.zeros(count, dtype=np.int64), 1
    )

"""Why a logistic model says what it says: of all patients, and of one.

A patient with inputs x, the average patient a (on the card: a noisy mean, paid for in training) and
weights w: the column c adds

    φ_c = Σ w_j·(x_j - a_j)   over the inputs j of c

to the log odds, and the φ of all columns add up to the patient's log odds less those of the average
patient. For a linear model these are its Shapley values (Štrumbelj, Kononenko 2014) and its
integrated gradients (Sundararajan, Taly, Yan 2017).

Noise of training is part of every weight. With its covariance Σ (on the card), φ_c has the
deviation √((x - a)ᵀΣ(x - a)) over the inputs of c. Whether a column raises or lowers the risk is
said only where φ_c is beyond ``CERTAIN`` deviations of 0; elsewhere noise may have turned the sign.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from flo.arrays import Floats
from flo.errors import UsageError
from flo.published.golden import edges_of
from flo.published.model_card import PublishedModel
from flo.study.features import names_of
from flo.study.synthetic import encoded, made_up_cells, made_up_inputs

CERTAIN = 3.0  # deviations
REASONS, FEWEST_REASONS = 3, 2  # of a patient; one alone is right too seldom
_Z95 = 1.959963984540054


@dataclass(frozen=True)
class Effect:
    """What a column at one of its edges adds to the log odds of the average patient.

    ``value``: in log odds; ``deviation``: by noise of training.
    """

    name: str
    value: float
    deviation: float

    @property
    def interval(self) -> tuple[float, float]:
        """Ends of the 95 % interval: what it would be if only the noise were drawn again."""
        return self.value - _Z95 * self.deviation, self.value + _Z95 * self.deviation

    @property
    def is_certain(self) -> bool:
        """Whether noise hardly turned its sign."""
        return abs(self.value) > CERTAIN * self.deviation


@dataclass(frozen=True)
class Column:
    """A column and its effects. ``importance``: by how much it moves log odds, on average."""

    name: str
    importance: float
    effects: tuple[Effect, ...]


@dataclass(frozen=True)
class Contributions:
    """What each column adds to patients' log odds, (n, columns), and its deviation by noise."""

    columns: tuple[str, ...]
    values: Floats
    deviations: Floats

    def reasons(self, patient: int) -> list[tuple[str, float]]:
        """Return the columns that matter most to a patient and whose sign is certain.

        The largest first; empty if fewer than ``FEWEST_REASONS`` are certain.
        """
        values, deviations = self.values[patient], self.deviations[patient]
        order = np.argsort(-np.abs(values), kind="stable")
        certain = [i for i in order if abs(values[i]) > CERTAIN * deviations[i]][:REASONS]
        if len(certain) < FEWEST_REASONS:
            return []
        return [(self.columns[i], float(values[i])) for i in certain]


def effects(model: PublishedModel) -> list[Column]:
    """Return the model's columns, the most important first. Raises UsageError as ``contributions``.

    A column's importance is its mean absolute contribution over the study's made-up patients.
    """
    schema = model.study.data
    importance = np.abs(contributions(model, made_up_inputs(schema)).values).mean(axis=0)
    ordinary, found = made_up_cells(schema, 1), list[Column]()
    for number, column in enumerate(schema.columns):
        own = list[Effect]()
        for name, cell in edges_of(column):
            cells = ordinary | {column.name: np.array([cell])}
            told = contributions(model, encoded(schema, cells))
            value, deviation = told.values[0, number], told.deviations[0, number]
            own.append(Effect(name, float(value), float(deviation)))
        found.append(Column(column.name, float(importance[number]), tuple(own)))
    return sorted(found, key=lambda column: -column.importance)


def contributions(model: PublishedModel, inputs: Floats) -> Contributions:
    """Explain patients with inputs (n, d).

    Raises UsageError: the card states no noise, so a reason could not be told from chance.
    """
    noise, average = _stated(model)
    places, apart = _places(model), inputs - average
    values = np.empty((len(inputs), len(places)))
    deviations = np.empty_like(values)
    for number, own in enumerate(places.values()):
        values[:, number] = apart[:, own] @ model.weights[own]
        spread = apart[:, own] @ noise[np.ix_(own, own)]
        deviations[:, number] = np.sqrt(np.maximum((spread * apart[:, own]).sum(axis=1), 0))
    return Contributions(tuple(places), values, deviations)


def _places(model: PublishedModel) -> dict[str, list[int]]:
    """Return column -> places of its inputs."""
    found, start = dict[str, list[int]](), 0
    for column in model.study.data.columns:
        count = len(names_of(column))
        found[column.name] = list(range(start, start + count))
        start += count
    return found


def _stated(model: PublishedModel) -> tuple[Floats, Floats]:
    noise, average = model.noise, model.card.average
    if noise is None or average is None:
        raise UsageError(
            f"the card of {model.study.name}, version {model.study.version}, states no noise, so a "
            "reason cannot be told from chance",
            hint="logistic models of studies with schema_version 4 that continue no other state it",
        )
    return noise, np.array(average)

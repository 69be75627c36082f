"""Why a model says what it says: of all patients, and of one.

A patient with inputs x, the average patient a (on the card: a noisy mean, paid for in training) and
weights w: the column c adds

    φ_c = Σ w_j·(x_j - a_j)   over the inputs j of c

to the log odds, and the φ of all columns add up to the patient's log odds less those of the average
patient. For a linear model these are its Shapley values (Štrumbelj, Kononenko 2014) and its
integrated gradients (Sundararajan, Taly, Yan 2017). Of a network, w_j is the mean gradient on the
way from a to x, and so these are its integrated gradients, too.

Noise of training is part of every weight, and noise of the second moments of the average. With the
covariance Σ of the weights and the deviation s of an average (both on the card), φ_c has the
variance (x - a)ᵀΣ(x - a) + s²·Σ (w_j - m)² over the inputs j of c; m is the mean weight of a
category's codes, as errors of their shares add up to 0, and 0 elsewhere. Whether a column raises or
lowers the risk is said only where φ_c is beyond ``CERTAIN`` deviations of 0; elsewhere noise may
have turned the sign.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from flo.arrays import Floats
from flo.published.golden import edges_of
from flo.published.gradients import slopes_of
from flo.published.model_card import PublishedModel
from flo.study.columns import CategoryColumn, NumberColumn
from flo.study.columns import Column as AnyColumn
from flo.study.features import names_of
from flo.study.schema import Schema
from flo.study.synthetic import encoded, made_up_cells, made_up_inputs
from flo.study.wording import as_is, code_in_words, title

CERTAIN = 3.0  # deviations
REASONS, FEWEST_REASONS = 3, 2  # of a patient; one alone is right too seldom
_Z95 = 1.959963984540054
_OF_NETWORKS = 512  # made-up patients whose gradients are computed


@dataclass(frozen=True)
class Effect:
    """What a column at one of its edges adds to the log odds of the average patient.

    ``name``: of the edge, a value without its ``unit``. ``value``: in log odds; ``deviation``: by
    noise of training.
    """

    name: str
    value: float
    deviation: float
    unit: str = ""

    @property
    def where(self) -> str:
        """The edge with its unit."""
        return f"{self.name} {self.unit}".strip()

    @property
    def interval(self) -> tuple[float, float]:
        """Ends of the 95 % interval of what the effect would be without noise."""
        return self.value - _Z95 * self.deviation, self.value + _Z95 * self.deviation

    @property
    def is_certain(self) -> bool:
        """Whether noise hardly turned its sign."""
        return abs(self.value) > CERTAIN * self.deviation

    @property
    def in_words(self) -> str:
        """The direction with the effect and its interval, or that noise hides it."""
        low, high = self.interval
        if not self.is_certain:
            return f"noise hides it ({low:+.2f} to {high:+.2f})"
        word = "raises" if self.value > 0 else "lowers"
        return f"{word}, {self.value:+.2f} ({low:+.2f} to {high:+.2f})"


@dataclass(frozen=True)
class Column:
    """A column and its effects. ``title``: in the study's words. ``importance``: by how much it
    moves log odds, less one deviation of noise, on average."""

    name: str
    title: str
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

    Importance is over the study's made-up patients.
    """
    _, average, _ = _stated(model)  # refuses first: made-up images take seconds
    schema = model.study.data
    inputs = made_up_inputs(schema)[: None if model.is_linear else _OF_NETWORKS]
    importance = surely_moves(contributions(model, inputs))
    edges = [
        (number, column, name, cell)
        for number, column in enumerate(schema.columns)
        for name, cell in edges_of(column)
    ]
    told = contributions(model, _at_edges(schema, average, edges))
    found = dict[int, list[Effect]]()
    for row, (number, column, name, cell) in enumerate(edges):
        value, deviation = told.values[row, number], told.deviations[row, number]
        unit = column.unit if isinstance(column, NumberColumn) and np.isfinite(cell) else ""
        effect = Effect(_in_words(column, name, cell), float(value), float(deviation), unit)
        found.setdefault(number, []).append(effect)
    columns = [
        Column(one.name, title(one), float(importance[number]), tuple(found[number]))
        for number, one in enumerate(schema.columns)
    ]
    return sorted(columns, key=lambda column: -column.importance)


def surely_moves(told: Contributions) -> Floats:
    """Return by how much each column moves log odds, (columns,): the mean over patients of its
    absolute contribution, less one deviation of noise."""
    return np.asarray(np.maximum(np.abs(told.values) - told.deviations, 0).mean(axis=0))


def _at_edges(
    schema: Schema, average: Floats, edges: Sequence[tuple[int, AnyColumn, str, float]]
) -> Floats:
    """Return the average patient's inputs with one column at an edge in each row."""
    places, rows = places_of(schema), np.tile(average, (len(edges), 1))
    ordinary = made_up_cells(schema, 1)
    for row, (_, column, _, cell) in enumerate(edges):
        own = places[column.name]
        rows[row, own] = encoded(schema, ordinary | {column.name: np.array([cell])})[0, own]
    return rows


def _in_words(column: AnyColumn, edge: str, cell: float) -> str:
    """Return an edge of a column, such as ``at 18`` or ``= 2 (atypical angina)``."""
    if isinstance(column, CategoryColumn) and cell >= 0:
        return f"= {code_in_words(column, column.codes[int(cell)])}"
    if isinstance(column, NumberColumn) and np.isfinite(cell):
        return f"at {as_is(cell)}"
    return edge


def contributions(model: PublishedModel, inputs: Floats) -> Contributions:
    """Explain patients with inputs (n, d). Raises UsageError as ``Explainer``."""
    return Explainer(model).explain(inputs)


class Explainer:
    """Explains a model's patients; all that does not depend on a patient is computed once.

    Raises UsageError: the card states no noise, so a reason could not be told from chance; or the
    model is a network, and the extra ``explain`` is not installed.
    """

    def __init__(self, model: PublishedModel) -> None:
        noise, self._average, self._error = _stated(model)
        self._model, columns = model, model.study.data.columns
        places = places_of(model.study.data)
        self.columns = tuple(places)
        self._starts = np.array([own[0] for own in places.values()])
        self._noise = np.zeros((len(self._average), len(self._average)))
        self._centring = np.eye(len(self._average))  # of a category's weights around their mean
        for column, own in zip(columns, places.values(), strict=True):
            block = np.ix_(own, own)
            self._noise[block] = noise[block]
            if isinstance(column, CategoryColumn) and len(column.codes) > 2:
                self._centring[block] -= 1 / len(own)
        # A logistic model moves every patient with the same weights.
        self._same = (
            self._of_average(np.asarray(model.weights[None, :-1], dtype=np.float64))
            if model.is_linear
            else None
        )

    def explain(self, inputs: Floats) -> Contributions:
        """Return what each column adds for patients with inputs (n, d)."""
        apart = inputs - self._average
        slopes = slopes_of(self._model, inputs, self._average)
        values = self._by_column(apart * slopes)
        of_weights = np.maximum(self._by_column((apart @ self._noise) * apart), 0)
        of_average = self._of_average(slopes) if self._same is None else self._same
        return Contributions(self.columns, values, np.sqrt(of_weights + of_average))

    def _of_average(self, slopes: Floats) -> Floats:
        """Return the variance of contributions by noise of the average, (n, columns)."""
        return np.asarray(self._error**2 * self._by_column((slopes @ self._centring) ** 2))

    def _by_column(self, each: Floats) -> Floats:
        """Return sums over each column's inputs, (n, columns), of numbers of inputs (n, d)."""
        return np.asarray(np.add.reduceat(each, self._starts, axis=1))


def places_of(schema: Schema) -> dict[str, list[int]]:
    """Return column -> places of its inputs."""
    found, start = dict[str, list[int]](), 0
    for column in schema.columns:
        count = len(names_of(column))
        found[column.name] = list(range(start, start + count))
        start += count
    return found


def _stated(model: PublishedModel) -> tuple[Floats, Floats, float]:
    """Return the covariance of the weights, the average patient, and its deviation."""
    noise, average, error = model.noise, model.card.average, model.card.average_deviation
    if noise is None or average is None or error is None:
        raise model.no_noise("a reason cannot be told from chance")
    return noise, np.array(average), error

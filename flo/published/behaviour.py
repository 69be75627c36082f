"""Checks of a published model's behaviour on made-up patients: no patient's data, no ε.

They ask whether this installation computes what the coordinator published, and whether the model
can be used at all:

* *golden cases*: the log odds of the first ``GOLDEN`` made-up patients (``flo.study.synthetic``) as
  the card states them, each a check. A stale or changed encoder, exchanged columns, another unit,
  truncated tensors and another version of a network show here.
* *one way or another*: every other way of scoring (a table of cells, ONNX, one patient at a time)
  gives the same.
* *edges*: each column at its ends, at each code, and missing, beside an ordinary patient, has a
  finite score, and a risk that rises with it.

``flo.published`` cannot read tables: ways of scoring are given (``flo.lab.behaviour``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from flo.arrays import Floats
from flo.published.model_card import PublishedModel
from flo.study.document import Study
from flo.study.models import log_odds, precision
from flo.study.parameters import Vector
from flo.study.schema import CategoryColumn, ImageColumn, NumberColumn, Schema
from flo.study.synthetic import encoded, made_up_cells

GOLDEN = 128
# Largest difference in log odds, relative to 1 + |log odds|. Networks compute in float32, whose sums
# depend on the library's version.
_SAME, _SAME_OF_NETWORKS = 1e-9, 1e-4

Cells = Mapping[str, Floats]
Way = Callable[[Cells], Floats]  # cells of n patients -> log odds (n,)


@dataclass(frozen=True)
class BehaviourCheck:
    """``said``: what was found, for people."""

    name: str
    passed: bool
    said: str


def golden(study: Study, weights: Vector) -> Floats:
    """Return the log odds of the first ``GOLDEN`` made-up patients, (GOLDEN,)."""
    return log_odds(study, weights, encoded(study.data, first(study.data, GOLDEN)))


def first(schema: Schema, count: int) -> dict[str, Floats]:
    """Return the cells of the first made-up patients."""
    return {name: cells[:count] for name, cells in made_up_cells(schema).items()}


def checks(
    model: PublishedModel, stated: Floats, ways: Mapping[str, Way]
) -> Iterator[BehaviourCheck]:
    """Run all checks. ``stated`` (GOLDEN,): the card's golden cases."""
    yield from _golden(model, stated)
    for name, way in ways.items():
        yield from _way(model, name, way)
    yield from _edges(model)


def _golden(model: PublishedModel, stated: Floats) -> Iterator[BehaviourCheck]:
    found = golden(model.study, model.weights)
    for number, (here, there) in enumerate(zip(found, stated, strict=True), 1):
        same = _alike(model.study, here, there)
        yield BehaviourCheck(
            f"golden case {number}", bool(same), f"log odds {here:.6f}, published {there:.6f}"
        )


def _way(model: PublishedModel, name: str, way: Way) -> Iterator[BehaviourCheck]:
    cells = made_up_cells(model.study.data)
    expected = log_odds(model.study, model.weights, encoded(model.study.data, cells))
    found = way(cells)
    apart = np.abs(found - expected) / (1 + np.abs(expected))
    same = _alike(model.study, found, expected)
    said = f"{int((~same).sum())} of {len(same)} made-up patients differ, by at most {apart.max():.2g}"
    yield BehaviourCheck(name, bool(same.all()), said)


def _edges(model: PublishedModel) -> Iterator[BehaviourCheck]:
    schema = model.study.data
    ordinary = first(schema, 1)
    for column in schema.columns:
        for what, cell in _edge_cells(column):
            cells = ordinary | {column.name: cell}
            score = log_odds(model.study, model.weights, encoded(schema, cells))[0]
            yield BehaviourCheck(
                f"{column.name} {what}", bool(np.isfinite(score)), f"log odds {score:.4f}"
            )


def _edge_cells(column: NumberColumn | CategoryColumn | ImageColumn) -> Iterator[tuple[str, Floats]]:
    if isinstance(column, ImageColumn):
        for what, value in (("black", -1.0), ("white", 1.0)):
            yield what, np.full((1, len(column.pixels)), value)
        return
    if isinstance(column, NumberColumn):
        ends = [("at its minimum", column.minimum), ("at its maximum", column.maximum)]
        yield from ((what, np.array([value])) for what, value in ends)
        for hinge in column.hinges:
            yield f"at {hinge:g}", np.array([hinge])
    else:
        for place, code in enumerate(column.codes):
            yield f"= {code}", np.array([float(place)])
    if column.missing == "indicator":
        nothing = np.nan if isinstance(column, NumberColumn) else -1.0
        yield "missing", np.array([nothing])


def _alike(study: Study, found: Floats, expected: Floats) -> np.ndarray:
    most = _SAME if precision(study) == np.float64 else _SAME_OF_NETWORKS
    with np.errstate(invalid="ignore"):
        return np.asarray(np.abs(found - expected) <= most * (1 + np.abs(expected)))

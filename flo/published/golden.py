"""Golden cases of a published model: patients who were made up, and what the model says of them.

The run that trained a model computes them, and the signed card states them. Whoever scores patients
with the model computes them again, in the way in which it scores. Software that exchanges columns,
scales or encodes otherwise, or has cut or rounded tensors, then shows as a difference. Whether a
hospital's own file has the right columns and units is not seen here. No patient's data and no ε are
needed.

The cases are the first ``_GENERAL`` made-up patients of the study (``flo.study.synthetic``), and
one ordinary patient with each column in turn at its ends, at each hinge, at each code, and missing;
of those, the first ``_EDGES``, or as many scores of several classes. Wide tables have fewer cases,
of ``_CELLS`` cells together, because they are scored before every prediction.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, model_validator
from scipy.special import expit, logit

from flo.arrays import Floats
from flo.documents.document import Document
from flo.privacy.releases.calibration import Calibration
from flo.study.classes import MOST_CLASSES
from flo.study.columns import (
    CategoryColumn,
    Column,
    EncodedColumn,
    ImageColumn,
    NoteColumn,
    NumberColumn,
)
from flo.study.document import Study
from flo.study.features import made_up_width
from flo.study.models import scores
from flo.study.parameters import Vector
from flo.study.schema import Schema
from flo.study.synthetic import encoded, made_up_cells

_GENERAL, _EDGES, _CELLS, _FEWEST = 128, 2000, 200_000, 4
_MOST = _GENERAL + _EDGES
_MOST_SCORES = _GENERAL * MOST_CLASSES + _EDGES
_MOST_PLACES = 2000  # of a calibration: twice its points
# Largest difference of log odds, relative to 1 + |log odds|. Logistic models are computed in
# float64; networks in float32, whose sums depend on processor and library.
_SAME, _SAME_OF_NETWORKS = 1e-9, 1e-4
_SAME_RISK, _SAME_RISK_OF_NETWORKS = 1e-14, 2e-7  # near 0 and 1, numbers tell risks no finer

Cells = Mapping[str, Floats]
Score = Callable[[Cells], Floats]  # cells of n patients -> log odds (n,) or (n, classes)


class Golden(Document):
    """Log odds and calibrated risks of the golden cases, in their order.

    ``cases``: version of the cases. Since version 2 there is also the risk of each point of the
    calibration's curve, and of each place between two, which no made-up patient may reach.
    ``risks``: None if the model has no calibration. Of several classes, a case has log odds for
    each, in the order of the study, and there are no risks.
    """

    cases: Literal[1, 2] = 1
    log_odds: Annotated[tuple[float, ...], Field(max_length=_MOST_SCORES)]
    risks: Annotated[tuple[float, ...], Field(max_length=_MOST + _MOST_PLACES)] | None = None

    @model_validator(mode="after")
    def _a_risk_of_each(self) -> Golden:
        if self.risks is None:
            return self
        further = len(self.risks) - len(self.log_odds)
        if further < 0 or (self.cases == 1 and further):
            raise ValueError(f"{len(self.risks)} risks of {len(self.log_odds)} golden cases")
        return self

    def follow_from(self, study: Study, calibration: Calibration | None) -> bool:
        """Return whether there is one number for each case of this study."""
        count = len(_scored(study.data))
        if len(self.log_odds) != count or (self.risks is None) != (calibration is None):
            return False
        places = _places(calibration) if calibration and self.cases == 2 else ()
        return self.risks is None or len(self.risks) == count + len(places)

    @classmethod
    def of(cls, study: Study, weights: Vector, calibration: Calibration | None) -> Golden | None:
        """Return a model's golden cases.

        None if it has no finite score for one of them, or frozen layers, whose numbers only
        hospitals have.
        """
        if study.frozen_file:
            return None
        found = scores(study, weights, encoded(study.data, cells(study.data))).ravel()
        if not np.isfinite(found).all():
            return None
        risks = None
        if calibration:
            at = np.concatenate([found, _places(calibration)])
            risks = tuple(calibration.of(at)[0].tolist())
        return cls(cases=2, log_odds=tuple(found.tolist()), risks=risks)


@dataclass(frozen=True)
class Case:
    """One golden case as it was computed. ``name``: of the patient; ``stated``: by the card.

    Both are log odds, or risks if ``of_risk``.
    """

    name: str
    stated: float
    found: float
    same: bool
    of_risk: bool = False


def compare(study: Study, golden: Golden, score: Score) -> list[Case]:
    """Score the golden cases in one way; return each beside what the card states."""
    stated = np.array(golden.log_odds)
    found = score(cells(study.data)).ravel()
    return [
        Case(name, float(there), float(here), bool(same))
        for name, there, here, same in zip(
            _scored(study.data), stated, found, _alike(study, found, stated), strict=True
        )
    ]


def compare_risks(study: Study, golden: Golden, calibration: Calibration) -> list[Case]:
    """Return the risks that this installation makes of the stated log odds, beside the stated."""
    assert golden.risks is not None
    places = _places(calibration) if golden.cases == 2 else np.empty(0)
    at, stated = np.concatenate([golden.log_odds, places]), np.array(golden.risks)
    if len(at) != len(stated):
        return [Case("the calibration's curve", len(stated), len(at), same=False, of_risk=True)]
    found = calibration.of(at)[0]
    alike = _alike(study, logit(found), logit(stated))
    named = [*names(study.data), *(f"log odds {place:.3f}" for place in places)]
    return [
        Case(name, float(there), float(here), bool(same), of_risk=True)
        for name, there, here, same in zip(named, stated, found, alike, strict=True)
    ]


def compare_answers(
    study: Study, golden: Golden, scores: Floats, risks: Sequence[float | None]
) -> list[Case]:
    """Return what somebody answered of the golden cases, beside what the card states.

    ``scores`` (n,), 0 to 1. ``risks``: None where none was stated, which is compared with nothing:
    a band may be too wide.
    """
    with np.errstate(divide="ignore"):  # a score of exactly 0 or 1
        found, stated = logit(scores), np.array(golden.log_odds)
    named = names(study.data)
    cases = [
        Case(name, float(there), float(here), bool(same))
        for name, there, here, same in zip(
            named, stated, found, _alike(study, found, stated), strict=True
        )
    ]
    for place, risk in enumerate(risks):
        if risk is not None:
            there = golden.risks[place] if golden.risks else math.nan
            same = bool(_alike(study, logit(np.array([risk])), logit(np.array([there])))[0])
            cases.append(Case(named[place], there, risk, same, of_risk=True))
    return cases


def _places(calibration: Calibration) -> Floats:
    """Return the log odds of the curve's points, and of the middles between them."""
    points = np.array(calibration.log_odds)
    return np.concatenate([points, (points[:-1] + points[1:]) / 2])


def names(schema: Schema) -> list[str]:
    """Return what each case is, such as ``age missing``, in their order."""
    general = [f"made-up patient {number}" for number in range(1, _counts(schema)[0] + 1)]
    return general + [f"{column.name} {what}" for column, what, _ in _edges(schema)]


def _scored(schema: Schema) -> list[str]:
    """Return what each score is of: a case, or a case and one of several classes."""
    if schema.classes is None:
        return names(schema)
    return [f"{name}, {of_class}" for name in names(schema) for of_class in schema.classes.classes]


def cells(schema: Schema) -> dict[str, Floats]:
    """Return the cases as values by column, as ``flo.study.synthetic.made_up_cells`` does."""
    edges, (general, _) = list(_edges(schema)), _counts(schema)
    found = {
        name: np.concatenate([own, np.repeat(own[:1], len(edges), axis=0)])
        for name, own in made_up_cells(schema, general).items()
    }
    for place, (column, _, value) in enumerate(edges, general):
        found[column.name][place] = value
    for column in schema.columns:
        if isinstance(column, NumberColumn):  # rounding may pass a bound
            found[column.name] = np.clip(found[column.name], column.minimum, column.maximum)
    return found


def _counts(schema: Schema) -> tuple[int, int]:
    """Return the numbers of general cases and of edges, at most."""
    width = sum(made_up_width(c) if isinstance(c, EncodedColumn) else 1 for c in schema.columns)
    most = max(_CELLS // width, 2 * _FEWEST)
    general = min(_GENERAL, most // 2)
    return general, min(_EDGES // schema.outputs, most - general)


def _edges(schema: Schema) -> Iterator[tuple[Column, str, float]]:
    each = ((column, *edge) for column in schema.columns for edge in edges_of(column))
    return itertools.islice(each, _counts(schema)[1])


def edges_of(column: Column) -> Iterator[tuple[str, float]]:
    """Return what a column is at its edges, such as ``at its minimum``, with its cell."""
    if isinstance(column, ImageColumn):
        yield from (("black", -1.0), ("white", 1.0))
        return
    if isinstance(column, NoteColumn):
        if column.missing == "indicator":
            yield "missing", np.nan
        return
    if isinstance(column, CategoryColumn):
        yield from ((f"= {code}", float(place)) for place, code in enumerate(column.codes))
    else:
        yield from (("at its minimum", column.minimum), ("at its maximum", column.maximum))
        yield from ((f"= {hinge:g}", hinge) for hinge in column.hinges)
    if column.missing == "indicator":
        yield "missing", np.nan if isinstance(column, NumberColumn) else -1.0


def _alike(study: Study, found: Floats, stated: Floats) -> np.ndarray:
    network = study.model.kind != "logistic"
    most = _SAME_OF_NETWORKS if network else _SAME
    with np.errstate(invalid="ignore"):  # a score that is not a number is not the stated one
        alike = np.abs(found - stated) <= most * (1 + np.abs(stated))
        finest = _SAME_RISK_OF_NETWORKS if network else _SAME_RISK
        risks = np.abs(expit(found) - expit(stated)) <= finest
    return np.asarray(alike | risks)

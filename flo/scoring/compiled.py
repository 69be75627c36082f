"""A published model in a form that scores one record at once.

``flo.published.compile`` makes the document of a model whose signature was checked; whoever runs it
checks its digest only. It states nothing that the signed card, the study or this hospital's mapping
and rule do not state.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple

from flo.scoring.curve import Curve, is_too_wide, logit, sigmoid
from flo.scoring.record import Encoded, Field, RecordEncoder

if TYPE_CHECKING:
    from flo.arrays import Floats

_WRITTEN = 1e6  # risks and thresholds are compared as they are written, to six decimals
Network = Callable[["list[float] | Floats"], float]  # inputs (d,) -> score, 0 to 1


class Scored(NamedTuple):
    """What the model says of one patient. Risks are probabilities of label 1.

    ``risk``: None if none is stated; ``low``, ``high``: its band. ``flagged``: None if nobody
    decided who is flagged.
    """

    score: float
    risk: float | None = None
    low: float | None = None
    high: float | None = None
    flagged: bool | None = None


class CompiledModel:
    """The model of a document.

    ``facts``: what each answer says of the model. ``words``: title of each column, by name.
    ``most_values``, ``most_bytes``: of a request.
    ``encoder``: of records with the study's names and units, ``row_encoder``: with the hospital's
    own; None if there are none.
    """

    def __init__(self, document: Mapping[str, Any], network: Network | None = None) -> None:
        """``network``: of a model that is one; None for a linear model."""
        columns: list[Any] = [SimpleNamespace(**column) for column in document["columns"]]
        self.facts: dict[str, Any] = document["facts"]
        cells = sum(map(_cells_of, columns))
        self.most_values = 4 * cells + 100
        self.most_bytes = 200 * cells + (16 << 10)
        self.words = {one.name: one.about or one.name for one in columns}
        self.encoder = RecordEncoder(columns)
        self.row_encoder: RecordEncoder | None = None
        if document["fields"] is not None:
            own = {name: Field(**field) for name, field in document["fields"].items()}
            self.row_encoder = RecordEncoder(columns, own)
        self._weights: Sequence[float] | None = document["weights"]
        self._network = network
        self._curve = Curve(**document["curve"]) if document["curve"] else None
        self._rule = _Rule(document["rule"], columns) if document["rule"] else None

    def score(self, encoded: Encoded) -> Scored:
        """Return what the model says of a record that was encoded without a broken rule."""
        assert encoded.inputs is not None
        if self._weights is not None:
            *weights, intercept = self._weights
            if len(encoded.inputs) != len(weights):
                raise ValueError("the record has another number of inputs than the model")
            products = map(float.__mul__, map(float, encoded.inputs), weights)
            log_odds = math.fsum([*products, intercept])
            score = sigmoid(log_odds)
        else:
            assert self._network is not None
            score = self._network(encoded.inputs)
            log_odds = logit(score)
        if self._curve is None:
            return Scored(score)
        risk, low, high = self._curve.of(log_odds)
        if is_too_wide(low, high):
            return Scored(score)
        flagged = self._rule.flags(risk, encoded.inputs) if self._rule else None
        return Scored(score, risk, low, high, flagged)


def opened(document: Mapping[str, Any], onnx: bytes = b"") -> CompiledModel:
    """Return the model of a document. ``onnx``: the network, if it is one."""
    if document["network"] is None:
        return CompiledModel(document)
    from flo.scoring.network import network

    return CompiledModel(document, network(onnx, document["network"]))


class _Rule:
    """From which risk on a patient is flagged: one threshold, or one for each group of a column."""

    def __init__(self, rule: Mapping[str, Any], columns: Sequence[Any]) -> None:
        self._limits: list[float] = rule["limits"]
        self._start = self._end = 0
        self._codes = self._marks = 0
        if rule["column"] is None:
            return
        for column in columns:
            self._start, self._end = self._end, self._end + inputs_of(column)
            if column.name == rule["column"]:
                self._codes, self._marks = len(column.codes), column.missing == "indicator"
                return

    def flags(self, risk: float, inputs: list[float] | Floats) -> bool:
        """Return whether a patient is flagged. Both are compared as they are written."""
        own = [float(one) for one in inputs[self._start : self._end]] if self._codes else []
        limit = self._limits[self._group(own) if own else 0]
        return _written(risk) >= _written(limit)

    def _group(self, inputs: list[float]) -> int:
        """Return the place of the patient's code, or the last for missing."""
        if self._marks and inputs[-1] == 1:
            return self._codes
        shown = inputs[: len(inputs) - bool(self._marks)]
        return int(shown[0] == 1) if self._codes == 2 else shown.index(max(shown))


def _cells_of(column: Any) -> int:
    return int(column.channels * column.height * column.width) if column.kind == "image" else 1


def inputs_of(column: Any) -> int:
    """Return how many inputs of the model a column becomes."""
    if column.kind == "image":
        if column.scattering is None:
            return _cells_of(column)
        from flo.study.scattering import count

        return int(column.channels * count(column.height, column.width, column.scattering))
    marks = int(column.missing == "indicator")
    if column.kind == "number":
        return 1 + len(column.hinges) + marks
    codes = len(column.codes)
    return (1 if codes == 2 else codes) + marks


def _written(risk: float) -> float:
    return round(risk * _WRITTEN) / _WRITTEN

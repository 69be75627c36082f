"""Faults of a hospital's installation: tensors, encoder, reader, ONNX, calibration."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from flo.arrays import Floats
from flo.clients.prediction.scoring_ways import as_a_table
from flo.privacy.releases.calibration import Calibration
from flo.published.golden import Cells
from flo.published.model_card import PublishedModel
from flo.published.onnx import onnx_scores, to_onnx
from flo.study.columns import CategoryColumn, Column, NumberColumn
from flo.study.models import log_odds
from flo.study.parameters import Vector
from flo.study.schema import Schema
from flo.study.synthetic import encoded

Score = Callable[[Cells], Floats]
Reweight = Callable[[Vector, Vector, np.random.Generator], Vector]
Damage = Callable[[PublishedModel, PublishedModel, np.random.Generator], Score]


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


def _inputs_exchanged(inputs: Floats, generator: np.random.Generator) -> Floats:
    one, two = generator.choice(inputs.shape[1], 2, replace=False)
    inputs[:, [one, two]] = inputs[:, [two, one]]
    return inputs


def _input_lost(inputs: Floats, generator: np.random.Generator) -> Floats:
    inputs[:, generator.integers(inputs.shape[1])] = 0.0
    return inputs


def _single(inputs: Floats, generator: np.random.Generator) -> Floats:
    return np.asarray(inputs.astype(np.float32).astype(np.float64))


INSTALLATIONS: dict[str, Damage] = {
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


CALIBRATIONS: dict[str, Callable[[Calibration, np.random.Generator], Calibration]] = {
    "calibration: all risks lower": _risks_changed(lambda r, g: r * g.uniform(0.5, 0.999)),
    "calibration: one point moved": _risks_changed(
        lambda r, g: np.where(np.arange(len(r)) == g.integers(len(r)), r * 0.9, r)
    ),
    "calibration: not applied": _risks_changed(lambda r, g: np.linspace(0.01, 0.99, len(r))),
}

"""Check that this installation scores patients as the coordinator did when it published a model.

The golden cases of the card (``flo.published.golden``) are written as a hospital would write its
patients, read as its file is read, and scored. ``flo model check`` also scores them one at a time
and as ONNX.
"""

from __future__ import annotations

import csv
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np

from flo.arrays import Floats
from flo.clients.quality.check import check_inputs
from flo.clients.sources.files import open_file
from flo.errors import DataError, FloError, TrustError, UsageError
from flo.published.golden import Case, Score, compare, compare_risks
from flo.published.golden import cells as golden_cells
from flo.published.model_card import PublishedModel
from flo.published.onnx import onnx_scores
from flo.scoring.record import Cell, RecordEncoder
from flo.study.columns import CategoryColumn, ImageColumn
from flo.study.schema import Schema
from flo.study.synthetic import encoded

TABLE, ONNX, RISKS = "read from a table", "as ONNX", "risks of these scores"
RECORD = "one patient at a time"
FEATURES = "from what encoders make of images"
_HINT = "flo model check MODEL lists them; install the FLO that the coordinator uses, or tell it"


def refuse_other_scores(model: PublishedModel, way: str = TABLE) -> None:
    """Raise TrustError if golden cases have other scores or risks here.

    ``way``: ``TABLE`` or ``RECORD``, as the patients are read. A card of an older version states no
    golden cases, and nothing is checked.
    """
    if model.card.golden is None:
        return
    by_record = way == RECORD or model.study.data.encoders
    score = _record_way(model, model.scores) if by_record else _table_way(model)
    _refuse(golden_cases(model, {way: score}))


def _refuse(found: Mapping[str, list[Case]]) -> None:
    wrong = [one for cases in found.values() for one in cases if not one.same]
    if wrong:
        first = wrong[0]
        what = "risk" if first.of_risk else "log odds"
        raise TrustError(
            "this installation computes other scores than the coordinator published: "
            f"{len(wrong)} golden cases differ; the first, {first.name!r}, has {what} "
            f"{first.found:.12g} here, and {first.stated:.12g} on the card",
            hint=_HINT,
        )


def golden_cases(model: PublishedModel, scores: Mapping[str, Score]) -> dict[str, list[Case]]:
    """Return the golden cases in each way of scoring, and the risks if the card states any.

    Raises TrustError: FLO cannot read its own made-up patients.
    """
    golden = model.card.golden
    assert golden is not None
    found = dict[str, list[Case]]()
    for name, score in scores.items():
        try:
            found[name] = compare(model.study, golden, score)
        except UsageError:
            raise  # the fault is this machine's, and not the model's
        except FloError as error:
            raise TrustError(
                f"golden cases cannot be scored here ({name}): {error}", hint=_HINT
            ) from error
    if golden.risks is not None and model.card.calibration is not None:
        found[RISKS] = compare_risks(model.study, golden, model.card.calibration)
    return found


def refuse_other_way(
    model: PublishedModel, name: str, log_odds: Callable[[Floats], Floats]
) -> None:
    """Raise TrustError if golden cases, encoded one at a time, have other scores or risks.

    ``log_odds``: of inputs (n, d), as they are computed here. ``name``: of this way, for people.
    """
    if model.card.golden is not None:
        _refuse(golden_cases(model, {name: _record_way(model, log_odds)}))


def refuse_other_onnx(model: PublishedModel, onnx: bytes) -> None:
    """Raise TrustError if an exported model scores golden cases otherwise than its card states."""
    if model.card.golden is not None:
        _refuse(golden_cases(model, {ONNX: every_way(model, onnx)[ONNX]}))


def every_way(model: PublishedModel, onnx: bytes | None) -> dict[str, Score]:
    """Return each way in which patients can be scored here. ``onnx``: an exported model, if any.

    Raises UsageError: the extra that reads ONNX is not installed, or the file is no such model.
    """
    schema = model.study.data
    found = (
        {FEATURES: _record_way(model, model.scores)}
        if schema.encoders
        else {TABLE: _table_way(model), RECORD: _record_way(model, model.scores)}
    )
    if onnx is not None:
        score = onnx_scores(onnx, model.study)
        found[ONNX] = lambda cells: score(encoded(schema, cells))
    return found


def _table_way(model: PublishedModel) -> Score:
    return lambda cells: model.scores(as_a_table(model.study.data, cells))


def _record_way(model: PublishedModel, log_odds: Callable[[Floats], Floats]) -> Score:
    schema = model.study.data
    if schema.encoders:  # of a made-up image the card states what the encoder makes of it
        return lambda cells: log_odds(encoded(schema, cells))
    encoder = RecordEncoder(model.study.data.columns)

    def score(cells: Mapping[str, Floats]) -> Floats:
        found = []
        for record in _records(model.study.data, cells):
            encoded = encoder.encode(record)
            if encoded.inputs is None:
                raise DataError(f"a made-up patient is refused: {encoded.broken[0]}")
            found.append(log_odds(np.asarray(encoded.inputs)[None]))
        return np.concatenate(found)

    return score


def made_up_records(schema: Schema) -> Iterator[dict[str, Cell]]:
    """Yield the golden cases as records, in their order."""
    return _records(schema, golden_cells(schema))


def _records(schema: Schema, cells: Mapping[str, Floats]) -> Iterator[dict[str, Cell]]:
    """Yield patients as records; an image is a list of its pixels."""
    names, rows = _text(schema, cells)
    images = {c.name: c.pixels for c in schema.columns if isinstance(c, ImageColumn)}
    for row in rows:
        record: dict[str, Cell] = dict(zip(names, row, strict=True))
        for name, pixels in images.items():
            record[name] = [float(str(record.pop(pixel))) for pixel in pixels]
        yield record


def as_a_table(schema: Schema, cells: Mapping[str, Floats]) -> Floats:
    """Write patients as a hospital would, and return the inputs (n, d) that are read."""
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "made-up.csv"
            with path.open("w", newline="", encoding="utf-8") as file:
                writer = csv.writer(file)
                names, rows = _text(schema, cells)
                writer.writerow(names)
                writer.writerows(rows)
            return check_inputs(open_file(path, "patient_id"), schema)
    except OSError as error:
        raise UsageError(
            f"made-up patients cannot be written: {error}",
            hint="TMPDIR must name a folder with some free space",
        ) from error


def _text(schema: Schema, cells: Mapping[str, Floats]) -> tuple[list[str], list[list[str]]]:
    names, columns = list[str](), list[list[str]]()
    for column in schema.columns:
        own = cells[column.name]
        if isinstance(column, ImageColumn):
            names += column.pixels
            middle, half = (
                (column.maximum + column.minimum) / 2,
                (column.maximum - column.minimum) / 2,
            )
            pixels = np.clip(middle + half * own.T, column.minimum, column.maximum)
            columns += [[repr(float(value)) for value in one] for one in pixels]
            continue
        names.append(column.name)
        if isinstance(column, CategoryColumn):
            columns.append(["" if place < 0 else column.codes[int(place)] for place in own])
        else:
            columns.append(["" if np.isnan(value) else repr(float(value)) for value in own])
    return names, [list(row) for row in zip(*columns, strict=True)]

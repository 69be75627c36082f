"""Use of a published model on patients of this hospital: offline; no data leave it.

The columns of the signed study define how a patient becomes the model's inputs, with the same code
as in training. Predictions are about patients, so only the file's owner can read them.
"""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.special import expit

from flo.arrays import Floats
from flo.clients.home.site_config import open_table
from flo.clients.prediction.finish import FinishedAtHome
from flo.clients.prediction.flag_rule import FlagRule
from flo.clients.prediction.reasons import told
from flo.clients.prediction.scoring_ways import refuse_other_scores
from flo.clients.prediction.trace import write_record
from flo.clients.quality.check import check_inputs
from flo.clients.sources.cells import as_ids
from flo.documents.text import in_a_sheet, in_digits
from flo.errors import UsageError
from flo.privacy.releases.calibration import Calibration
from flo.privacy.releases.quantities import Foreseen
from flo.published.model_card import PublishedModel
from flo.scoring.curve import is_too_wide
from flo.storage.files import write_private
from flo.study.document import Study
from flo.study.encoders import Encoders
from flo.study.quantity import Quantity
from flo.study.wording import can_change

Band = tuple[str, ...]
_NO_RISK: Band = ("",) * 3
_NO_VALUES: Band = ("",) * 5
_COLUMNS = {
    *("row", "score", "risk", "low", "high", "flagged"),
    *("raises", "lowers", "if_changed"),
}


@dataclass(frozen=True)
class Predicted:
    """Number of ``records`` that were scored, and of those for which a risk was stated.

    ``each``: for how many the first, the second, ... was: of each horizon or class.
    """

    records: int
    with_risk: int
    each: tuple[int, ...]


def predict(
    model: PublishedModel | FinishedAtHome,
    data: Path,
    out: Path,
    id_column: str,
    *,
    explain: bool = False,
    rule: FlagRule | None = None,
    encoders: Encoders | None = None,
) -> Predicted:
    """Write each record's score and risk, with its row and id; return the number of records.

    Columns: ``row``, 1 for the first record; the id column if the file has one, escaped for
    spreadsheets; ``score``, 0 to 1, which ranks; ``risk`` of label 1 with its band ``low`` to
    ``high``. A finished model's risks have no band; of yes or no its score is the risk. A published
    model's risk comes from its card's calibration; it is empty if the card has none, or where the
    band is too wide (``flo.privacy.report.risks``), so that only the rank is known. A model of the
    time to an event has the three for each horizon, such as ``risk_30``, and its score is the
    hazard in a period. One of several classes has ``risk``, ``low`` and ``high`` for each, such as
    ``risk_severe``, and then the scores, such as ``score_severe``. One of a number or a count has
    ``expected`` with its band ``low`` to ``high``, and ``p10`` and ``p90``, which one and nine of
    ten such patients are below.

    ``explain``: also write ``raises`` and ``lowers``, up to three columns whose direction is
    certain, the largest first (``flo.published.explanation``); and ``if_changed`` if the study says
    what care can change (``flo.published.what_if``).

    ``rule``: also write ``flagged``, ``yes`` or ``no``, by this hospital's rule on the published
    model; empty where no risk is stated. A finished model flags nobody. ``encoders``: of
    image columns that have one.

    A record of what scored them is written beside ``out`` (``flo.clients.prediction.trace``).

    Raises:
        DataError: the file does not fit the study's columns. UsageError: ``out`` is ``data``, or
        cannot be a file; the ids' column is named as one of the scores; or ``explain`` is asked of
        a model whose noise is not known. TrustError: as ``refuse_other_scores``.
    """
    if out.resolve() == data.resolve():
        raise UsageError(f"--out {out} would overwrite the data", hint="choose another file")
    if id_column in _COLUMNS.union(_named(model.study)):
        raise UsageError(
            f"--id-column {id_column} is the name of a column of the scores",
            hint="rename the file's column of ids",
        )
    if out.is_dir() or not out.parent.is_dir():
        raise UsageError(f"--out {out} must be a file in an existing folder")
    refuse_other_scores(model.model if isinstance(model, FinishedAtHome) else model)
    if encoders is not None:
        encoders.frozen(model.study)
    source = open_table(data, id_column)
    inputs = check_inputs(source, model.study.data, encoders)
    why, reasons = _reasons(model, inputs) if explain else ([], [])
    log_odds = model.scores(inputs)
    if isinstance(model, FinishedAtHome):
        risks = _exact_risks(model, inputs)
    else:
        risks = _risks(model, log_odds)
    flagged: list[str] = []
    if rule is not None and not isinstance(model, FinishedAtHome):
        flagged = [
            "" if own == (_NO_RISK,) else "yes" if one else "no"
            for own, one in zip(risks, rule.flagged(model, inputs, log_odds[:, 0]), strict=True)
        ]
    ids = [cell for batch in source.ids() for cell in as_ids(batch).to_pylist()]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    named = [in_a_sheet(id_column)] if ids else []
    flag = ["flagged"] if flagged else []
    writer.writerow(["row", *named, *_named(model.study), *flag, *why])
    for number, (scores, bands) in enumerate(zip(expit(log_odds), risks, strict=True), start=1):
        own = [in_a_sheet(ids[number - 1] or "")] if ids else []
        said = reasons[number - 1] if reasons else ()
        marked = flagged[number - 1 : number]
        stated = [cell for band in bands for cell in band]
        scored_as = [f"{score:.6f}" for score in scores]
        both = [*stated, *scored_as] if len(scored_as) > 1 else [*scored_as, *stated]
        writer.writerow([number, *own, *both, *marked, *said])
    scored = text.getvalue().encode()
    write_private(out, scored)
    write_record(model, out, scored, len(risks), rule)
    each = tuple(sum(any(band) for band in of_one) for of_one in zip(*risks, strict=True))
    return Predicted(len(risks), sum(any(any(band) for band in own) for own in risks), each)


def _reasons(
    model: PublishedModel | FinishedAtHome, inputs: Floats
) -> tuple[list[str], list[tuple[str, ...]]]:
    """Return the names of the columns of reasons, and each record's."""
    if isinstance(model, FinishedAtHome):
        raise UsageError(
            "a finished model is not explained: its card's noise is that of the published one",
            hint=f"flo model predict --explain with the published model of {model.study.name}",
        )
    found = told(model, inputs)
    if can_change(model.study.data):
        return ["raises", "lowers", "if_changed"], [
            (_cell(one.raises), _cell(one.lowers), _cell(one.if_changed)) for one in found
        ]
    return ["raises", "lowers"], [(_cell(one.raises), _cell(one.lowers)) for one in found]


def _cell(several: list[str]) -> str:
    """Return words of a study as one cell, in which each is no formula and none has a separator."""
    return "; ".join(in_a_sheet(one.replace(";", ",")) for one in several)


def _named(study: Study) -> list[str]:
    """Return the names of the columns of scores and risks. Scores of several classes look like
    risks, and come after them."""
    if classes := study.data.classes:
        return [*_risk_columns(study), *(f"score_{in_a_sheet(name)}" for name in classes.classes)]
    return ["score", *_risk_columns(study)]


def _risk_columns(study: Study) -> list[str]:
    """Return the names of the columns of risks: one band, or one for each horizon or class; or of
    values."""
    if study.data.quantity is not None:
        return ["expected", "low", "high", "p10", "p90"]
    if study.data.times is not None:
        of = [_in_words(horizon) for horizon in study.data.times.horizons]
    elif study.data.classes is not None:
        of = [in_a_sheet(name) for name in study.data.classes.classes]
    else:
        return ["risk", "low", "high"]
    return [f"{name}_{one}" for one in of for name in ("risk", "low", "high")]


def _in_words(horizon: float) -> str:
    """Return a horizon as it was written, so that two have two names."""
    return f"{horizon:.15g}"


def _exact_risks(model: FinishedAtHome, inputs: Floats) -> list[tuple[Band, ...]]:
    """Return the same as ``_risks`` of a finished model, which states risks without bands."""
    if model.study.data.quantity is None:
        return [
            tuple(_NO_RISK if np.isnan(risk) else (f"{risk:.6f}", "", "") for risk in own)
            for own in model.risks(inputs)
        ]
    return [
        ((in_digits(value, 6), "", "", in_digits(tenth, 6), in_digits(ninetieth, 6)),)
        for value, tenth, ninetieth in zip(*model.values(inputs), strict=True)
    ]


def _risks(model: PublishedModel, log_odds: Floats) -> list[tuple[Band, ...]]:
    """Return risk, low and high of each record as text, each empty if it is not known.

    One band a record, or one for each horizon or class; of a quantity its values. ``log_odds``:
    (n, outputs).
    """
    if classes := model.study.data.classes:
        if not model.card.by_class:
            return [(_NO_RISK,) * classes.codes] * len(log_odds)
        each = zip(model.card.by_class, log_odds.T, strict=True)
        return list(zip(*(_bands(curve, one) for curve, one in each), strict=True))
    log_odds = log_odds[:, 0]
    times, quantity = model.study.data.times, model.study.data.quantity
    last = model.card.calibration
    if last is None:
        empty = _NO_VALUES if quantity else _NO_RISK
        return [(empty,) * (times.periods if times else 1)] * len(log_odds)
    if quantity is not None:
        return [(one,) for one in _of_quantity(model, quantity, log_odds)]
    return list(zip(*(_bands(curve, log_odds) for curve in model.card.curves), strict=True))


def _of_quantity(model: PublishedModel, quantity: Quantity, log_odds: Floats) -> list[Band]:
    assert model.card.calibration is not None
    values = Foreseen(model.card.calibration, model.card.steps).values(quantity, log_odds)
    columns = values.expected, values.low, values.high, values.tenth, values.ninetieth
    return [
        _NO_VALUES if wide else tuple(in_digits(value, 6) for value in row)
        for wide, row in zip(values.is_too_wide, zip(*columns, strict=True), strict=True)
    ]


def _bands(curve: Calibration, log_odds: Floats) -> list[Band]:
    return [
        _NO_RISK if is_too_wide(low, high) else (f"{risk:.6f}", f"{low:.6f}", f"{high:.6f}")
        for risk, low, high in zip(*curve.of(log_odds), strict=True)
    ]

"""``flo study new``: a first draft of a study from a CSV header and declared bounds.

Only the header line of the file is read. A person declares bounds and codebooks, because learning
them from patients' values would be a release.
"""

from __future__ import annotations

import csv as csv_module
import io
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import tomli_w

from flo.errors import UsageError
from flo.study.document import MOST_SQUARED_INPUTS, PLACEHOLDER, SCHEMA_VERSION, from_document
from flo.study.features import input_names
from flo.study.terms import largest_delta, round_size
from flo.study.tolerance import usual_dropouts
from flo.study.usual import WIDE, whitened

_LONGEST_HEADER = 1 << 20
_SHARED_FROM = 3  # hospitals
_NAMES_SHOWN = 20
_NO_OUTCOME = (
    "--outcome {!r} is none of time:COLUMN:UNIT:HORIZON,...:EXPECTED, number:UNIT:LEVEL,... and "
    "count:UNIT:LEVEL,... or classes:CODE,..."
)
_EPSILON, _INTERVALS = 0.5, 12


@dataclass(frozen=True)
class Questions:
    """What a study of statistics asks; ``survival``: the time until the label's event."""

    table: bool = False
    survival: str | None = None
    regression: bool = False
    catalogue: bool = False

    def __bool__(self) -> bool:
        return bool(self.table or self.survival or self.regression or self.catalogue)


_NO_QUESTIONS = Questions()


@dataclass(frozen=True)
class ScaffoldedStudy:
    """``text``: TOML of a valid study. ``left_out``: columns of the file that it does not use."""

    text: str
    left_out: list[str]


def scaffold(
    csv: Path,
    name: str,
    label: str,
    hospitals: list[str],
    numbers: list[str],
    categories: list[str],
    may_be_missing: list[str],
    id_column: str,
    *,
    questions: Questions = _NO_QUESTIONS,
    outcome: str | None = None,
) -> ScaffoldedStudy:
    """Draft a study of the declared columns. Raises UsageError for missing or malformed input.

    With ``questions`` it is a study of statistics: always with a table of all columns by the label.
    ``outcome``: if it is not yes or no, ``classes:CODE,CODE,...``, ``count:UNIT:LEVEL,LEVEL,...``
    or ``number:`` likewise, or ``time:COLUMN:UNIT:HORIZON,...:EXPECTED``.

    With three or more hospitals the draft has distributed noise. With two, each hospital would have
    to add all of its noise itself, in case the other colludes with the coordinator.
    """
    header = _header(csv)
    columns = [_number(text) for text in numbers] + [_category(text) for text in categories]
    declared = {str(column["name"]) for column in columns}
    foreseen = _outcome(outcome) if outcome else None
    times = {str(foreseen["time"])} if foreseen and "time" in foreseen else set()
    wanted = (label, id_column, *sorted(times), *sorted(declared))
    for column_name in wanted:
        if column_name not in header:
            # A first line without any declared column may be a patient's: do not print it.
            seen = f"; it has {some(header)}" if set(wanted) & set(header) else ""
            raise UsageError(
                f"{csv.name} has no column {column_name!r} in its first line{seen}",
                hint="the first line must be a header with the columns that the options name",
            )
    if strange := sorted(set(may_be_missing) - declared):
        raise UsageError(
            f"--may-be-missing {strange[0]!r} is not a column of this study",
            hint="declare it with --number or --category; a label is never missing",
        )
    for column in columns:
        if column["name"] in may_be_missing:
            column["missing"] = "indicator"
            if column["kind"] == "number":  # used where a cell is missing
                column["missing_value"] = (column["minimum"] + column["maximum"]) / 2
    columns.sort(key=lambda column: header.index(str(column["name"])))
    partners = [_hospital(text) for text in hospitals]
    if not partners:
        raise UsageError("a study needs at least one hospital", hint="--hospital HOSPITAL:SIZE")
    size = max(int(partner["declared_size"]) for partner in partners)
    shared = len(partners) >= _SHARED_FROM
    dropouts = usual_dropouts(len(partners)) if shared else 0  # that cost no attempt
    document: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "name": name,
        "version": 1,
        "purpose": f"{PLACEHOLDER}, in plain language, what the model is for.",
        "legal_basis": f"{PLACEHOLDER} on which legal basis the patients' data are used.",
        "expires": (datetime.now(UTC) + timedelta(days=365)).date().isoformat(),
        "hospitals": partners,
        "data": {
            "record": "patient",
            "records_per_patient": "one",
            "label": label,
            **({"outcome": foreseen} if foreseen else {}),
            "columns": columns,
        },
        "model": {"kind": "logistic"},
        "mechanism": {
            "noise": "distributed" if shared else "local",
            "masking": "on" if len(partners) > 1 else "off",
            "epsilon": _EPSILON,
            "delta": largest_delta(size),
            **WIDE,
            "retry_allowance": 1 if dropouts else 2,
        },
        "evaluation": {"epsilon": _EPSILON, "retry_allowance": 0 if dropouts else 1},
        "limits": {"deadline_seconds": 60, "minimum_cohort": _smallest(len(partners), dropouts)},
    }
    if questions:
        document = _asking(document, questions, survives=bool(dropouts))
    draft = from_document(document, what="the draft")
    draft.refuse_identifying()
    if draft.trains and len(input_names(draft.data)) <= MOST_SQUARED_INPUTS:
        everyone = sum(hospital.declared_size for hospital in draft.hospitals)
        document["mechanism"] |= whitened(everyone, _EPSILON, draft.data.outcome)
        from_document(document, what="the draft")
    left_out = [c for c in header if c not in declared | times | {label, id_column}]
    return ScaffoldedStudy(tomli_w.dumps(document), left_out)


def _asking(document: dict[str, Any], questions: Questions, *, survives: bool) -> dict[str, Any]:
    """Return the draft as a study of statistics, which says nothing about training.

    ``survives``: its sums survive that hospitals are missing, so no round need be repeated.
    """
    data, mechanism, survival = document["data"], document["mechanism"], questions.survival
    names = [column["name"] for column in data["columns"] if column["name"] != survival]
    parts: list[dict[str, Any]] = []
    if names:
        table = {"kind": "table", "name": "table-one", "columns": names, "by": data["label"]}
        parts.append(table)
    if survival:
        parts.append(_curve(data, survival))
    if questions.regression:
        part = {"kind": "regression", "name": "regression", "family": "logistic"}
        parts.append(part | {"outcome": data["label"], "predictors": names})
    if questions.catalogue:
        parts.append({"kind": "catalogue", "name": "catalogue"})
    kept = {name: mechanism[name] for name in ("noise", "masking", "delta")}
    asked: dict[str, Any] = {"epsilon": _EPSILON, "parts": parts}
    if questions.regression and not survives:  # one round that is repeated does not end all
        asked["retry_allowance"] = 1
    purpose = f"{PLACEHOLDER}, in plain language, what these questions are for."
    found = document | {"purpose": purpose, "mechanism": kept, "statistics": asked}
    del found["model"], found["evaluation"]
    return found


def _curve(data: dict[str, Any], survival: str) -> dict[str, Any]:
    """Return a curve with equal intervals over the bounds of its time."""
    time = next((column for column in data["columns"] if column["name"] == survival), None)
    if time is None or time["kind"] != "number":
        raise UsageError(
            f"--survival {survival!r} is not a number column of this study",
            hint="declare it: --number COLUMN:0:MAXIMUM:days",
        )
    width = (time["maximum"] - time["minimum"]) / _INTERVALS
    inner = [round(time["minimum"] + width * n, 6) for n in range(1, _INTERVALS)]
    curve = {"kind": "survival", "name": "survival", "time": survival, "event": data["label"]}
    return curve | {"edges": [*inner, time["maximum"]]}


def some(names: list[str]) -> str:
    """Return the first of these names, and their number if there are more."""
    shown = ", ".join(names[:_NAMES_SHOWN])
    return shown + (f", ... ({len(names)})" if len(names) > _NAMES_SHOWN else "")


def _smallest(partners: int, dropouts: int) -> int:
    """Return all partners but the dropouts, or one; at least two if there are two, for masks."""
    return max(min(2, partners), partners - max(1, dropouts))


def _header(csv: Path) -> list[str]:
    try:
        with csv.open("rb", buffering=0) as file:
            header = next(csv_module.reader([_first_line(file).decode("utf-8-sig")]), [])
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{csv} cannot be read: {type(error).__name__}") from error
    if not header:
        raise UsageError(f"{csv} has no header line")
    return header


def _first_line(file: io.FileIO) -> bytes:
    """Read byte by byte, so that no data after the header is ever in memory."""
    line = bytearray()
    while (byte := file.read(1)) not in (b"", b"\n"):
        line += byte
        if len(line) > _LONGEST_HEADER:
            raise UsageError(f"the header line is longer than {_LONGEST_HEADER} bytes")
    return bytes(line)


def _hospital(text: str) -> dict[str, Any]:
    name, _, size = text.partition(":")
    if not size.isdigit() or int(size) < 1:
        raise UsageError(f"--hospital {text!r} is not HOSPITAL:SIZE")
    return {"id": name, "declared_size": round_size(int(size))}


def _outcome(text: str) -> dict[str, Any]:
    kind, _, rest = text.partition(":")
    parts = rest.split(":")
    try:
        if kind == "time":
            column, unit, horizons, expected = parts
            at = [_short(one) for one in horizons.split(",")]
            found = {"kind": "time-to-event", "time": column, "unit": unit, "horizons": at}
            return found | {"expected": float(expected)}
        if kind == "classes" and len(parts) == 1:
            return {"kind": kind, "classes": rest.split(",")}
        unit, levels = parts
        if kind in ("number", "count"):
            return {"kind": kind, "unit": unit, "levels": [_short(n) for n in levels.split(",")]}
    except ValueError as error:
        raise UsageError(_NO_OUTCOME.format(text)) from error
    raise UsageError(_NO_OUTCOME.format(text))


def _short(text: str) -> float | int:
    value = float(text)
    return int(value) if value.is_integer() else value


def _number(text: str) -> dict[str, Any]:
    parts = text.split(":")
    try:
        name, low, high, unit = parts
        return {
            "kind": "number",
            "name": name,
            "unit": unit,
            "minimum": float(low),
            "maximum": float(high),
        }
    except ValueError as error:
        raise UsageError(f"--number {text!r} is not COLUMN:MINIMUM:MAXIMUM:UNIT") from error


def _category(text: str) -> dict[str, Any]:
    name, _, codes = text.partition(":")
    if not codes:
        raise UsageError(f"--category {text!r} is not COLUMN:CODE,CODE,...")
    return {"kind": "category", "name": name, "codes": codes.split(",")}

"""``flo study new``: a first draft of a study from a CSV header and declared bounds.

Only the header line of the file is read. Bounds and codebooks are declared by a person, because
anything learnt from patients' values would be a release.
"""

from __future__ import annotations

import csv as csv_module
import io
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import tomli_w

from flo.errors import UsageError
from flo.study import PLACEHOLDER, from_document, largest_delta, round_size

_LONGEST_HEADER = 1 << 20


def scaffold(
    csv: Path,
    name: str,
    label: str,
    hospitals: list[str],
    numbers: list[str],
    categories: list[str],
    id_column: str,
) -> str:
    """TOML of a valid study. Raises UsageError naming what is missing or malformed."""
    header = _header(csv)
    columns = [_number(text) for text in numbers] + [_category(text) for text in categories]
    declared = {str(column["name"]) for column in columns}
    for wanted in (label, id_column, *declared):
        if wanted not in header:
            raise UsageError(f"{csv.name} has no column {wanted!r}; it has {', '.join(header)}")
    left = [c for c in header if c not in declared | {label, id_column}]
    if left:
        raise UsageError(
            f"columns without a declaration: {', '.join(left)}",
            hint="declare each with --number or --category, or leave it out of the file",
        )
    columns.sort(key=lambda column: header.index(str(column["name"])))
    partners = [_hospital(text) for text in hospitals]
    if not partners:
        raise UsageError("a study needs at least one hospital", hint="--hospital HOSPITAL:SIZE")
    size = max(int(partner["declared_size"]) for partner in partners)
    document: dict[str, Any] = {
        "schema_version": 3,
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
            "columns": columns,
        },
        "model": {"kind": "logistic"},
        "mechanism": {
            "noise": "local",
            "masking": "on" if len(partners) > 1 else "off",
            "epsilon": 0.5,
            "delta": largest_delta(size),
            "clip": 0.25,
            "steps": 30,
            "learning_rate": 0.5,
            "momentum": 0.9,
            "retry_allowance": 2,
        },
        "evaluation": {"epsilon": 0.5, "retry_allowance": 1},
        "limits": {"deadline_seconds": 60, "minimum_cohort": _smallest(len(partners))},
    }
    from_document(document, what="the draft")
    return tomli_w.dumps(document)


def _smallest(partners: int) -> int:
    """All but one, and two where there are as many: masks need a partner."""
    return max(min(2, partners), partners - 1)


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
    """Byte by byte, so that nothing behind the header is ever in memory."""
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

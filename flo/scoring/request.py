"""A request as JSON, and its answer: the plain call of ``flo model serve`` without its caller.

{"record": {column: cell}}   the study's names, units and codes
{"row": {field: cell}}       the hospital's own, by its mapping
"""

from __future__ import annotations

import json
import math
from typing import Any, NamedTuple

from flo.scoring.compiled import CompiledModel

MAX_BODY = 4 << 20
_FORMS = ("record", "row")


class Answer(NamedTuple):
    """``status``: as of HTTP. ``said``: becomes JSON."""

    status: int
    said: dict[str, Any]


def fault(error: Exception) -> str:
    """Return an exception's type and place; its message may have a patient's value."""
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    where = f"{place.tb_frame.f_code.co_name}:{place.tb_lineno}" if place else "?"
    return f"FLO could not answer: {type(error).__name__} at {where}"


def answer_body(model: CompiledModel, body: bytes) -> Answer:
    """Answer a request's body."""
    if len(body) > MAX_BODY:
        return _invalid(413, f"the request has more than {MAX_BODY >> 20} MiB")
    try:
        found = json.loads(body, object_pairs_hook=_once, parse_constant=_refuse)
    except (ValueError, RecursionError):  # UnicodeDecodeError is a ValueError
        return _invalid(400, "the request is not JSON, or has a key twice")
    return answer(model, found)


def answer(model: CompiledModel, found: object) -> Answer:
    """Answer a request that was parsed."""
    if not isinstance(found, dict):
        return _invalid(400, "the request is not a JSON object")
    if "explain" in found:
        return _invalid(400, "reasons are given by `flo model serve` only: leave out `explain`")
    given = [form for form in _FORMS if form in found]
    if len(given) != 1 or set(found) != set(given) or not isinstance(found[given[0]], dict):
        said = "the request needs `record` or `row`, an object of one patient's cells, and no more"
        return _invalid(400, said)
    record, encoder = found[given[0]], model.encoder
    if given[0] == "row":
        if model.row_encoder is None:
            return _invalid(400, "no mapping of the site's fields was deployed: send `record`")
        encoder = model.row_encoder
    if not all(math.isfinite(cell) for cell in record.values() if isinstance(cell, float)):
        return _invalid(400, "a cell is not a number of JSON")
    encoded = encoder.encode(record)
    if encoded.inputs is None:
        wrong = [
            {"column": model.words.get(name, name), "rule": rule} for name, rule in encoded.broken
        ]
        return Answer(422, {"error": "no score: the record does not fit the study", "wrong": wrong})
    return Answer(200, {**model.facts, **model.score(encoded)._asdict()})


def _invalid(status: int, error: str) -> Answer:
    return Answer(status, {"error": error})


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is there twice")
    return found


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")

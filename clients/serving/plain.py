"""The plain call: one record in, one score out, as JSON.

POST /models/NAME/score  {"record": {column: cell}}        the study's names, units and codes
                         {"row": {field: cell}}            this site's own, by mapping.toml
                         "explain": true                   also reasons
                         "patient": "..."                  an id: monitors count a patient once, and
                                                           of versions that are compared, each
                                                           patient gets the answers of one
                         "ward": "..."                     where the patient is, for monitors
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from flo.clients.prediction.scorer import Scored
from flo.clients.serving.seen import unfit
from flo.clients.serving.service import (
    Answer,
    Question,
    Service,
    broken_rules,
    invalid,
    refuse_other_fields,
    ward_of,
)

_FIELDS = {"record", "row", "explain", "patient", "ward"}
_LONGEST_ID = 64


def ask(service: Service, answer_id: str, found: dict[str, Any]) -> Question | Answer:
    """Return what a request asks, or the answer that says why it cannot be answered."""
    refused = refuse_other_fields(set(found), _FIELDS, "the request")
    if refused is not None:
        return refused
    given, explain = [name for name in ("record", "row") if name in found], found.get("explain")
    if len(given) != 1 or not isinstance(record := found[given[0]], dict):
        return invalid(400, "the request needs `record` or `row`, an object of one patient's cells")
    if explain not in (None, True, False):
        return invalid(400, "`explain` is true or false")
    patient = found.get("patient", "")
    if not isinstance(patient, str) or len(patient) > _LONGEST_ID:
        return invalid(400, f"`patient` is an id of at most {_LONGEST_ID} characters")
    ward = ward_of(found.get("ward"))
    if isinstance(ward, Answer):
        return ward
    encoder = service.encoder if given[0] == "record" else service.row_encoder
    if encoder is None:
        return invalid(400, "no mapping of this site's table fits the study: send `record`")
    encoded = encoder.encode(record)
    if encoded.inputs is None:
        answer = _unfit(broken_rules(service, encoded))
        seen = unfit(service.cells, patient, ward, encoded.broken)
        return replace(answer, watched=seen)
    return Question(
        patient,
        ward,
        encoded.inputs,
        bool(explain),
        lambda scored: _answer(service, answer_id, scored, explain),
    )


def _unfit(broken: list[tuple[str, str]]) -> Answer:
    wrong = [{"column": column, "rule": rule} for column, rule in broken]
    body = {"error": "no score: the record does not fit the study", "wrong": wrong}
    return Answer(422, "unfit", json.dumps(body).encode())


def _answer(service: Service, answer_id: str, scored: Scored, explain: bool | None) -> Answer:
    said = {
        "id": answer_id,
        "model": service.version.name,
        "version": service.study.version,
        "score": scored.score,
        "risk": scored.risk,
        "low": scored.low,
        "high": scored.high,
        "flagged": scored.flagged,
    }
    if explain:
        said |= {"raises": scored.raises, "lowers": scored.lowers}
        if service.scorer.no_reasons:
            said["no_reasons"] = service.scorer.no_reasons
    outcome = "rank only" if scored.risk is None else "scored"
    return Answer(200, outcome, json.dumps(said).encode())  # type: ignore[arg-type]

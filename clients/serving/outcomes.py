"""What became of patients, as a record system reports it, by the ids of answers.

    POST /models/NAME/outcomes  {"outcomes": [{"id": "...", "outcome": true}, ...]}

``outcome``: whether the patient came to have the study's label. A report names no patient.
"""

from __future__ import annotations

import json

from flo.clients.records.answer_rows import Reported
from flo.clients.serving.service import Answer, invalid, parsed, refuse_other_fields

_MOST = 1000  # of a request


def read(body: bytes) -> dict[str, bool] | Answer:
    """Return the outcomes by id, in lower case, or the answer that refuses the report."""
    found = parsed(body)
    if isinstance(found, Answer):
        return found
    refused = refuse_other_fields(set(found), {"outcomes"}, "the report")
    if refused is not None:
        return refused
    several = found.get("outcomes")
    if not isinstance(several, list) or not 0 < len(several) <= _MOST:
        return invalid(400, f"outcomes must be a list of 1 to {_MOST} entries")
    read_ = dict[str, bool]()
    for one in several:
        if not isinstance(one, dict) or set(one) != {"id", "outcome"}:
            return invalid(400, "each outcome needs id and outcome, and nothing else")
        if not isinstance(one["id"], str) or not isinstance(one["outcome"], bool):
            return invalid(400, "id is an answer's id, and outcome true or false")
        if one["id"].lower() in read_:
            return invalid(400, "an id is there twice")
        read_[one["id"].lower()] = one["outcome"]
    return read_


def told(reported: Reported) -> bytes:
    """Return the answer to a report: how many are kept, and which are not."""
    return json.dumps(
        {
            "kept": reported.new,
            "known": reported.known,
            "contradicting": reported.contradicting,
            "not compared": reported.elsewhere,
        }
    ).encode()

"""One model that answers: what it needs, checked, and the two ways in which it is asked.

A worker makes a ``Service`` of a ``ServedVersion``, which the front sends to it. Answers are made
in three steps, so that several patients are scored at once: the request becomes inputs, or an
answer that says what is wrong; the model scores; the score becomes an answer.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import jiter
import numpy as np
from pydantic import Field

from flo.arrays import Floats
from flo.clients.prediction.finish import FinishedAtHome
from flo.clients.prediction.flag_rule import FlagRule
from flo.clients.prediction.scorer import Scored, Scorer
from flo.clients.records.finished_model import FinishedModel
from flo.clients.serving.settings import Hook
from flo.clients.sources.fhir_prefetch import PrefetchReader
from flo.clients.sources.mapping import MappedColumn, StudyMapping, record_fields
from flo.clients.watching.cells import StudyCells
from flo.documents import canonical
from flo.documents.document import Document
from flo.errors import TrustError
from flo.keys.claims import Digest
from flo.published.model_card import PublishedModel
from flo.scoring.record import Encoded, RecordEncoder
from flo.study.encoders import require_no_encoder
from flo.study.names import ColumnName
from flo.study.wording import titles
from flo.study.yes_or_no import require_yes_or_no

LONGEST_WARD = 60  # characters
Outcome = Literal["scored", "rank only", "unfit", "invalid"]


class ServedVersion(Document):
    """A version of a model as it answers at this hospital.

    ``name``: of the service. ``card``: path of the published model's card. ``fhir``: mapping of the
    record system's resources, ``table``: of the fields of the site's own table; None if there is
    none. ``onnx``: a published network's export in base64, if there is one. ``compared_with``: the
    version in use, if this one is compared with it; else 0.
    """

    name: str
    hook: Hook
    outcome: str
    card: str
    coordinators: tuple[Digest, ...]
    finished: FinishedModel | None
    rule: FlagRule | None
    fhir: StudyMapping | None
    table: Annotated[dict[ColumnName, MappedColumn], Field(max_length=5000)] | None
    onnx: str = ""
    compared_with: Annotated[int, Field(ge=0)] = 0

    @property
    def digest(self) -> str:
        """SHA-256 of all of it: two versions that may answer otherwise have two digests."""
        return canonical.digest(self.to_bytes())

    def open(self) -> PublishedModel | FinishedAtHome:
        """Open the model and check its signatures. Raises UsageError, TrustError."""
        published = PublishedModel.open(Path(self.card), *self.coordinators)
        require_yes_or_no(published.study, "the server of models")
        require_no_encoder(published.study, "the server of models")
        if self.finished is None:
            return published
        if self.finished.model != published.card.file:
            raise TrustError(f"{self.finished.name} refits another published model")
        return FinishedAtHome(published, self.finished)


@dataclass(frozen=True)
class Answer:
    """``status``: of HTTP. ``body``: JSON. For the front, b"" if there is none: ``compared``: what
    versions that are compared said of the patient (``flo.clients.serving.several``); ``watched``:
    what monitors count of the record (``flo.clients.serving.seen``)."""

    status: int
    outcome: Outcome
    body: bytes
    compared: bytes = b""
    watched: bytes = b""


@dataclass(frozen=True)
class Question:
    """A patient's inputs (d,), and how the score becomes an answer.

    ``patient``: the record system's id of the patient, ``ward``: where they are; "" if the request
    does not say.
    """

    patient: str
    ward: str
    inputs: list[float] | Floats
    explain: bool
    finish: Callable[[Scored], Answer]


class Service:
    """A version that is ready to answer.

    Raises:
        TrustError: its golden cases have other scores here, or it is not what it says. UsageError:
        its mapping does not fit.
    """

    def __init__(self, version: ServedVersion) -> None:
        self.version, opened = version, version.open()
        self.finished = isinstance(opened, FinishedAtHome)
        self.published = opened.model if isinstance(opened, FinishedAtHome) else opened
        self.card = self.published.card.digest  # of the whole card, so computed once
        self.study, self.study_digest = opened.study, opened.study.digest
        self.scorer = Scorer(opened, version.rule, base64.b64decode(version.onnx))
        self.words = titles(self.study.data)
        self.reader = (
            None if version.fhir is None else PrefetchReader(version.fhir, self.study.data)
        )
        columns, read = self.study.data.columns, self.reader.mapping if self.reader else {}
        self.fhir_encoder = RecordEncoder(columns, record_fields(read))
        self.encoder, self.cells = RecordEncoder(columns), StudyCells(self.study.data)
        self.row_encoder = (
            None if version.table is None else RecordEncoder(columns, record_fields(version.table))
        )

    def score(self, several: list[Question]) -> list[Scored]:
        """Score the patients of questions together; those that ask for reasons get them."""
        found = dict[int, Scored]()
        for explain in (True, False):
            places = [place for place, one in enumerate(several) if one.explain == explain]
            if places:
                inputs = np.stack([several[place].inputs for place in places])
                scored = self.scorer.score(inputs, explain=explain)
                found |= dict(zip(places, scored, strict=True))
        return [found[place] for place in range(len(several))]


def parsed(body: bytes) -> dict[str, Any] | Answer:
    """Return the JSON object of a request, or the answer that refuses it."""
    try:
        found = jiter.from_json(body, allow_inf_nan=False, catch_duplicate_keys=True)
    except ValueError:
        return invalid(400, "the request is not JSON, or has a key twice")
    return found if isinstance(found, dict) else invalid(400, "the request is not a JSON object")


def invalid(status: int, error: str, **more: Any) -> Answer:
    """Return the answer to a request that has not the form that it needs."""
    return Answer(status, "invalid", json.dumps({"error": error, **more}).encode())


def broken_rules(service: Service, encoded: Encoded) -> list[tuple[str, str]]:
    """Return column in words and rule, for each rule that a record breaks."""
    return [(service.words.get(name, name), rule) for name, rule in encoded.broken]


def ward_of(given: object) -> str | Answer:
    """Return the ward that a request names, "" for none, or the answer that refuses it."""
    if given is None:
        return ""
    if isinstance(given, str) and len(given) <= LONGEST_WARD and given.isprintable():
        return given.strip()
    return invalid(400, f"`ward` is a name of at most {LONGEST_WARD} printable characters")


def refuse_other_fields(given: set[str], known: set[str], what: str) -> Answer | None:
    """Return the answer that refuses fields of a request that nobody knows; None if there are
    none. Their names are text of another party, and are not repeated."""
    if given <= known:
        return None
    return invalid(
        400, f"{what} has fields that are not known; it may have {', '.join(sorted(known))}"
    )

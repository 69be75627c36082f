"""Models fetched from the coordinator; a model is stored only after every check."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Annotated

from pydantic import Field

from flo.clients.connection.coordinator_api import CoordinatorApi
from flo.clients.connection.offers import known_studies
from flo.clients.home.site_home import SiteHome
from flo.clients.prediction.gate_rule import refuse_ungated
from flo.clients.prediction.scoring_ways import refuse_other_scores
from flo.documents import canonical
from flo.documents.document import Document, parse
from flo.errors import TrustError
from flo.keys.claims import Digest
from flo.published.gate_passed import GATE, MOST_GATES, gates_of
from flo.published.gate_result import MAX_GATE_BYTES, GateResult
from flo.published.model_card import MAX_CARD_BYTES, ModelCard, PublishedModel, paths_of
from flo.storage.files import write_public
from flo.study.loading import from_canonical
from flo.study.reference import Known, which


class _Answer(Document):
    card: Annotated[str, Field(max_length=MAX_CARD_BYTES)]
    tensors: str
    gates: Annotated[
        tuple[Annotated[str, Field(max_length=MAX_GATE_BYTES)], ...], Field(max_length=MOST_GATES)
    ] = ()


class _Wish(Document):
    study: Digest


def fetch(home: SiteHome, api: CoordinatorApi, wanted: str, out: Path) -> Path:
    """Fetch, check and store the model of a study (see ``flo.study.reference``). Return the card's
    path.

    Raises:
        UsageError: no such study, or several. TrustError: the coordinator whose key this site knows
        did not sign the card, the card is of another study, or as ``refuse_other_scores``.
        PolicyError: as ``refuse_ungated``.
    """
    known = known_studies(api)
    digest = which(
        [Known.of(from_canonical(one.study.encode()), one.status) for one in known],
        wanted,
        "study of this hospital",
    )
    answer = parse(
        _Answer, api.call("models", _Wish(study=digest).model_dump()), "the coordinator's answer"
    )
    document = canonical.decode(answer.card.encode(), limit=MAX_CARD_BYTES, what="model card")
    card = parse(ModelCard, document, "the model card")
    try:
        tensors = base64.b64decode(answer.tensors, validate=True)
    except ValueError as error:
        raise TrustError("the coordinator's answer has no valid model") from error
    model = PublishedModel.of(card, tensors, *home.read_coordinator().fingerprints)
    if model.study.digest != digest:
        raise TrustError("the coordinator sent the model of another study")
    gates = [_gate(text) for text in answer.gates]
    gates_of(model, gates, home.read_coordinator().fingerprints)  # refuses what is not about it
    refuse_ungated(home, model, gates)
    refuse_other_scores(model)
    out.mkdir(parents=True, exist_ok=True)
    card_path, tensors_path = paths_of(out / f"{model.study.name}-{card.run}")
    write_public(tensors_path, tensors)
    write_public(card_path, card.to_bytes())
    for gate in gates:
        name = from_canonical(gate.study.encode()).name
        write_public(out / f"{name}-{gate.run}{GATE}", gate.to_bytes())
    return card_path


def _gate(text: str) -> GateResult:
    document = canonical.decode(text.encode(), limit=MAX_GATE_BYTES, what="gate")
    return parse(GateResult, document, "a gate's result")

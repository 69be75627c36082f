"""Models that this hospital fetched from the coordinator; kept only after every check."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

from pydantic import Field

from flo import canonical
from flo.claims import Digest
from flo.clients.coordinator_api import CoordinatorApi
from flo.clients.home import SiteHome
from flo.clients.offers import KnownStudy, known_studies
from flo.errors import TrustError, UsageError
from flo.files import write_public
from flo.model_card import MAX_CARD_BYTES, ModelCard, PublishedModel, paths_of
from flo.settings import Document, parse
from flo.study import UNDER_WAY, from_canonical


class _Answer(Document):
    card: Annotated[str, Field(max_length=MAX_CARD_BYTES)]
    tensors: str


class _Wish(Document):
    study: Digest


def fetch(home: SiteHome, api: CoordinatorApi, wanted: str, out: Path) -> Path:
    """Fetch, check and keep the model of a study (name or digest prefix). Returns the card's path.

    Raises:
        UsageError: no such study, or several. TrustError: the coordinator whose key this site knows
        did not sign the card, or the card is of another study.
    """
    digest = _choose(known_studies(api), wanted)
    answer = parse(
        _Answer, api.call("models", _Wish(study=digest).model_dump()), "the coordinator's answer"
    )
    document = canonical.decode(answer.card.encode(), limit=MAX_CARD_BYTES, what="model card")
    card = parse(ModelCard, document, "the model card")
    try:
        tensors = base64.b64decode(answer.tensors, validate=True)
    except ValueError as error:
        raise TrustError("the coordinator's answer holds no model") from error
    model = PublishedModel.of(card, tensors, *home.coordinator.fingerprints)
    if model.study.digest != digest:
        raise TrustError("the coordinator sent the model of another study")
    out.mkdir(parents=True, exist_ok=True)
    card_path, tensors_path = paths_of(out / f"{model.study.name}-{card.run}")
    write_public(tensors_path, tensors)
    write_public(card_path, card.to_bytes())
    return card_path


def _choose(known: Iterable[KnownStudy], wanted: str) -> str:
    """Digest of the study of that name or digest prefix, of several the only one that has run."""
    matching = {}
    for item in known:
        study = from_canonical(item.study.encode())
        if study.name == wanted or study.digest.startswith(wanted):
            matching[study.digest] = (item.status, f"version {study.version}")
    ran = [d for d, (status, _) in matching.items() if status not in UNDER_WAY]
    found = ran if len(matching) > 1 else list(matching)
    if len(found) == 1:
        return found[0]
    if not matching:
        raise UsageError(f"no study of this hospital is called {wanted!r}")
    names = ", ".join(f"{digest[:12]} ({matching[digest][1]})" for digest in found or matching)
    raise UsageError(f"which study? {names}", hint="name the start of its digest")

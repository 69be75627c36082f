"""The published models that a study continues, and every study that they learnt from; all public.

A study names models by the SHA-256 of their cards. When the coordinator signs it, it adds the
lineage: one entry for each study whose patients shaped those models, after those that it learnt
from itself.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StringConstraints, model_validator

from flo.documents.document import Document
from flo.study.terms import LARGEST_DELTA, Identifier

MOST_MODELS, MOST_ANCESTORS = 8, 100
_Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class Life(Document):
    """The largest life budget of the patients who took part in a study, as reports prove it."""

    epsilon: Annotated[float, Field(gt=0)]
    delta: Annotated[float, Field(gt=0, lt=1)]


class Ancestor(Document):
    """One published model and its study. ``card``: SHA-256 of its card. ``study``: digest.

    ``epsilon``, ``delta``: the study's own guarantee for one patient. ``life``: as the card states
    it. ``worth``: n·ε² of the study, by which models are combined
    (``flo.server.rounds.continuing``).
    """

    card: _Digest
    study: _Digest
    name: Identifier
    version: Annotated[int, Field(ge=1)]
    epsilon: Annotated[float, Field(gt=0)]
    delta: Annotated[float, Field(gt=0, le=LARGEST_DELTA)]
    life: Life | None = None
    worth: Annotated[float, Field(gt=0)]

    @property
    def title(self) -> str:
        """Name, version and ε, for people."""
        return f"{self.name}, version {self.version} (ε = {self.epsilon:.4f})"


class Continues(Document):
    """``models``: cards of the models to continue. ``lineage``: empty until the study is signed."""

    models: Annotated[tuple[_Digest, ...], Field(min_length=1, max_length=MOST_MODELS)]
    lineage: Annotated[tuple[Ancestor, ...], Field(max_length=MOST_ANCESTORS)] = ()

    @model_validator(mode="after")
    def _consistent(self) -> Continues:
        if len(set(self.models)) != len(self.models):
            raise ValueError("a model appears twice")
        cards = {ancestor.card for ancestor in self.lineage}
        studies = {ancestor.study for ancestor in self.lineage}
        if not len(cards) == len(studies) == len(self.lineage):
            raise ValueError("lineage: a study appears twice, and would count twice")
        if self.lineage and not set(self.models) <= cards:
            raise ValueError("lineage: a model that is continued is missing")
        return self

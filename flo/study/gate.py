"""Terms of a release gate: when a candidate model may replace the current one, fixed in advance.

The gate compares two published models on held-out patients by their Brier scores, in one noisy
release (``flo.privacy.releases.gate``). A study that trains names the current model, and its own
model is the candidate. A study with ``candidate`` trains nothing: both models were published
before. Everything that decides is in the study before any patient is seen, as in a predetermined
change control plan (FDA 2024).
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StringConstraints, model_validator

from flo.documents.document import Document
from flo.study.names import ColumnName
from flo.study.packs import Model
from flo.study.schema import Schema
from flo.study.terms import Identifier

MOST_SUBGROUPS, MOST_CODES, MOST_ATTEMPTS = 5, 500, 20
CURVE_POINTS = 129  # of each curve from log odds to risk in a request
FEW_CLIP, MANY = 0.3, 6000  # clip with fewer held-out patients than that
SIZE = 0.05  # how often all attempts together may let a candidate pass that is at the margin
_Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class ComparedModel(Document):
    """A published model as the gate needs it: its card, and how patients become its inputs.

    ``columns``: those of the study's columns that its own study has, in the order of that study.
    """

    card: _Digest
    name: Identifier
    version: Annotated[int, Field(ge=1)]
    model: Model
    columns: Annotated[tuple[ColumnName, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _each_column_once(self) -> ComparedModel:
        if len(set(self.columns)) != len(self.columns):
            raise ValueError(f"a column of {self.title} appears twice")
        return self

    @property
    def title(self) -> str:
        """Name and version, for people."""
        return f"{self.name}, version {self.version}"

    def refuse_unfit(self, data: Schema) -> None:
        """Raise ValueError if it needs a column that is not one of the study's."""
        known = {column.name for column in data.columns}
        if strange := [name for name in self.columns if name not in known]:
            raise ValueError(f"the study has no column {strange[0]!r} of {self.title}")


class Gate(Document):
    """When a candidate passes, fails, or cannot be told; see ``flo.privacy.releases.gate``.

    ``keeps``: the share that the candidate must keep of what the current model's Brier score gains
    over stating everybody's average risk; above 1, it must gain more. ``prevalence``: that average
    risk; if left out, the evaluation of the same study estimates it. ``clip``: the largest
    difference of one patient that counts; if left out, ``clip_of``. ``large_loss``: a patient's
    loss is large if it is worse by more than this, and ``most_large_losses``: the share of patients
    by which large losses may outnumber large gains. ``attempts``: how many gates of this current
    model are planned, which share an error of ``SIZE``. ``subgroups``: category columns; a
    candidate that is clearly worse for one of their codes fails.

    ``current``: the card of the model in use; if left out, the candidate is compared with stating
    the average risk, and must be better. ``candidate``: only in a study that trains nothing.
    ``models``: of candidate and current, those that were published before; filled in when the study
    is signed.
    """

    epsilon: Annotated[float, Field(ge=0.01, le=1)]
    current: _Digest | None = None
    candidate: _Digest | None = None
    keeps: Annotated[float, Field(ge=0.5, le=1.5)] = 0.8
    prevalence: Annotated[float, Field(ge=0.001, le=0.999)] | None = None
    clip: Annotated[float, Field(ge=0.1, le=1)] | None = None
    large_loss: Annotated[float, Field(ge=0.1, le=1)] = 0.4
    most_large_losses: Annotated[float, Field(ge=0.001, le=0.5)] = 0.0275
    subgroups: Annotated[tuple[ColumnName, ...], Field(max_length=MOST_SUBGROUPS)] = ()
    attempts: Annotated[int, Field(ge=1, le=MOST_ATTEMPTS)] = 1
    retry_allowance: Annotated[int, Field(ge=0, le=100)] = 0
    models: Annotated[tuple[ComparedModel, ...], Field(max_length=2)] = ()

    @model_validator(mode="after")
    def _consistent(self) -> Gate:
        if len(set(self.subgroups)) != len(self.subgroups):
            raise ValueError("a subgroup appears twice")
        if self.current and self.clip and self.clip > self.large_loss:
            raise ValueError(
                f"clip = {self.clip:g}, limit large_loss = {self.large_loss:g}: a large loss must "
                "count in full"
            )
        if self.candidate and not self.current:
            raise ValueError("candidate needs a current model to be compared with")
        if self.candidate and self.candidate == self.current:
            raise ValueError("candidate and current are the same model")
        if self.candidate and self.prevalence is None:
            raise ValueError(
                "a gate of two published models needs prevalence, about which share of patients "
                "has the outcome: nothing else in the study estimates it"
            )
        if self.models and tuple(model.card for model in self.models) != self.cards:
            raise ValueError("models: these are not candidate and current, in this order")
        return self

    def clip_of(self, patients: int) -> float:
        """Return the largest difference that counts, if a study plans so many held-out patients.

        With few patients a small clip leaves the noise less; with many, a large one has no cost and
        looks more closely at large losses. Against the average risk every loss counts in full.
        """
        if self.current is None:
            return 1.0
        return self.clip or (FEW_CLIP if patients < MANY else self.large_loss)

    @property
    def is_filled_in(self) -> bool:
        """Whether ``models`` describes the models that the gate names."""
        return len(self.models) == len(self.cards)

    @property
    def level(self) -> float:
        """Error of each of the gate's tests; a retry is another draw, so it shares it."""
        return SIZE / (self.attempts * (1 + self.retry_allowance))

    @property
    def cards(self) -> tuple[str, ...]:
        """Cards of the models that were published before: of candidate and current."""
        return tuple(card for card in (self.candidate, self.current) if card)

    def refuse_unfit(self, data: Schema) -> None:
        """Raise ValueError if a subgroup or a model's column is not one of the study's."""
        cells = sum(1 + len(data.category(name).codes) for name in self.subgroups)
        if cells > MOST_CODES:
            raise ValueError(f"gate: subgroups of {cells} codes, limit {MOST_CODES}")
        for model in self.models:
            model.refuse_unfit(data)

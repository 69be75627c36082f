"""Terms of a monitor: one period in which hospitals count whether a published model still fits.

A monitor is a series of studies, one for each period (usually a month), each approved, charged and
released like any other. Each compares the outcomes of patients who were first in the data in its
period with the risks that the model's card states (``flo.privacy.releases.monitor``); the evidence
of all periods together raises an alarm at a stated rate of false ones (``flo.scores.drift``).
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StringConstraints, model_validator

from flo.documents.document import Document
from flo.study.gate import ComparedModel

MOST_PERIODS = 240
_Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class Monitor(Document):
    """One period of a series.

    ``model``: the card of the published model that is watched. ``tolerance``: a factor on odds:
    outcomes count as stated while the odds of each patient's are within it of the odds of the
    stated risk; above 1, for patients whom two hospitals count would raise more false alarms at 1.
    ``false_alarm_periods``: the mean number of periods until a false alarm, at least.
    ``earlier``: digests of the studies of all earlier periods, in order, and ``models``: the model,
    as its card describes it; both are filled in when the study is signed.
    """

    epsilon: Annotated[float, Field(ge=0.01, le=1)]
    model: _Digest
    tolerance: Annotated[float, Field(ge=1.05, le=2)] = 1.25
    false_alarm_periods: Annotated[int, Field(ge=12, le=1200)] = 60
    retry_allowance: Annotated[int, Field(ge=0, le=100)] = 0
    earlier: Annotated[tuple[_Digest, ...], Field(max_length=MOST_PERIODS - 1)] = ()
    models: Annotated[tuple[ComparedModel, ...], Field(max_length=1)] = ()

    @model_validator(mode="after")
    def _consistent(self) -> Monitor:
        if len(set(self.earlier)) != len(self.earlier):
            raise ValueError("earlier: a period appears twice")
        if self.models and self.models[0].card != self.model:
            raise ValueError("models: this is not the model that is watched")
        return self

    @property
    def period(self) -> int:
        """Number of the period in its series, from 1."""
        return len(self.earlier) + 1

    def refuse_other_terms(self, other: Monitor) -> None:
        """Raise ValueError unless ``other`` can be a period of the same series."""
        for name in ("model", "tolerance", "false_alarm_periods"):
            ours, theirs = getattr(self, name), getattr(other, name)
            if ours != theirs:
                raise ValueError(
                    f"{name} = {ours!r}, and an earlier period of this series has {theirs!r}: "
                    "the evidence of both cannot be added"
                )

"""Which versions of a model are compared at this hospital, and how often each is shown.

The version in use is the *baseline*. Every other version of a comparison scores the same patients:
in shadow (a share of 0), nobody sees its answers; as a canary, a share of the patients gets them. A
patient gets the answers of one version for as long as the shares stay. A comparison is over once
another version is in use, and a version that is withdrawn takes part no more.

There is no scheme that moves patients to the version that seems to do better: outcomes come weeks
late, and it would be an experiment on people (``docs/comparing-versions.md`` has a simulation).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from flo.clients.prediction.signed_decision import SignedDecision
from flo.documents import canonical
from flo.documents.document import Document
from flo.errors import RefusedError, UsageError
from flo.published.model_card import PublishedModel
from flo.published.model_states import ModelVersion, Why
from flo.study.names import Words
from flo.study.terms import Identifier
from flo.study.yes_or_no import require_yes_or_no

MOST_VERSIONS = 9  # beside the baseline
MOST_SHARE = 90  # percent of all others together
_Time = Annotated[str, StringConstraints(max_length=40)]
Share = Annotated[int, Field(ge=0, le=MOST_SHARE)]


class ComparedVersion(Document):
    """``share``: percent of the patients who get its answers; 0 in shadow."""

    model: ModelVersion
    share: Share


class Comparison(SignedDecision):
    """``id``: random, names its file of rows and draws who gets which version.

    ``follow_up_days``: after an answer, before its outcome counts, so that outcomes that are known
    early (a death) and late (none) enter alike. ``by``, ``why``, ``time``: of the latest decision.
    """

    PURPOSE = "comparison"
    schema_version: Literal[1] = 1
    name: Identifier
    id: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]
    baseline: ModelVersion
    versions: Annotated[tuple[ComparedVersion, ...], Field(min_length=1, max_length=MOST_VERSIONS)]
    follow_up_days: Annotated[int, Field(ge=0, le=3650)]
    began: _Time
    by: Words
    why: Why
    time: _Time

    @model_validator(mode="after")
    def _of_several(self) -> Comparison:
        studies = [self.baseline.study, *(one.model.study for one in self.versions)]
        if len(set(studies)) != len(studies):
            raise ValueError("a version is compared with itself")
        if sum(one.share for one in self.versions) > MOST_SHARE:
            raise ValueError(f"versions: shares of more than {MOST_SHARE} % together")
        return self

    def share_of(self, study: str) -> int | None:
        """Return the share of a study's model; None if it is not compared."""
        return next((one.share for one in self.versions if one.model.study == study), None)

    def with_version(self, model: ModelVersion, share: int) -> Comparison:
        """Return the comparison with this version at this share.

        Raises UsageError: there are too many, or their shares are too large together.
        """
        others = tuple(one for one in self.versions if one.model.study != model.study)
        if len(others) == MOST_VERSIONS:
            raise UsageError(
                f"{MOST_VERSIONS} versions are compared already",
                hint="flo model canary NAME:VERSION --off takes one out",
            )
        refuse_share(share + sum(one.share for one in others))
        added = ComparedVersion(model=model, share=share)
        return self.model_copy(update={"versions": (*others, added)})

    def without(self, study: str) -> Comparison | None:
        """Return the comparison without a study's model; None if no other is left."""
        rest = tuple(one for one in self.versions if one.model.study != study)
        return self.model_copy(update={"versions": rest}) if rest else None


def refuse_share(total: int) -> None:
    """Raise UsageError if all versions together leave too little to the baseline."""
    if not 0 <= total <= MOST_SHARE:
        raise UsageError(
            f"the versions beside the one in use would get {total} % of the patients, limit "
            f"{MOST_SHARE} %",
            hint="lower a share; flo model promote puts a version into use for all",
        )


def refuse_unlike(baseline: PublishedModel, other: PublishedModel) -> None:
    """Raise RefusedError unless both models state risks of the same outcome."""
    for model in (baseline, other):
        require_yes_or_no(model.study, "a comparison of versions")
        if model.card.calibration is None:
            raise RefusedError(
                f"{model.title}: its card has no calibration, so it states no risk to compare",
                hint="flo model check --against compares scores",
            )
    labels = [model.study.data.label for model in (baseline, other)]
    if labels[0] != labels[1]:
        raise RefusedError(
            f"{other.title} is about {labels[1]}, and the version in use about {labels[0]}",
            hint="compare versions that foresee the same outcome",
        )


def shown(comparison: str, patient: str, shares: Mapping[str, int]) -> str | None:
    """Return the study whose model answers for a patient; None: the baseline.

    ``comparison``: its id. ``shares``: in percent, by study. Each version draws a number for the
    patient, and the largest wins (weighted rendezvous hashing, Schindelhauer and Schomaker 2005).
    So a share that changes moves no patient between two versions whose shares stay.
    """
    weights = {"": 100 - sum(shares.values()), **shares}
    drawn = {one: _draw(comparison, patient, one, weight) for one, weight in weights.items()}
    return max(drawn, key=lambda one: drawn[one]) or None


def _draw(comparison: str, patient: str, study: str, weight: int) -> float:
    if weight <= 0:
        return -math.inf
    data = canonical.encode([comparison, patient, study])
    number = int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big")
    return weight / -math.log((number + 1) / (2**64 + 1))

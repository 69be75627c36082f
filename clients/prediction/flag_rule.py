"""From which risk on a patient is flagged, as a person decided for one published model.

A rule has one threshold, or one for each group of a column (``flo.published.fairness``). It is
signed with the hospital's key and belongs to one card: another version needs another decision.
``flag_decisions`` stores rules and says which one is in force.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, StringConstraints, model_validator

from flo.arrays import Floats, Mask
from flo.documents import canonical
from flo.documents.document import Document
from flo.errors import TrustError
from flo.keys.claims import Digest, PublicKey, Signature
from flo.keys.identity import Identity, verify
from flo.published.model_card import PublishedModel
from flo.published.model_states import Why
from flo.study.features import cell_of, cells
from flo.study.names import Code, ColumnName, Words
from flo.study.terms import Identifier

WRITTEN = 6  # decimals of a risk in a file of scores
DECIDE_AGAIN = "flo model flag MODEL decides again; with --off --sign nobody is flagged"
_PURPOSE, _BY_A_PERSON = "flag-rule", "flag-rule-person"
_Risk = Annotated[float, Field(gt=0, lt=1)]
_Time = Annotated[str, StringConstraints(max_length=40)]


class GroupThreshold(Document):
    """The risk from which on patients of one group are flagged: of one code, or ``missing``."""

    group: Code
    risk: _Risk


class FlagRule(Document):
    """``threshold``: risk from which on a patient is flagged, if there are no ``groups`` of a
    ``column``: each of its codes in their order, and ``missing`` where that is allowed.

    ``judged``: keyed hash of the file whose patients judged the groups' thresholds. ``by``: the
    person who decided, ``why``: in their words. ``person``, ``person_signature``: of the person's
    own key, where the site's policy names people; else empty. ``public``, ``signature``: of the
    hospital.
    """

    schema_version: Literal[1] = 1
    name: Identifier
    version: Annotated[int, Field(ge=1)]
    study: Digest
    card: Digest
    threshold: _Risk
    column: ColumnName | None = None
    groups: Annotated[tuple[GroupThreshold, ...], Field(max_length=501)] = ()  # and ``missing``
    judged: Digest | Literal[""] = ""
    by: Words
    why: Why
    time: _Time
    person: PublicKey | Literal[""] = ""
    person_signature: Signature | Literal[""] = ""
    public: PublicKey | Literal[""] = ""
    signature: Signature | Literal[""] = ""

    @model_validator(mode="after")
    def _of_one_column(self) -> FlagRule:
        if not (self.column is None) == (not self.groups) == (not self.judged):
            raise ValueError("groups: one threshold for each group of one column, judged by a file")
        return self

    @property
    def digest(self) -> str:
        """SHA-256 of the signed rule."""
        return canonical.digest(self.to_bytes())

    def flagged(self, model: PublishedModel, inputs: Floats, log_odds: Floats) -> Mask:
        """Return who is flagged, (n,), of patients with these inputs (n, d) and log odds (n,).

        Risks and thresholds are compared as they are written, to ``WRITTEN`` decimals.
        """
        assert model.card.calibration is not None
        risk, _, _ = model.card.calibration.of(log_odds)
        limits = np.array([one.risk for one in self.groups] or [self.threshold])
        place = cell_of(model.study.data, self.column, inputs, 0) if self.column else 0
        return np.asarray(np.round(risk, WRITTEN) >= np.round(limits, WRITTEN)[place])

    def with_common(self, groups: Collection[str]) -> FlagRule:
        """Return the rule with the common threshold for these groups."""
        changed = tuple(
            one.model_copy(update={"risk": self.threshold}) if one.group in groups else one
            for one in self.groups
        )
        return self.model_copy(update={"groups": changed})

    def refuse_unfit(self, model: PublishedModel) -> None:
        """Raise TrustError unless the rule is about this model, with all groups of its column."""
        data = model.study.data
        known = cells(data.category(self.column), 0) if self.column else []
        if self.card != model.card.digest or known != [one.group for one in self.groups]:
            raise TrustError(
                f"the rule that flags patients of {self.name} is about another model",
                hint=DECIDE_AGAIN,
            )

    def signed(self, site: Identity, person: Identity | None) -> FlagRule:
        """Return a copy that the person, if there is a key of theirs, and the hospital signed."""
        rule = self.model_copy(update={"public": site.public.hex()})
        if person is not None:
            rule = rule.model_copy(update={"person": person.public.hex()})
            own = person.sign(_BY_A_PERSON, rule._statement("person_signature", "signature"))
            rule = rule.model_copy(update={"person_signature": own})
        return rule.model_copy(
            update={"signature": site.sign(_PURPOSE, rule._statement("signature"))}
        )

    def check(self, site: bytes) -> None:
        """Raise TrustError unless the hospital with the public key ``site`` signed the rule, and
        the person whom it names."""
        if self.public != site.hex():
            raise TrustError(
                f"the rule that flags patients of {self.name} is not this hospital's",
                hint=DECIDE_AGAIN,
            )
        verify(site, _PURPOSE, self._statement("signature"), self.signature)
        if self.person:
            said = self._statement("person_signature", "signature")
            verify(bytes.fromhex(self.person), _BY_A_PERSON, said, self.person_signature)

    def _statement(self, *without: str) -> bytes:
        return canonical.encode(self.model_dump(mode="json", exclude=set(without)))

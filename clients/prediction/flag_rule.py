"""From which risk on this hospital flags a patient: a person's decision on one published model.

A rule has one threshold, or one for each group of a column (``flo.published.fairness``). Nobody has
one unless a person signs it. It is kept in the site's folder, signed with the hospital's key, and
it belongs to one card: another version of the model needs another decision.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, StringConstraints, model_validator

from flo.arrays import Floats, Mask
from flo.clients.home.site_home import SiteHome
from flo.clients.prediction.versions import FOLDER, now
from flo.documents import canonical
from flo.documents.document import Document, parse, read_json
from flo.errors import PolicyError, TrustError, UsageError
from flo.keys.claims import Digest, PublicKey, Signature
from flo.keys.identity import Identity, verify
from flo.published.model_card import PublishedModel
from flo.published.model_states import Why
from flo.storage.files import make_private_directory, write_private
from flo.study.features import cell_of, cells
from flo.study.schema import Code, ColumnName, Words
from flo.study.terms import Identifier

_PURPOSE, _BY_A_PERSON = "flag-rule", "flag-rule-person"
_LIMIT, _FOLDER_DIGITS = 1 << 18, 16
_Risk = Annotated[float, Field(gt=0, lt=1)]
_Time = Annotated[str, StringConstraints(max_length=40)]


class GroupThreshold(Document):
    """The risk from which on patients of one group are flagged: of one code, or ``missing``."""

    group: Code
    risk: _Risk


class FlagRule(Document):
    """``threshold``: risk from which on a patient is flagged, if there are no ``groups`` of a
    ``column``: each of its codes in their order, and ``missing`` where that is allowed.

    ``by``: the person who decided, ``why``: in their words. ``person``, ``person_signature``: of
    the person's own key, where the site's policy names people; else empty. ``public``,
    ``signature``: of the hospital.
    """

    schema_version: Literal[1] = 1
    name: Identifier
    version: Annotated[int, Field(ge=1)]
    study: Digest
    card: Digest
    threshold: _Risk
    column: ColumnName | None = None
    groups: Annotated[tuple[GroupThreshold, ...], Field(max_length=500)] = ()
    by: Words
    why: Why
    time: _Time
    person: PublicKey | Literal[""] = ""
    person_signature: Signature | Literal[""] = ""
    public: PublicKey | Literal[""] = ""
    signature: Signature | Literal[""] = ""

    @model_validator(mode="after")
    def _of_one_column(self) -> FlagRule:
        if (self.column is None) != (not self.groups):
            raise ValueError("groups: one threshold for each group of one column")
        return self

    @property
    def digest(self) -> str:
        """SHA-256 of the signed rule."""
        return canonical.digest(self.to_bytes())

    def flagged(self, model: PublishedModel, inputs: Floats, log_odds: Floats) -> Mask:
        """Return who is flagged, (n,), of patients with these inputs (n, d) and log odds (n,)."""
        assert model.card.calibration is not None
        risk, _, _ = model.card.calibration.of(log_odds)
        if self.column is None:
            return np.asarray(risk >= self.threshold)
        limits = np.array([one.risk for one in self.groups])
        return np.asarray(risk >= limits[cell_of(model.study.data, self.column, inputs, 0)])

    def refuse_unfit(self, model: PublishedModel) -> None:
        """Raise TrustError unless the rule is about this model, with all groups of its column."""
        data = model.study.data
        known = cells(data.category(self.column), 0) if self.column else []
        if self.card != model.card.digest or known != [one.group for one in self.groups]:
            raise TrustError(
                f"the rule that flags patients of {self.name} is about another model",
                hint="flo model flag --off, then decide again",
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

    def check(self, site: Identity) -> None:
        """Raise TrustError unless this hospital signed the rule, and the person whom it names."""
        if self.public != site.public.hex():
            raise TrustError(f"the rule that flags patients of {self.name} is not this hospital's")
        verify(site.public, _PURPOSE, self._statement("signature"), self.signature)
        if self.person:
            said = self._statement("person_signature", "signature")
            verify(bytes.fromhex(self.person), _BY_A_PERSON, said, self.person_signature)

    def _statement(self, *without: str) -> bytes:
        return canonical.encode(self.model_dump(mode="json", exclude=set(without)))


def who_decides(home: SiteHome, by: str | None, key: Identity | None) -> str:
    """Return the name of the person who decides: as the policy says, or ``by``.

    Raises:
        PolicyError: the policy names people, and this is the key of none of them, or no key.
        UsageError: the policy names none, and no name was given, or a key was.
    """
    policy = home.read_policy()
    if policy.people:
        if key is None:
            raise PolicyError(
                "the site's policy names the people who decide, and no key was given",
                hint="--person KEY",
            )
        return policy.person(key).name
    if key is not None:
        raise UsageError(
            "a person's key was given, but the site's policy names no people",
            hint="--by NAME; or name people under [[people]] in policy.toml",
        )
    if by is None:
        raise UsageError("nobody is named who decides", hint="--by NAME, as colleagues know you")
    return by


def decide(home: SiteHome, rule: FlagRule, person: Identity | None) -> FlagRule:
    """Sign, store and log a rule, in place of an earlier one of the same card; return it."""
    signed = rule.signed(home.open_identity(), person)
    make_private_directory(home.directory / FOLDER)
    _log(home, signed, on=True)
    write_private(path_of(home, rule.card), signed.to_bytes())
    return signed


def withdraw(home: SiteHome, model: PublishedModel, by: str, why: str) -> None:
    """Remove the rule of a model. Raises UsageError: it has none."""
    rule = read(home, model)
    if rule is None:
        raise UsageError(f"{model.title}: no rule says who is flagged here")
    _log(home, rule.model_copy(update={"by": by, "why": why}), on=False)
    path_of(home, rule.card).unlink()


def read(home: SiteHome, model: PublishedModel) -> FlagRule | None:
    """Return this hospital's rule for a model's card; None if nobody decided on one.

    Raises TrustError: it was changed, or is about another model.
    """
    path = path_of(home, model.card.digest)
    if not path.exists():
        return None
    rule = read_json(FlagRule, path, limit=_LIMIT)
    rule.check(home.open_identity())
    rule.refuse_unfit(model)
    return rule


def path_of(home: SiteHome, card: str) -> Path:
    """Return the path of the rule of a card."""
    return home.directory / FOLDER / f"{card[:_FOLDER_DIGITS]}.flag.json"


def _log(home: SiteHome, rule: FlagRule, *, on: bool) -> None:
    facts = {"name": rule.name, "version": rule.version, "by": rule.by, "why": rule.why}
    home.record("flag-rule", rule.study, on=on, column=rule.column or "", **facts)


def rule_for(
    model: PublishedModel,
    threshold: float,
    groups: dict[str, float],
    column: str | None,
    by: str,
    why: str,
) -> FlagRule:
    """Return an unsigned rule. Raises UsageError: a threshold or a text is not allowed."""
    return parse(
        FlagRule,
        {
            **{"name": model.study.name, "version": model.study.version},
            **{"study": model.study.digest, "card": model.card.digest},
            **{"threshold": threshold, "column": column, "by": by, "why": why, "time": now()},
            "groups": [{"group": group, "risk": risk} for group, risk in groups.items()],
        },
        "the rule",
    )

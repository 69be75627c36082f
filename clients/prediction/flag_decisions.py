"""Which rule says who is flagged at this hospital: decided by a person, and found in the audit log.

A signed rule is a file of the site's folder, named by its digest. The latest entry about a model in
the audit log says which rule is in force, or that none is. So an older rule that is put back has no
effect, and a crash between file and entry changes nothing.
"""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from flo.clients.home.site_home import SiteHome
from flo.clients.prediction.flag_rule import DECIDE_AGAIN, FlagRule
from flo.clients.prediction.signed_decision import read_decided
from flo.clients.prediction.versions import FOLDER, now
from flo.documents.document import Document, parse
from flo.errors import PolicyError, TrustError, UsageError
from flo.keys.identity import Identity
from flo.published.fairness import refuse_threshold
from flo.published.model_card import PublishedModel
from flo.published.model_states import Why
from flo.scoring.curve import TOO_WIDE, is_too_wide
from flo.storage.files import make_private_directory, write_private
from flo.study.names import Words

_KIND = "flag-rule"
_ENTRIES = 1000


class _Said(Document):
    by: Words
    why: Why


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
        raise UsageError(
            "the name of the person who decides was not given",
            hint="--by NAME, as colleagues know you",
        )
    return by


def rule_for(
    model: PublishedModel,
    threshold: float,
    by: str,
    why: str,
    *,
    column: str | None = None,
    groups: dict[str, float] | None = None,
    judged: str = "",
) -> FlagRule:
    """Return an unsigned rule.

    Raises UsageError: a text is not allowed; or a threshold is beyond the card's risks, or where
    the card states none because they are too uncertain.
    """
    for risk in (threshold, *(groups or {}).values()):
        curve = refuse_threshold(model, risk)
        low, high = (float(np.interp(risk, curve.risk, end)) for end in (curve.low, curve.high))
        if is_too_wide(low, high):
            raise UsageError(
                f"the card knows a risk of {risk:g} only as {low:.2f} to {high:.2f}, and states "
                f"none whose band is wider than {TOO_WIDE:g}",
                hint="flo model show lists which risks belong to which scores",
            )
    facts = {"name": model.study.name, "version": model.study.version, "threshold": threshold}
    digests = {"study": model.study.digest, "card": model.card.digest, "judged": judged}
    several = [{"group": group, "risk": risk} for group, risk in (groups or {}).items()]
    said = {"by": by, "why": why, "time": now(), "column": column, "groups": several}
    return parse(FlagRule, facts | digests | said, "the rule")


def decide(home: SiteHome, rule: FlagRule, person: Identity | None) -> FlagRule:
    """Sign and store a rule, and put it into force by an entry in the audit log; return it."""
    signed = rule.signed(home.open_identity(), person)
    make_private_directory(home.directory / FOLDER)
    write_private(path_of(home, signed.digest), signed.to_bytes())
    home.record(
        _KIND,
        signed.study,
        on=True,
        rule=signed.digest,
        threshold=signed.threshold,
        **_facts(signed.card, signed.name, signed.version, signed.by, signed.why),
        column=signed.column or "",
    )
    return signed


def withdraw(home: SiteHome, model: PublishedModel, by: str, why: str) -> None:
    """End the rule of a model, also one that cannot be read.

    Raises UsageError: none is in force, or a text is not allowed.
    """
    said = parse(_Said, {"by": by, "why": why}, "the decision")
    if _last(home, model) is None:
        raise UsageError(
            f"{model.title}: no rule is in force here, so nobody is flagged",
            hint="flo model flag MODEL --threshold RISK decides on one",
        )
    study = model.study
    facts = _facts(model.card.digest, study.name, study.version, said.by, said.why)
    home.record(_KIND, study.digest, on=False, **facts)


def read(home: SiteHome, model: PublishedModel) -> FlagRule | None:
    """Return the rule in force for a model's card; None if nobody is flagged.

    Raises TrustError: it is missing or was changed, or the policy does not name its person.
    """
    last = _last(home, model)
    if last is None:
        return None
    digest = str(last.get("rule"))
    rule = read_decided(FlagRule, path_of(home, digest), digest, "rule", DECIDE_AGAIN)
    rule.check(home.open_identity().public)
    rule.refuse_unfit(model)
    people = home.read_policy().people
    if people and (rule.by, rule.person) not in {(one.name, one.public) for one in people}:
        raise TrustError(
            f"{rule.by} decided who is flagged, and the policy does not name this person with this "
            "key",
            hint=DECIDE_AGAIN,
        )
    return rule


def other_version_flags(home: SiteHome, model: PublishedModel) -> bool:
    """Return whether a rule is in force for another version of a model."""
    with closing(home.open_audit_log()) as log:
        entries, _ = log.latest(_ENTRIES, kind=_KIND)
    latest = {one.study: one.facts for one in reversed(entries)}
    return any(
        facts.get("on") and facts["name"] == model.study.name and study != model.study.digest
        for study, facts in latest.items()
    )


def enter_judged(home: SiteHome, rule: FlagRule, *, passed: bool) -> None:
    """Enter in the audit log that a file judged thresholds, and whether they may be used."""
    facts = {"name": rule.name, "version": rule.version, "column": rule.column or ""}
    home.record("flags-judged", rule.study, file=rule.judged, passed=passed, **facts)


def path_of(home: SiteHome, digest: str) -> Path:
    """Return the path of the rule of this digest."""
    return home.directory / FOLDER / f"{digest}.flag.json"


def _last(home: SiteHome, model: PublishedModel) -> dict[str, Any] | None:
    """Return the latest entry about a model's card; None if no rule is in force."""
    with closing(home.open_audit_log()) as log:
        entries, _ = log.latest(1, study=model.study.digest, kind=_KIND)
    found = entries[0].facts if entries else {}
    return found if found.get("on") and found["card"] == model.card.digest else None


def _facts(card: str, name: str, version: int, by: str, why: str) -> dict[str, Any]:
    return {"card": card, "name": name, "version": version, "by": by, "why": why}

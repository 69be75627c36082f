"""Review of a study for this hospital's steward: the sheet, and facts that only the site knows.

A review is text and numbers: ``flo.cli`` prints it on a terminal, and ``page`` renders it as one
self-contained HTML page.
"""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from flo.clients.approvals import participation, roster
from flo.clients.approvals.lineage import approved_before, refuse_false_lineage
from flo.clients.home.policy import findings
from flo.clients.home.site_config import Population
from flo.clients.home.site_home import SiteHome
from flo.clients.inbox.inbox import decided
from flo.clients.records.approval import readable
from flo.errors import TrustError
from flo.host.environment import code_digest
from flo.privacy.accounting.life_budget import SUB_LEDGERS, LifetimeBudget
from flo.privacy.report.budget_view import affordable
from flo.privacy.report.sheet import Section, sections
from flo.study.document import Study

_LONGEST_VALUE = 200


def review(home: SiteHome, study: Study, population: Population) -> list[Section]:
    """Return what a steward needs to decide: changes, the study, remaining budget, our policy."""
    with closing(home.open_ledger()) as ledger:
        balance = ledger.balance()
        life = balance.lives[population.name]
        remaining = {side: balance.remaining(population.name, side) for side in SUB_LEDGERS}
        patients = participation.known_lines(ledger, study, population.name)
    unconfirmed = roster.unconfirmed(home, study)
    parts = sections(study, life, unconfirmed)
    left = tuple((side, _left(life, renyi)) for side, renyi in remaining.items())
    return [
        *_changes(home, study),
        *parts,
        Section("Which of our patients have budget for it", tuple(patients))
        if patients
        else Section("What remains of the life budget, before this study", left),
        _here(home, study, population),
    ]


def page(home: SiteHome, study: Study, population: Population) -> str:
    """Return the review as HTML without scripts or network access."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined
    )
    return environment.get_template("review.html.j2").render(
        title=f"{study.name}, version {study.version}",
        hospital=home.read_config().hospital,
        decided=decided(home, study.digest),
        sections=review(home, study, population),
        digest=study.digest,
    )


def differences(old: Study, new: Study) -> list[tuple[str, str]]:
    """Return (place, "before → now") for every field that differs, except ``version``."""
    before, now = _fields(old), _fields(new)
    changed = []
    for place in [*before, *(place for place in now if place not in before)]:
        if before.get(place) != now.get(place) and place != "version":
            values = (_text(side.get(place, "not there")) for side in (before, now))
            changed.append((place, " → ".join(_around_the_change(*values))))
    if not changed and _undated(old) != _undated(new):
        return [("order", "the same parts in another order")]
    return changed


def _fields(study: Study) -> dict[str, Any]:
    """Flatten a study to one level; what it continues is one field."""
    fields = _flat(study.model_dump(mode="json", exclude={"continues"}))
    if study.continues:
        fields["continues"] = [f"{one.title}, card {one.card}" for one in study.lineage]
    return fields


def _undated(study: Study) -> dict[str, Any]:
    return study.model_dump(mode="json", exclude={"version"})


def _changes(home: SiteHome, study: Study) -> list[Section]:
    """Compare with the latest version of the study that was approved here, if any."""
    earlier = [
        found
        for _, approved in readable(home)
        if approved is not None
        and (found := approved.read_study()).name == study.name
        and found.version <= study.version
        and found.digest != study.digest
    ]
    if not earlier:
        return []
    last = max(earlier, key=lambda found: found.version)
    changed = differences(last, study) or [("nothing", "only the version number")]
    return [Section(f"What changed since version {last.version}, approved here", tuple(changed))]


def _here(home: SiteHome, study: Study, population: Population) -> Section:
    policy, hospital = home.read_policy(), home.read_config().hospital
    unconfirmed = roster.unconfirmed(home, study)
    broken = findings(policy, study, hospital, study.largest_epsilon, unconfirmed)
    people = ", ".join(f"{person.name} ({person.role})" for person in policy.people)
    return Section(
        "At this hospital",
        (
            ("our decision", decided(home, study.digest)),
            ("patients", f"population {population.name}, {population.place}"),
            *_took_part(home, study),
            *([("OUR POLICY FORBIDS", text) for text in broken] or [("our policy", "allows it")]),
            (
                "who approves",
                f"{policy.approvers} of {people}" if people else "any user of this site's folder",
            ),
            ("code to be run", f"{code_digest()} (installed here; other code is refused)"),
        ),
    )


def _took_part(home: SiteHome, study: Study) -> list[tuple[str, str]]:
    """Say in which studies of the model's lineage this hospital took part."""
    if study.continues is None:
        return []
    approved = approved_before(home, study)
    names = "; ".join(f"{one.name}, version {one.version}" for one in approved.values())
    lines = [("approved here before", names or "none of the studies that it continues")]
    try:
        refuse_false_lineage(study, approved)
    except TrustError as error:
        lines.append(("THE LINEAGE IS FALSE", str(error)))
    return lines


def _left(life: LifetimeBudget, renyi: float) -> str:
    fits = affordable(life, renyi).largest_epsilon
    return (
        f"{life.share(max(0.0, renyi)):.1%} free; the largest study ε that would fit is {fits:.4f}"
    )


def _flat(value: Any, place: str = "") -> dict[str, Any]:
    """Flatten a document to one level; entries of lists are keyed by id, name or position."""
    if isinstance(value, dict):
        parts = {str(name): part for name, part in value.items()}
    elif isinstance(value, list) and value and all(isinstance(part, dict) for part in value):
        parts = {str(p.get("id") or p.get("name") or n): p for n, p in enumerate(value)}
    else:
        return {place: value}
    flat: dict[str, Any] = {}
    for name, part in parts.items():
        flat |= _flat(part, f"{place}.{name}" if place else name)
    return flat


def _text(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _around_the_change(before: str, now: str) -> tuple[str, str]:
    """Return short texts whole, long ones as excerpts around the first difference."""
    if max(len(before), len(now)) <= _LONGEST_VALUE:
        return before, now
    differ = (n for n, pair in enumerate(zip(before, now, strict=False)) if pair[0] != pair[1])
    same = next(differ, min(len(before), len(now)))
    start = max(0, same - _LONGEST_VALUE // 4)

    def part(text: str) -> str:
        shown = text[start : start + _LONGEST_VALUE]
        return "…" * (start > 0) + shown + "…" * (start + _LONGEST_VALUE < len(text))

    return part(before), part(now)

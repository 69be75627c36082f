"""Facts of a report, recomputed from the ledger extracts of its hospitals."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from flo.errors import MessageError, TrustError
from flo.keys.claims import LedgerHead
from flo.keys.identity import fingerprint
from flo.keys.identity import verify as verify_signature
from flo.privacy.accounting.accounting import (
    Releases,
    rounded_down,
    rounded_up,
    true_positive_rate,
)
from flo.privacy.accounting.life_budget import SUB_LEDGERS
from flo.privacy.accounting.plan import Plan
from flo.privacy.accounting.spending import first_releases, of_training, spent
from flo.privacy.report.extract import Extract, signed_body
from flo.privacy.report.versions import NOT_SHOWN
from flo.privacy.report.wording import (
    ACCOUNTANT,
    ADJACENCY,
    PLD_DISCRETISED,
    PLD_EXACT,
    UNIT,
    trust,
)
from flo.study.document import Study
from flo.study.loading import from_canonical

_Accountant = Callable[[Releases, float], float]
_STATED = ("training", "evaluation", "survey")  # purposes whose releases each report counts


def facts_of(
    evidence: list[Any],
    heads: dict[str, Any],
    *,
    own_rules: bool,
    pld: _Accountant,
) -> dict[str, Any]:
    """Check extracts and heads, and return the facts that follow from them.

    ``own_rules``: also check that each hospital kept the rules of its own FLO. ``pld``: ε of
    releases at a δ by PLD. Raises as ``Extract.read``.
    """
    if not evidence:
        raise MessageError("a report needs at least one extract")
    bodies = [signed_body(document) for document in evidence]
    study_bytes = str(bodies[0]["study"]).encode()
    if any(str(body["study"]).encode() != study_bytes for body in bodies):
        raise TrustError("the extracts are not of one study")
    if any(body["coordinator"] != bodies[0]["coordinator"] for body in bodies):
        raise TrustError("the extracts name different coordinators")
    names = [body["hospital"] for body in bodies]
    if len(set(names)) != len(names):
        raise TrustError("two extracts are of the same hospital")
    study = from_canonical(study_bytes)
    coordinator = bytes.fromhex(bodies[0]["coordinator"])
    for body in bodies:
        verify_signature(coordinator, "study", study_bytes, body["study_signature"])
    plan, delta = Plan.of(study), study.mechanism.delta
    if not set(heads) <= set(names):
        raise TrustError(
            f"ledger heads are given for {', '.join(sorted(set(heads) - set(names)))}, and no "
            "extract of that hospital"
        )
    kept = {name: LedgerHead.model_validate(head) for name, head in heads.items()}
    extracts = [
        Extract.read(study, body, bodies, kept.get(body["hospital"]), own_rules=own_rules)
        for body in bodies
    ]
    return {
        "study": {
            "name": study.name,
            "version": study.version,
            "digest": study.digest,
            "purpose": study.purpose,
            "legal_basis": study.legal_basis,
            "record": study.data.record,
            "coordinator": fingerprint(coordinator),
            **_lineage(study),
        },
        "guarantee": {
            "epsilon": rounded_up(plan.epsilon),
            "epsilon_pld": rounded_up(spent(plan.purposes, plan.releases, delta, pld)),
            "second_opinion": PLD_EXACT if study.mechanism.sampling == 1 else PLD_DISCRETISED,
            "epsilon_if_secure_sum_is_broken": rounded_up(plan.worst_case(study).epsilon),
            "delta": delta,
            "unit": UNIT,
            "adjacency": ADJACENCY,
            "accountant": ACCOUNTANT,
            "trust_model": trust(study),
            "epsilon_at_two_hospitals": rounded_up(
                plan.epsilon_at_two_hospitals(study.mechanism.noise)
            ),
            "attacker_true_positives_at_1_percent": rounded_up(
                true_positive_rate(plan.epsilon, delta)
            ),
        },
        "hospitals": [_hospital_facts(study, plan, extract, pld) for extract in extracts],
        "same_code": len({body["software"].get("code_digest") for body in bodies}) == 1,
        "without_extract": sorted({h.id for h in study.hospitals} - set(names)),
        "not_covered_or_shown": list(NOT_SHOWN),
    }


def largest_life(facts: dict[str, Any]) -> dict[str, float]:
    """Return ε and δ of the largest life budget of the populations that took part."""
    lives = [hospital["life"] for hospital in facts["hospitals"]]
    return {name: max(life[name] for life in lives) for name in ("epsilon", "delta")}


def _lineage(study: Study) -> dict[str, Any]:
    """Return what the model learnt before, if the study continues one: an entry for each study."""
    if study.continues is None:
        return {}
    return {"lineage": [ancestor.model_dump(mode="json") for ancestor in study.lineage]}


def _hospital_facts(study: Study, plan: Plan, extract: Extract, pld: _Accountant) -> dict[str, Any]:
    body, decision, balance = extract.body, extract.decision, extract.balance
    partner = study.hospital(body["hospital"])
    seen = max([*extract.witnesses.values(), extract.kept or 0])
    return {
        "hospital": partner.id,
        "declared_size": partner.declared_size,
        "fingerprint": partner.fingerprint,
        "made": body["made"],
        "charged": decision.charged,
        "unconfirmed": list(decision.unconfirmed),
        "approved_by": [
            f"{person.name} ({person.role}, as {partner.id} says; key {person.fingerprint[:16]})"
            for person in decision.people
        ],
        "mapping": decision.mapping,
        "confinement": str(body["software"].get("confinement", "not stated")),
        "software": {name: str(value) for name, value in body["software"].items()},
        "populations": len(balance.lives),
        "other_studies": sum(1 for number in balance.reservations if number != body["reservation"]),
        "witnessed_by": list(extract.witnesses),
        "kept_by_coordinator": extract.kept,
        "witnessed_up_to": seen,
        "rows_after_that": sum(row.sequence > seen for row in extract.rows),
        "approved_code": decision.code or "not stated",
        "restored": [
            {
                "time": row.public["time"],
                "lost_rows": lost,
                "populations_used_up": len(row.public["exhausted"]),
            }
            for row, lost in extract.restored()
        ],
        "ledger_rows": len(extract.rows),
        "ledger_head": extract.rows[-1].hash,
        **_spent(study, plan, extract, pld),
        **_released(extract),
        **_life(extract),
    }


def _spent(study: Study, plan: Plan, extract: Extract, pld: _Accountant) -> dict[str, Any]:
    """Return the study's cost, by its own accounting."""
    delta, parts = study.mechanism.delta, extract.reservation.parts
    counts = extract.reservation.released
    trained = {purpose: counts[purpose] for purpose in of_training(plan.purposes)}
    return {
        "delta": delta,
        "sigma": {purpose: part.mechanism.noise_multiplier for purpose, part in parts.items()},
        "epsilon_designed": rounded_up(plan.epsilon),
        "epsilon_charged": rounded_up(extract.charged.epsilon),
        "epsilon_released": rounded_up(spent(parts, counts, delta)),
        "epsilon_released_pld": rounded_up(spent(parts, counts, delta, pld)),
        "epsilon_by_release": [
            [n, rounded_up(spent(parts, first_releases(trained, n), delta))]
            for n in _curve_points(sum(trained.values()))
        ],
    }


def _released(extract: Extract) -> dict[str, Any]:
    """Return the study's releases by this hospital, and whether more may follow."""
    counts = extract.reservation.released
    return {
        **{f"releases_{p}": counts[p] for p in (*_STATED, *extract.reservation.parts)},
        "releases_unseen": sum(extract.reservation.unseen.values()),
        "releases": [
            {
                "time": row.public["time"],
                "purpose": row.public["purpose"],
                "round": row.private["round"],
                "attempt": row.private["attempt"],
            }
            for row in extract.releases
            if row.private is not None
        ],
        "repeats": extract.repeats,
        "settled": extract.reservation.settled,
    }


def _life(extract: Extract) -> dict[str, Any]:
    """Return the study's share of the life budget, and what is left of it, by generation.

    ``shares`` are those of the generation in the study that spent most.
    """
    life, held = extract.life, extract.reservation
    costs = {s: rounded_up(life.share(held.cost(s, life.order))) for s in SUB_LEDGERS}
    spent_most = {s: _shares(extract, s, held.generations[s]) for s in SUB_LEDGERS}
    return {
        "life": {"epsilon": life.epsilon, "delta": life.delta, "born": extract.born},
        "shares": {s: {"this_study": costs[s]} | spent_most[s] for s in SUB_LEDGERS},
        "generations": [
            {
                "number": number,
                "opened": extract.opened(number),
                "this_study": [s for s in SUB_LEDGERS if number in held.generations[s]],
                "shares": {s: _shares(extract, s, [number]) for s in SUB_LEDGERS},
            }
            for number in extract.balance.generations(held.population)
        ],
        "lost_approvals": _lost_approvals(extract),
    }


def _lost_approvals(extract: Extract) -> dict[str, Any]:
    """Return how many approvals a restored ledger lost, and their shares without any limit.

    A generation counts them at no more than what was left to it.
    """
    life, balance, population = extract.life, extract.balance, extract.body["population"]
    lost = [
        balance.reservations[row.sequence]
        for row in extract.rows
        if "lost" in row.public and row.public["population"] == population
    ]
    return {
        "number": len(lost),
        "shares": {
            s: rounded_up(life.share(sum(held.cost(s, life.order) for held in lost)))
            for s in SUB_LEDGERS
        },
    }


def _shares(extract: Extract, sub_ledger: str, generations: Collection[int]) -> dict[str, float]:
    """Return the shares of the life budget of the generation among these that spent most."""
    life, balance, population = extract.life, extract.balance, extract.body["population"]
    all_ = max(balance.committed(population, sub_ledger, number) for number in generations)
    return {
        "all": rounded_up(life.share(all_)),
        "left": rounded_down(life.share(life.renyi - all_)),
    }


def _curve_points(count: int) -> list[int]:
    """Return up to 200 release numbers from 1 to ``count``, always with the last."""
    step = max(1, -(-count // 200))
    return sorted({*range(1, count + 1, step), count} - {0})

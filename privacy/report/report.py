"""The budget report: facts recomputed from the signed ledger extracts of one study.

``build`` joins the extracts into one canonical document: the *evidence* (the signed extracts, as
received) and the *facts* (all that a reader sees). ``verify`` derives the facts from the evidence
again, checks signatures, chains and every ε, and requires identical bytes; so it detects any
changed byte. (The signature of a ledger's last row covers all rows before it, by the chain.) It
works offline: it needs neither a network nor the coordinator.

A report proves what these keys signed, that each ledger is an unbroken chain from its first row,
and that every ε follows from it. ``NOT_SHOWN`` lists what it cannot show.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flo.documents import canonical
from flo.errors import MessageError, TrustError
from flo.keys.claims import LedgerHead
from flo.keys.identity import fingerprint, low_s
from flo.keys.identity import verify as verify_signature
from flo.privacy.accounting.accounting import (
    epsilon_of,
    pld_epsilon,
    rounded_down,
    rounded_up,
    true_positive_rate,
)
from flo.privacy.accounting.life_budget import SUB_LEDGERS
from flo.privacy.accounting.plan import Plan
from flo.privacy.report.extract import Extract, decided, hospital_of, is_restored, signed_body
from flo.privacy.report.sheet import ACCOUNTANT, ADJACENCY, NOT_COVERED, UNIT, trust
from flo.study.document import Study, from_canonical

SCHEMA_VERSION = 6  # checks the hospitals' own rules, and states the last row that others saw
# Earlier reports have the lowest version that has their facts: 5 with a hospital that mapped its
# fields to the study's columns, 4 with a ledger that was restored from a backup.
_WITH_MAPPING, _WITH_RESTORED = 5, 4
_OF_STUDIES_3 = 6  # lowest version for a study of schema 3; no earlier report has one
MAX_REPORT_BYTES = 1 << 30
MOST_VALUES = MAX_REPORT_BYTES // 32  # many of them hashes and signatures
_OF_HEADS = 1
_SEEN_BEFORE_6 = (
    "What no partner witnessed: the rows after the last round that partners saw relayed. If the "
    "coordinator colluded with the hospital, releases there could be missing, undetected."
)
_SEEN = (
    "Rows after the last one that a partner in this report saw, or that the coordinator kept. When "
    "a run ends, everybody is shown the others' last release; but a coordinator that colluded with "
    "a hospital could have kept that from them, and releases there could be missing, undetected."
)
_OF_KEYS = (
    "Whether another reservation of a hospital, shown without a name, is for the same purpose.",
    "Who stands behind the keys: compare the fingerprints by telephone.",
)
_STATED_SINCE_1 = (*NOT_COVERED, _SEEN_BEFORE_6, *_OF_KEYS)
_STATED_SINCE_2 = (
    "How long an answer took, and so about how many records it was computed on.",
    "A restored backup of a ledger, should the coordinator lie and ask it only together with "
    "hospitals that have not seen its newer rows.",
    "A machine restored with its memory: it cannot know that it answered before.",
    "That masks are unbreakable: they are computational (X25519, HKDF-SHA256, ChaCha20), and hold "
    "against the coordinator and the stated number of colluding hospitals.",
)
_OF_RESTORED = (
    "What the lost rows of a restored ledger were about, beyond what its hospital says that it was "
    "shown: a study that coordinator and hospital both keep silent about may be among them.",
)
_NOT_SHOWN_BEFORE_6 = (*_STATED_SINCE_1, *_STATED_SINCE_2, *_OF_RESTORED)
NOT_SHOWN = (*NOT_COVERED, _SEEN, *_OF_KEYS, *_STATED_SINCE_2, *_OF_RESTORED)


def build(extracts: list[bytes], heads: Mapping[str, LedgerHead] | None = None) -> bytes:
    """Return the report's canonical bytes.

    ``heads``: hospital -> the head of its ledger that the coordinator stored in this study's run.

    Raises:
        TrustError: a signature, chain or number is invalid, or the extracts are not of one study.
        MessageError: not an extract.
    """
    evidence = [
        canonical.decode_canonical(
            extract, limit=MAX_REPORT_BYTES, what="extract", values=MOST_VALUES
        )
        for extract in extracts
    ]
    evidence.sort(key=hospital_of)
    named = {hospital_of(one) for one in evidence}
    kept = {h: head.model_dump(mode="json") for h, head in (heads or {}).items() if h in named}
    return _document(
        [_with_low_s(one) for one in evidence], {h: _with_low_s(one) for h, one in kept.items()}
    )


def heads_document(heads: Mapping[str, LedgerHead]) -> bytes:
    """Serialise the heads that a coordinator stored in a study's run, for making a report."""
    kept = {hospital: head.model_dump(mode="json") for hospital, head in heads.items()}
    return canonical.encode({"schema_version": _OF_HEADS, "heads": kept})


def read_heads(data: bytes) -> dict[str, LedgerHead] | None:
    """Parse ``heads_document``, without checking signatures; None if ``data`` is no such file.

    Raises:
        MessageError: it is one, of another version or form.
    """
    document = canonical.decode(
        data, limit=MAX_REPORT_BYTES, what="heads or extract", values=MOST_VALUES
    )
    if not isinstance(document, dict) or set(document) != {"schema_version", "heads"}:
        return None
    if document["schema_version"] != _OF_HEADS:
        raise MessageError(f"heads of schema {document['schema_version']!r} are not known here")
    try:
        return {str(h): LedgerHead.model_validate(head) for h, head in document["heads"].items()}
    except (ValueError, AttributeError) as error:
        raise MessageError("the coordinator's heads have the wrong shape") from error


def verify(report: bytes) -> dict[str, Any]:
    """Recompute the whole report and return its facts. Raises as ``build``."""
    document = canonical.decode_canonical(
        report, limit=MAX_REPORT_BYTES, what="report", values=MOST_VALUES
    )
    version = document.get("schema_version") if isinstance(document, dict) else None
    if type(version) is not int or not 1 <= version <= SCHEMA_VERSION:
        raise MessageError(f"this is not a report of schema version 1 to {SCHEMA_VERSION}")
    evidence, heads = document.get("evidence"), document.get("heads", {})
    if not isinstance(evidence, list) or not isinstance(heads, dict):
        raise MessageError("a report has a list of extracts, and heads by hospital")
    if _document(evidence, heads, version) != report:
        raise TrustError("the report says something else than its evidence")
    facts: dict[str, Any] = document["facts"]
    return facts


def _with_low_s(document: Any) -> Any:
    """Return the extract with its signature in the form that reports require since version 6.

    The signature covers all others in it, so no byte of a report can be changed undetected.
    """
    if not isinstance(document, dict) or not isinstance(document.get("signature"), str):
        return document  # the reader refuses its shape
    return document | {"signature": low_s(document["signature"])}


def _document(evidence: list[Any], heads: dict[str, Any], version: int | None = None) -> bytes:
    """Return the report's bytes. ``version``: of an existing report; else the newest."""
    try:
        facts = _facts(evidence, heads, own_rules=version is None or version >= SCHEMA_VERSION)
        latest = max(_version(one) for one in evidence)
    # another site's document may have any shape
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError, IndexError) as error:
        raise MessageError(f"the evidence has the wrong shape ({type(error).__name__})") from error
    version = SCHEMA_VERSION if version is None else version
    if version >= SCHEMA_VERSION:
        outermost = [*evidence, *heads.values()]
        if outermost != [_with_low_s(one) for one in outermost]:
            raise TrustError("a signature is not in the form with the smaller s")
    if latest > version:
        raise TrustError(f"a report of version {version} holds later evidence: it hides facts")
    if version < SCHEMA_VERSION:
        facts = _as_version_5(facts)
    if version < _WITH_MAPPING:
        facts = _as_version_4(facts)
    if version < _WITH_RESTORED:
        facts = _as_version_3(facts)
    if version < 3:
        facts = _as_version_2(facts)
    if version == 1:
        facts = _as_version_1(facts)
    document = {"schema_version": version, "facts": facts, "evidence": evidence}
    return canonical.encode(document | ({"heads": heads} if version >= SCHEMA_VERSION else {}))


def _as_version_5(facts: dict[str, Any]) -> dict[str, Any]:
    """Remove the last row that others saw, and the approved code."""
    facts["not_covered_or_shown"] = list(_NOT_SHOWN_BEFORE_6)
    for site in facts["hospitals"]:
        del site["witnessed_up_to"], site["rows_after_that"], site["approved_code"]
        del site["kept_by_coordinator"]
    return facts


def _as_version_4(facts: dict[str, Any]) -> dict[str, Any]:
    """Remove mappings: these hospitals' fields have the study's names."""
    for site in facts["hospitals"]:
        del site["mapping"]
    return facts


def _as_version_3(facts: dict[str, Any]) -> dict[str, Any]:
    """Remove facts about restored ledgers: none of these was."""
    facts["not_covered_or_shown"] = [*_STATED_SINCE_1, *_STATED_SINCE_2]
    for site in facts["hospitals"]:
        del site["restored"], site["releases_unseen"]
    return facts


def _as_version_2(facts: dict[str, Any]) -> dict[str, Any]:
    """Remove facts that approvals and extracts did not state then."""
    for site in facts["hospitals"]:
        del site["approved_by"], site["confinement"]
    return facts


def _as_version_1(facts: dict[str, Any]) -> dict[str, Any]:
    """Return the facts that FLO 0.1 stated, so that its reports still verify."""
    del facts["guarantee"]["epsilon_if_secure_sum_is_broken"], facts["same_code"]
    facts["not_covered_or_shown"] = list(_STATED_SINCE_1)
    for site in facts["hospitals"]:
        del site["releases_survey"], site["software"], site["charged"], site["unconfirmed"]
        del site["epsilon_charged"]
    return facts


def _version(document: Any) -> int:
    """Return the schema version of an extract, or of its content if that is later."""
    body = document["body"]
    decision = decided(body)
    study = from_canonical(str(body["study"]).encode()).schema_version
    return max(
        int(body["schema_version"]),
        int(decision["schema_version"]),
        _WITH_MAPPING if decision.get("mapping") else 1,
        _WITH_RESTORED if is_restored(document) else 1,
        study if study < 3 else _OF_STUDIES_3,
    )


def _facts(evidence: list[Any], heads: dict[str, Any], *, own_rules: bool) -> dict[str, Any]:
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
        raise TrustError("a head is kept of a hospital whose extract is not here")
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
        },
        "guarantee": {
            "epsilon": rounded_up(plan.epsilon),
            "epsilon_pld": rounded_up(plan.epsilon_pld),
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
        "hospitals": [_hospital_facts(study, plan, extract) for extract in extracts],
        "same_code": len({body["software"].get("code_digest") for body in bodies}) == 1,
        "without_extract": sorted({h.id for h in study.hospitals} - set(names)),
        "not_covered_or_shown": list(NOT_SHOWN),
    }


def _hospital_facts(study: Study, plan: Plan, extract: Extract) -> dict[str, Any]:
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
        **_spent(study, plan, extract),
        **_released(extract),
        **_life(extract),
    }


def _spent(study: Study, plan: Plan, extract: Extract) -> dict[str, Any]:
    """Return the study's cost, by its own accounting."""
    delta, parts = study.mechanism.delta, extract.reservation.parts
    counts, first = extract.reservation.released, next(iter(plan.purposes))
    return {
        "delta": delta,
        "sigma": {purpose: part.mechanism.noise_multiplier for purpose, part in parts.items()},
        "epsilon_designed": rounded_up(plan.epsilon),
        "epsilon_charged": rounded_up(extract.charged.epsilon),
        "epsilon_released": rounded_up(
            max(epsilon_of(part.mechanism, counts[p], delta) for p, part in parts.items())
        ),
        "epsilon_released_pld": rounded_up(
            max(pld_epsilon(part.mechanism, counts[p], delta) for p, part in parts.items())
        ),
        "epsilon_by_release": [
            [n, rounded_up(epsilon_of(parts[first].mechanism, n, delta))]
            for n in _curve_points(counts[first])
        ],
    }


def _released(extract: Extract) -> dict[str, Any]:
    """Return the study's releases by this hospital, and whether more may follow."""
    counts = extract.reservation.released
    return {
        "releases_training": counts["training"],
        "releases_evaluation": counts["evaluation"],
        "releases_survey": counts["survey"],
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
    """Return the study's share of the life budget, and what is left of it."""
    life, balance, population = extract.life, extract.balance, extract.body["population"]
    return {
        "life": {"epsilon": life.epsilon, "delta": life.delta, "born": extract.born},
        "shares": {
            sub_ledger: {
                "this_study": rounded_up(
                    life.share(extract.reservation.cost(sub_ledger, life.order))
                ),
                "all": rounded_up(life.share(balance.committed(population, sub_ledger))),
                "left": rounded_down(life.share(balance.remaining(population, sub_ledger))),
            }
            for sub_ledger in SUB_LEDGERS
        },
    }


def _curve_points(count: int) -> list[int]:
    """Return up to 200 release numbers from 1 to ``count``, always with the last."""
    step = max(1, -(-count // 200))
    return sorted({*range(1, count + 1, step), count} - {0})

"""The budget report: signed ledger extracts in, facts that anyone can recompute out.

``build`` joins the extracts of one study into one canonical document: the *evidence* (the signed
extracts, as they came) and the *facts* (all that a reader sees). ``verify`` derives the facts from
the evidence anew, checking signatures, chains and every ε, and demands the very same bytes; so any
changed byte is found. (The signature of a ledger's last row covers all before it, by the chain.)
Offline: it needs neither a network nor the coordinator.

What a report proves: what these keys signed, that each ledger is an unbroken chain from its birth,
and that every ε follows from it. What it cannot show stands in ``NOT_SHOWN``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from flo import canonical
from flo.claims import Head, row_statement
from flo.decisions import MAX_DECISION_BYTES, Approve
from flo.errors import MessageError, TrustError
from flo.identity import fingerprint
from flo.identity import verify as verify_signature
from flo.privacy.accounting import (
    epsilon_of,
    pld_epsilon,
    rounded_down,
    rounded_up,
    true_positive_rate,
)
from flo.privacy.life import SUB_LEDGERS
from flo.privacy.plan import Plan
from flo.privacy.rows import ZERO_HASH, Balance, Reservation, Row, lost_head, number_after
from flo.privacy.sheet import ACCOUNTANT, ADJACENCY, NOT_COVERED, UNIT, trust
from flo.study import Study, from_canonical

SCHEMA_VERSION = 5  # with a hospital that mapped its fields to the study's columns
_WITH_RESTORED, _USUAL = 4, 3  # with a ledger that was restored from a backup, and without either
MAX_REPORT_BYTES = 1 << 30
NOT_SHOWN = (
    *NOT_COVERED,
    "What no partner witnessed: the rows after the last round that partners saw relayed. If the "
    "coordinator colluded with the hospital, releases there could be missing, undetected.",
    "Whether another reservation of a hospital, shown without a name, is for the same purpose.",
    "Who stands behind the keys: compare the fingerprints by telephone.",
    "How long an answer took, and so about how many records it was computed on.",
    "A restored backup of a ledger, should the coordinator lie and ask it only together with "
    "hospitals that have not seen its newer rows.",
    "A machine restored with its memory: it cannot know that it answered before.",
    "That masks are unbreakable: they are computational (X25519, HKDF-SHA256, ChaCha20), and hold "
    "against the coordinator and the stated number of colluding hospitals.",
)
_NEW_IN_2 = 4  # the last of them, which version 1 did not state
_OF_RESTORED = (
    "What the lost rows of a restored ledger were about, beyond what its hospital says that it was "
    "shown: a study that coordinator and hospital both keep silent about may be among them.",
)


def build(extracts: list[bytes]) -> bytes:
    """Canonical bytes of the report.

    Raises:
        TrustError: a signature, chain or number does not hold, or the extracts are not of one
        study. MessageError: not an extract.
    """
    evidence = [
        canonical.decode_canonical(extract, limit=MAX_REPORT_BYTES, what="extract")
        for extract in extracts
    ]
    evidence.sort(key=_hospital)
    return _document(evidence)


def verify(report: bytes) -> dict[str, Any]:
    """The report's facts, after everything in it was recomputed. Raises as ``build``."""
    document = canonical.decode_canonical(report, limit=MAX_REPORT_BYTES, what="report")
    version = document.get("schema_version") if isinstance(document, dict) else None
    if type(version) is not int or not 1 <= version <= SCHEMA_VERSION:
        raise MessageError(f"this is not a report of schema version 1 to {SCHEMA_VERSION}")
    evidence = document.get("evidence")
    if not isinstance(evidence, list) or _document(evidence, version) != report:
        raise TrustError("the report says something else than its evidence")
    facts: dict[str, Any] = document["facts"]
    return facts


def _document(evidence: list[Any], version: int | None = None) -> bytes:
    """``version``: of a report that was made before; else the one that the evidence needs."""
    try:
        facts, latest = _facts(evidence), max(_version(one) for one in evidence)
    # whatever shape somebody else's document has
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError, IndexError) as error:
        raise MessageError(f"the evidence has the wrong shape ({type(error).__name__})") from error
    version = max(_USUAL, latest) if version is None else version
    if latest > version:
        raise TrustError(f"a report of version {version} holds later evidence: it hides facts")
    if version < SCHEMA_VERSION:
        facts = _as_version_4(facts)
    if version < _WITH_RESTORED:
        facts = _as_version_3(facts)
    if version < 3:
        facts = _as_version_2(facts)
    if version == 1:
        facts = _as_version_1(facts)
    return canonical.encode({"schema_version": version, "facts": facts, "evidence": evidence})


def _as_version_4(facts: dict[str, Any]) -> dict[str, Any]:
    """Of hospitals whose fields have the study's names."""
    for site in facts["hospitals"]:
        del site["mapping"]
    return facts


def _as_version_3(facts: dict[str, Any]) -> dict[str, Any]:
    """Of ledgers that never were restored."""
    facts["not_covered_or_shown"] = list(NOT_SHOWN)
    for site in facts["hospitals"]:
        del site["restored"], site["releases_unseen"]
    return facts


def _as_version_2(facts: dict[str, Any]) -> dict[str, Any]:
    """Without what approvals and extracts did not state before."""
    for site in facts["hospitals"]:
        del site["approved_by"], site["confinement"]
    return facts


def _as_version_1(facts: dict[str, Any]) -> dict[str, Any]:
    """The facts that FLO 0.1 stated, so that its reports still verify."""
    del facts["guarantee"]["epsilon_if_secure_sum_is_broken"], facts["same_code"]
    facts["not_covered_or_shown"] = list(NOT_SHOWN[:-_NEW_IN_2])
    for site in facts["hospitals"]:
        del site["releases_survey"], site["software"], site["charged"], site["unconfirmed"]
        del site["epsilon_charged"]
    return facts


def _version(document: Any) -> int:
    """Schema version of an extract, or of what is in it if that is later."""
    body = document["body"]
    decision = canonical.decode(
        str(body["decision"]).encode(), limit=MAX_DECISION_BYTES, what="approval"
    )
    return max(
        int(body["schema_version"]),
        int(decision["schema_version"]),
        SCHEMA_VERSION if decision.get("mapping") else 1,
        _WITH_RESTORED if _is_restored(document) else 1,
        from_canonical(str(body["study"]).encode()).schema_version,
    )


def _is_restored(document: Any) -> bool:
    try:
        return any(row["public"]["kind"] == "restored" for row in document["body"]["rows"])
    except (KeyError, TypeError) as error:
        raise MessageError("this is not an extract") from error


def _facts(evidence: list[Any]) -> dict[str, Any]:
    if not evidence:
        raise MessageError("a report needs at least one extract")
    bodies = [_signed_body(document) for document in evidence]
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
    plan = Plan.of(study)
    delta = study.mechanism.delta
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
            "epsilon_if_secure_sum_is_broken": rounded_up(plan.if_broken(study).epsilon),
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
        "hospitals": [_hospital_facts(study, plan, body, bodies) for body in bodies],
        "same_code": len({body["software"].get("code_digest") for body in bodies}) == 1,
        "without_extract": sorted({h.id for h in study.hospitals} - set(names)),
        "not_covered_or_shown": [*NOT_SHOWN, *_OF_RESTORED],
    }


def _signed_body(document: Any) -> dict[str, Any]:
    if set(document) != {"body", "signature"}:
        raise MessageError("an extract is a body and its signature, and nothing else")
    body: dict[str, Any] = document["body"]
    if body["schema_version"] not in (1, 2, 3):
        raise MessageError(f"extract schema {body['schema_version']!r} is not known here")
    public = bytes.fromhex(body["public"])
    verify_signature(public, "extract", canonical.encode(body), document["signature"])
    return body


def _hospital_facts(
    study: Study, plan: Plan, body: dict[str, Any], bodies: list[dict[str, Any]]
) -> dict[str, Any]:
    public = bytes.fromhex(body["public"])
    partner = study.hospital(body["hospital"])
    if partner.fingerprint != fingerprint(public):
        raise TrustError(f"{partner.id}: the extract is signed by another key than the study names")
    decision = _decision(study, partner.id, public, body)
    charged = plan
    if decision.get("charged") == "if-broken":
        charged = plan.if_broken(study)
    rows = [_row(document) for document in body["rows"]]
    balance, birth = _replay(rows, public, body["population"])
    witnesses = _check_witnesses(partner.id, partner.fingerprint, rows, balance, bodies)
    reservation = _reservation(study, charged, rows, balance, body)
    life = balance.lives[body["population"]]
    releases = [
        {
            "time": row.public["time"],
            "purpose": row.public["purpose"],
            "round": row.private["round"],
            "attempt": row.private["attempt"],
        }
        for row in rows
        if row.public["kind"] == "release"
        and row.public["reservation"] == body["reservation"]
        and row.private is not None
    ]
    counts, parts = reservation.released, reservation.parts
    if len(releases) + sum(reservation.unseen.values()) != sum(counts.values()):
        raise TrustError(f"{partner.id}: a release of this study is hidden")
    delta = study.mechanism.delta
    if delta > life.delta:
        raise TrustError(f"{partner.id}: the study's delta is larger than its ledger's")
    first = next(iter(plan.parts))
    return {
        "hospital": partner.id,
        "declared_size": partner.declared_size,
        "fingerprint": partner.fingerprint,
        "made": body["made"],
        "delta": delta,
        "sigma": {purpose: part.mechanism.noise_multiplier for purpose, part in parts.items()},
        "epsilon_designed": rounded_up(plan.epsilon),
        "epsilon_charged": rounded_up(charged.epsilon),
        "epsilon_released": rounded_up(
            max(epsilon_of(part.mechanism, counts[p], delta) for p, part in parts.items())
        ),
        "epsilon_released_pld": rounded_up(
            max(pld_epsilon(part.mechanism, counts[p], delta) for p, part in parts.items())
        ),
        "releases_training": counts["training"],
        "releases_evaluation": counts["evaluation"],
        "releases_survey": counts["survey"],
        "releases_unseen": sum(reservation.unseen.values()),
        "settled": reservation.settled,
        "charged": str(decision.get("charged", "as-designed")),
        "unconfirmed": [str(name) for name in decision.get("unconfirmed", [])],
        "approved_by": _people(study, partner.id, decision),
        "mapping": decision.get("mapping"),
        "confinement": str(body["software"].get("confinement", "not stated")),
        "life": {"epsilon": life.epsilon, "delta": life.delta, "born": birth},
        "populations": len(balance.lives),
        "shares": {
            sub_ledger: {
                "this_study": rounded_up(life.share(reservation.cost(sub_ledger, life.order))),
                "all": rounded_up(life.share(balance.committed(body["population"], sub_ledger))),
                "left": rounded_down(life.share(balance.remaining(body["population"], sub_ledger))),
            }
            for sub_ledger in SUB_LEDGERS
        },
        "releases": releases,
        "repeats": sum(
            1
            for row in rows
            if row.public["kind"] == "repeat" and row.public["reservation"] == body["reservation"]
        ),
        "epsilon_by_release": [
            [n, rounded_up(epsilon_of(parts[first].mechanism, n, delta))]
            for n in _curve_points(counts[first])
        ],
        "software": {name: str(value) for name, value in body["software"].items()},
        "witnessed_by": witnesses,
        "other_studies": sum(1 for number in balance.reservations if number != body["reservation"]),
        "restored": [
            {
                "time": row.public["time"],
                "lost_rows": row.sequence - before - 1,
                "populations_used_up": len(row.public["exhausted"]),
            }
            for before, row in _with_number_before(rows)
            if row.public["kind"] == "restored"
        ],
        "ledger_rows": len(rows),
        "ledger_head": rows[-1].hash,
    }


def _decision(study: Study, hospital: str, public: bytes, body: dict[str, Any]) -> dict[str, Any]:
    """The steward's signed decision. Raises TrustError if it is not about this study."""
    decision = str(body["decision"]).encode()
    verify_signature(public, "approval", decision, body["decision_signature"])
    content = canonical.decode(decision, limit=MAX_DECISION_BYTES, what="approval")
    if (content["study"], content["hospital"], content["decision"]) != (
        study.digest,
        hospital,
        "approve",
    ):
        raise TrustError(f"{hospital}: the approval is not for this study")
    found: dict[str, Any] = content
    return found


def _people(study: Study, hospital: str, decision: dict[str, Any]) -> list[str]:
    """Who said yes, each by a key of their own. Raises TrustError for another's signature."""
    found = Approve.model_validate(decision)
    for person in found.people:
        person.check(study.digest, hospital, found.terms.digest, person.fingerprint)
    return [
        f"{person.name} ({person.role}, as {hospital} says; key {person.fingerprint[:16]})"
        for person in found.people
    ]


def _replay(rows: list[Row], public: bytes, population: str) -> tuple[Balance, str]:
    """Check chain and signatures from the first row on; returns balance and time of birth."""
    balance, previous, born = Balance(), ZERO_HASH, ""
    for row in rows:
        row.check(previous, number_after(balance.last, row.public))
        head = lost_head(row.public)
        if head is not None:
            head.check(fingerprint(public))
        balance.add(row)
        previous = row.hash
        if row.public["kind"] == "birth" and row.public["population"] == population:
            born = row.public["time"]
    if rows:
        statement = row_statement(balance.last, previous)
        verify_signature(public, "ledger-row", statement, rows[-1].signature)
    if balance.is_recovering:
        raise TrustError("the ledger lost rows that no study explains")
    if population not in balance.lives:
        raise TrustError(f"the ledger has no birth of population {population!r}")
    return balance, born


def _check_witnesses(
    hospital: str, signer: str, rows: list[Row], balance: Balance, bodies: list[dict[str, Any]]
) -> list[str]:
    """Every head of this hospital that a partner kept must be in this ledger, or be lost and
    charged in full. Returns partners."""
    witnesses, hashes = [], {row.sequence: row.hash for row in rows}
    for other in bodies:
        if other["hospital"] == hospital:
            continue
        heads = [Head.model_validate(kept) for kept in other["witnessed"].values()]
        head = next((head for head in heads if head.fingerprint == signer), None)
        if head is None:
            continue
        head.check(signer)
        if hashes.get(head.sequence) != head.hash and not balance.is_lost(head):
            raise TrustError(
                f"{hospital}: {other['hospital']} saw a ledger row {head.sequence} that is not here"
            )
        if head.sequence in hashes:
            witnesses.append(other["hospital"])
    return sorted(witnesses)


def _reservation(
    study: Study, plan: Plan, rows: list[Row], balance: Balance, body: dict[str, Any]
) -> Reservation:
    number = body["reservation"]
    reservation = balance.reservations.get(number)
    shown = next((row.private for row in rows if row.sequence == number), None)
    if reservation is None or shown is None or shown.get("study") != study.digest:
        raise TrustError(f"{body['hospital']}: the ledger holds no reservation of this study")
    named = [row.sequence for row in rows if (row.private or {}).get("study") == study.digest]
    if any(other in balance.reservations for other in named if other != number):
        raise TrustError(f"{body['hospital']}: this study was reserved twice")
    if reservation.population != body["population"]:
        raise TrustError(f"{body['hospital']}: the reservation is for another population")
    reserved = {name: (part.mechanism, part.releases) for name, part in reservation.parts.items()}
    if reserved != {name: (part.mechanism, part.releases) for name, part in plan.parts.items()}:
        raise TrustError(f"{body['hospital']}: what was reserved is not what the study needs")
    return reservation


def _with_number_before(rows: list[Row]) -> Iterator[tuple[int, Row]]:
    """Each row with the number of the one before it, 0 for the first."""
    before = 0
    for row in rows:
        yield before, row
        before = row.sequence


def _curve_points(count: int) -> list[int]:
    """Up to 200 release numbers from 1 to ``count``, the last always among them."""
    step = max(1, -(-count // 200))
    return sorted({*range(1, count + 1, step), count} - {0})


def _row(document: dict[str, Any]) -> Row:
    fields = {"sequence", "public", "private", "salt", "commitment", "hash", "signature"}
    if set(document) != fields:
        raise MessageError("a ledger row has the wrong fields")
    return Row(**document)


def _hospital(document: Any) -> str:
    try:
        return str(document["body"]["hospital"])
    except (KeyError, TypeError) as error:
        raise MessageError("this is not an extract") from error

"""A dated, signed bundle: rows with their evidence, the record of processing, the DPIA annex."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from pydantic import Field, ValidationError

from flo.documents import canonical
from flo.documents.document import Document, problems
from flo.errors import MessageError, TrustError
from flo.infra.evidence.facts import Facts, collect
from flo.infra.evidence.requirements import ROWS, Requirement
from flo.keys.claims import LARGEST_COUNT, Digest, PublicKey, Signature
from flo.keys.identity import fingerprint
from flo.keys.identity import verify as verify_signature
from flo.privacy.accounting.accounting import true_positive_rate
from flo.privacy.accounting.plan import Plan
from flo.privacy.accounting.spending import of_training
from flo.privacy.report.wording import ADJACENCY, NOT_COVERED, UNIT, trust
from flo.study.document import Study

MAX_BYTES = 16 << 20
FILL_IN = "to be filled in by the controller"
SAID = (
    "Evidence for the hospital's own assessment. It shows what this installation records and what "
    "its software was tested to do; it is no certificate and no legal advice, and a row that is "
    "not shown may be met by people and other systems."
)


class _Log(Document):
    entries: Annotated[int, Field(ge=0, le=LARGEST_COUNT)]
    head: Digest | None
    countersigned: Annotated[int, Field(ge=0, le=LARGEST_COUNT)]


class _Row(Document):
    reference: str
    asks: str
    mechanism: str
    tests: tuple[str, ...]
    shown: bool
    evidence: tuple[str, ...]


class _Body(Document):
    schema_version: Literal[1]
    evidence: Literal["flo"]
    owner: str
    side: Literal["site", "coordinator"]
    made: str
    fingerprint: Digest
    public: PublicKey
    said: str
    problems: tuple[str, ...]
    log: _Log
    rows: tuple[_Row, ...]
    record_of_processing: tuple[dict[str, str], ...]
    impact_assessment: tuple[dict[str, str], ...]


class _Pack(Document):
    body: _Body
    signature: Signature


def make(place: Path) -> bytes:
    """Collect and sign; return the canonical bytes of the pack of a site or a coordinator."""
    facts = collect(place)
    body = {
        "schema_version": 1,
        "evidence": "flo",
        "owner": facts.owner,
        "side": facts.side,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "fingerprint": facts.identity.fingerprint,
        "public": facts.identity.public.hex(),
        "said": SAID,
        "problems": list(facts.problems),
        "log": {
            "entries": len(facts.entries),
            "head": facts.entries[-1].hash if facts.entries else None,
            "countersigned": facts.countersigned,
        },
        "rows": [_row(requirement, facts) for requirement in ROWS],
        "record_of_processing": [_record(facts, study) for study in facts.studies],
        "impact_assessment": [_annex(study) for study in facts.studies],
    }
    signature = facts.identity.sign("evidence", canonical.encode(body))
    return canonical.encode({"body": body, "signature": signature})


def is_evidence(document: Any) -> bool:
    """Return whether parsed JSON claims to be an evidence pack."""
    body = document.get("body") if isinstance(document, dict) else None
    return isinstance(body, dict) and body.get("evidence") == "flo"


def verify(document: bytes) -> dict[str, Any]:
    """Verify the signature and return the body.

    Raises:
        MessageError: it is not an evidence pack. TrustError: a byte was changed.
    """
    parsed = canonical.decode_canonical(document, limit=MAX_BYTES, what="evidence")
    if not is_evidence(parsed):
        raise MessageError("this is not an evidence pack")
    try:
        _Pack.model_validate(parsed)
    except ValidationError as error:
        raise MessageError(f"evidence:\n{problems(error)}") from error
    body: dict[str, Any] = parsed["body"]
    public = bytes.fromhex(body["public"])
    verify_signature(public, "evidence", canonical.encode(body), parsed["signature"])
    if fingerprint(public) != body["fingerprint"]:
        raise TrustError("the pack's fingerprint is not that of the key that signed it")
    return body


def render(document: bytes) -> str:
    """Render the pack as one self-contained page: no script, no network."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined
    )
    body = verify(document)
    return environment.get_template("evidence.html.j2").render(
        pack=body, digest=canonical.digest(document), shown=sum(r["shown"] for r in body["rows"])
    )


def _row(requirement: Requirement, facts: Facts) -> dict[str, Any]:
    found = requirement.proof(facts)
    return {
        "reference": requirement.reference,
        "asks": requirement.asks,
        "mechanism": requirement.mechanism,
        "tests": list(requirement.tests),
        "shown": bool(found),
        "evidence": found or ["not shown"],
    }


def _record(facts: Facts, study: Study) -> dict[str, str]:
    """Return the record of GDPR Art. 30(1), as far as a study states it."""
    columns = ", ".join(
        [*study.data.outcome_columns, *(column.name for column in study.data.columns)]
    )
    partners = ", ".join(hospital.id for hospital in study.hospitals)
    layers = facts.last("agent-started")
    confined = ", ".join(layers.facts.get("confinement", [])) if layers else "not stated"
    return {
        "study": f"{study.name}, version {study.version}, {study.digest}",
        "controller and contacts": FILL_IN,
        "purposes": study.purpose,
        "legal basis": study.legal_basis,
        "categories of persons": f"patients of {facts.owner}; a record is {study.data.record}",
        "categories of data": f"health data, special category (Art. 9): {columns}",
        "recipients": (
            f"the coordinator and {partners}: noisy sums, ε = {study.largest_epsilon:g}, "
            f"δ = {study.mechanism.delta:g}; {trust(study)}"
        ),
        "transfers to third countries": FILL_IN,
        "time limits for erasure": (
            f"frozen copies until the study ends, {study.expires} at the latest; the ledger and "
            "the audit log, without patient data, for good"
        ),
        "security measures": (
            f"mutual TLS 1.3; keys sealed ({facts.keystore}); data process confined by {confined}"
        ),
    }


def _annex(study: Study) -> dict[str, str]:
    """Return the contents of GDPR Art. 35(7): description, necessity, risks, measures."""
    plan, delta = Plan.of(study), study.mechanism.delta
    sums = sum(plan.purpose(purpose).planned for purpose in of_training(plan.purposes))
    clips = {part.mechanism.norm: None for part in plan.purposes.values()}
    found = true_positive_rate(plan.epsilon, delta)
    return {
        "study": f"{study.name}, version {study.version}, {study.digest}",
        "a) what is done": (
            f"{study.purpose} {len(study.hospitals)} hospitals; "
            + (
                "noisy counts, nothing is trained"
                if not study.trains
                else f"{sums} noisy sums train a {study.model.kind} model"
            )
        ),
        "b) necessity and proportionality": FILL_IN,
        "c) risk: that someone took part is found out": (
            f"whoever sees all that left a hospital and accepts 1 % false alarms finds at most "
            f"{found:.1%} of those who took part (ε = {plan.epsilon:.4f}, δ = {delta:g}; unit: "
            f"{UNIT}; adjacency: {ADJACENCY})"
        ),
        "c) risk: the secure sum is broken": (
            f"ε = {plan.worst_case(study).epsilon:.4f} if every single upload were seen"
        ),
        "c) risk: a patient known to two hospitals": (
            f"ε = {plan.epsilon_at_two_hospitals(study.mechanism.noise):.2f}; not detected"
        ),
        "c) not covered": " ".join(NOT_COVERED),
        "d) measures": (
            f"{trust(study)}; clipping to {', '.join(f'{clip:g}' for clip in clips)}; exact "
            "discrete Gaussian noise; "
            "a ledger that refuses what exceeds the life budget; a data process without network"
        ),
        "d) acceptance of what remains": FILL_IN,
    }

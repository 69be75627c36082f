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

import json
from collections.abc import Mapping
from typing import Any

from flo.documents import canonical
from flo.errors import MessageError, TrustError
from flo.keys.claims import LedgerHead
from flo.keys.identity import low_s
from flo.privacy.accounting.accounting import composed_pld_epsilon, discretised_pld_epsilon
from flo.privacy.report.extract import decided, hospital_of, signed_body
from flo.privacy.report.facts import facts_of
from flo.privacy.report.versions import OF_HEADS, OF_STUDIES_3, as_version
from flo.study.document import Study
from flo.study.loading import from_canonical

SCHEMA_VERSION = 8  # states PLD exactly where no patients are sampled, and not discretised
_OF_EXACT_PLD = 8
_OF_GENERATIONS = 7  # states what each generation of patients has spent
_OF_OWN_RULES = 6  # checks the hospitals' own rules, and states the last row that others saw
# Earlier reports have the lowest version that has their facts: 5 with a hospital that mapped its
# fields to the study's columns, 4 with a ledger that was restored from a backup.
_WITH_MAPPING, _WITH_RESTORED = 5, 4
MAX_REPORT_BYTES = 1 << 30
MOST_VALUES = MAX_REPORT_BYTES // 32  # many of them hashes and signatures


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


def study_of(report: bytes) -> Study:
    """Return the study of a report that ``build`` made."""
    body = signed_body(json.loads(report)["evidence"][0])
    return from_canonical(str(body["study"]).encode())


def heads_document(heads: Mapping[str, LedgerHead]) -> bytes:
    """Serialise the heads that a coordinator stored in a study's run, for making a report."""
    kept = {hospital: head.model_dump(mode="json") for hospital, head in heads.items()}
    return canonical.encode({"schema_version": OF_HEADS, "heads": kept})


def read_heads(data: bytes) -> dict[str, LedgerHead] | None:
    """Parse ``heads_document``, without checking signatures; None for another kind of document.

    Raises:
        MessageError: it is a document of heads, of another version or form.
    """
    document = canonical.decode(
        data, limit=MAX_REPORT_BYTES, what="heads or extract", values=MOST_VALUES
    )
    if not isinstance(document, dict) or set(document) != {"schema_version", "heads"}:
        return None
    if document["schema_version"] != OF_HEADS:
        raise MessageError(
            f"schema version {document['schema_version']!r} of ledger heads is unknown; this FLO "
            f"reads {OF_HEADS}"
        )
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
        raise MessageError("a report must have a list of extracts, and heads by hospital")
    if _document(evidence, heads, version) != report:
        raise TrustError("the report was changed: its facts do not follow from its evidence")
    facts: dict[str, Any] = document["facts"]
    return facts


def _with_low_s(document: Any) -> Any:
    """Return the extract with its signature in the form that reports require since version 6.

    The signature covers all others in it, so no byte of a report can be changed undetected.
    """
    if not isinstance(document, dict) or not isinstance(document.get("signature"), str):
        return document  # the reader refuses its shape
    return document | {"signature": low_s(document["signature"])}


def _document(evidence: list[Any], heads: dict[str, Any], version: int = SCHEMA_VERSION) -> bytes:
    """Return the report's bytes. ``version``: of an existing report."""
    pld = composed_pld_epsilon if version >= _OF_EXACT_PLD else discretised_pld_epsilon
    try:
        facts = facts_of(evidence, heads, own_rules=version >= _OF_OWN_RULES, pld=pld)
        latest = max(_version(one) for one in evidence)
    # another site's document may have any shape
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError, IndexError) as error:
        raise MessageError(f"the evidence has the wrong shape ({type(error).__name__})") from error
    if version >= _OF_OWN_RULES:
        outermost = [*evidence, *heads.values()]
        if outermost != [_with_low_s(one) for one in outermost]:
            raise TrustError("a signature is not in low-s form (the smaller of its two forms)")
    if latest > version:
        raise TrustError(
            f"a report of version {version} cannot state all facts of its evidence, which needs "
            f"version {latest}"
        )
    facts = as_version(facts, version)
    document = {"schema_version": version, "facts": facts, "evidence": evidence}
    return canonical.encode(document | ({"heads": heads} if version >= _OF_OWN_RULES else {}))


def _version(document: Any) -> int:
    """Return the schema version of an extract, or of its content if that is later."""
    body = document["body"]
    decision = decided(body)
    study = from_canonical(str(body["study"]).encode()).schema_version
    restored = any(row["public"]["kind"] == "restored" for row in body["rows"])
    by_generation = any({"generations", "lost"} & set(row["public"]) for row in body["rows"])
    return max(
        int(body["schema_version"]),
        int(decision["schema_version"]),
        _WITH_MAPPING if decision.get("mapping") else 1,
        _WITH_RESTORED if restored else 1,
        _OF_GENERATIONS if by_generation else 1,
        study if study < 3 else OF_STUDIES_3,
    )

"""CDS Hooks 2.0: what this service tells of itself, what it is asked, and the card that it answers.

https://cds-hooks.hl7.org/2.0/. The record system sends all data with the request (*prefetch*); this
service fetches nothing and ignores ``fhirAuthorization``. ``fhirServer`` only says which server's
addresses the resources may carry. What is wrong with a patient's data is said on a card, which a
clinician sees: column and rule, and no value.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import UTC, date, datetime
from typing import Annotated, Any, Literal
from uuid import NAMESPACE_URL, uuid5

from pydantic import StringConstraints

from flo.clients.prediction.scorer import Scored
from flo.clients.serving.risk_assessment import risk_assessment
from flo.clients.serving.seen import unfit
from flo.clients.serving.service import (
    Answer,
    Question,
    Service,
    broken_rules,
    invalid,
    parsed,
    ward_of,
)
from flo.documents.document import Document
from flo.privacy.report.risks import in_words, percent
from flo.study.cell_rules import MISSING_CELLS

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_FHIR_ID = re.compile(r"[A-Za-z0-9.-]{1,64}")
_SUMMARY = 139  # characters; the specification asks for fewer than 140
_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>()#|~!])")
_MOST_SAID = 20  # broken rules on a card
WARD = "com.flo.ward"  # of a request's extension: where the patient is, for monitors
NOBODY = "no model answers"
OVERRIDES = {
    "wrong-data": "The data are wrong or outdated",
    "known": "Known already",
    "judged-otherwise": "I judge the risk otherwise",
    "not-applicable": "Does not apply to this patient",
}
_NEEDS = "patient-view and the other hooks need context.patientId, the id of the Patient"


class Feedback(Document):
    """What a clinician did with a card. Comments and reasons of the record system are not kept."""

    card: Annotated[str, StringConstraints(pattern=f"^{_UUID.pattern}$")]
    outcome: Literal["accepted", "overridden"]
    override: Annotated[str, StringConstraints(max_length=40)] = ""


def discovery(
    name: str, hook: str, title: str, description: str, prefetch: dict[str, str]
) -> dict[str, Any]:
    """Return one service of the answer to ``GET /cds-services``."""
    return {
        "hook": hook,
        "title": title,
        "description": description,
        "id": name,
        "prefetch": prefetch,
    }


def ask(service: Service, answer_id: str, request: dict[str, Any]) -> Question | Answer:
    """Return what a request asks, or the answer that says why it cannot be answered."""
    if service.reader is None:
        return invalid(404, "this model's columns are not mapped to FHIR, so it answers no hook")
    wrong = _wrong_form(service, request)
    if wrong is not None:
        return wrong
    context, prefetch = request["context"], request.get("prefetch") or {}
    missing = service.reader.missing_keys(prefetch)
    if missing:
        said = "the request lacks prefetched data, and this service fetches none"
        return invalid(412, said, missing=missing)
    patient = context["patientId"]
    server = request.get("fhirServer")
    server = server if isinstance(server, str) else ""
    record, broken = service.reader.read(patient, prefetch, _today(), server)
    encoded = service.fhir_encoder.encode(record)
    named = {name for name, _ in broken}
    rules = [(service.words.get(name, name), rule) for name, rule in broken]
    rules += [
        (service.words[name], rule)
        for name, rule in encoded.broken
        if name not in named and name in record
    ]
    ward = _ward(request)
    if rules or encoded.inputs is None:
        rules = rules or broken_rules(service, encoded)
        answer = _answer([_unfit_card(service, answer_id, rules)], "unfit")
        seen = unfit(service.cells, patient, ward, [*encoded.broken, *broken])
        return replace(answer, watched=seen)

    def finish(scored: Scored) -> Answer:
        card = _card(service, answer_id, scored, patient, _encounter(context))
        return _answer([card], "rank only" if scored.risk is None else "scored")

    return Question(patient, ward, encoded.inputs, True, finish)


def _wrong_form(service: Service, request: dict[str, Any]) -> Answer | None:
    hook, instance, context = (request.get(k) for k in ("hook", "hookInstance", "context"))
    if hook != service.version.hook:
        return invalid(400, f"this service answers the hook {service.version.hook} only")
    if not isinstance(instance, str) or not _UUID.fullmatch(instance):
        return invalid(400, "hookInstance must be a UUID")
    if not isinstance(context, dict):
        return invalid(400, _NEEDS)
    patient = context.get("patientId")
    if not isinstance(patient, str) or not _FHIR_ID.fullmatch(patient):
        return invalid(400, _NEEDS)
    if not isinstance(request.get("prefetch", {}), dict | None):
        return invalid(400, "prefetch must be an object of resources")
    return None


def _ward(request: dict[str, Any]) -> str:
    """Return the ward that a request's extension names; "" if it names none, or wrongly."""
    extension = request.get("extension")
    given = extension.get(WARD) if isinstance(extension, dict) else None
    found = ward_of(given)
    return found if isinstance(found, str) else ""


def _encounter(context: dict[str, Any]) -> str | None:
    found = context.get("encounterId")
    return found if isinstance(found, str) and _FHIR_ID.fullmatch(found) else None


def _today() -> date:
    return datetime.now().astimezone().date()


def _answer(cards: list[dict[str, Any]], outcome: Any) -> Answer:
    return Answer(200, outcome, json.dumps({"cards": cards}, ensure_ascii=False).encode())


def _card(
    service: Service, answer_id: str, scored: Scored, patient: str, encounter: str | None
) -> dict[str, Any]:
    """Return the card of a score. What it lacks is left out: CDS Hooks knows no empty values."""
    said = _capital(service.version.outcome)
    lines = []
    if scored.risk is None:
        summary = f"{said}: risk too uncertain to be stated"
        lines.append(
            f"Only the rank is known: the score is {scored.score:.3f}, between 0 and 1, and higher "
            "means more likely."
        )
    else:
        summary = f"{said}: {percent(scored.risk)}"
        if scored.low is not None and scored.high is not None:
            summary += f" ({in_words(scored.low, scored.high)})"
    lines += _reasons(service, scored)
    lines += ["", *_about(service, scored)]
    card = _frame(service, answer_id, summary, lines)
    card["indicator"] = "warning" if scored.flagged else "info"
    card["extension"]["flo.answer"] |= {
        name: value
        for name, value in (
            *(("score", scored.score), ("risk", scored.risk)),
            *(("low", scored.low), ("high", scored.high), ("flagged", scored.flagged)),
        )
        if value is not None
    }
    if scored.risk is not None and not service.finished:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        resource = risk_assessment(service, answer_id, scored, patient, encounter, now)
        suggestion = {
            "label": "Store this risk in the record",
            "uuid": str(uuid5(NAMESPACE_URL, answer_id)),
            "actions": [{"type": "create", "description": "RiskAssessment", "resource": resource}],
        }
        card |= {"suggestions": [suggestion], "selectionBehavior": "at-most-one"}
    return card


def _frame(service: Service, answer_id: str, summary: str, lines: list[str]) -> dict[str, Any]:
    facts = {
        "model": service.version.name,
        "version": service.study.version,
        "card": service.card,
    }
    return {
        "uuid": answer_id,
        "summary": summary if len(summary) <= _SUMMARY else f"{summary[: _SUMMARY - 1]}…",
        "indicator": "info",
        "detail": "\n".join(lines),
        "source": {"label": f"{_title(service)} (FLO)"},
        "overrideReasons": [
            {"code": code, "system": "urn:flo:override-reasons", "display": words}
            for code, words in OVERRIDES.items()
        ],
        "extension": {"flo.answer": facts},
    }


def _title(service: Service) -> str:
    finished = ", finished here" if service.finished else ""
    return f"{service.published.title}{finished}"


def _reasons(service: Service, scored: Scored) -> list[str]:
    lines = [
        f"- {what}: {', '.join(map(_plain, columns))}"
        for what, columns in (("raised by", scored.raises), ("lowered by", scored.lowers))
        if columns
    ]
    if lines:
        return [*lines, "", "These say what the model does, not what causes the outcome."]
    if service.scorer.no_reasons:
        return [f"No reasons are given: {_plain(service.scorer.no_reasons)}."]
    return ["No reasons are given: fewer than two columns surely move this risk."]


def _about(service: Service, scored: Scored) -> list[str]:
    calibration = service.published.card.calibration
    lines = list[str]()
    if service.finished:
        lines.append("The risk is calibrated on this hospital's own patients.")
    elif scored.risk is not None and calibration is not None:
        lines.append(
            f"The {100 * calibration.level:.0f} % band comes from the noise that protects patients "
            "and from their number. It is calibrated for the patients of all hospitals together."
        )
    if scored.flagged:
        lines.append("Flagged by this hospital's rule.")
    if service.version.compared_with:
        lines.append(
            f"This hospital compares this version with version {service.version.compared_with}, "
            "which is in use here."
        )
    lines.append(f"{_plain(_title(service))}. It does not replace a clinician's judgement.")
    return lines


def _unfit_card(service: Service, answer_id: str, broken: list[tuple[str, str]]) -> dict[str, Any]:
    columns = ", ".join(column for column, _ in broken)
    lines = [f"- {_plain(column)}: {_rule(rule)}" for column, rule in broken[:_MOST_SAID]]
    if len(broken) > _MOST_SAID:
        lines.append(f"- and {len(broken) - _MOST_SAID} more")
    lines += ["", "No score was computed, and none was guessed."]
    summary = f"No risk of {service.version.outcome}: {columns} cannot be used"
    return _frame(service, answer_id, summary, lines)


def _rule(rule: str) -> str:
    return "is missing, and the model needs it" if rule == MISSING_CELLS else _plain(rule)


def _plain(text: str) -> str:
    """Return text of a study or mapping so that Markdown shows it as it is."""
    return _MARKDOWN.sub(r"\\\1", text)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def feedback(body: bytes) -> list[Feedback] | Answer:
    """Return what clinicians did with cards, or the answer that refuses the report."""
    found = parsed(body)
    if isinstance(found, Answer):
        return found
    several = found.get("feedback")
    if not isinstance(several, list) or not 0 < len(several) <= _MOST_FEEDBACK:
        return invalid(400, f"feedback must be a list of 1 to {_MOST_FEEDBACK} entries")
    read = []
    for one in several:
        entry = _feedback(one)
        if entry is None:
            return invalid(
                400, "each feedback needs card, a UUID, and outcome, accepted or overridden"
            )
        read.append(entry)
    return read


_MOST_FEEDBACK = 100


def _feedback(one: Any) -> Feedback | None:
    if not isinstance(one, dict):
        return None
    card, outcome, reason = one.get("card"), one.get("outcome"), one.get("overrideReason")
    if not isinstance(card, str) or not _UUID.fullmatch(card):
        return None
    if outcome not in ("accepted", "overridden"):
        return None
    coding = reason.get("reason") if isinstance(reason, dict) else None
    code = coding.get("code") if isinstance(coding, dict) else None
    known = isinstance(code, str) and code in OVERRIDES
    given = "other" if reason is not None else ""
    return Feedback(card=card.lower(), outcome=outcome, override=str(code) if known else given)


def nobody_card(name: str, answer_id: str) -> dict[str, Any]:
    """Return the card that says that no version of a model answers now.

    A clinician must not take silence for a low risk.
    """
    return {
        "uuid": answer_id,
        "summary": f"{_capital(NOBODY)}: {name}"[:_SUMMARY],
        "indicator": "info",
        "detail": "No risk can be stated now. This server's operator finds the reason on the desk.",
        "source": {"label": "FLO"},
    }

"""A published model's risk as FHIR R4 ``RiskAssessment``, for the record system to store.

https://hl7.org/fhir/R4/riskassessment.html: ``probabilityDecimal`` is in percent. Only calibrated
risks of a published model are written; a finished model is not private and writes no resource.
"""

from __future__ import annotations

from typing import Any

from flo.clients.prediction.scorer import Scored
from flo.clients.serving.service import Service
from flo.privacy.report.risks import in_words

_DECIMALS = 2  # of a percentage


def risk_assessment(
    service: Service,
    answer_id: str,
    scored: Scored,
    patient_id: str,
    encounter_id: str | None,
    now: str,
) -> dict[str, Any]:
    """Return the resource. ``scored``: with a risk. ``now``: FHIR dateTime with a zone."""
    assert not service.finished
    assert scored.risk is not None
    assert scored.low is not None
    assert scored.high is not None
    calibration = service.published.card.calibration
    assert calibration is not None
    rationale = f"{100 * calibration.level:.0f} % band: {in_words(scored.low, scored.high)}"
    for what, columns in (("raised", scored.raises), ("lowered", scored.lowers)):
        if columns:
            rationale += f"; {what} by {', '.join(columns)}"
    resource: dict[str, Any] = {
        "resourceType": "RiskAssessment",
        "identifier": [{"system": "urn:ietf:rfc:3986", "value": f"urn:uuid:{answer_id}"}],
        "status": "final",
        "method": {"text": f"{service.published.title}, card {service.card}"},
        "subject": {"reference": f"Patient/{patient_id}"},
        "occurrenceDateTime": now,
        "prediction": [
            {
                "outcome": {"text": service.version.outcome},
                "probabilityDecimal": round(100 * scored.risk, _DECIMALS),
                "rationale": rationale,
            }
        ],
    }
    if encounter_id is not None:
        resource["encounter"] = {"reference": f"Encounter/{encounter_id}"}
    return resource

"""A period of a monitor, drafted from the study of the model that it watches."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from flo.study.document import Study, from_document
from flo.study.terms import round_size

_LONGEST = 2000  # of a purpose


def draft(
    card: str,
    watched: Study,
    *,
    epsilon: float,
    new_patients: int,
    period: int = 1,
    tolerance: float = 1.25,
    false_alarm_periods: int = 60,
) -> dict[str, Any]:
    """Return a study of the model's hospitals that asks for one period only, as parsed TOML.

    ``card``: SHA-256 of the model's card. ``new_patients``: about how many are new in a period, at
    each hospital. ``period``: becomes the study's version. Raises StudyError: a hospital has fewer.
    """
    document = watched.without_training(f"v{watched.version}-monitor")
    for hospital in document["hospitals"]:
        hospital["expected"] = round_size(new_patients)
    drafted = document | {
        "version": period,
        "purpose": f"See whether the model of {watched.name}, version {watched.version}, still "
        f"states how often patients have the outcome. A patient may be in the data only once their "
        f"outcome is final. {watched.purpose}"[:_LONGEST],
        "expires": (datetime.now(UTC) + timedelta(days=60)).date().isoformat(),
        "monitor": {
            "epsilon": epsilon,
            "model": card,
            "tolerance": tolerance,
            "false_alarm_periods": false_alarm_periods,
        },
    }
    from_document(drafted, what="the draft")
    return drafted

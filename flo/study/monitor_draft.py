"""A period of a monitor, drafted from the study of the model that it watches."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from flo.study.document import Study, from_document

_LONGEST = 2000  # of a purpose


def draft(
    card: str,
    watched: Study,
    *,
    epsilon: float,
    period: int = 1,
    tolerance: float = 1.25,
    false_alarm_periods: int = 60,
) -> dict[str, Any]:
    """Return a study of the model's hospitals that asks for one period only, as parsed TOML.

    ``card``: SHA-256 of the model's card. ``period``: becomes the study's version.
    """
    drafted = watched.without_training("monitor") | {
        "version": period,
        "purpose": f"See whether the model of {watched.name}, version {watched.version}, still "
        f"states how often patients have the outcome. {watched.purpose}"[:_LONGEST],
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

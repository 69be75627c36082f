"""Studies that watch a published model, as the coordinator signs them."""

from __future__ import annotations

from typing import Any

from flo.study.document import Study, from_document
from flo.study.gate import ComparedModel
from flo.study.monitor_draft import draft
from tests.builders import small_study

CARD = "ab" * 32
WATCHED = small_study(schema_version=4, name="watched")


def period(
    *earlier: Study,
    epsilon: float = 0.3,
    watched: Study = WATCHED,
    card: str = CARD,
    **terms: Any,
) -> Study:
    """The period after these of a series that watches the model of a study."""
    drafted = draft(card, watched, epsilon=epsilon, period=len(earlier) + 1, new_patients=20)
    drafted["monitor"] |= terms
    return from_document(drafted).with_watched(
        ComparedModel(
            card=drafted["monitor"]["model"],
            name=watched.name,
            version=watched.version,
            model=watched.model,
            columns=tuple(column.name for column in watched.data.columns),
        ),
        [one.digest for one in earlier],
    )

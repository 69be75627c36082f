"""A study that compares two published models, drafted from theirs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from flo.errors import StudyError
from flo.study.columns import Column
from flo.study.document import Study, from_document
from flo.study.sequence import Sequence
from flo.study.wording import means_the_same

_LONGEST = 2000  # of a purpose


def draft(
    candidate: tuple[str, Study],
    current: tuple[str, Study],
    *,
    epsilon: float,
    prevalence: float,
    attempts: int = 1,
    subgroups: tuple[str, ...] = (),
) -> dict[str, Any]:
    """Return a study of the candidate's hospitals that asks for a gate only, as parsed TOML.

    ``candidate``, ``current``: the SHA-256 of a model's card, and its study. Raises StudyError: the
    models have different outcomes, or columns of one name and other meaning.
    """
    (card, new), (against, old) = candidate, current
    if new.data.label != old.data.label:
        raise StudyError(
            f"the candidate predicts {new.data.label!r}, the current model {old.data.label!r}",
            hint="compare models of the same outcome",
        )
    sequence = _sequence(new, old)
    steps = {column.name for column in sequence.spread()} if sequence else set()
    columns = [
        column.model_dump(mode="json", exclude_none=True)
        for column in all_columns(new, old)
        if column.name not in steps
    ]
    history = {"sequence": sequence.model_dump(mode="json", exclude_none=True)} if sequence else {}
    gate: dict[str, Any] = {"epsilon": epsilon, "candidate": card, "current": against}
    gate |= {"prevalence": prevalence}
    document = new.without_training("gate")
    drafted = document | {
        "version": 1,
        "purpose": f"Decide whether the model of {new.name}, version {new.version}, may replace "
        f"the model of {old.name}, version {old.version}. {new.purpose}"[:_LONGEST],
        "expires": (datetime.now(UTC) + timedelta(days=365)).date().isoformat(),
        "data": document["data"] | {"columns": columns} | history,
        "gate": gate | {"attempts": attempts, "subgroups": list(subgroups)},
    }
    from_document(drafted, what="the draft")
    return drafted


def _sequence(new: Study, old: Study) -> Sequence | None:
    """Return the longer of both models' histories. Raises StudyError: they have other steps."""
    here, there = new.data.sequence, old.data.sequence
    if here is None or there is None:
        return here or there
    longer = max(here, there, key=lambda one: one.steps)
    if any(one.model_copy(update={"steps": longer.steps}) != longer for one in (here, there)):
        raise StudyError(
            "the models have other steps, or other columns in them",
            hint="only models of the same [data.sequence], but for `steps`, can be compared",
        )
    return longer


def all_columns(new: Study, old: Study) -> list[Column]:
    """Return the candidate's columns, and those that only the current model has.

    Raises StudyError: a column of both has two meanings.
    """
    known = {column.name: column for column in new.data.columns}
    for column in old.data.columns:
        if not means_the_same(known.setdefault(column.name, column), column):
            raise StudyError(
                f"the models have two meanings of column {column.name!r}: "
                f"{str(known[column.name])[:300]}, and {str(column)[:300]}",
                hint="only models whose common columns are defined alike can be compared",
            )
    return list(known.values())

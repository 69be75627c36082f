"""A survey, as FLO 0.2 released it: counts by label and by column, one histogram for each.

FLO carries out none any more: a study of statistics has a table instead. Ledgers and reports still
have charges of surveys, so their plan is still known: k histograms have norm √k, and all patients
are counted, so both sub-ledgers are charged.
"""

from __future__ import annotations

from flo.errors import StudyError
from flo.study.document import Study
from flo.study.features import cells

NONE = "FLO carries out no [survey] any more"
INSTEAD = "ask for a table in a study of statistics: flo study survey drafts it"


def layout(study: Study) -> dict[str, list[str]]:
    """Return column -> its cells, the label first, in the order of the release.

    Raises StudyError: the study is no survey.
    """
    if study.survey is None:
        raise StudyError(f"study {study.name} is not a survey")
    columns = {column.name: column for column in study.data.columns}
    named = {name: cells(columns[name], study.survey.bins) for name in study.survey.columns}
    return {study.data.label: ["0", "1"], **named}


def length(study: Study) -> int:
    """Return the number of cells of the release, with the label's. Raises StudyError: no survey."""
    return sum(len(names) for names in layout(study).values())


def refuse(study: Study) -> None:
    """Raise StudyError if the study is a survey, which nobody carries out any more."""
    if study.survey:
        raise StudyError(NONE, hint=INSTEAD)

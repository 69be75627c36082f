"""What still takes only an outcome of yes or no says so in one sentence."""

from __future__ import annotations

from flo.errors import StudyError
from flo.study.document import Study
from flo.study.wording import outcome_of


def require_yes_or_no(study: Study, what: str) -> None:
    """Raise StudyError if the study has another outcome. ``what``: what cannot use it."""
    if study.data.outcome is not None:
        raise StudyError(
            f"{study.name}, version {study.version}, foresees {outcome_of(study)}, and {what} "
            "takes only an outcome of yes or no",
            hint="docs/outcomes.md says what takes which outcome",
        )

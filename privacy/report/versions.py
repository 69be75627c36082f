"""Earlier schema versions of a report, and the list of what no report shows."""

from __future__ import annotations

from typing import Any

from flo.privacy.report.wording import NOT_COVERED

OF_STUDIES_3 = 6  # lowest version for a study of schema 3; no earlier report has one
OF_HEADS = 1
_SEEN_BEFORE_6 = (
    "What no partner witnessed: the rows after the last round that partners saw relayed. If the "
    "coordinator colluded with the hospital, releases there could be missing, undetected."
)
_SEEN = (
    "Rows after the last one that a partner in this report saw, or that the coordinator kept. When "
    "a run ends, everybody is shown the others' last release; but a coordinator that colluded with "
    "a hospital could have kept that from them, and releases there could be missing, undetected."
)
_OF_KEYS = (
    "Whether another reservation of a hospital, shown without a name, is for the same purpose.",
    "Who stands behind the keys: compare the fingerprints by telephone.",
)
_STATED_SINCE_1 = (*NOT_COVERED, _SEEN_BEFORE_6, *_OF_KEYS)
_STATED_SINCE_2 = (
    "How long an answer took, and so about how many records it was computed on.",
    "A restored backup of a ledger, should the coordinator lie and ask it only together with "
    "hospitals that have not seen its newer rows.",
    "A machine restored with its memory: it cannot know that it answered before.",
    "That masks are unbreakable: they are computational (X25519, HKDF-SHA256, ChaCha20), and hold "
    "against the coordinator and the stated number of colluding hospitals.",
)
_OF_RESTORED = (
    "What the lost rows of a restored ledger were about, beyond what its hospital says that it was "
    "shown: a study that coordinator and hospital both keep silent about may be among them.",
)
_NOT_SHOWN_BEFORE_6 = (*_STATED_SINCE_1, *_STATED_SINCE_2, *_OF_RESTORED)
_NOT_SHOWN_BEFORE_7 = (*NOT_COVERED, _SEEN, *_OF_KEYS, *_STATED_SINCE_2, *_OF_RESTORED)
_OF_GENERATIONS = (
    "How many patients a generation has, and whether one person has one id: a life budget is per "
    "id. That a hospital's generations share no patient is its word, which it can show on site.",
)
NOT_SHOWN = (*_NOT_SHOWN_BEFORE_7, *_OF_GENERATIONS)


def as_version(facts: dict[str, Any], version: int) -> dict[str, Any]:
    """Return the facts that a report of an earlier version states, so that it still verifies.

    ``facts``: of the newest version; changed in place.
    """
    for last, to_last in reversed(list(enumerate(_TO, start=1))):
        if version <= last:
            to_last(facts)
    return facts


def _to_7(facts: dict[str, Any]) -> None:
    """Remove how the second ε was found: discretised, in all of these."""
    del facts["guarantee"]["second_opinion"]


def _to_6(facts: dict[str, Any]) -> None:
    """Remove generations: these ledgers have none, or one."""
    facts["not_covered_or_shown"] = list(_NOT_SHOWN_BEFORE_7)
    for site in facts["hospitals"]:
        del site["generations"], site["lost_approvals"]


def _to_5(facts: dict[str, Any]) -> None:
    """Remove the last row that others saw, and the approved code."""
    facts["not_covered_or_shown"] = list(_NOT_SHOWN_BEFORE_6)
    for site in facts["hospitals"]:
        del site["witnessed_up_to"], site["rows_after_that"], site["approved_code"]
        del site["kept_by_coordinator"]


def _to_4(facts: dict[str, Any]) -> None:
    """Remove mappings: these hospitals' fields have the study's names."""
    for site in facts["hospitals"]:
        del site["mapping"]


def _to_3(facts: dict[str, Any]) -> None:
    """Remove facts about restored ledgers: none of these was."""
    facts["not_covered_or_shown"] = [*_STATED_SINCE_1, *_STATED_SINCE_2]
    for site in facts["hospitals"]:
        del site["restored"], site["releases_unseen"]


def _to_2(facts: dict[str, Any]) -> None:
    """Remove facts that approvals and extracts did not state then."""
    for site in facts["hospitals"]:
        del site["approved_by"], site["confinement"]


def _to_1(facts: dict[str, Any]) -> None:
    """Remove the facts that FLO 0.1 did not state."""
    del facts["guarantee"]["epsilon_if_secure_sum_is_broken"], facts["same_code"]
    facts["not_covered_or_shown"] = list(_STATED_SINCE_1)
    for site in facts["hospitals"]:
        del site["releases_survey"], site["software"], site["charged"], site["unconfirmed"]
        del site["epsilon_charged"]


_TO = (_to_1, _to_2, _to_3, _to_4, _to_5, _to_6, _to_7)

"""What has to hold before a study is signed, and that a refusal names the way out."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any, NoReturn

import pytest

from flo.errors import StudyError
from flo.server.studies.validation import complete_for_signing
from flo.study.document import PLACEHOLDER, UNDER_WAY, from_document
from tests.builders import HOSPITALS, study_document

TODAY = date(2026, 1, 1)
KEYS = {name: f"{number:02x}" * 32 for number, name in enumerate(HOSPITALS, 1)}
*MOST, LAST = HOSPITALS


def no_models(digest: str) -> NoReturn:
    raise AssertionError(f"{digest} is not needed")


def study(*, typed: str = "", **changes: Any) -> Any:
    """Expires today. ``typed``: the last hospital's key, as somebody wrote it."""
    document = study_document(**{"expires": TODAY.isoformat()} | changes)
    document["hospitals"][-1]["fingerprint"] = typed
    return from_document(document)


@pytest.mark.parametrize("typed", ["", KEYS[LAST]])
@pytest.mark.parametrize("status", [None, *UNDER_WAY])
def test_the_keys_are_those_of_enrolment(typed: str, status: str | None) -> None:
    earlier = (
        [(complete_for_signing(study(), KEYS, [], TODAY, no_models), status)] if status else []
    )
    signed = complete_for_signing(study(typed=typed), KEYS, earlier, TODAY, no_models)
    assert {hospital.id: hospital.fingerprint for hospital in signed.hospitals} == KEYS


@pytest.mark.parametrize("typed", ["", KEYS[LAST]])
def test_who_is_not_enrolled_is_named(typed: str) -> None:
    keys = {name: KEYS[name] for name in MOST}
    with pytest.raises(StudyError, match=f"'{LAST}' is not enrolled") as refused:
        complete_for_signing(study(typed=typed), keys, [], TODAY, no_models)
    assert refused.value.hint == f"flo coordinator invite {LAST}"


def test_another_key_than_the_enrolled_one_is_not_signed() -> None:
    with pytest.raises(StudyError, match=f"another identity key for '{LAST}'") as refused:
        complete_for_signing(study(typed="ff" * 32), KEYS, [], TODAY, no_models)
    assert "leave its fingerprint out" in refused.value.hint


def test_what_nobody_wrote_is_not_signed() -> None:
    with pytest.raises(StudyError, match="not written yet: purpose"):
        complete_for_signing(study(purpose=f"{PLACEHOLDER} why"), KEYS, [], TODAY, no_models)


def test_a_study_can_be_signed_until_the_day_on_which_it_expires() -> None:
    with pytest.raises(StudyError, match="expired on 2026-01-01") as refused:
        complete_for_signing(study(), KEYS, [], TODAY + timedelta(days=1), no_models)
    assert refused.value.hint == "set a later `expires`"


@pytest.mark.parametrize("status", ["done", "stopped", "ended"])
def test_a_study_that_is_over_is_not_signed_again(status: str) -> None:
    known = complete_for_signing(study(), KEYS, [], TODAY, no_models)
    with pytest.raises(StudyError, match=f"was signed before and is {status}") as refused:
        complete_for_signing(study(), KEYS, [(known, status)], TODAY, no_models)
    assert "version = 2" in refused.value.hint


@pytest.mark.parametrize("status", [*UNDER_WAY, "done", "stopped", "ended"])
def test_a_name_and_version_stand_for_one_text(status: str) -> None:
    earlier = [(study(purpose="Another."), status), (study(version=4), "done")]
    with pytest.raises(
        StudyError, match="version 1 of tiny was signed with another text"
    ) as refused:
        complete_for_signing(study(), KEYS, earlier, TODAY, no_models)
    assert "version = 5" in refused.value.hint
    assert complete_for_signing(study(version=5), KEYS, earlier, TODAY, no_models).version == 5
    assert (
        complete_for_signing(study(name="other"), KEYS, earlier, TODAY, no_models).name == "other"
    )

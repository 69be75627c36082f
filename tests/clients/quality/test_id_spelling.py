"""Which ids may be another patient's elsewhere, and which are one wherever they are written."""

from __future__ import annotations

import unicodedata

import pandas as pd
import pytest

from flo.clients.quality.id_spelling import other_characters
from flo.clients.quality.table import Table
from flo.privacy.patients.split import normalise

ODD = {
    "an accent apart": "zoe\u0308",
    "another order of accents": "a\u0301\u0323",
    "half composed": "nguy\u00ea\u0303n",
    "a compatibility ideograph": "\ufa19\u7530",
    "composed in one case only": "\u039c\u0391\u03aa\u0301\u0391",
    "zero width": "p\u200b1",
    "a byte order mark": "p1\ufeff2",
    "a space that does not break": "p\u00a01",
    "a tab": "p\t1",
    "NUL": "p\x001",
    "a variation selector": "p1\ufe0f",
    "a filler": "p\u31641",
}
PLAIN = ["p1", "p 1", "P-0001/b", "zo\u00eb", "\u01f0", "J\u030c", "\u0130stanbul", "stra\u00dfe"]
PLAIN += ["\u03bc\u03b1\u0390\u03b1", "\u795e\u7530", "\u1ec5", "\U00020000", ""]


def found(*ids: str) -> list[str]:
    known = [normalise(one) for one in ids]
    return [str(one) for one in other_characters(Table(known, pd.DataFrame()), "patient_id")]


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD.keys())
def test_an_id_that_others_may_write_otherwise_is_asked_about_by_its_row(odd: str) -> None:
    (said,) = found("p1", odd, "p3")
    assert said.endswith("1 record (row 2)")
    assert odd not in said


@pytest.mark.parametrize("plain", PLAIN, ids=ascii)
def test_an_id_that_is_one_however_it_is_written_is_no_question(plain: str) -> None:
    assert found(plain) == []


def test_what_is_no_question_is_one_patient_in_either_form_and_case() -> None:
    """All letters with an accent, in capitals too: equal for people, equal for us."""
    letters = [chr(code) for code in range(0xC0, 0x2000) if chr(code).isalpha()]
    alike: dict[str, set[str]] = {}
    for letter in letters:
        for one in (letter, letter.upper(), unicodedata.normalize("NFD", letter)):
            if not found(one):
                canonical = unicodedata.normalize(
                    "NFD", unicodedata.normalize("NFD", one).casefold()
                )
                alike.setdefault(unicodedata.normalize("NFD", canonical), set()).add(normalise(one))
    assert len(alike) > 1000
    assert {len(known) for known in alike.values()} == {1}

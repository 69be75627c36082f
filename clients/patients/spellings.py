"""Other spellings that another export may give to a patient's id."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

_LONGEST_NUMBER = 12  # digits to which a number is filled with zeros


def other_spellings(patient_id: str) -> set[str]:
    """Return other spellings of an id: of its number, its marks, its prefix and its characters.

    A number may have lost or gained decimals (``1000`` and ``1000.0``) or leading zeros (``7`` and
    ``0007``), this id may have a prefix or marks that the other had not (``MRN-7`` for ``7``), and
    letters may be written in other characters of equal look (full width). The other way round,
    what was left out is not known here.
    """
    return {one for one in _spellings(patient_id.strip()) if one and one != patient_id}


def _spellings(name: str) -> Iterator[str]:
    plain = unicodedata.normalize("NFKC", name)
    whole = re.sub(r"\.0+$", "", plain)
    for start in dict.fromkeys((plain, whole, re.sub(r"[^\w]|_", "", whole))):
        yield start
        yield f"{start}.0"
        number = re.search(r"\d+$", start)
        if number is None:
            continue
        digits = number.group().lstrip("0") or "0"
        for prefix in dict.fromkeys((start[: number.start()], "")):
            yield prefix + number.group()
            for length in range(len(digits), _LONGEST_NUMBER + 1):
                yield prefix + digits.zfill(length)

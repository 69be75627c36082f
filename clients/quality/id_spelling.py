"""Detect ids that may count one patient as two: here, in another file, or when typed.

Budgets, opt-outs and the split use the id in any case and without outer spaces
(``flo.privacy.patients.split.normalise``); every other difference makes another patient.
"""

from __future__ import annotations

import re
import unicodedata

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from flo.clients.quality.findings import DataFinding, rows
from flo.clients.quality.table import Table
from flo.privacy.patients.split import normalise

SAME_ID, OTHER_CHARACTERS = "one patient two ids", "ids in other characters"
# Letters and marks that are not displayed (Unicode: Default_Ignorable_Code_Point).
_IGNORABLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)


def same_patient(table: Table, id_column: str) -> list[DataFinding]:
    """Find ids that differ only by leading zeros and marks: one patient would count as two.

    An accent is such a mark, whether or not it is a separate character.
    """
    apart, characters = table.ids, "".join(table.ids)
    if not characters.isascii():
        apart = [i if i.isascii() else unicodedata.normalize("NFKD", i) for i in table.ids]
    plain = pa.array(apart, pa.string())
    if not (characters.isascii() and characters.isalnum()):
        plain = pc.replace_substring_regex(plain, r"[^\pL\pN]", "")
    plain = pc.replace_substring_regex(plain, r"(^|\D)0+(\d)", r"\1\2")
    if pc.count_distinct(plain).as_py() == len(table.different_ids):
        return []
    spelt = pd.DataFrame({"id": table.ids, "plain": plain.to_pylist()})
    twice = (spelt.groupby("plain")["id"].transform("nunique") > 1).to_numpy()
    rule = "ids differ by leading zeros or marks only: are they the same patients?"
    return rows(id_column, rule, twice, level="to accept", kind=SAME_ID)


def other_characters(table: Table, id_column: str) -> list[DataFinding]:
    """Find ids that another system or a keyboard may write in other characters of equal look.

    There the patient would be a different one: with a separate budget, and without the opt-out
    stored here.
    """
    if _is_plain("".join(table.ids)):
        return []
    odd = np.array([_may_be_written_otherwise(name) for name in table.ids], dtype=bool)
    rule = (
        "ids hold an accent that is separate from its letter, an unusual space or an invisible "
        "character; a system that writes them differently makes other patients of them. After a "
        "first study accept them: a corrected id is a new patient, who is no longer opted out"
    )
    return rows(id_column, rule, odd, level="to accept", kind=OTHER_CHARACTERS)


def _is_plain(text: str) -> bool:
    return text.isascii() and text.isprintable()


def _may_be_written_otherwise(name: str) -> bool:
    """Return whether other characters can spell an id that looks the same.

    If it is False for two ids that are canonical caseless matches (Unicode D145), they are equal.
    """
    if _is_plain(name):
        return False
    if normalise(unicodedata.normalize("NFC", name)) != name:
        return True
    unseen = (unicodedata.category(one)[0] in "CZ" and one != " " for one in name)
    return any(unseen) or _IGNORABLE.search(name) is not None

"""What a piece of text looks like, if that tells who somebody is: an e-mail address, a date, a
telephone or record number, a name. Looks can deceive both ways; who asks decides what follows.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_DATE = r"(\d{4}[-/.]\d{1,2}[-/.]\d{1,2}|\d{1,2}[-/.]\d{1,2}[-/.]\d{2,4})([T ]\d{1,2}:\d{2}.*)?"
_MONTHS = r"\d{1,2}[. -]+[^\W\d_]{3,9}[. -]+\d{4}"
_PHONE = r"(\+\d[\d ()/.-]{6,}|\(?0\d[\d ()/.-]{6,}|\(?\d{3}\)?[ -]\d{3}-\d{4})"
_RECORD = (
    r"(?=.*\d{5})[A-Za-z]{0,4}[ -]?[\d /-]{5,}[A-Za-z]?|\d{3}-\d{2}-\d{4}|\d{3} \d{3} \d{4}"
    r"|756\.\d{4}\.\d{4}\.\d{2}"
)
_WORD = r"[^\W\d_][\w'’.-]*"
NAMES = "names"
KINDS = (
    ("e-mail addresses", re.compile(r"[^@\s]+@[^@\s]+\.[A-Za-z]{2,}")),
    ("dates, such as of birth", re.compile(f"{_DATE}|{_MONTHS}")),
    ("telephone numbers", re.compile(_PHONE)),
    ("record or insurance numbers", re.compile(_RECORD)),
    (NAMES, re.compile(rf"{_WORD},?( {_WORD},?){{1,5}}")),
)
_LONGEST = 200  # characters; a longer text is none of these, and is not searched
_CONCEPT = re.compile(r"[A-Za-z]{0,5}[:-]?\d+([.-]\d+)?[A-Za-z]?")  # 53741008, I21.4, 14647-2
_FEWEST_CODES = 3


def like(kind: str, cells: Iterable[str]) -> list[bool]:
    """Which cells look like this one of ``KINDS``."""
    pattern = dict(KINDS)[kind]
    return [len(c) <= _LONGEST and pattern.fullmatch(c) is not None for c in cells]


def of_codes(codes: Iterable[str]) -> list[str]:
    """What tells who somebody is, and three or more of a codebook's codes look like.

    Not names, as which "typical angina" would count, nor plain numbers, which concepts are: a
    codebook of patients' names or of plain record numbers cannot be told by its look.
    """
    telling = [code for code in codes if not _CONCEPT.fullmatch(code)]
    kinds = [kind for kind, _ in KINDS if kind != NAMES]
    return [kind for kind in kinds if sum(like(kind, telling)) >= _FEWEST_CODES]

"""Recognise text that may identify a person by its form.

Kinds: an e-mail address, a date, a telephone or record number, a name, free text. There are false
positives and false negatives; the caller decides what follows.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterable

from flo.study.identifying_words import GIVEN_NAMES, HEADERS, WHOLE_HEADERS

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
_LONGEST = 200  # characters; longer text matches none of these
_CONCEPT = re.compile(r"[A-Za-z]{0,5}[:-]?\d+([.-]\d+)?[A-Za-z]?")  # 53741008, I21.4, 14647-2
_FEWEST_CODES = 3
_SAINTS = {"st", "saint", "sankt", "san", "santa", "sao", "sainte"}  # in hospitals' names
_KNOWN = frozenset(GIVEN_NAMES.split())
_FEWEST_NAMES, _SHARE_KNOWN = 8, 0.15  # codes with a common given name
_MANY_NAMES, _SHARE_LIKE, _DIFFERENT = 100, 0.9, 10  # codes; share; first, and last, words
_WORDS = re.compile(r"[^\W\d_]+")
_ABOUT = {"has", "had", "is", "no", "sent", "with", "without", "missing"}
_LONG_TEXT, _MANY_WORDS = 40, 5
_FEWEST_TEXTS, _SHARE_TEXTS = 10, 0.5


def matches(kind: str, cells: Iterable[str]) -> list[bool]:
    """Return for each cell whether it looks like this one of ``KINDS``."""
    pattern = dict(KINDS)[kind]
    return [len(c) <= _LONGEST and pattern.fullmatch(c) is not None for c in cells]


def of_header(name: str) -> str | None:
    """Return what a column of this name would hold about a patient: a name, a birth date, ...

    None if its header does not indicate that. Headers are recognised in ten languages, also at the
    end of a longer header (such as ``mother_first_name``), with any separator between the words.
    """
    words = _plain_words(name)
    if words and words[0] in _ABOUT:  # has_email: whether there is one
        return None
    ends = {"".join(words[place:]) for place in range(len(words))}
    for what, spellings in HEADERS.items():
        if ends & set(spellings.split()):
            return what
    return "a name" if "".join(words) in WHOLE_HEADERS.split() else None


def of_column(name: str, codes: Collection[str]) -> str | None:
    """Return why no study may have a column of this name and codebook; None if it may.

    Both are public: no patient data is inspected. ``codes``: empty if the column is no category.
    """
    if what := of_header(name):
        return (
            f"suggests {what} of a patient by its header; leave it out, or rename it if it is not"
        )
    if names_people(codes):
        return "has a codebook that names people; leave it out, or use codes instead of words"
    if free_text(codes):
        return "has free text as its codebook; leave it out, or use codes instead of sentences"
    return None


def identifying_codes(codes: Iterable[str]) -> list[str]:
    """Return the kinds of identifying text that three or more codes of a codebook look like.

    Names are excluded (see ``names_people``). So are plain numbers and concept codes: a codebook of
    plain record numbers cannot be told from one of concepts by its form.
    """
    telling = [code for code in codes if not _CONCEPT.fullmatch(code)]
    kinds = [kind for kind, _ in KINDS if kind != NAMES]
    return [kind for kind in kinds if sum(matches(kind, telling)) >= _FEWEST_CODES]


def names_people(codes: Collection[str]) -> bool:
    """Return whether a codebook names people.

    Either at least 8 codes, and 15 % of all, have a common given name. Or there are at least 100
    codes, nine in ten of them have two to six words, and both first and last words vary (10 or
    more). Phrases such as "typical angina" match the second rule too; diagnoses and drugs have
    standard codes to use instead.
    """
    known = sum(_has_a_given_name(code) for code in codes)
    if known >= max(_FEWEST_NAMES, _SHARE_KNOWN * len(codes)):
        return True
    if len(codes) < _MANY_NAMES or sum(matches(NAMES, codes)) < _SHARE_LIKE * len(codes):
        return False
    words = [code.split() for code in codes]
    return min(len({w[0] for w in words}), len({w[-1] for w in words})) >= _DIFFERENT


def free_text(codes: Collection[str]) -> bool:
    """Return whether a codebook of ten or more codes is at least half sentences, such as notes."""
    return len(codes) >= _FEWEST_TEXTS and sum(map(is_text, codes)) >= _SHARE_TEXTS * len(codes)


def is_text(cell: str) -> bool:
    """Return whether a cell has more than 40 characters, or at least 5 words with letters."""
    return len(cell) > _LONG_TEXT or len(re.findall(r"\S*[^\W\d_]\S*", cell)) >= _MANY_WORDS


def _has_a_given_name(code: str) -> bool:
    words = [plain(word) for word in _WORDS.findall(code)]
    before = ["", *words]
    return any(
        word in _KNOWN and prior not in _SAINTS for prior, word in zip(before, words, strict=False)
    )


def plain(text: str) -> str:
    """Return the text in lower case and without accents."""
    apart = unicodedata.normalize("NFKD", text.casefold())
    return "".join(c for c in apart if not unicodedata.combining(c))


def _plain_words(name: str) -> list[str]:
    """Split a header; ``PatientFirstName`` and ``patient_first-name`` give the same words."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    return _WORDS.findall(plain(spaced).replace("_", " "))

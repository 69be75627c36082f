"""Foreign text made safe to show: no control characters, no characters that reorder a line."""

from __future__ import annotations

import re
import unicodedata

_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?")
_NOTHING_SAID = 0.0005
_SEPARATORS = ("Zl", "Zp")
_BLANK = "\u115f\u1160\u2800\u3164\uffa0"  # not control characters by category, but invisible


def escape_for_terminal(text: str) -> str:
    """Replace characters that a terminal obeys or a reader cannot see with \\ufffd.

    These are control and format characters (escapes, bidirectional overrides, zero-width),
    surrogates, line separators, and blank letters; newline and tab stay.
    """
    return "".join(
        letter if letter in "\n\t" or not _obeyed(letter) else "\ufffd" for letter in text
    )


def in_a_sheet(text: str) -> str:
    """Return a CSV cell that a spreadsheet shows and does not execute (CWE-1236).

    Applies ``escape_for_terminal``, and puts a quotation mark before a possible formula. A plain
    number stays as it is.
    """
    shown = escape_for_terminal(text).replace("\n", " ").replace("\t", " ")
    formula = shown.lstrip()[:1] in tuple("=+-@") and not _NUMBER.fullmatch(shown)
    return f"'{shown}" if formula else shown


def of_auc(auc: float, low: float, high: float) -> str:
    """Format as ``0.843, 0.801 to 0.880``, without an end at 0 or 1, which is no information."""
    if low < _NOTHING_SAID and high > 1 - _NOTHING_SAID:
        return "no information"
    if high > 1 - _NOTHING_SAID:
        return f"{auc:.3f}, {low:.3f} or more"
    if low < _NOTHING_SAID:
        return f"{auc:.3f}, {high:.3f} or less"
    return f"{auc:.3f}, {low:.3f} to {high:.3f}"


def _obeyed(letter: str) -> bool:
    category = unicodedata.category(letter)
    return category[0] == "C" or category in _SEPARATORS or letter in _BLANK


def in_digits(value: float, digits: int) -> str:
    """Return a number with so many significant digits, never as a power of ten."""
    return f"{float(f'{value:.{digits}g}'):.15g}"

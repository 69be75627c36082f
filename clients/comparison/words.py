"""A comparison's result in plain words, for the screen and the desk."""

from __future__ import annotations

from flo.clients.comparison.result import ALPHA, FIRST, ComparedResult
from flo.clients.comparison.terms import Comparison


def in_words(comparison: Comparison, found: ComparedResult) -> list[str]:
    """Return sentences on one version, each with a small letter at its beginning."""
    old, looks = comparison.baseline.version, found.looks()
    apart = f"{100 * found.apart:.1f} percentage points"
    lines = [f"its risks are {apart} from those of version {old}, on average"]
    if found.verdict == "not known":
        lines.append(
            f"nobody can tell yet whether its risks are nearer the outcomes than those of version "
            f"{old}; {len(found.gains):,} outcomes count so far"
        )
        if found.patients < FIRST:
            lines[-1] += f", and {FIRST} patients have to be scored before any does"
    else:
        lines.append(f"it is {found.verdict} than version {old} on this hospital's patients")
        if found.verdict == "worse":
            lines[-1] += ", and is shown to nobody any more"
    if looks:
        last = looks[-1]
        lines.append(
            f"it gave what then happened a probability that was {_beside(last.gain)} than that of "
            f"version {old}, on average; the truth is between {last.low:+.1f} % and "
            f"{last.high:+.1f} %, with {100 - 100 * ALPHA:.0f} % probability at all looks together"
        )
    missing = found.due - len(found.gains)
    if missing and found.patients >= FIRST:
        lines.append(
            f"{missing:,} of {found.due:,} outcomes that are due were not reported; if those are "
            "other than the rest, the result is wrong"
        )
    return lines


def _beside(percent: float) -> str:
    return f"{abs(percent):.1f} % {'higher' if percent >= 0 else 'lower'}"

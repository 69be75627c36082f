"""A comparison's result in plain words, for the screen and the desk."""

from __future__ import annotations

from flo.clients.comparison.result import ALPHA, ComparedResult
from flo.clients.comparison.terms import Comparison


def in_words(comparison: Comparison, found: ComparedResult) -> list[str]:
    """Return sentences on one version."""
    old, new = comparison.baseline.version, found.version
    apart = f"{100 * found.apart:.1f} percentage points"
    lines = [f"version {new}: its risks are {apart} from those of version {old}, on average"]
    if found.verdict == "not known":
        lines.append(
            f"version {new}: nobody can tell yet whether its risks are nearer the outcomes; "
            f"{len(found.differences):,} outcomes count so far"
        )
    else:
        lines.append(
            f"version {new} is {found.verdict} than version {old} on this hospital's patients"
            + (", and gets no more patients" if found.verdict == "worse" else "")
        )
    looks = found.looks()
    if looks:
        last = looks[-1]
        lines.append(
            f"version {new}: mean squared error {last.difference:+.4f} beside version {old}; the "
            f"truth is within {last.low:+.4f} to {last.high:+.4f}, with {100 - 100 * ALPHA:.0f} % "
            "probability at all looks together"
        )
    missing = found.due - len(found.differences)
    if missing:
        lines.append(
            f"version {new}: {missing:,} of {found.due:,} outcomes that are due were not reported; "
            "if those differ from the others, the result is off"
        )
    return lines

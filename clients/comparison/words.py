"""A comparison's result in plain words, for the screen and the desk."""

from __future__ import annotations

from flo.clients.comparison.result import ALPHA, GRACE, ComparedResult
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
    else:
        lines.append(f"it is {found.verdict} than version {old} on this hospital's patients")
    if found.was_worse:
        lines.append("the server found it to be worse, and shows it to nobody any more")
    if looks:
        last = looks[-1]
        lines.append(
            f"it gave what then happened a probability that was {_beside(last.gain)} than that of "
            f"version {old}, on average; with chance taken into account, between "
            f"{last.low:+.1f} % and {last.high:+.1f} % (right in {100 - 100 * ALPHA:.0f} % of such "
            "comparisons, however often one looks)"
        )
    waiting = found.due - found.left_out - len(found.gains)
    if waiting:
        lines.append(
            f"{waiting:,} of {found.due:,} outcomes that are due do not count yet "
            f"({found.due - found.reported:,} are not reported): one that is not reported holds up "
            f"the later ones, for {GRACE.days} days at most"
        )
    if found.left_out:
        lines.append(
            f"{found.left_out:,} of {found.due:,} outcomes were not reported in time; if those are "
            "other than the rest, the result is wrong"
        )
    return lines


def _beside(percent: float) -> str:
    return f"{abs(percent):.1f} % {'higher' if percent >= 0 else 'lower'}"

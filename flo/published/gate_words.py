"""What a gate says, in words, for the command line and the pages."""

from __future__ import annotations

from flo.privacy.releases.gate import gate_of
from flo.privacy.releases.gate_decision import Comparison, Gain, Harmed
from flo.study.document import Study

MEANING = {
    "pass": "the candidate was shown to be no worse than the margin allows, and to harm few",
    "fail": "the candidate was shown to be worse than the margin allows, or to harm too many",
    "cannot tell": "noise and chance allow both; the candidate has not passed",
}


def candidate(study: Study) -> str:
    """Return which model was judged."""
    gate = gate_of(study)
    if gate.candidate is None:
        return f"the model of {study.name}, version {study.version}"
    return f"{gate.models[0].title}, card {gate.candidate}"


def against(study: Study) -> str:
    """Return what the candidate was compared with."""
    gate = gate_of(study)
    if gate.current is None:
        return "stating everybody's average risk"
    return f"{gate.models[-1].title}, card {gate.current}"


def rows(study: Study, found: Comparison) -> list[tuple[str, str]]:
    """Return a line for the verdict and for each test: (label, text)."""
    gate, level = gate_of(study), f"{100 * found.level:.0f} % interval"
    return [
        ("verdict", f"{found.verdict}: {MEANING[found.verdict]}"),
        ("candidate", candidate(study)),
        ("compared with", against(study)),
        (
            "Brier score",
            f"{_gain(found.overall, level)}, about {found.overall.patients:,.0f} patients; may be "
            f"worse by {gate.margin:g}: {found.overall.verdict}",
        ),
        (
            "harmed",
            f"{_share(found.harmed, level)} of patients have a score that is worse by more than "
            f"{gate.harmed_above:g}; {gate.most_harmed:.1%} may: {found.harmed.verdict}",
        ),
        *(
            (
                name,
                f"{_gain(gain, 'wider interval')}, about {gain.patients:,.0f} patients: "
                f"{_of_subgroup(gain)}",
            )
            for name, gain in found.subgroups.items()
        ),
    ]


def _gain(gain: Gain, level: str) -> str:
    better = "better" if gain.gain >= 0 else "worse"
    ends = f"{level} {gain.low:+.4f} to {gain.high:+.4f}, + is better"
    return f"{better} by {abs(gain.gain):.4f} ({ends})"


def _share(harmed: Harmed, level: str) -> str:
    return f"{harmed.share:.1%} ({level} {harmed.low:.1%} to {harmed.high:.1%})"


def _of_subgroup(gain: Gain) -> str:
    return {
        "pass": "shown to be no worse",
        "fail": "shown to be worse",
        "cannot tell": "cannot tell",
    }[gain.verdict]

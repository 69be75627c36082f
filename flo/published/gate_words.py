"""What a gate says, in words, for the command line and the pages."""

from __future__ import annotations

from flo.privacy.releases.gate import gate_of
from flo.privacy.releases.gate_decision import Comparison, Estimate
from flo.privacy.report.sheet_gate import asked_of_it
from flo.study.document import Study

_NOTHING, _TOO_FEW = 2.0, "patients are too few for any figure"
MEANING = {
    "pass": "it was shown that the candidate does what the study asks of it",
    "fail": "it was shown that the candidate does not, for all patients or for a subgroup",
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
    gate, level = gate_of(study), f"{100 * found.level:.3g} % interval"
    said = [
        ("verdict", f"{found.verdict}: {MEANING[found.verdict]}"),
        ("candidate", candidate(study)),
        ("compared with", against(study)),
        ("asked", asked_of_it(study)),
        ("Brier score", f"{_kept(found.kept, level)}: {found.kept.verdict}"),
    ]
    if found.losses:
        said.append(
            (
                "large losses",
                f"{_losses(found.losses, level)}; may be {gate.most_large_losses:.2%}: "
                f"{found.losses.verdict}. A loss is large if a patient's own score is worse by "
                f"more than {gate.large_loss:g}",
            )
        )
    return said + [
        (name, f"{_kept(one, 'wider interval')}: {_of_subgroup(one)}")
        for name, one in found.subgroups.items()
    ]


def _kept(found: Estimate, level: str) -> str:
    if found.high - found.low >= _NOTHING:
        return _TOO_FEW
    better = "better" if found.value >= 0 else "worse"
    return (
        f"{better} than asked by {abs(found.value):.4f} ({level} {found.low:+.4f} to "
        f"{found.high:+.4f}, above 0 is better), about {found.patients:,.0f} patients"
    )


def _losses(found: Estimate, level: str) -> str:
    if found.high - found.low >= _NOTHING:
        return _TOO_FEW
    return (
        f"they outnumber large gains by {found.value:.2%} of patients ({level} {found.low:.2%} to "
        f"{found.high:.2%})"
    )


def _of_subgroup(found: Estimate) -> str:
    return {
        "pass": "shown to keep as much as asked",
        "fail": "shown not to keep as much as asked",
        "cannot tell": "cannot tell",
    }[found.verdict]

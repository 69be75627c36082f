"""What a study's release gate compares and what decides, in plain language."""

from __future__ import annotations

import math
from statistics import NormalDist

from flo.privacy.accounting.plan import Plan, combined_variance
from flo.privacy.releases.gate import gate_of, scales_of
from flo.study.document import Study
from flo.study.gate import SIZE

ASSUMED_SQUARE = 0.07  # Q/N of two models that are about as good as each other (0036)


def gate_leaves(study: Study) -> dict[str, str]:
    """Say what the gate sums, between which models, when a candidate passes, and how often."""
    gate, part = gate_of(study), Plan.of(study).purpose("gate")
    by = f", for all and by {', '.join(gate.subgroups)}" if gate.subgroups else ""
    return {
        "gate": f"1 noisy sum of {part.mechanism.length} numbers about held-out patients{by}: how "
        "much better or worse a risk fits a patient under the candidate than under the current "
        "model, its square, whether the patient is harmed, and 1; each patient's vector is at most "
        f"{part.mechanism.norm:.6g} long; noise of σ = {part.mechanism.noise_multiplier:.4f} times "
        "that is added",
        "compared are": _compared(study),
        "passes if": f"its mean Brier score is not worse by more than {gate.margin:g}, where a "
        f"patient counts up to ±{gate.clip:g}, and fewer than {gate.most_harmed:.1%} of patients "
        f"are harmed: their own score is worse by more than {gate.harmed_above:g}. Each is shown "
        f"at {gate.level:.2%} error" + _attempts(gate.attempts),
        "fails if": "the opposite is shown"
        + (", for all patients or for one subgroup" if gate.subgroups else "")
        + "; otherwise the gate cannot tell",
    }


def chances(study: Study, patients: float) -> tuple[float, float]:
    """Return how often a candidate passes that is as good as the current model, and by how much
    the Brier score of one must be better that passes nine times in ten.

    ``patients``: how many are held out. Nobody is harmed, and differences are as large as those
    between two models of one kind and data (``ASSUMED_SQUARE``).
    """
    gate, scales = gate_of(study), scales_of(study)[""]
    variance = combined_variance(study, Plan.of(study).purpose("gate"), len(study.hospitals))
    of_s, _, of_h, of_n = (math.sqrt(variance) / scale for scale in scales)
    z, normal = NormalDist().inv_cdf(1 - gate.level), NormalDist()
    of_x = math.sqrt(ASSUMED_SQUARE * patients + of_s**2)
    most = gate.most_harmed
    of_u = math.sqrt(of_h**2 + (most * of_n) ** 2)
    needed = z * math.sqrt(of_u**2 + most * (1 - most) * patients)
    few = normal.cdf((most * patients - needed) / of_u)
    equal = few * normal.cdf(gate.margin / gate.clip * patients / of_x - z)
    better = (z + normal.inv_cdf(0.9)) * of_x * gate.clip / patients - gate.margin
    return equal, better if few > 0.9 else math.inf


def gate_chances(study: Study, patients: float) -> str:
    """Say what to expect of the gate if so many patients are held out."""
    equal, better = chances(study, patients)
    said = (
        f"if about {patients:,.0f} patients are held out: a candidate as good as the current model "
        f"passes in {equal:.0%} of runs"
    )
    if better == math.inf:
        return f"{said}. These are too few to show that few are harmed: it will seldom pass"
    if better <= 0:
        return said
    return f"{said}, one whose Brier score is better by {better:.4f} in nine of ten"


def _compared(study: Study) -> str:
    gate = gate_of(study)
    known = {model.card: f"{model.title} (card {model.card[:16]})" for model in gate.models}
    candidate = "this study's model"
    if gate.candidate:
        candidate = known.get(gate.candidate, f"the model with the card {gate.candidate[:16]}")
    current = "stating everybody's average risk, as the evaluation finds it"
    if gate.current:
        current = known.get(gate.current, f"the model with the card {gate.current[:16]}")
    return f"the candidate, {candidate}, with the current one: {current}"


def _attempts(attempts: int) -> str:
    if attempts == 1:
        return ", which no other gate of this current model may have"
    return f", so that {attempts} gates of this current model together have {SIZE:.0%}"

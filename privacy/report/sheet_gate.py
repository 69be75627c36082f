"""What a study's release gate compares and what decides, in plain language."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np

from flo.privacy.accounting.plan import Plan, combined_variance
from flo.privacy.releases.gate import clip_of, gate_of, scales_of
from flo.study.document import Study
from flo.study.gate import SIZE

# Of clips, Q/N between two models that are about as good as each other (0036).
ASSUMED_SQUARES = (0.1, 0.2, 0.4, 1.0), (0.15, 0.06, 0.016, 0.003)
_SELDOM = 0.3
ASSUMED_GAIN = 0.05  # of a model's Brier score over that of the average risk


def gate_leaves(study: Study) -> dict[str, str]:
    """Say what the gate sums, between which models, when a candidate passes, and how often."""
    gate, part = gate_of(study), Plan.of(study).purpose("gate")
    by = f", for all and by {', '.join(gate.subgroups)}" if gate.subgroups else ""
    losses = (
        f"; and that large losses (a patient's own score worse by more than {gate.large_loss:g}) "
        f"outnumber large gains by less than {gate.most_large_losses:.2%} of patients"
        if gate.current
        else ""
    )
    return {
        "gate": f"1 noisy sum of {part.mechanism.length} numbers about held-out patients{by}: how "
        "much better or worse a risk fits a patient under the candidate than under the current "
        "model, its square, whether that is a large loss or gain, and 1; each patient's vector is "
        f"at most {part.mechanism.norm:.6g} long; noise of σ = "
        f"{part.mechanism.noise_multiplier:.4f} times that is added",
        "compared are": _compared(study),
        "passes if": f"it is shown, at {gate.level:.2%} error ({_attempts(gate.attempts)}), "
        f"that {asked_of_it(study)}{losses}",
        "fails if": "the opposite is shown"
        + (", for all patients or for one subgroup" if gate.subgroups else "")
        + "; otherwise the gate cannot tell",
    }


def asked_of_it(study: Study) -> str:
    """Return what the first test asks of the candidate."""
    gate = gate_of(study)
    if gate.current is None:
        return "its mean Brier score is better than that of stating the average risk"
    return (
        f"it keeps {gate.keeps:.0%} of what the current model's mean Brier score gains over "
        f"stating the average risk, where a patient counts up to ±{clip_of(study):g}"
    )


def chance_of_equal(study: Study, patients: float) -> float:
    """Return about how often a candidate passes that is as good as the current model.

    ``patients``: how many are held out. The current model gains ``ASSUMED_GAIN`` over the average;
    differences are as large as those between two models of one kind and data (0036).
    """
    gate, scales, clip = gate_of(study), scales_of(study)[""], clip_of(study)
    variance = combined_variance(study, Plan.of(study).purpose("gate"), len(study.hospitals))
    of_s, _, of_h, of_n = (math.sqrt(variance) / scale for scale in scales)
    z, normal = NormalDist().inv_cdf(1 - gate.level), NormalDist()
    squares = float(np.exp(np.interp(np.log(clip), *np.log(ASSUMED_SQUARES))))
    chance, of_x = squares * patients, math.sqrt(squares * patients + of_s**2)
    kept = (1 - gate.keeps) * ASSUMED_GAIN if gate.current else ASSUMED_GAIN
    passes = normal.cdf(kept / clip * patients / of_x - z)
    if gate.current is None:
        return passes
    noise = math.sqrt(of_h**2 + (gate.most_large_losses * of_n) ** 2)
    few = gate.most_large_losses * patients - z * math.sqrt(noise**2 + chance)
    return passes * normal.cdf(few / noise)


def gate_chances(study: Study, patients: float) -> str:
    """Say what to expect of the gate if so many patients are held out."""
    equal = chance_of_equal(study, patients)
    what = "a candidate as good as the current model" if gate_of(study).current else "a good model"
    said = (
        f"if about {patients:,.0f} patients are held out, {what} passes in about {equal:.0%} of "
        f"runs. This assumes a model whose Brier score is {ASSUMED_GAIN:g} better than that of "
        "stating the average"
    )
    return said + ("" if equal >= _SELDOM else ". The patients are too few, it will seldom tell")


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
        return "all that gates of this current model may have"
    return f"{attempts} gates of this current model share {SIZE:.0%}"

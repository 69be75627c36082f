"""Words that the review sheet, the report and the model card share."""

from __future__ import annotations

from flo.study.document import Study

MAX_BUDGET_RATIO = 1.2
UNIT = "one patient within one hospital"
PLD_EXACT = "PLD of the Gaussian equivalent, exact"
PLD_DISCRETISED = "PLD of the Gaussian equivalent, discretised to 1e-4 (dp-accounting)"
ADJACENCY = "add or remove one patient"
# Reports contain this text, and verification compares it. A test compares ε with that version's.
ACCOUNTANT = "Rényi DP, minimum over integer orders (dp-accounting 0.6.0)"
TRUST = {
    "local": (
        "local noise: every hospital adds enough noise for its own guarantee; it holds against "
        "everyone who sees the uploads, the coordinator included"
    ),
    "distributed": (
        "distributed noise: only the secure sum is ever seen; it holds against the coordinator and "
        "up to b colluding hospitals"
    ),
}
MASKS = (
    "on: the coordinator can read only the sum over all hospitals of a round, not what one of them "
    "sent (computational security)"
)
MASKING = {
    ("local", "on"): (
        f"{MASKS}; a coordinator that lies about which hospital dropped out could still see a "
        "hospital's noisy sum, which is protected by its own noise"
    ),
    ("distributed", "on"): MASKS,
    ("local", "off"): "off: the coordinator sees the noisy sums of each hospital",
    ("distributed", "off"): "off: this study cannot be approved",  # FLO 0.1 could write it
}
NOT_COVERED = (  # in every report since version 1; verification compares it
    "A patient known to two hospitals has the larger ε stated; duplicates are not detected.",
    "That a hospital takes part, and when it answers, is visible to the coordinator.",
    "A steward's yes or no is not protected.",
    "Releases outside FLO, a second ledger, and the honesty of the installed software.",
)
ENCODERS_NOT_COVERED = (
    "The people on whom an encoder, or a frozen layer, was trained: ask who published it."
)

LIFE = (
    "All studies together cost a patient of one hospital no more than the life budget there: its "
    "ledger refuses what would cost more"
)


def of_life(epsilon: float, delta: float) -> str:
    """Return the largest life budget of those who took part in a study, in words."""
    return f"at most ε = {epsilon:g} at δ = {delta:g} for those who took part in this study"


def trust(study: Study) -> str:
    """Return the study's trust model, with its number of colluders."""
    return TRUST[study.mechanism.noise].replace("up to b ", f"up to b = {study.colluders} ")

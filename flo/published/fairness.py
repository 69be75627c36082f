"""For whom a published model fails at a threshold, from the noisy sums on its card.

Costs no privacy: everything follows from the evaluation that was paid for. The statistics are those
of ``flo.privacy.releases.group_rates``; here a *risk* is turned into a position and back.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import logit

from flo.errors import UsageError
from flo.privacy.releases import group_rates
from flo.privacy.releases.calibration import Calibration
from flo.privacy.releases.evaluation import Positions
from flo.privacy.releases.group_rates import Gap, GroupThresholds
from flo.published.model_card import PublishedModel

_WAY = (0.0, 0.25, 0.5, 0.75, 1.0)  # from the common threshold to those of each group


@dataclass(frozen=True)
class Adjusted:
    """Thresholds by group of one column, as risks. ``groups``: name -> its risk.

    ``curve``: (gap in sensitivity, share classified rightly) for each part of the way from the
    common threshold to these, by the same noisy sums that chose them.
    """

    column: str
    groups: dict[str, float]
    curve: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Fairness:
    """``threshold``: a risk. ``gaps``: of every rate of every subgroup column.

    ``adjusted``: for the columns whose groups differ in sensitivity.
    """

    threshold: float
    gaps: tuple[Gap, ...]
    adjusted: tuple[Adjusted, ...]


def fairness(model: PublishedModel, threshold: float) -> Fairness:
    """Return what the card says of groups, if patients of a risk of ``threshold`` are flagged.

    Raises UsageError: the card states no risks, no sums or no subgroups, or the threshold is beyond
    the risks that it states.
    """
    card, study = model.card, model.study
    if card.calibration is None or card.evaluated is None:
        missing = "no risks" if card.calibration is None else "no sums of its evaluation"
        raise UsageError(
            f"{model.title}: its card states {missing}, so it is not known for whom it fails",
            hint="cards of schema 5, which studies of schema_version 4 get, state both if enough "
            "patients were evaluated",
        )
    if not study.evaluation.subgroups:
        raise UsageError(
            f"{model.title}: its study names no subgroups, so groups cannot be compared",
            hint='name them in the next version: [evaluation] subgroups = ["sex"]',
        )
    curve = card.calibration
    lowest, highest = curve.risk[0], curve.risk[-1]
    if not lowest < threshold < highest:
        raise UsageError(
            f"--threshold {threshold:g} is beyond the risks that the card states, "
            f"{lowest:.3f} to {highest:.3f}",
            hint="the risk from which on your hospital acts, such as 0.2",
        )
    positions = Positions.of_model(study, model.weights)
    at = np.interp(logit(threshold), logit(np.array(curve.risk)), np.array(curve.log_odds))
    place = float(positions.of(np.array([at]))[0])
    asked = (study, *card.evaluated.sums(study))
    found = group_rates.thresholds(*asked, place)
    adjusted = tuple(
        Adjusted(
            column,
            dict(zip(one.groups, _risks(curve, positions, one), strict=True)),
            tuple(group_rates.at_places(*asked, column, one.part_of_the_way(w)) for w in _WAY),
        )
        for column, one in found.items()
    )
    return Fairness(threshold, tuple(group_rates.gaps(*asked, place)), adjusted)


def _risks(curve: Calibration, positions: Positions, found: GroupThresholds) -> list[float]:
    """Return the risks at the groups' places."""
    risk, _, _ = curve.of(positions.log_odds(np.array(found.places)))
    return [float(one) for one in risk]


def in_words(gap: Gap) -> str:
    """Return what may be said of a difference between groups."""
    known = len(gap.known)
    if known < 2:
        return "cannot tell: fewer than two groups have enough patients"
    most = f"the largest difference is {_points(gap.low)} to {_points(gap.high)} points"
    if gap.differ:
        return f"the groups differ by more than noise and chance; {most}"
    high = _points(gap.high)
    return f"cannot tell whether the groups differ; up to {high} points cannot be excluded"


def _points(share: float) -> str:
    return f"{100 * share:.0f}"

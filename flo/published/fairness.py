"""For whom a published model fails at a threshold, from the noisy sums on its card.

Costs no privacy: everything follows from the evaluation that was paid for. The statistics are those
of ``flo.privacy.releases.group_rates``; here a *risk* is turned into a position and back.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import logit

from flo.arrays import Floats
from flo.errors import UsageError
from flo.privacy.releases import group_rates
from flo.privacy.releases.calibration import Calibration
from flo.privacy.releases.evaluation import Positions
from flo.privacy.releases.group_rates import Gap, GroupThresholds
from flo.published.model_card import PublishedModel
from flo.study.document import Study
from flo.study.yes_or_no import require_yes_or_no

_WAY = (0.0, 0.25, 0.5, 0.75, 1.0)  # from the common threshold to those of each group


@dataclass(frozen=True)
class Adjusted:
    """Thresholds by group of one column, as risks. ``groups``: name -> its risk.

    ``before``, ``after``: sensitivities and false alarms at the common threshold and at these.
    ``curve``: (largest difference in sensitivity, in false alarms, share classified rightly) for
    parts of the way.
    ``cost``: share classified rightly no more, and its upper end. All by the same noisy sums that
    chose the thresholds.
    """

    column: str
    groups: dict[str, float]
    before: tuple[Gap, Gap]
    after: tuple[Gap, Gap]
    curve: tuple[tuple[float, float, float], ...]
    cost: tuple[float, float]


@dataclass(frozen=True)
class Fairness:
    """``threshold``: a risk. ``gaps``: of every rate of every subgroup column.

    ``adjusted``: thresholds by group, if they were asked for, for the columns whose groups differ
    in sensitivity and where they cost little. ``hospitals``: those whose patients were evaluated.
    """

    threshold: float
    gaps: tuple[Gap, ...]
    adjusted: tuple[Adjusted, ...]
    hospitals: tuple[str, ...]


def fairness(model: PublishedModel, threshold: float, *, by_group: bool = False) -> Fairness:
    """Return what the card says of groups, if patients of a risk of ``threshold`` are flagged.

    ``by_group``: also look for thresholds of each group.

    Raises UsageError: the card states no risks, no sums or no subgroups, or the threshold is beyond
    the risks that it states.
    """
    card, study = model.card, model.study
    curve = refuse_threshold(model, threshold)
    if card.evaluated is None:
        raise UsageError(
            f"{model.title}: its card states no sums of its evaluation, so it is not known for "
            f"whom it fails",
            hint="cards of schema 5, which studies of schema_version 4 get, state them if enough "
            "patients were evaluated",
        )
    if not study.evaluation.subgroups:
        raise UsageError(
            f"{model.title}: its study names no subgroups, so groups cannot be compared",
            hint='name them in the next version: [evaluation] subgroups = ["sex"]',
        )
    positions = Positions.of_model(study, model.weights)
    at = np.interp(logit(threshold), logit(np.array(curve.risk)), np.array(curve.log_odds))
    place = float(positions.of(np.array([at]))[0])
    asked = (study, *card.evaluated.sums(study))
    chosen = group_rates.thresholds(*asked, place) if by_group else {}
    return Fairness(
        threshold,
        tuple(group_rates.gaps(*asked, place)),
        tuple(_adjusted(asked, one, _risks(curve, positions, one)) for one in chosen.values()),
        card.evaluated.hospitals,
    )


def refuse_threshold(model: PublishedModel, threshold: float) -> Calibration:
    """Return the card's calibration.

    Raises UsageError: it has none, or the threshold is beyond the risks that it states.
    """
    require_yes_or_no(model.study, "a threshold of risk")
    curve = model.card.calibration
    if curve is None:
        raise UsageError(
            f"{model.title}: its card states no risks, so nobody can be flagged by one",
            hint="cards state risks if enough patients were evaluated",
        )
    lowest, highest = curve.risk[0], curve.risk[-1]
    if not lowest < threshold < highest:
        raise UsageError(
            f"--threshold {threshold:g} is beyond the risks that the card states, "
            f"{lowest:.3f} to {highest:.3f}",
            hint="the risk from which on your hospital acts, such as 0.2",
        )
    return curve


def _adjusted(
    asked: tuple[Study, Floats, float], one: GroupThresholds, risks: list[float]
) -> Adjusted:
    common = (one.place,) * len(one.places)
    ways = [one.part_of_the_way(share) for share in _WAY]
    curve = []
    for way in ways:
        found, alarmed = group_rates.gaps_at(*asked, one.column, way)
        right = group_rates.classified_rightly(*asked, one.column, way)
        curve.append((_largest(found), _largest(alarmed), right))
    return Adjusted(
        one.column,
        dict(zip(one.groups, risks, strict=True)),
        group_rates.gaps_at(*asked, one.column, common),
        group_rates.gaps_at(*asked, one.column, one.places),
        tuple(curve),
        one.cost,
    )


def _largest(gap: Gap) -> float:
    """Return the largest difference of the groups that have a value."""
    known = [rate.value or 0.0 for rate in gap.known]
    return max(known) - min(known) if known else 0.0


def _risks(curve: Calibration, positions: Positions, found: GroupThresholds) -> list[float]:
    """Return the risks at the groups' places."""
    risk, _, _ = curve.of(positions.log_odds(np.array(found.places)))
    return [float(one) for one in risk]


def in_words(gap: Gap) -> str:
    """Return what may be said of a difference between groups."""
    unknown = f"; nothing is known of {', '.join(gap.unknown)}" if gap.unknown else ""
    if len(gap.known) < 2:
        return "cannot tell: fewer than two groups have enough patients"
    among = f" among {', '.join(one.group for one in gap.known)}" if unknown else ""
    if gap.differ:
        most = f"the largest difference{among} is {_points(gap.low)} to {_points(gap.high)} points"
        return f"the groups differ by more than noise and chance; {most}{unknown}"
    return (
        "cannot tell whether the groups differ; up to "
        f"{_points(gap.high)} points{among} cannot be excluded{unknown}"
    )


def _points(share: float) -> str:
    return f"{100 * share:.0f}"

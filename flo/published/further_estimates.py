"""Estimates beside a card's own, which follow from the noisy sums that it states."""

from __future__ import annotations

from flo.privacy.releases import evaluation
from flo.privacy.releases.score_waves import Estimate
from flo.published.model_card import ModelCard
from flo.study.document import Study


def further_estimates(study: Study, card: ModelCard) -> dict[str, Estimate] | None:
    """Return the AUC at each horizon, or of each class against all others, by its name.

    None if the card states no sums; there are none of other outcomes.
    """
    times, classes = study.data.times, study.data.classes
    if times is None and classes is None:
        return {}
    if card.evaluated is None:
        return None
    sums = card.evaluated.sums(study)
    if times is not None:
        found = evaluation.at_horizons(study, *sums)
        names = [f"AUC at {horizon:g} {times.unit}" for horizon in times.horizons]
    else:
        found = evaluation.by_class(study, *sums)
        names = [f"AUC of {name}" for name in classes.classes] if classes else []
    return dict(zip(names, found, strict=True))

"""What the first FLO with counts published: ``tests/kept/v20``.

The card (schema 7) and the tensors of a run of three real agents, on 120 made-up patients.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from flo.errors import TrustError
from flo.keys.identity import Identity
from flo.privacy.releases import quantities
from flo.privacy.releases.calibration import Calibration
from flo.privacy.releases.quantities import Foreseen
from flo.published.model_card import ModelCard, PublishedModel
from tests.paths import ROOT

KEPT = ROOT / "tests" / "kept" / "v20"


def test_its_expected_numbers_are_still_what_they_were() -> None:
    coordinator = (KEPT / "coordinator.txt").read_text().strip()
    model = PublishedModel.open(KEPT / "tiny.card.json", coordinator)
    quantity = model.study.data.quantity
    assert quantity is not None
    assert (quantity.kind, quantity.unit, quantity.levels) == ("count", "visits", (0, 1, 2, 4, 8))
    assert model.card.calibration is not None
    stated = Foreseen(model.card.calibration, model.card.steps)
    values = stated.values(quantity, np.array([-1.0, 0.0, 1.0]))
    assert values.expected == pytest.approx([1.202784, 2.214004, 3.560137], abs=1e-5)
    assert values.low == pytest.approx([0.64136, 1.347499, 2.228031], abs=1e-5)
    assert values.high == pytest.approx([2.114433, 3.356566, 4.998917], abs=1e-5)
    assert (values.tenth.tolist(), values.ninetieth.tolist()) == ([0, 0, 0], [4, 8, 8])
    assert model.card.evaluated is not None
    again = quantities.fit(model.study, model.weights, *model.card.evaluated.sums(model.study))
    assert again is not None
    assert again.expected.risk == pytest.approx(stated.expected.risk, abs=2e-3)


def at_many_points(curve: Calibration) -> Calibration:
    at = np.linspace(curve.log_odds[0], curve.log_odds[-1], 101)
    risk, low, high = (tuple(one.tolist()) for one in curve.of(at))
    return Calibration(
        log_odds=tuple(at.tolist()), risk=risk, low=low, high=high, level=curve.level
    )


@pytest.mark.parametrize("change", ["none", "turned", "one less", "many points"])
def test_a_card_whose_curves_contradict_each_other_is_refused(change: str) -> None:
    """Also if the coordinator signs it."""
    coordinator = (KEPT / "coordinator.txt").read_text().strip()
    kept = PublishedModel.open(KEPT / "tiny.card.json", coordinator).card
    curves: dict[str, Any] = {}
    steps = list(kept.steps)
    if change == "turned":
        steps.reverse()
    if change == "one less":
        steps.pop()
    if change == "many points":  # the same curves, which would make larger cards
        assert kept.calibration is not None
        curves = {"calibration": at_many_points(kept.calibration), "golden": None}
        steps = [at_many_points(step) for step in steps]
    signer = Identity.new()
    changed: ModelCard = kept.model_copy(
        update={
            **curves,
            "steps": tuple(steps),
            "study_signature": signer.sign("study", kept.study.encode()),
        }
    ).signed(signer)
    if change == "none":
        assert changed.check(signer.fingerprint).data.quantity is not None
        return
    with pytest.raises(TrustError, match="contradicts its study"):
        changed.check(signer.fingerprint)

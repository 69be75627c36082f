"""What the first FLO with times to an event published: ``tests/kept/v19``.

The card (schema 6) and the tensors of a run of three real agents, on 120 made-up patients.
"""

from __future__ import annotations

import numpy as np
import pytest

from flo.privacy.releases import horizon_risks
from flo.published.model_card import PublishedModel
from tests.paths import ROOT

KEPT = ROOT / "tests" / "kept" / "v19"


def test_its_risks_are_still_what_they_were() -> None:
    coordinator = (KEPT / "coordinator.txt").read_text().strip()
    model = PublishedModel.open(KEPT / "tiny.card.json", coordinator)
    outcome = model.study.data.times
    assert outcome is not None
    assert (outcome.time, outcome.unit, outcome.horizons) == ("days", "days", (10, 30, 60))
    assert model.card.calibration is not None
    curves = (*model.card.earlier_horizons, model.card.calibration)
    risks = [curve.of(np.array([-1.0, 0.0]))[0].tolist() for curve in curves]
    assert risks == [
        pytest.approx([0.479938, 0.69598], abs=1e-6),
        pytest.approx([0.712474, 0.89885], abs=1e-6),
        pytest.approx([0.831662, 0.963292], abs=1e-6),
    ]
    assert model.card.evaluated is not None
    again = horizon_risks.fit(model.study, model.weights, *model.card.evaluated.sums(model.study))
    for curve, found in zip(curves, again, strict=True):
        assert found.risk == pytest.approx(curve.risk, abs=2e-3)

"""What the first FLO with counts published: ``tests/kept/v20``.

The card (schema 7) and the tensors of a run of three real agents, on 120 made-up patients.
"""

from __future__ import annotations

import numpy as np
import pytest

from flo.privacy.releases import quantities
from flo.privacy.releases.quantities import Foreseen
from flo.published.model_card import PublishedModel
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
    assert (values.tenth.tolist(), values.ninetieth.tolist()) == ([0, 0, 0], [4, 6, 7])
    assert model.card.evaluated is not None
    again = quantities.fit(model.study, model.weights, *model.card.evaluated.sums(model.study))
    assert again is not None
    assert again.expected.risk == pytest.approx(stated.expected.risk, abs=2e-3)

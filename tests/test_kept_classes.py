"""What the first FLO with several classes published: ``tests/kept/v21``.

The card (schema 8) and the tensors of a run of three real agents, on 120 made-up patients.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from flo.errors import TrustError
from flo.keys.identity import Identity
from flo.privacy.releases import calibration
from flo.published import dossier
from flo.published.model_card import ModelCard, PublishedModel
from flo.study.models import scores
from tests.paths import ROOT
from tests.test_kept_counts import at_many_points

KEPT = ROOT / "tests" / "kept" / "v21"


def kept() -> PublishedModel:
    return PublishedModel.open(
        KEPT / "tiny.card.json", (KEPT / "coordinator.txt").read_text().strip()
    )


def test_its_risks_are_still_what_they_were() -> None:
    model = kept()
    assert model.study.data.classes is not None
    assert model.study.data.classes.classes == ("mild", "severe", "worst")
    at_zero = [[float(one[0]) for one in curve.of(np.zeros(1))] for curve in model.card.by_class]
    expected = [
        [0.506899, 0.218897, 0.820026],
        [0.595348, 0.343499, 0.849757],
        [0.529126, 0.201518, 0.85519],
    ]
    np.testing.assert_allclose(at_zero, expected, atol=1e-5)
    assert model.card.evaluated is not None
    sums = model.card.evaluated.sums(model.study)
    again = calibration.fit_each(model.study, model.weights, *sums)
    for one, curve in zip(again, model.card.by_class, strict=True):
        assert one.risk == pytest.approx(curve.risk, abs=2e-3)
    found = scores(model.study, model.weights, np.zeros((1, 5)))
    assert (1 / (1 + np.exp(-found))).sum() == pytest.approx(1)


def test_its_page_plots_each_class_and_no_point_where_nothing_is_known() -> None:
    page = dossier.render(kept(), 0.2, [], [], [])
    for words in ("AUC of mild", "AUC of worst", "Risk of ill = severe"):
        assert words in page
    assert page.count('class="line line-1"') >= 4
    assert 'class="dot"' not in page  # of so few patients no AUC is known


@pytest.mark.parametrize("change", ["none", "one less", "one more", "many points", "no curve"])
def test_a_card_whose_curves_are_not_those_of_its_classes_is_refused(change: str) -> None:
    """Also if the coordinator signs it. A card without any risk is one."""
    card, curves = kept().card, list(kept().card.by_class)
    changes: dict[str, Any] = {}
    match change:
        case "one less":
            curves.pop()
        case "one more":
            curves.append(curves[0])
        case "many points":
            curves = [at_many_points(one) for one in curves]
        case "no curve":
            curves = []
    signer = Identity.new()
    changes |= {"by_class": tuple(curves)}
    changes |= {"study_signature": signer.sign("study", card.study.encode())}
    changed: ModelCard = card.model_copy(update=changes).signed(signer)
    if change in ("none", "no curve"):
        assert changed.check(signer.fingerprint).data.classes is not None
        return
    with pytest.raises(TrustError, match="contradicts its study"):
        changed.check(signer.fingerprint)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 1, 1)], ids=str)
def test_risks_of_another_class_are_refused_also_if_they_are_signed(
    order: tuple[int, int, int],
) -> None:
    card, signer = kept().card, Identity.new()
    changes = {
        "by_class": tuple(card.by_class[place] for place in order),
        "study_signature": signer.sign("study", card.study.encode()),
    }
    changed = card.model_copy(update=changes).signed(signer)
    tensors = (KEPT / "tiny.safetensors").read_bytes()
    if order == (0, 1, 2):
        PublishedModel.of(changed, tensors, signer.fingerprint)
        return
    with pytest.raises(TrustError, match="not those of its evaluation, class by class"):
        PublishedModel.of(changed, tensors, signer.fingerprint)


def test_risks_of_yes_or_no_are_not_on_a_card_of_classes() -> None:
    card, signer = kept().card, Identity.new()
    changes = {"calibration": card.by_class[0]}
    changed = card.model_copy(
        update=changes | {"study_signature": signer.sign("study", card.study.encode())}
    ).signed(signer)
    with pytest.raises(TrustError, match="contradicts its study"):
        changed.check(signer.fingerprint)
    with pytest.raises(ValueError, match="no risks of several classes"):
        ModelCard.model_validate(card.model_dump(mode="json") | {"schema_version": 7})

"""What the first FLO with versions of models kept: ``tests/kept/v14``.

Decisions on models (schema 1), and a card with the sums of its evaluation (schema 5).
"""

from __future__ import annotations

import pytest

from flo.clients.prediction.versions import Versions
from flo.documents.document import read_json
from flo.privacy.releases import evaluation
from flo.published.fairness import fairness
from flo.published.model_card import PublishedModel
from tests.paths import ROOT

KEPT = ROOT / "tests" / "kept" / "v14"
PARTIES = dict(line.split() for line in (KEPT / "parties.txt").read_text().splitlines())


def test_a_withdrawn_version_stays_withdrawn_and_every_signature_holds() -> None:
    found = read_json(Versions, KEPT / "versions.json", limit=1 << 20)
    (theirs,), (own,) = found.theirs, found.own
    theirs.check([PARTIES["coordinator"]])
    own.check([PARTIES["hospital"]])
    current, old = found.current("tiny"), theirs.decisions[-1]
    assert current is not None
    assert current.version == 1
    assert (old.model.version, old.state) == (9, "withdrawn")
    last = found.withdrawal("tiny", old.model.study)
    assert last is not None
    assert last.why == "the units of creatinine were wrong"
    assert [one.state for one in own.decisions] == ["current", "current", "withdrawn", "current"]


def test_a_card_says_of_groups_what_it_said_when_it_was_published() -> None:
    model = PublishedModel.open(KEPT / "by-sex.card.json", PARTIES["publisher"])
    assert model.card.schema_version == 5
    found = fairness(model, 0.4)
    female, male = found.gaps[0].rates
    assert female.value is None
    assert (male.value, male.low, male.high) == pytest.approx(
        (0.829390, 0.681690, 0.974091), abs=1e-4
    )
    assert model.card.evaluated is not None
    noisy, variance = model.card.evaluated.sums(model.study)
    estimate, _ = evaluation.read(model.study, noisy, variance)
    assert model.card.evaluation is not None
    assert estimate.auc == pytest.approx(model.card.evaluation.auc, abs=1e-9)

"""A study of schema 3, its model's card, a report of schema 6 and the heads of its run.

``tests/kept/v7`` is of a real run of the heart study at four hospitals: the first of score waves,
and of a report that holds the ledger heads which the coordinator kept.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from flo.documents import canonical
from flo.errors import MessageError, StudyError, TrustError
from flo.keys.identity import fingerprint
from flo.privacy.accounting.plan import Plan
from flo.privacy.mechanisms.mechanisms import ScoreWaves
from flo.privacy.report.report import read_heads, verify
from flo.published.model_card import ModelCard, PublishedModel, read_card
from flo.study.loading import from_canonical
from tests.flo.published_models import made
from tests.test_kept_files import changed_json

KEPT = Path(__file__).parent / "kept" / "v7"
DIGEST = "87058b109949ac4e22102da1173a17e533fa302c26fa41d7a8e50c6aa0536585"


def test_a_kept_study_has_the_digest_it_had_and_is_told_in_waves() -> None:
    study = from_canonical((KEPT / "study.json").read_bytes())
    assert (study.digest, study.schema_version) == (DIGEST, 3)
    mechanism = Plan.of(study).purpose("evaluation").mechanism
    assert (type(mechanism), mechanism.length) == (ScoreWaves, 130)


def test_a_kept_report_verifies_and_holds_the_heads_that_were_kept() -> None:
    report = (KEPT / "report.json").read_bytes()
    assert json.loads(report)["schema_version"] == 6
    heads = read_heads((KEPT / "heads.json").read_bytes())
    assert heads is not None
    facts = verify(report)
    assert facts["study"]["digest"] == DIGEST
    for site in facts["hospitals"]:
        assert site["kept_by_coordinator"] == heads[site["hospital"]].sequence
        assert (site["rows_after_that"], len(site["witnessed_by"])) == (0, 3)


def test_a_kept_model_opens_with_its_card() -> None:
    card = json.loads((KEPT / "model.card.json").read_bytes())
    signer = fingerprint(bytes.fromhex(card["coordinator"]))
    found = PublishedModel.open(KEPT / "model.card.json", signer)
    assert found.study.digest == DIGEST
    assert found.card.evaluation is not None


def test_a_kept_card_of_schema_1_has_no_calibration_and_is_written_as_it_was() -> None:
    kept = (KEPT / "model.card.json").read_bytes()
    card = read_card(KEPT / "model.card.json")
    assert (card.schema_version, card.calibration) == (1, None)
    assert card.to_bytes() == kept
    with pytest.raises(ValueError, match="schema_version 1 has no calibration"):
        ModelCard.model_validate(json.loads(kept) | {"calibration": made().document["calibration"]})


def test_a_kept_card_of_schema_2_states_the_risks_that_it_stated() -> None:
    """``tests/kept/v9`` is of a run of the heart study: the first card with a calibration."""
    kept = KEPT.parent / "v9" / "model.card.json"
    card = read_card(kept)
    assert (card.schema_version, card.to_bytes()) == (2, kept.read_bytes())
    found = PublishedModel.open(kept, fingerprint(bytes.fromhex(card.coordinator)))
    assert found.card.calibration is not None
    middle = found.card.calibration.log_odds[32]
    risk, low, high = found.card.calibration.of(np.array([middle]))
    assert [risk[0], low[0], high[0]] == pytest.approx([0.650821, 0.492221, 0.802093])


@pytest.mark.parametrize("gone", ["heads", "evidence"])
def test_a_kept_report_without_a_part_is_refused(gone: str) -> None:
    document = json.loads((KEPT / "report.json").read_bytes())
    del document[gone]
    with pytest.raises((TrustError, MessageError)):
        verify(canonical.encode(document))


def test_bins_and_waves_are_not_mixed(tmp_path: Path) -> None:
    (tmp_path / "study.json").write_bytes((KEPT / "study.json").read_bytes())
    document = json.loads((KEPT / "study.json").read_bytes())
    evaluation = document["evaluation"] | {"bins": 4}
    with pytest.raises(StudyError, match="leave out bins"):
        from_canonical(changed_json(tmp_path / "study.json", evaluation=evaluation))

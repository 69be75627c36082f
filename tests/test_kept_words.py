"""What the first FLO whose studies have words kept: ``tests/kept/v15``.

A card (schema 5) with golden cases of version 2 and a study with words, and a rule (schema 1) that
says who is flagged.
"""

from __future__ import annotations

import pytest

from flo.clients.prediction.flag_rule import FlagRule
from flo.clients.prediction.scoring_ways import RECORD, TABLE, refuse_other_scores
from flo.documents.document import read_json
from flo.errors import TrustError
from flo.published.explanation import effects
from flo.published.model_card import PublishedModel
from flo.study.columns import CategoryColumn
from flo.study.wording import changed_to, code_in_words
from tests.paths import ROOT

KEPT = ROOT / "tests" / "kept" / "v15"
PUBLISHER = (KEPT / "parties.txt").read_text().split()[1]


def test_a_rule_is_read_and_both_signatures_hold() -> None:
    rule = read_json(FlagRule, KEPT / "rule.flag.json", limit=1 << 18)
    rule.check(bytes.fromhex(rule.public))
    assert (rule.by, rule.column, len(rule.groups)) == ("Rosa Lee", "ward", 4)
    for changes in ({"threshold": 0.3}, {"by": "Eve"}, {"judged": "00" * 32}):
        with pytest.raises(TrustError):
            rule.model_copy(update=changes).check(bytes.fromhex(rule.public))
    with pytest.raises(ValueError, match="schema_version"):
        FlagRule.model_validate(rule.model_dump() | {"schema_version": 2})


def test_a_model_scores_as_it_did_and_speaks_the_studys_words() -> None:
    model = PublishedModel.open(KEPT / "heart-words.card.json", PUBLISHER)
    assert model.card.golden is not None
    assert model.card.golden.cases == 2
    for way in (TABLE, RECORD):
        refuse_other_scores(model, way)
    columns = {column.name: column for column in model.study.data.columns}
    cp, pressure = columns["cp"], columns["trestbps"]
    assert isinstance(cp, CategoryColumn)
    assert code_in_words(cp, "asymptomatic") == "asymptomatic (no pain)"
    assert changed_to(pressure) == "120 mm Hg"  # type: ignore[arg-type]
    assert "chest pain" in {column.title for column in effects(model)}

"""A model with a gate on its card, and a later gate, as the first FLO with gates wrote them.

``tests/kept/v13``: two cards (schema 4 and 3) with tensors, and a gate's result (schema 1).
"""

from __future__ import annotations

from pathlib import Path

import pytest

from flo.clients.prediction.scoring_ways import refuse_other_scores
from flo.errors import UsageError
from flo.published.drift import drift
from flo.published.explanation import effects
from flo.published.gate_passed import beside, gates_of
from flo.published.gate_result import read_gate
from flo.published.model_card import PublishedModel
from tests.commands import flo
from tests.paths import ROOT

KEPT = ROOT / "tests" / "kept" / "v13"
COORDINATOR = (KEPT / "coordinator.txt").read_text().strip()
NEW = KEPT / "new.card.json"
ON_CARD, LATER = (0.1523094, 0.0532058, 0.2973741), (0.0340904, 0.0017778, 0.0789393)


def test_the_gate_on_a_card_says_what_it_said_when_it_was_published() -> None:
    """A later way of reading must not change what an earlier file says."""
    model = PublishedModel.open(NEW, COORDINATOR)
    assert model.card.schema_version == 4
    assert model.card.gate is not None
    found = model.card.gate.comparison(model.study)
    assert (found.verdict, found.losses) == ("pass", None)
    assert (found.kept.value, found.kept.low, found.kept.high) == pytest.approx(ON_CARD, abs=1e-6)
    assert list(found.subgroups) == ["sex=Female", "sex=Male"]


def test_its_golden_cases_are_scored_as_they_were_when_it_was_published() -> None:
    """Also by a later version, which must make the same patients up."""
    model = PublishedModel.open(NEW, COORDINATOR)
    assert model.card.golden is not None
    refuse_other_scores(model)
    assert len(effects(model)) == len(model.study.data.columns)
    assert not drift(
        model, PublishedModel.open(KEPT / "old.card.json", COORDINATOR)
    ).is_beyond_noise


def test_a_later_gate_is_checked_and_found_beside_its_candidate() -> None:
    model = PublishedModel.open(NEW, COORDINATOR)
    results = beside(NEW, model.card)
    assert results == [read_gate(KEPT / "new-gate.gate.json")]
    _, (study, sums) = gates_of(model, results, [COORDINATOR])
    found = sums.comparison(study)
    assert found.losses is not None
    verdicts = found.verdict, found.kept.verdict, found.losses.verdict
    assert verdicts == ("cannot tell", "pass", "cannot tell")
    assert (found.kept.value, found.kept.low, found.kept.high) == pytest.approx(LATER, abs=1e-6)
    assert study.gate is not None
    assert [one.name for one in study.gate.models] == ["new", "old"]


def test_it_is_shown_by_the_commands_of_today() -> None:
    shown = flo("model", "show", NEW, "--coordinator", COORDINATOR)
    assert "Release gate" in shown.stdout, shown.stderr
    shown = flo("model", "explain", NEW, "--coordinator", COORDINATOR)
    assert "raises, +" in shown.stdout, shown.stderr
    old = ("--against", KEPT / "old.card.json")
    shown = flo("model", "check", NEW, *old, "--coordinator", COORDINATOR)
    assert "times what noise explains: not more than" in " ".join(shown.stdout.split())
    shown = flo("model", "verdict", KEPT / "new-gate.gate.json", "--coordinator", COORDINATOR)
    assert shown.returncode == 0, shown.stderr
    assert "new, version" in shown.stdout
    assert "above 0 is better" in " ".join(shown.stdout.split())


def test_a_gates_result_of_a_later_version_is_refused(tmp_path: Path) -> None:
    text = (KEPT / "new-gate.gate.json").read_text()
    path = tmp_path / "new-gate.gate.json"
    path.write_text(text.replace('"schema_version":1', '"schema_version":2'))
    with pytest.raises(UsageError, match="schema_version"):
        read_gate(path)

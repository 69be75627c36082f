"""For whom a model fails: the command and the page, from the card alone."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flo.errors import EXIT_OK, EXIT_USAGE, UsageError
from flo.published.fairness import fairness, in_words
from flo.published.fairness_page import render
from flo.published.model_card import PublishedModel
from flo.study.document import from_document
from tests.commands import flo
from tests.flo import published_models
from tests.flo.published_models import COORDINATOR, EVALUATED_BY_WARD, Made, made, signed_study


@pytest.fixture(autouse=True)
def by_ward(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gated study of the tests, evaluated by ward."""
    monkeypatch.setitem(published_models.STUDIES, "by ward", EVALUATED_BY_WARD)
    signed_study.cache_clear()


def many(patients: int = 30) -> Made:
    """A model that was evaluated with ``patients`` times the usual ones."""
    sums = made("by ward").document["evaluated"]
    return made("by ward", evaluated=sums | {"values": [patients * v for v in sums["values"]]})


def opened(model: Made) -> PublishedModel:
    return model.open()


def test_each_group_has_its_rates_or_is_too_few() -> None:
    found = fairness(opened(many()), 0.5)
    assert [(gap.column, gap.kind) for gap in found.gaps] == [
        ("ward", "sensitivity"),
        ("ward", "false alarms"),
    ]
    assert [rate.group for rate in found.gaps[0].rates] == ["a", "b", "c", "missing"]
    assert all(rate.value is not None for rate in found.gaps[0].rates)
    assert "cannot tell whether the groups differ; up to" in in_words(found.gaps[0])
    assert found.adjusted == ()
    few = fairness(opened(made("by ward")), 0.5)
    assert in_words(few.gaps[0]) == "cannot tell: fewer than two groups have enough patients"


def test_the_command_and_the_page_say_the_same(tmp_path: Path) -> None:
    path, page, told = many().write(tmp_path), tmp_path / "page.html", tmp_path / "told.json"
    done = flo(
        *("model", "fairness", path, "--threshold", "0.5", "--page", page, "--json", told),
        *("--coordinator", COORDINATOR.fingerprint),
    )
    assert done.returncode == EXIT_OK, done.stderr
    assert "ward, sensitivity: cannot tell whether the groups differ" in " ".join(
        done.stdout.split()
    )
    document: dict[str, Any] = json.loads(told.read_text())
    value, low, high = document["gaps"][0]["rates"]["a"]
    assert low < value < high
    text = page.read_text()
    assert f"{100 * value:.1f} %" in text
    for word in ("<script", "http://", "https://", "style="):
        assert word not in text
    assert "50.0 % or more" in text


def test_the_page_speaks_the_studys_words() -> None:
    model = opened(many())
    document = model.study.model_dump(mode="json")
    words = {"about": "ward of <admission>", "meanings": ["surgery", "medicine", "intensive care"]}
    document["data"]["columns"][1] |= words
    model = replace(model, study=from_document(document))
    text = render(model, fairness(model, 0.5))
    assert "ward of &lt;admission&gt;" in text
    for word in ("a (surgery)", "b (medicine)", "c (intensive care)", "missing"):
        assert word in text


def test_names_in_a_study_cannot_become_markup() -> None:
    text = render(opened(many()), fairness(opened(many()), 0.5))
    assert "Test the machinery." in text
    assert text.count("<html") == 1


@pytest.mark.parametrize("threshold", [0.0, 0.1, 0.9, 1.0, -3.0, float("nan")])
def test_a_threshold_beyond_the_stated_risks_is_refused(threshold: float) -> None:
    with pytest.raises(UsageError, match=r"beyond the risks that the card states, 0.125 to 0.750"):
        fairness(opened(many()), threshold)


def test_cards_that_cannot_tell_say_why(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="states no sums of its evaluation"):
        fairness(opened(made()), 0.5)
    with pytest.raises(UsageError, match="names no subgroups"):
        fairness(opened(made("gated")), 0.5)
    path = made("gated").write(tmp_path)
    done = flo(
        *("model", "fairness", path, "--threshold", "0.5"),
        *("--coordinator", COORDINATOR.fingerprint),
    )
    assert done.returncode == EXIT_USAGE
    assert "subgroups" in done.stderr

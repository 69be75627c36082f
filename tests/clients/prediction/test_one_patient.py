"""One patient by hand: what the file of scores would say, and nothing of a wrong value."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import expit, logit

from flo.clients.prediction.flag_decisions import rule_for
from flo.clients.prediction.one_patient import WrongValues, answer
from flo.clients.prediction.predict import predict
from flo.clients.prediction.scoring_ways import RECORD, TABLE, refuse_other_scores
from flo.clients.quality.check import check_inputs
from flo.clients.sources.files import open_file
from flo.datasets import DATASETS
from flo.errors import DataError, TrustError
from flo.published.model_card import PublishedModel
from flo.scoring import record
from tests.clients.prediction.test_predict import SECRET, explainable
from tests.flo.published_models import made
from tests.paths import ROOT


@pytest.mark.parametrize(("age", "ward"), [("90", "c"), ("17.5", "a"), ("50", ""), (" 3e1 ", "b")])
def test_it_says_what_the_file_of_scores_would(tmp_path: Path, age: str, ward: str) -> None:
    model, data, out = explainable(), tmp_path / "one.csv", tmp_path / "scores.csv"
    data.write_text(f"age,ward\n{age},{ward}\n")
    rule = rule_for(model, 0.4, "Ada", "the ward acts")
    predict(model, data, out, "patient_id", explain=True, rule=rule)
    with out.open(newline="") as file:
        (row,) = csv.DictReader(file)
    found = answer(model, rule, {"age": age, "ward": ward})
    assert f"{found.score:.6f}" == row["score"]
    assert found.risk.startswith(f"{100 * float(row['risk']):.1f} % (")
    assert found.flagged == (row["flagged"] == "yes")
    assert found.told is not None
    said = ["; ".join(words) for words in (found.told.raises, found.told.lowers)]
    assert said == [row["raises"], row["lowers"]]
    assert answer(model, None, {"age": age, "ward": ward}).flagged is None


def test_real_patients_have_by_hand_what_the_file_and_an_independent_computation_say(
    tmp_path: Path,
) -> None:
    kept = ROOT / "tests" / "kept" / "v15"
    publisher = (kept / "parties.txt").read_text().split()[1]
    model = PublishedModel.open(kept / "heart-words.card.json", publisher)
    data, out = tmp_path / "cleveland.csv", tmp_path / "scores.csv"
    DATASETS["heart-disease"]()["cleveland"].to_csv(data, index=False)
    rule = rule_for(model, 0.5, "Ada", "the ward acts")
    predict(model, data, out, "patient_id", explain=True, rule=rule)
    odds = (
        model.weights[-1]
        + check_inputs(open_file(data, "patient_id"), model.study.data) @ (model.weights[:-1])
    )
    curve = model.card.calibration
    assert curve is not None
    risks = expit(np.interp(odds, curve.log_odds, logit(curve.risk)))
    with data.open(newline="") as file, out.open(newline="") as scored:
        patients = zip(csv.DictReader(file), csv.DictReader(scored), risks, strict=True)
        for number, (typed, row, risk) in enumerate(patients):
            assert float(row["risk"]) == pytest.approx(risk, abs=6e-7) or not row["risk"]
            assert row["flagged"] in ("", "yes" if round(risk, 6) >= 0.5 else "no")
            if number % 5 == 0:
                found = answer(model, rule, typed)
                assert f"{found.score:.6f}" == row["score"]
                assert {True: "yes", False: "no", None: ""}[found.flagged] == row["flagged"]
                assert found.risk.startswith(f"{100 * risk:.1f} %") or not row["risk"]


def test_wrong_values_are_named_by_column_and_rule_alone() -> None:
    with pytest.raises(DataError) as refused:
        answer(explainable(), None, {"age": SECRET, "ward": SECRET, "other": SECRET})
    said = f"{refused.value} {refused.value.hint}"
    assert "age: must lie within [0, 100] years" in said
    assert "ward: must be a code of the study's codebook" in said
    assert SECRET not in said
    with pytest.raises(DataError, match="age: is missing from the record"):
        answer(explainable(), None, {"ward": "a"})


def test_a_bound_is_no_number_here() -> None:
    """The rule for files speaks of a mapping, which a form has not."""
    with pytest.raises(WrongValues) as refused:
        answer(explainable(), None, {"age": "<5", "ward": "a"})
    assert refused.value.broken == [("age", "must be a number")]


def test_a_fault_of_the_encoder_of_records_is_found_before_it_scores(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = made("gated").open()
    refuse_other_scores(model, RECORD)
    refuse_other_scores(model, TABLE)

    right = record._category

    def turned(*given: Any) -> Any:
        read = right(*given)
        return lambda cell: read(cell)[::-1]

    monkeypatch.setattr(record, "_category", turned)
    refuse_other_scores(model, TABLE)
    with pytest.raises(TrustError, match="computes other scores"):
        refuse_other_scores(model, RECORD)


def test_a_model_without_noise_has_a_score_and_says_why_it_has_no_reasons() -> None:
    found = answer(made("logistic").open(), None, {"age": "50", "ward": "a"})
    assert 0 < found.score < 1
    assert found.told is None
    assert "states no noise" in found.no_reasons

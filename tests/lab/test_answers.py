"""Statistics without a deployment: of data one may see, of a signed file; what is foreseen."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import flo
from flo.datasets import support2
from flo.errors import FloError, RefusedError, TrustError, UsageError
from flo.lab.answers import Answers, answer, results
from flo.lab.foresight import foresee_all
from flo.privacy.accounting.parts import costs_of_parts
from flo.privacy.accounting.plan import Plan
from flo.statistics.precision import WIDE
from flo.study.document import Study, from_document
from flo.study.loading import load
from tests.commands import flo as command
from tests.flo.published.test_statistics_result import result
from tests.flo.published_models import COORDINATOR
from tests.paths import EXAMPLES

PAPER = EXAMPLES / "paper" / "support2.toml"
CATALOGUE = {"kind": "catalogue", "name": "later", "columns": ["age", "sex", "death"], "bins": 4}


def asking(*parts: dict[str, Any], epsilon: float = 0.9) -> Study:
    document = load(PAPER).model_dump(mode="json")
    document["statistics"] |= {"parts": list(parts), "epsilon": epsilon}
    return from_document(document)


@pytest.fixture(scope="module")
def paper() -> Answers:
    return answer(PAPER)


# -- answers ---------------------------------------------------------------------------------------


def test_all_estimates_are_a_frame_that_agrees_with_the_patients(paper: Answers) -> None:
    table = paper.table
    assert set(table["part"]) == {"table-one", "survival", "who-dies"}
    patients = pd.concat(support2.load_followed().values())
    mean = table.query("statistic == 'mean' and column == 'age' and group == '1'")
    true = patients.loc[patients["death"] == 1, "age"].mean()
    assert float(mean["low"].iloc[0]) - 1 < true < float(mean["high"].iloc[0]) + 1
    hidden = table[table["value"].isna()]
    assert hidden["low"].isna().all(), "what is too few to say has no interval either"
    assert not repr(paper).count("nan")
    assert paper._repr_html_() == paper.html
    assert "What each part cost" in paper.html


def test_a_catalogue_answers_and_other_statistics_say_that_they_cannot(paper: Answers) -> None:
    found = flo.answer(asking(CATALOGUE))
    patients = pd.concat(support2.load_followed().values())
    true = len(patients.query("age >= 60 and sex == 'male'"))
    counted = found.ask("age >= 60 and sex = male").counted.patients
    assert counted.low - 200 < true < counted.high + 200
    with pytest.raises(UsageError, match="support2-paper has no catalogue"):
        paper.ask("sex = male")


def test_a_study_that_trains_is_not_answered() -> None:
    with pytest.raises(UsageError, match="asks no statistics"):
        answer(EXAMPLES / "heart" / "study.toml")


def test_data_that_a_ledger_protects_are_refused(tmp_path: Path) -> None:
    site = tmp_path / "site"
    site.mkdir()
    given = tmp_path / "given"
    given.mkdir()
    (site / "site.toml").write_text(f'[[populations]]\nfile = "{given / "north.csv"}"\n')
    (given / "north.csv").write_text("patient_id\n")
    with pytest.raises(RefusedError, match="the ledger of"):
        answer(PAPER, given)


def test_a_signed_file_is_read_by_the_fingerprint_of_its_coordinator(tmp_path: Path) -> None:
    path = tmp_path / "tiny.statistics.json"
    path.write_bytes(result().to_bytes())
    found = results(path, coordinator=COORDINATOR.fingerprint)
    assert len(found.table) > 10
    assert dict(found.facts)["without extract"] == "west"
    with pytest.raises(TrustError, match="another coordinator"):
        results(path, coordinator="0" * 64)


# -- the command -----------------------------------------------------------------------------------


def test_one_command_makes_the_tables_and_figures_of_a_paper(tmp_path: Path) -> None:
    """Noise hides a regression of so few patients now and then, and never thrice in a row."""
    for attempt in range(3):
        done = command("study", "try", PAPER, "--out", tmp_path / f"paper-{attempt}")
        assert done.returncode == 0, done.stderr
        assert "no ledger was charged" in done.stdout
        page = (tmp_path / f"paper-{attempt}" / "support2-paper-tried.html").read_text()
        for said in ("table-one, by death", "Kaplan-Meier curves", "What each part cost"):
            assert said in page
        if "Odds ratios" in page:
            break
    assert "Odds ratios" in page
    table = (tmp_path / f"paper-{attempt}" / "support2-paper-tried.csv").read_text()
    assert "who-dies,,death,odds ratio,sex = male" in table


def test_check_foresees_widths_from_patients_that_are_like_them(tmp_path: Path) -> None:
    like = tmp_path / "like.csv"
    pd.concat(support2.load_followed().values()).sample(3000, random_state=1).to_csv(
        like, index=False
    )
    said = command("study", "check", PAPER, "--like", like, "--json", tmp_path / "said.json")
    assert said.returncode == 0, said.stderr
    assert "who-dies, if patients are like those of like.csv: intervals up to" in " ".join(
        said.stdout.split()
    )
    found = json.loads((tmp_path / "said.json").read_bytes())["regressions"]["who-dies"]
    assert found["shown"]
    assert 1 < found["widths"]["age"] < WIDE


# -- what is foreseen ------------------------------------------------------------------------------


def test_less_privacy_or_more_patients_foretell_narrower_intervals() -> None:
    like = pd.concat(support2.load_followed().values())
    part = load(PAPER).statistics.parts[-1].model_dump(mode="json")  # type: ignore[union-attr]
    wide, narrow = (
        foresee_all(asking(part, epsilon=epsilon), like)["who-dies"] for epsilon in (0.3, 0.9)
    )
    assert wide.widest > narrow.widest > 1
    assert not wide.shown
    assert narrow.shown
    assert all(width >= 1 for width in narrow.widths.values())


@pytest.mark.parametrize("what", ["", "a,b\n1\n", "no such file"])
def test_a_file_that_is_no_table_is_named(tmp_path: Path, what: str) -> None:
    like = tmp_path / "like.csv"
    if what != "no such file":
        like.write_text(what)
    with pytest.raises(FloError, match=r"like|column"):
        foresee_all(load(PAPER), like)


def test_columns_that_the_study_does_not_use_are_left_out(tmp_path: Path) -> None:
    like = pd.concat(support2.load_followed().values())
    like["weight"] = 70
    like.to_csv(tmp_path / "like.csv", index=False)
    by_file, in_memory = (foresee_all(load(PAPER), one) for one in (tmp_path / "like.csv", like))
    assert by_file["who-dies"].widths == pytest.approx(in_memory["who-dies"].widths)


def test_too_few_patients_to_foresee_from_are_named() -> None:
    like = pd.concat(support2.load_followed().values()).head(4)
    with pytest.raises(UsageError, match="4 patients have all values of who-dies"):
        foresee_all(load(PAPER), like)


# -- what parts cost -------------------------------------------------------------------------------


def test_costs_of_parts_compose_to_the_study() -> None:
    """Gaussians of σ/√s compose to one of σ: 1/σ² adds up, so ε of a part of all is the study's."""
    study = load(PAPER)
    costs = costs_of_parts(study)
    assert sum(cost.share for cost in costs) == pytest.approx(1)
    assert [cost.name for cost in costs] == ["table-one", "survival", "who-dies"]
    epsilon = Plan.of(study).epsilon
    assert all(cost.epsilon < epsilon for cost in costs)
    assert sum(cost.epsilon for cost in costs) > epsilon
    (alone,) = costs_of_parts(asking(CATALOGUE))
    assert alone.epsilon == pytest.approx(0.9, abs=0.002)
    assert costs_of_parts(load(EXAMPLES / "heart" / "study.toml")) == []


def test_the_generality_paper_is_a_valid_study() -> None:
    study = load(EXAMPLES / "paper" / "rotterdam.toml")
    study.refuse_unfinished()
    assert study.purposes == ("statistics", "regression")
    assert math.isclose(Plan.of(study).epsilon, 0.9, abs_tol=1e-3)
    assert np.isclose(sum(cost.share for cost in costs_of_parts(study)), 1)

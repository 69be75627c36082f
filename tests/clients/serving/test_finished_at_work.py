"""A finished model answers this hospital's callers, writes no resource, and obeys an opt-out."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pandas as pd
import pytest

from flo.clients.patients.opt_outs import opt_out
from flo.clients.prediction.finish import open_finished
from flo.clients.quality.check import check_inputs
from flo.clients.sources.files import open_file
from tests.builders import data_file
from tests.clients.prediction.finished_site import FinishingSite, finishing_site
from tests.clients.serving.served_site import (
    COLUMNS,
    AtWork,
    hook,
    prepare,
    put_into_use,
    served_site,
)
from tests.clients.serving.served_site import V9 as PUBLISHED
from tests.clients.serving.test_hooks import card_of, during

NAME = "tiny-run-1"
HOOK, SCORE = f"/cds-services/{NAME}", f"/models/{NAME}/score"


@pytest.fixture
def site(tmp_path: Path) -> FinishingSite:
    found = finishing_site(tmp_path)
    found.finish()
    prepare(found.home, models=COLUMNS.replace("[models.tiny", f"[models.{NAME}"))
    path = found.home.directory / "serve.toml"
    path.write_text(path.read_text().replace("[models.tiny]", f"[models.{NAME}]"))
    return found


def test_its_risk_is_the_one_that_a_file_of_scores_has(site: FinishingSite, tmp_path: Path) -> None:
    model = open_finished(site.home, NAME)
    table = pd.read_csv(data_file(site.home)).head(20)
    table.to_csv(tmp_path / "some.csv", index=False)
    odds = model.log_odds(
        check_inputs(open_file(tmp_path / "some.csv", "patient_id"), model.study.data)
    )

    async def work(at: AtWork) -> None:
        for row, log_odds in zip(table.to_dict("records"), odds, strict=True):
            record = {"age": row["age"], "ward": row["ward"]}
            answer = (await at.ask(SCORE, {"record": record})).json()
            assert answer["risk"] == pytest.approx(1 / (1 + 2.718281828459045**-log_odds))
            assert (answer["low"], answer["high"], answer["flagged"]) == (None, None, None)

    during(site.home, work)


def test_its_card_says_that_it_is_finished_here_and_offers_no_resource(site: FinishingSite) -> None:
    async def work(at: AtWork) -> None:
        card = card_of(await at.ask(HOOK, hook()))
        assert "finished here" in card["source"]["label"]
        assert "this hospital's own patients" in card["detail"]
        assert "suggestions" not in card
        assert "RiskAssessment" not in json.dumps(card)
        metrics = (await at.clients["metrics"].get("/metrics")).text
        assert NAME not in metrics, "other users of this machine do not learn of it"
        unasked = await at.clients["public"].post(HOOK, json=hook())
        assert (unasked.status_code, NAME in unasked.text) == (401, False)

    during(site.home, work)


def test_after_an_opt_out_of_one_of_its_patients_it_answers_nobody(site: FinishingSite) -> None:
    async def work(at: AtWork) -> None:
        assert (await at.ask(HOOK, hook())).status_code == 200
        await asyncio.to_thread(opt_out, site.home, "east0007")
        card = card_of(await at.ask(HOOK, hook()))
        assert card["summary"] == f"No model answers: {NAME}"
        assert at.serving.pool._versions == {}, "its weights are gone from every process"

    during(site.home, work)


def test_a_site_whose_table_is_mapped_takes_its_own_fields(tmp_path: Path) -> None:
    home = served_site(tmp_path / "north", models="")
    put_into_use(home, PUBLISHED)
    (home.directory / "mapping.toml").write_text(
        """schema_version = 1
[studies.tiny.columns]
ill = { field = "ILL" }
age = { field = "MONTHS", unit = "months", multiply = 0.08333333333333333 }
ward = { field = "STATION", codes = { K = "a", M = "b" }, missing = ["-"] }
"""
    )

    async def work(at: AtWork) -> None:
        own = await at.ask("/models/tiny/score", {"row": {"MONTHS": 600, "STATION": "M"}})
        same = await at.ask("/models/tiny/score", {"record": {"age": 50.0, "ward": "b"}})
        assert own.json()["score"] == pytest.approx(same.json()["score"], abs=1e-12)
        wrong = await at.ask("/models/tiny/score", {"row": {"MONTHS": 600, "STATION": "X"}})
        assert wrong.status_code == 422
        assert wrong.json()["wrong"][0]["column"] == "ward"
        both = await at.ask("/models/tiny/score", {"row": {}, "record": {}})
        assert both.status_code == 400

    during(home, work)

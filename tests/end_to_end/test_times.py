"""A study of the time to an event at three real hospitals, from launch to each patient's risks."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from flo.clients.home.site_home import SiteHome
from flo.privacy.releases import evaluation, horizon_risks
from flo.published.model_card import PublishedModel
from tests.commands import flo
from tests.end_to_end.test_gate import said
from tests.end_to_end.whole_run import (
    finishes_at_home,
    refuses_what_takes_yes_or_no,
    rewritten,
    whole_run,
)
from tests.flo.times import times_document

pytestmark = pytest.mark.slow


def test_from_launch_to_each_patients_risks(tmp_path: Path) -> None:
    seen = "the time until ill = 1, or until last seen: column 'days'"
    card, trusted, sites = whole_run(tmp_path, times_document(), followed, seen)
    model = PublishedModel.open(card, trusted)
    assert model.card.schema_version == 6
    assert model.card.evaluated is not None
    curves = horizon_risks.fit(model.study, model.weights, *model.card.evaluated.sums(model.study))
    assert (*model.card.earlier_horizons, model.card.calibration) == curves, "anybody gets these"
    shown = said(flo("model", "show", card, "--home", sites[0].directory))
    for words in ("noisy concordance", "AUC at 10 days", "Risk of ill by 60 days"):
        assert words in shown
    estimates = evaluation.at_horizons(model.study, *model.card.evaluated.sums(model.study))
    assert len(estimates) == 3

    data, out = tmp_path / "new.csv", tmp_path / "risks.csv"
    data.write_text("patient_id,age,ward\na,20,a\nb,80,c\n")
    said(flo("model", "predict", card, "--data", data, "--out", out, "--home", sites[0].directory))
    with out.open() as file:
        rows = list(csv.DictReader(file))
    names = [f"{name}_{days}" for days in (10, 30, 60) for name in ("risk", "low", "high")]
    assert list(rows[0]) == ["row", "patient_id", "score", *names]
    scores = model.log_odds(np.zeros((1, 5)))
    assert np.isfinite(scores).all()
    refuses_what_takes_yes_or_no(card, sites[0], "the time to an event")
    for row in finishes_at_home(card, sites[0], data, "concordance"):
        stated = [row[f"risk_{days}"] for days in (10, 30, 60)]
        risks = [float(risk) for risk in stated if risk]
        assert 0 < risks[0] <= risks[-1] < 1
        assert risks == sorted(risks)
        assert not stated[2], "hardly anybody of 28 was followed for 60 days"


def followed(site: SiteHome) -> None:
    """Half of the site's patients have the event, after a shorter time than the others are seen.

    With fewer events, one site in ten has too few on its training side to finish the model."""
    rewritten(site, lambda n, _: {"ill": n % 2, "days": (n % 25 if n % 2 else 20 + n % 50) + 1})

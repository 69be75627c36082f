"""A study of several classes at three real hospitals, from launch to each patient's risks."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from flo.clients.home.site_home import SiteHome
from flo.privacy.releases import calibration
from flo.published.model_card import PublishedModel
from tests.commands import flo
from tests.end_to_end.test_gate import said
from tests.end_to_end.whole_run import (
    finishes_at_home,
    refuses_what_takes_yes_or_no,
    relabelled,
    whole_run,
)
from tests.flo.class_studies import NAMES, class_document

pytestmark = pytest.mark.slow


def test_from_launch_to_each_patients_risks(tmp_path: Path) -> None:
    seen = "'ill': one of mild, severe, worst"
    card, trusted, sites = whole_run(tmp_path, class_document(), graded, seen)
    model = PublishedModel.open(card, trusted)
    assert model.card.schema_version == 8
    assert model.card.evaluated is not None
    sums = model.card.evaluated.sums(model.study)
    found = calibration.fit_each(model.study, model.weights, *sums)
    assert found == model.card.by_class
    assert len(found) == 3
    shown = said(flo("model", "show", card, "--home", sites[0].directory))
    for words in ("noisy macro AUC", "AUC of worst", "Risk of ill = mild"):
        assert words in shown

    data, out = tmp_path / "new.csv", tmp_path / "risks.csv"
    data.write_text("patient_id,age,ward\na,20,a\nb,80,c\n")
    said(flo("model", "predict", card, "--data", data, "--out", out, "--home", sites[0].directory))
    with out.open() as file:
        rows = list(csv.DictReader(file))
    scores = [f"score_{name}" for name in NAMES]
    risks = [f"{what}_{name}" for name in NAMES for what in ("risk", "low", "high")]
    assert list(rows[0]) == ["row", "patient_id", *risks, *scores]
    for row in rows:
        assert sum(float(row[name]) for name in scores) == pytest.approx(1, abs=1e-5)
        for name in NAMES:
            if row[f"risk_{name}"]:
                numbers = [float(row[f"{what}_{name}"]) for what in ("low", "risk", "high")]
                assert numbers == sorted(numbers)
    said(flo("model", "check", card, "--home", sites[0].directory))
    refuses_what_takes_yes_or_no(card, sites[0], "one of several classes")
    for row in finishes_at_home(card, sites[0], data, "macro AUC"):
        assert sum(float(row[f"risk_{name}"]) for name in NAMES) == pytest.approx(1, abs=1e-5)


def graded(site: SiteHome) -> None:
    """Give each of the site's patients a class, mostly the mild one to those who were well."""
    relabelled(site, lambda n, ill: NAMES[(1, 2, 2, 0)[n % 4] if ill else (0, 0, 1)[n % 3]])

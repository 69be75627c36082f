"""A study of a count at three real hospitals, from launch to each patient's expected number."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from flo.clients.home.site_home import SiteHome
from flo.privacy.releases import quantities
from flo.published.model_card import PublishedModel
from tests.commands import flo
from tests.end_to_end.test_gate import said
from tests.end_to_end.whole_run import (
    finishes_at_home,
    refuses_what_takes_yes_or_no,
    relabelled,
    whole_run,
)
from tests.flo.quantities import COUNT, quantity_document

pytestmark = pytest.mark.slow


def test_from_launch_to_each_patients_expected_number(tmp_path: Path) -> None:
    seen = "'ill': a count of visits, 0 to 8"
    card, trusted, sites = whole_run(tmp_path, quantity_document(COUNT), counted, seen)
    model = PublishedModel.open(card, trusted)
    assert model.card.schema_version == 7
    assert model.card.evaluated is not None
    sums = model.card.evaluated.sums(model.study)
    found = quantities.fit(model.study, model.weights, *sums)
    assert found is not None
    assert (found.expected, found.steps) == (model.card.calibration, model.card.steps)
    shown = said(flo("model", "show", card, "--home", sites[0].directory))
    for words in ("noisy concordance", "Expected visits (ill)", "a larger value of ill"):
        assert words in shown

    data, out = tmp_path / "new.csv", tmp_path / "expected.csv"
    data.write_text("patient_id,age,ward\na,20,a\nb,80,c\n")
    said(flo("model", "predict", card, "--data", data, "--out", out, "--home", sites[0].directory))
    with out.open() as file:
        rows = list(csv.DictReader(file))
    names = ["row", "patient_id", "score", "expected", "low", "high", "p10", "p90"]
    assert list(rows[0]) == names
    for row in rows:
        if row["expected"]:
            numbers = [float(row[name]) for name in ("low", "expected", "high")]
            assert numbers == sorted(numbers)
            assert 0 <= float(row["p10"]) <= float(row["p90"]) <= 8
    refuses_what_takes_yes_or_no(card, sites[0], "a count")
    for row in finishes_at_home(card, sites[0], data, "concordance"):
        assert 0 < float(row["expected"]) < 8
        assert 0 <= float(row["p10"]) <= float(row["p90"]) <= 8


def counted(site: SiteHome) -> None:
    """Give each of the site's patients a number of visits, more for those who were ill."""
    relabelled(site, lambda n, ill: 2 + n % 7 if ill else n % 3)

"""A model that continued another one, its report, and statistics, as the first FLO wrote them.

``tests/kept/v11``: card (schema 3), tensors, report, and statistics (schema 1) of three hospitals.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from flo.documents import canonical
from flo.errors import UsageError
from flo.privacy.report.page import render
from flo.privacy.report.report import verify
from flo.published.model_card import PublishedModel, read_card
from flo.published.statistics_result import read_result
from flo.statistics.catalogue import CatalogueRead
from flo.statistics.page import render as render_statistics
from flo.statistics.questions import ask
from flo.statistics.reading import read
from flo.statistics.regression import RegressionRead
from flo.study.lineage import Life
from tests.commands import flo
from tests.paths import ROOT

KEPT = ROOT / "tests" / "kept" / "v11"
PAPER = KEPT.with_name("v12")
COORDINATOR = (KEPT / "coordinator.txt").read_text().strip()
CARD = "8c4adc52420871ae91124c74e982f487bb745e7361a12e4693471c28600a0d35"


def test_the_model_opens_with_its_lineage_and_the_life_that_nobody_exceeds() -> None:
    found = PublishedModel.open(KEPT / "model.card.json", COORDINATOR)
    assert found.card.schema_version == 3
    assert found.card.digest == CARD
    assert found.card.life == Life(epsilon=0.9, delta=1e-6)
    (ancestor,) = found.study.lineage
    assert (ancestor.name, ancestor.version, ancestor.life) == ("tiny", 1, found.card.life)
    assert found.study.continues is not None
    assert found.study.continues.models == (ancestor.card,)
    shown = flo("model", "show", KEPT / "model.card.json", "--coordinator", COORDINATOR)
    assert shown.returncode == 0, shown.stderr
    assert "tiny, version 1" in shown.stdout


def test_the_report_is_verified_and_shows_the_lineage() -> None:
    document = (KEPT / "report.json").read_bytes()
    facts = verify(document)
    assert [one["name"] for one in facts["study"]["lineage"]] == ["tiny"]
    assert canonical.digest(document) == read_card(KEPT / "model.card.json").report
    assert "Earlier models that it continued" in render(document)


def test_the_statistics_are_checked_and_read() -> None:
    found = read_result(KEPT / "questions.statistics.json")
    study = found.check(COORDINATOR)
    parts = read(study, found.noisy(), found.variance(study))
    assert [part.name for part in parts] == ["table-one", "time"]
    assert "Kaplan-Meier" in render_statistics(study, parts, found.facts(study))


def test_regressions_and_a_catalogue_say_what_they_said_when_they_were_published() -> None:
    """A later way of scoring must not change what an earlier file says."""
    found = read_result(PAPER / "paper.statistics.json")
    study = found.check((PAPER / "coordinator.txt").read_text().strip())
    parts = read(study, found.noisy(), found.variance(study), found.released(study))
    later, who = parts
    assert isinstance(later, CatalogueRead)
    assert isinstance(who, RegressionRead)
    counted = ask(later, "age >= 60 and sex = male").counted.patients
    assert (counted.value, counted.low) == pytest.approx((3126.519, 3030.613), abs=1e-3)
    age = next(one.value for one in who.coefficients if one.name == "age")
    assert (age.value, age.low, age.high) == pytest.approx((0.0285196, 0.0227256, 0.0343137), 1e-5)


@pytest.mark.parametrize(
    ("name", "schema", "later"), [("model.card.json", 3, 9), ("questions.statistics.json", 1, 2)]
)
def test_what_a_later_version_wrote_is_refused(
    tmp_path: Path, name: str, schema: int, later: int
) -> None:
    text = (KEPT / name).read_text()
    before = f'"schema_version":{schema}'
    assert text.count(before) == 1
    path = tmp_path / name
    path.write_text(text.replace(before, f'"schema_version":{later}'))
    read_file = read_result if "statistics" in name else read_card
    with pytest.raises(UsageError, match="schema_version"):
        read_file(path)

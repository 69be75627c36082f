"""A monitor at one hospital: who is counted, what its steward reads, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from flo.clients.connection.offers import Offered
from flo.clients.inbox.review import review
from flo.errors import PolicyError, TrustError
from flo.study.document import Study
from tests.clients.approvals.test_generations_at_a_site import NEW, arrive, members
from tests.clients.approving_site import Site, enrolled_site
from tests.monitored import period

MAPPING = """
schema_version = 1
[studies.watched-v1-monitor]
[studies.watched-v1-monitor.accepted]
"number of patients: patient_id" = "Few are new in a month."
[studies.watched-v1-monitor.columns]
age = { field = "age" }
ward = { field = "ward" }
ill = { field = "ill" }
"""


@pytest.fixture
def site(tmp_path: Path) -> Site:
    made = enrolled_site(tmp_path)
    (made.home.directory / "mapping.toml").write_text(MAPPING)
    return made


def offer(site: Site, *earlier: Study, **terms: object) -> Offered:
    return site.offer(period(*earlier, **terms))  # type: ignore[arg-type]


def test_a_period_is_of_those_who_came_since_the_last(site: Site) -> None:
    first = offer(site)
    assert len(members(site, site.approve(first))) == 40
    arrive(site, *NEW)
    second = offer(site, first.study)
    assert members(site, site.approve(second)) == set(NEW)
    third = offer(site, first.study, second.study)
    assert members(site, site.approve(third)) == set(), (
        "nobody is new, and it is approved all the same"
    )


def test_a_period_that_leaves_out_one_that_was_approved_here_is_refused(site: Site) -> None:
    first = offer(site)
    site.approve(first)
    second = offer(site, first.study)
    site.approve(second)
    hidden = offer(site, first.study, epsilon=0.4)
    site.refuses(hidden, TrustError, "leaves out watched-v1-monitor, version 2")
    site.refuses(offer(site, epsilon=0.2), TrustError, "leaves out watched-v1-monitor, version")


def test_another_models_series_counts_the_same_patients_and_is_paid_for(site: Site) -> None:
    site.approve(offer(site))
    other = offer(site, model="cd" * 32)
    assert len(members(site, site.approve(other))) == 0, "those of before its first period are not"
    arrive(site, *NEW)
    assert members(site, site.approve(offer(site, other.study, model="cd" * 32))) == set(NEW)


@pytest.mark.slow
def test_the_steward_reads_who_is_counted_and_what_it_costs(site: Site) -> None:
    first = offer(site)
    site.approve(first)
    arrive(site, *NEW)
    second = offer(site, first.study)
    population = site.home.read_config().population(None)
    said = "\n".join(
        f"{name}: {text}"
        for part in review(site.home, second.study, population)
        for name, text in part.lines
    )
    for words in (
        "watched, version 1 (card abababab",
        "in period 2 of a series",
        "none is counted: they came before the series",
        "expected of the monitor: if about",
        "only held-out patients take part",
        "pays for one period of the series",
        "training 0.0%",
    ):
        assert words in said, words
    lines = dict(site.dry_run(second))
    assert any("those held out are counted" in text for text in lines.values())


def test_a_policy_that_knows_no_such_model_refuses_to_watch_it(site: Site) -> None:
    site.allow(models=["mlp"])
    site.refuses(offer(site), PolicyError, "the study watches logistic")

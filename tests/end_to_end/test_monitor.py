"""A model is watched at three real hospitals for three periods: who is counted, what is paid."""

from __future__ import annotations

import contextlib
import json
from contextlib import closing
from pathlib import Path

import pytest

from flo.clients.connection.enrolment import connect
from flo.clients.home.site_home import SiteHome
from flo.clients.prediction import monitor_news
from flo.privacy.accounting.life_budget import SUB_LEDGERS
from flo.privacy.accounting.plan import Plan
from flo.published.model_card import PublishedModel
from flo.published.model_states import ModelVersion
from flo.published.monitor_result import read_monitor
from flo.published.monitor_series import series
from flo.published.monitor_words import shown as shown_health
from flo.study.document import Study
from tests.commands import flo
from tests.end_to_end.agents import agent
from tests.end_to_end.running import SITES, launch, releases, wait_for
from tests.end_to_end.test_gate import published, said
from tests.end_to_end.test_survey_then_study import approved, offered
from tests.end_to_end.test_years import arrive, members
from tests.server.real_coordinator import RealCoordinator, serving

pytestmark = pytest.mark.slow


def test_three_periods_count_each_patient_once_and_each_pays_for_one(tmp_path: Path) -> None:
    with serving(tmp_path / "coordinator") as coordinator, contextlib.ExitStack() as stack:
        sites = [coordinator.enrol(tmp_path / name, name) for name in SITES]
        for site in sites:
            stack.enter_context(agent(site))
        trusted = coordinator.home.open_identity().fingerprint
        digest = launch(coordinator, sites, "distributed noise", schema=4, epsilon=0.5)
        card = published(coordinator, digest)
        arrived, studies = [[f"north{n:04}" for n in range(40)]], list[Study]()
        for period in (1, 2, 3):
            here, *_ = [arrive(site, period) for site in sites]
            arrived.append(here)
            studies.append(watch(coordinator, sites, card, period, tmp_path / f"{period}.toml"))

        for study, theirs in zip(studies, arrived[1:], strict=True):
            everyone = [name for group in arrived for name in group]
            assert members(sites[0], study.digest, everyone) == set(theirs)
        assert releases(sites[0])["monitor"] == 3
        for site in sites:
            each_generation_has_paid_for_one_period(site, studies[0])

        out = tmp_path / "series"
        shown = said(flo("model", "drift", f"{studies[-1].name}:3", "--out", out, *at(coordinator)))
        assert "tiny, version 1, card" in shown
        results = [read_monitor(path) for path in out.glob("*.monitor.json")]
        found = series(results, trusted)
        assert [one.number for one in found.periods] == [1, 2, 3]
        assert found.missing == ()
        again = flo("model", "drift", out, *at(coordinator), "--json", "-")
        told = json.loads(again.stdout)
        assert told["health"] == shown_health(found.last.health)
        assert not told["alarm"]
        opened = PublishedModel.open(card, trusted)
        assert opened.card.digest in shown
        version = ModelVersion(version=1, study=digest, card=opened.card.digest)
        with connect(sites[0]) as api:
            fetched = monitor_news.fetch(sites[0], api, version)
        assert fetched is not None
        assert [one.result for one in fetched.periods] == [one.result for one in found.periods]
        stranger = coordinator.enrol(tmp_path / "stranger", "stranger")
        with connect(stranger) as api:
            assert monitor_news.fetch(stranger, api, version) is None


def watch(
    coordinator: RealCoordinator, sites: list[SiteHome], card: Path, period: int, file: Path
) -> Study:
    """One period, drafted, launched and approved as people do it."""
    wish = ("--period", str(period), "--epsilon", "0.2", "--new-patients", "40", "--out", file)
    said(flo("model", "monitor", card, *wish, *at(coordinator)))
    assert "raises an alarm if" in said(flo("study", "check", file))
    with offered(coordinator, "study", "launch", file) as launched:
        approved(sites)
        screen, errors = launched.communicate(timeout=120)
    assert launched.returncode == 0, errors
    assert f"flo model drift tiny-v1-monitor:{period}" in screen
    with closing(coordinator.home.open_store()) as store:
        study = store.offers()[-1].study
    wait_for(
        lambda found: any(event["kind"] == "published" for event in found["events"]),
        coordinator.home.directory,
        study.digest,
    )
    return study


def each_generation_has_paid_for_one_period(site: SiteHome, study: Study) -> None:
    with closing(site.open_ledger()) as ledger:
        balance = ledger.balance()
        (life,) = balance.lives.values()
        (population,) = balance.lives
        cost = Plan.of(study).cost("evaluation", life.order)
        trained, *watched = balance.generations(population)
        assert len(watched) == 3
        for number in watched:
            assert balance.charged(population, "training", number) == 0
            assert balance.charged(population, "evaluation", number) == pytest.approx(cost)
        before = {s: balance.charged(population, s, trained) for s in SUB_LEDGERS}
        assert min(before.values()) > 0, "those who trained the model paid for that only"


def at(coordinator: RealCoordinator) -> tuple[str, Path]:
    return "--home", coordinator.home.directory

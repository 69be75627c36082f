"""Whoever composes a ledger's rows anew, without FLO's accounting, finds the ε of the report.

``dp_accounting``'s own accountant takes the rows of an extract one by one, at FLO's orders.
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from dp_accounting import DpEvent, GaussianDpEvent, PoissonSampledDpEvent, SelfComposedDpEvent
from dp_accounting.rdp import RdpAccountant

from flo.privacy.accounting.accounting import ORDERS
from flo.privacy.report.report import build, verify
from flo.study.document import Study
from tests.builders import WHITENED, counting, small_study, study_document
from tests.privacy.hospitals import World

TRAINING_RELEASES = 2
SAME_PATIENTS = {"moments": "training"}
SHOWN = 1.01e-6  # reports round up to six decimals


def study(name: str, epsilon: float = 0.3, **changes: Any) -> Study:
    document = study_document(name=name)
    for part in ("mechanism", "evaluation"):
        document[part] |= {"epsilon": epsilon} | changes.pop(part, {})
    return small_study(**document, **changes)


STUDIES = [
    study("whole-batches"),
    study("sampled", mechanism={"sampling": 0.5}),
    study("by-subgroup", evaluation={"subgroups": ["ward"], "retry_allowance": 2}),
    counting(study("asked"), 0.3, ["ward", "age"]),
    study("patient", mechanism={"retry_allowance": 7}),
    study("whitened", mechanism=WHITENED),
]
NAMES = [one.name for one in STUDIES]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """One hospital after all of the studies."""
    folder: Path = tmp_path_factory.mktemp("replay")
    return World.of(folder, STUDIES, TRAINING_RELEASES, ("north",), 0.9)


def event_of(mechanism: dict[str, Any]) -> DpEvent:
    """By hand from what stands in the row."""
    gaussian = GaussianDpEvent(mechanism["noise_multiplier"])
    if mechanism["kind"] == "poisson-sum":
        return PoissonSampledDpEvent(mechanism["sampling"], gaussian)
    assert mechanism["kind"] in ("full-batch-sum", "score-waves", "histogram")
    return gaussian


def epsilon(accountant: RdpAccountant, delta: float) -> float:
    return float(accountant.get_epsilon(delta))


def accountant_of(*events: DpEvent) -> RdpAccountant:
    accountant = RdpAccountant(orders=[float(order) for order in ORDERS])
    for event in events:
        accountant.compose(event)
    return accountant


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_the_rows_of_a_ledger_compose_to_the_reported_epsilon(world: World, name: str) -> None:
    extract = world.extract(study=NAMES.index(name))
    body = json.loads(extract)["body"]
    facts = verify(build([extract]))
    (site,) = facts["hospitals"]
    delta = site["delta"]
    spent: dict[str, RdpAccountant] = defaultdict(accountant_of)
    reserved: dict[str, RdpAccountant] = defaultdict(accountant_of)
    for row in body["rows"]:
        public = row["public"]
        if row["sequence"] == body["reservation"]:
            for purpose, part in public["parts"].items():
                reserved[SAME_PATIENTS.get(purpose, purpose)].compose(
                    SelfComposedDpEvent(event_of(part["mechanism"]), part["releases"])
                )
        if public["kind"] == "release" and public["reservation"] == body["reservation"]:
            spent[SAME_PATIENTS.get(public["purpose"], public["purpose"])].compose(
                event_of(public["mechanism"])
            )
    # Training and evaluation touch different patients; a survey touches everyone, alone.
    released = max(epsilon(one, delta) for one in spent.values())
    designed = max(epsilon(one, delta) for one in reserved.values())
    assert 0 < released <= designed <= 0.3 + 1e-9
    for shown, composed in (
        (site["epsilon_released"], released),
        (site["epsilon_designed"], designed),
        (facts["guarantee"]["epsilon"], designed),
    ):
        assert composed - 1e-9 <= shown <= composed + SHOWN  # never towards less privacy spent


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_the_curve_of_a_report_is_composed_release_by_release(world: World, name: str) -> None:
    extract = world.extract(study=NAMES.index(name))
    (site,) = verify(build([extract]))["hospitals"]
    events = [
        event_of(row["public"]["mechanism"])
        for row in json.loads(extract)["body"]["rows"]
        if row["public"]["kind"] == "release" and row["private"] is not None
    ]
    counted = {"asked-survey": 1, "whitened": 1 + TRAINING_RELEASES}.get(name, TRAINING_RELEASES)
    assert [n for n, _ in site["epsilon_by_release"]] == list(range(1, counted + 1))
    for n, shown in site["epsilon_by_release"]:
        composed = epsilon(accountant_of(*events[:n]), site["delta"])
        assert composed - 1e-9 <= shown <= composed + SHOWN


def test_the_report_says_what_was_released_for_what(world: World) -> None:
    for name in NAMES:
        (site,) = verify(build([world.extract(study=NAMES.index(name))]))["hospitals"]
        purposes = ("statistics", "training", "evaluation")
        counts = [site.get(f"releases_{purpose}", 0) for purpose in purposes]
        assert counts == ([1, 0, 0] if name == "asked-survey" else [0, TRAINING_RELEASES, 1])
        moments = site.get("releases_moments", 0)
        assert moments == (name == "whitened")
        assert len(site["releases"]) == sum(counts) + moments
        assert site["other_studies"] == len(NAMES) - 1
        if name == "asked-survey":
            shares = site["shares"]
            assert shares["training"]["this_study"] == shares["evaluation"]["this_study"] > 0


def test_the_shares_of_all_studies_add_up_to_the_ledgers(world: World) -> None:
    sites = [verify(build([world.extract(study=n)]))["hospitals"][0] for n in range(len(NAMES))]
    for sub_ledger in ("training", "evaluation"):
        each = [site["shares"][sub_ledger]["this_study"] for site in sites]
        whole = {site["shares"][sub_ledger]["all"] for site in sites}
        left = {site["shares"][sub_ledger]["left"] for site in sites}
        assert len(whole) == len(left) == 1
        assert sum(each) == pytest.approx(whole.pop(), abs=1e-5)
        assert sum(each) + left.pop() == pytest.approx(1, abs=1e-5)

"""A day of three people: a coordinator on the console, stewards at their desks, an auditor."""

from __future__ import annotations

import re
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
import tomli_w
from playwright.sync_api import Browser

from flo.clients.home.site_home import SiteHome
from flo.keys.identity import format_fingerprint
from flo.study.terms import round_size
from tests.builders import HOSPITALS, csv_text, data_file, study_document
from tests.clients.prediction.finished_site import patients_csv
from tests.commands import flo
from tests.end_to_end.agents import agent
from tests.pages.browser import Person, desk, person, sign_in
from tests.server.real_coordinator import RealCoordinator

pytestmark = pytest.mark.slow

MOST_STEPS = 10
STEPS = 60  # rounds of a tenth of a second each


@pytest.fixture
def study_toml() -> str:
    document = study_document(
        name="chest-pain",
        purpose="Recognise who needs an exercise test.",
        mechanism={
            **study_document()["mechanism"],
            "noise": "distributed",
            "masking": "on",
            "epsilon": 0.5,
            "steps": STEPS,
        },
    )
    document["evaluation"]["epsilon"] = 0.5
    return tomli_w.dumps(document)


def test_from_an_invitation_to_a_report(
    coordinator: RealCoordinator, browser: Browser, study_toml: str, shots: Path, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        operator = stack.enter_context(person(browser, shots))
        sign_in(operator, coordinator.home, "operator", "Olga Operator")
        operator.reads("No study yet.")
        operator.shows("console-empty")
        operator.click("Hospitals")
        operator.reads("No hospital has enrolled yet.")

        steps = {name: enrolled(coordinator, name, tmp_path) for name in HOSPITALS}
        sites = {name: SiteHome.open(tmp_path / name / "site") for name in HOSPITALS}
        operator.reads(
            format_fingerprint(sites["north"].open_identity().fingerprint)
        )  # it appears by itself
        operator.shows("console-hospitals")

        write_and_sign(operator, study_toml)
        stewards = {
            name: at_the_desk(browser, sites[name], shots, tmp_path, stack) for name in HOSPITALS
        }
        for name, steward in stewards.items():
            decides(steward, sites, name)
            steps[name] += steward.clicks
        assert max(steps.values()) <= MOST_STEPS, steps

        operator.reads(re.compile("about to start|running"))
        operator.reads(re.compile(r"^[1-9]\d* of 60$"))
        operator.shows("console-running")
        operator.reads("Noisy AUC")
        operator.click("Model, report and card")
        operator.reads("Calibrated with the patients of all hospitals together")
        operator.reads("trained from nothing")
        operator.shows("console-model")
        with operator.page.expect_download() as downloaded:
            operator.click("Download the model")
        downloaded.value.save_as(tmp_path / downloaded.value.suggested_filename)
        with operator.page.expect_download() as downloaded:
            operator.click("Download the report")
        report = tmp_path / "report.json"
        downloaded.value.save_as(report)
        assert flo("audit", "verify", report).returncode == 0
        operator.click("Read the privacy report")
        operator.reads("Every patient's guarantee")
        operator.reads("What the model's scores mean")
        operator.page.go_back()
        operator.click("Audit log")
        operator.reads(re.compile("Unbroken up to entry"))
        operator.shows("console-audit")

        on_one_call(stewards["west"], coordinator)
        after_the_run(stewards["north"], sites["north"])
        finished_at_home(stewards["north"], sites["north"], tmp_path)
        assert [someone.complaints for someone in (operator, *stewards.values())] == [[]] * 4


def finished_at_home(steward: Person, site: SiteHome, folder: Path) -> None:
    """The hospital, which has more patients by now, finishes the model and looks at it."""
    patients_csv("north", data_file(site))
    models = folder / "fetched"
    fetched = flo("model", "fetch", "chest-pain", "--out", models, "--home", site.directory)
    assert fetched.returncode == 0, fetched.stderr
    (card,) = models.glob("*.card.json")
    done = flo("model", "finish", card, "--home", site.directory)
    assert done.returncode == 0, done.stderr
    steward.click("Models")
    steward.reads("Can its risks be believed?")
    steward.shows("desk-models")


def enrolled(coordinator: RealCoordinator, name: str, folder: Path) -> int:
    """An invited hospital with a CSV, on its own machine: how many commands it took so far."""
    invitation, site = folder / f"{name}.json", folder / name / "site"
    site.parent.mkdir()
    data = site.parent / "patients.csv"
    data.write_text(csv_text(prefix=name))
    invite = ("coordinator", "invite", name, "--out", invitation)
    assert flo(*invite, "--home", coordinator.home.directory).returncode == 0
    size = str(round_size(40))
    made = flo("site", "init", name, "--data", data, "--declared-size", size, "--home", site)
    assert "next: flo site enrol" in made.stdout, made.stderr
    done = flo("site", "enrol", invitation, "--home", site)
    assert "next: flo site run" in done.stdout, done.stderr
    assert "flo site desk" in done.stdout
    return 2


def write_and_sign(operator: Person, study_toml: str) -> None:
    operator.click("Studies")
    operator.click("Write a study")
    operator.page.get_by_label("or its text").fill(
        study_toml.replace(f"steps = {STEPS}", "steps = 0")
    )
    operator.click("Check and save the draft")
    operator.reads("Not saved yet.")
    operator.reads(re.compile("mechanism.steps"))
    operator.shows("console-write")
    assert "400" in operator.complaints.pop()  # the browser's word for what the page explains
    operator.page.get_by_label("or its text").fill(study_toml)
    operator.click("Check and save the draft")
    operator.reads("Are all hospitals enrolled?")
    operator.shows("console-draft")
    operator.click("Sign, and offer it")
    operator.reads("waiting for 3 approvals")


def at_the_desk(
    browser: Browser, site: SiteHome, shots: Path, folder: Path, stack: ExitStack
) -> Person:
    """Agent and desk are started (two commands), and the link is opened."""
    stack.enter_context(agent(site))
    link = stack.enter_context(desk(site, said=folder / f"{site.read_config().hospital}.desk"))
    someone = stack.enter_context(person(browser, shots))
    someone.clicks = 3
    someone.page.goto(link)
    someone.reads("the agent runs")
    return someone


def decides(steward: Person, sites: dict[str, SiteHome], name: str) -> None:
    first = name == "north"
    steward.reads("waiting for you")
    if first:
        steward.shows("desk-inbox")
    steward.click("chest-pain, version 1")
    steward.reads("Compare partners' keys by telephone")
    for partner in set(sites) - {name}:
        key = format_fingerprint(sites[partner].open_identity().fingerprint)
        assert key not in steward.page.content()
        steward.page.get_by_label(partner).fill(" ".join(key.split()[-4:]))
    if first:
        steward.shows("desk-review")
    steward.click("Save what I compared")
    steward.page.wait_for_url("**#partners")
    if first:  # who wants to look first; a yes looks at the same things
        study = steward.page.url.split("#")[0]
        steward.page.goto(f"{study}/data?population=main")
        steward.reads("The data fit the study.")
        steward.shows("desk-data")
        steward.page.goto(study)
    steward.click("Approve…")
    steward.reads("One approval is one reservation")
    if first:
        steward.shows("desk-approve")
        steward.page.get_by_role("button", name="Only check the data").click()
        steward.reads("No budget was reserved.")
    steward.click("Check the data, approve, and reserve")
    steward.reads("the budget is reserved")


def on_one_call(steward: Person, coordinator: RealCoordinator) -> None:
    """The steward enters the digest that is read out, says yes, and ticks whom they heard."""
    with closing(coordinator.home.open_store()) as store:
        digest = format_fingerprint(store.roster().roster.digest)
    steward.click("Partners")
    steward.page.get_by_label("The digest, as it is read out").fill(digest)
    steward.click("Check, and save whom I heard")
    steward.reads("Say on the call")
    for partner in ("north", "south"):
        steward.page.get_by_label(partner, exact=False).check()
    steward.shows("desk-partners")
    steward.click("Check, and save whom I heard")
    steward.reads("Confirmed on this call: north, south.")


def after_the_run(steward: Person, site: SiteHome) -> None:
    steward.click("See the budget")
    steward.reads("What could I still afford?")
    steward.page.get_by_label("A study of ε =").fill("0.3")
    steward.click("Would it fit?")
    steward.reads("training: it fits.")
    steward.shows("desk-budget")
    steward.click("Releases")
    with closing(site.open_ledger()) as ledger:
        count = sum(row.public["kind"] == "release" for row in ledger.rows())
    steward.reads(f"{count} in all")
    steward.shows("desk-releases")
    steward.click("Policy")
    steward.reads("In force and signed")
    steward.click("Opt-outs")
    steward.page.get_by_label("The patient's id").fill("north0007")
    steward.page.get_by_label("Also make a signed record").check()
    steward.click("Take this patient out")
    steward.reads("this patient was removed: 1.")
    steward.reads("odds change by at most")
    steward.shows("desk-opt-out")
    steward.click("Log")
    steward.reads(re.compile("Unbroken up to entry"))
    steward.shows("desk-log")

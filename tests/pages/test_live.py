"""Pages while things happen: rounds appear, a coordinator comes back, a session ends."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Playwright

from flo.clients.home.site_home import SiteHome
from flo.server.http.tokens import issue
from tests.end_to_end.agents import running_sites
from tests.end_to_end.running import launch
from tests.pages.browser import chromium, person, sign_in
from tests.server.real_coordinator import RealCoordinator, new_home, served

pytestmark = pytest.mark.slow


@pytest.fixture
def sites(coordinator: RealCoordinator, tmp_path: Path) -> Iterator[list[SiteHome]]:
    with running_sites(coordinator, tmp_path) as homes:
        yield homes


def test_rounds_appear_by_themselves_and_neither_a_click_nor_the_focus_is_lost(
    coordinator: RealCoordinator, sites: list[SiteHome], browser: Browser, tmp_path: Path
) -> None:
    with person(browser, tmp_path) as someone:
        sign_in(someone, coordinator.home, "viewer", "Vera")
        launch(coordinator, sites, "no masks", version=3, steps=60, epsilon=0.3)
        page = someone.page
        someone.reads(re.compile(r"[1-9] of 60"))
        page.get_by_role("link", name="tiny, version 3").hover()
        page.mouse.down()
        page.wait_for_timeout(1000)  # rounds end while the button is down
        page.mouse.up()
        sheet = page.get_by_role("link", name="What was agreed")
        sheet.focus()
        seen = set[str]()
        while "of 60" in page.locator("#state").inner_text() and len(seen) < 5:
            found = re.search(r"(\d+) of 60", page.locator("#state").inner_text())
            seen.add(found.group(1) if found else "")
            page.wait_for_timeout(150)
        assert len(seen) == 5
        assert sheet.evaluate("element => element === document.activeElement")
        someone.reads("Noisy AUC")
        assert someone.complaints == []


def test_a_late_hospital_is_named_before_the_deadline(
    coordinator: RealCoordinator, sites: list[SiteHome], browser: Browser, tmp_path: Path
) -> None:
    with person(browser, tmp_path) as someone:
        sign_in(someone, coordinator.home, "viewer", "Vera")
        launch(coordinator, sites, "no masks", version=4, steps=400, deadline=30, epsilon=0.3)
        someone.click("tiny, version 4")
        someone.reads(re.compile(r"[5-9] of 400"))
        place = str(sites[1].directory)
        frozen = subprocess.run(["pgrep", "-f", place], capture_output=True, text=True, check=True)
        numbers = [int(number) for number in frozen.stdout.split()]
        for number in numbers:
            os.kill(number, signal.SIGSTOP)
        try:
            # Frozen for seconds it is late; once its idle connection was closed it is gone.
            holds_up = re.compile(r"late, \d+ s|not connected")
            row = someone.page.locator("#seats tr", has_text="south")
            row.get_by_text(holds_up).wait_for(timeout=120_000)
            assert someone.page.locator("#seats tr", has_text=holds_up).count() == 1
        finally:
            for number in numbers:
                os.kill(number, signal.SIGCONT)


def test_a_page_says_that_the_coordinator_is_away_and_goes_on_when_it_is_back(
    playwright: Playwright, tmp_path: Path
) -> None:
    home = new_home(tmp_path / "home")
    with ExitStack() as stack:
        with served(RealCoordinator(home)):
            browser = stack.enter_context(chromium(playwright, home))
            someone = stack.enter_context(person(browser, tmp_path))
            sign_in(someone, home, "viewer", "Vera")
            someone.reads("No study yet.")
        someone.reads(re.compile("No answer since"))
        with served(RealCoordinator(home)) as again:
            someone.reads(re.compile("the server was restarted"))
            again.enrol(tmp_path / "north", "north")
            someone.click("Hospitals")  # the session outlived the restart
            someone.reads("north")
        assert all("ERR_" in one or "Failed to load" in one for one in someone.complaints)


def test_a_page_whose_session_ends_asks_to_sign_in_again(
    coordinator: RealCoordinator, browser: Browser, tmp_path: Path
) -> None:
    with person(browser, tmp_path) as someone:
        text, _ = issue(coordinator.home.open_identity(), "Vera", "viewer", 4)
        someone.page.goto(f"{coordinator.home.read_private_url()}/console/sign-in#{text}")
        someone.click("Sign in")
        someone.reads("Studies")
        someone.reads("Sign in to the coordinator")

"""Every page, for everyone: dark and light, 200 % zoom, a narrow screen, no script, a keyboard."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from flo.server.http.tokens import PersonRole, issue
from tests.pages.browser import Person, Scheme, desk, person, scrolls_sideways, sign_in, violations
from tests.pages.conftest import Finished

pytestmark = pytest.mark.slow

_EYES: dict[str, tuple[Scheme, int, float]] = {
    "light": ("light", 1180, 1),
    "dark": ("dark", 1180, 1),
    "at 200 percent": ("light", 1180, 2),
    "on a telephone": ("dark", 360, 1),
}
_DESK = (
    *("", "/budget?population=main&epsilon=0.9", "/releases", "/policy", "/opt-outs", "/log"),
    "/roster",
)


def _console(digest: str) -> list[str]:
    study = f"/console/studies/{digest}"
    parts = ("", "/sheet", "/model", "/stop", "/shred")
    pages = ("", "/hospitals", "/audit", "/audit?kind=nothing", "/drafts/new", "/sign-in")
    return [*(f"/console{page}" for page in pages), *(f"{study}{part}" for part in parts)]


def is_fine(someone: Person, url: str, *, problem: bool = False) -> None:
    """A page without barriers, that is not wider than its window, and of which no browser complains
    but for the status of one that says what did not work."""
    someone.page.goto(url)
    assert violations(someone.page) == [], url
    assert not scrolls_sideways(someone.page), url
    said = [someone.complaints.pop() for _ in range(len(someone.complaints))]
    assert all(problem and "status of 40" in one for one in said), (url, said)
    assert (someone.page.get_by_role("alert").count() > 0) == problem, url


@pytest.fixture(scope="module")
def link(finished: Finished, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    said = tmp_path_factory.mktemp("desk") / "said"
    with desk(finished.sites[0], said=said) as opened:
        yield opened


@pytest.fixture(params=[*_EYES.values()], ids=[*_EYES])
def someone(request: pytest.FixtureRequest, browser: Browser, tmp_path: Path) -> Iterator[Person]:
    scheme, width, zoom = request.param
    with person(browser, tmp_path, scheme=scheme, width=width, zoom=zoom) as one:
        yield one


def test_every_page_of_the_console_can_be_used_by_everyone(
    finished: Finished, someone: Person
) -> None:
    home = finished.coordinator.home
    sign_in(someone, home, "operator", "Olga Operator")
    for path in _console(finished.digest):
        is_fine(someone, f"{home.read_private_url()}{path}")
    studies = f"/console/studies/{'0' * 64}", f"/console/studies/{finished.digest}/files/other"
    for path in (*studies, f"/console/drafts/{'0' * 16}", "/console/nowhere"):
        is_fine(someone, f"{home.read_private_url()}{path}", problem=True)


@pytest.fixture(scope="module")
def at_the_desk(
    browser: Browser, finished: Finished, link: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Person]:
    with person(browser, tmp_path_factory.mktemp("desk")) as steward:
        steward.page.goto(link)
        steward.reads("Studies that name this hospital")
        yield steward


@pytest.mark.parametrize("eyes", _EYES.values(), ids=_EYES.keys())
def test_every_page_of_the_desk_can_be_used_by_everyone(
    at_the_desk: Person, finished: Finished, eyes: tuple[Scheme, int, float]
) -> None:
    scheme, width, zoom = eyes
    page, base = at_the_desk.page, at_the_desk.page.url.split("/desk-")
    desk_url = f"{base[0]}/desk-{base[1].split('/')[0].split('?')[0]}"
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": round(width / zoom), "height": round(860 / zoom)})
    study = f"/studies/{finished.digest}"
    for path in (*_DESK, study, f"{study}/data"):
        is_fine(at_the_desk, f"{desk_url}{path}")
    for path in (f"/studies/{'0' * 64}", "/budget?population=main&epsilon=much"):
        is_fine(at_the_desk, f"{desk_url}{path}", problem=True)


def test_the_console_says_all_that_matters_without_script(
    finished: Finished, browser: Browser, tmp_path: Path
) -> None:
    home = finished.coordinator.home
    with person(browser, tmp_path, script=False) as someone:
        text, _ = issue(home.open_identity(), "Vera", "viewer", 600)
        someone.page.goto(f"{home.read_private_url()}/console")
        someone.page.get_by_label("or its text").fill(text)
        someone.click("Sign in")
        someone.click("tiny, version 2")
        someone.reads("Noisy AUC")
        someone.reads("3 of 3")


@pytest.mark.parametrize("role", ["viewer", "auditor"])
def test_who_may_not_act_sees_no_button_for_it(
    finished: Finished, browser: Browser, tmp_path: Path, role: PersonRole
) -> None:
    with person(browser, tmp_path) as someone:
        sign_in(someone, finished.coordinator.home, role, "Somebody")
        content = someone.page.content()
        assert "Write a study" not in content
        assert ("Audit log" in content) == (role == "auditor")
        someone.click("tiny, version 2")
        someone.reads("Model, report and card")
        assert "Erase its states" not in someone.page.content()
        someone.page.goto(f"{someone.page.url}/shred")
        someone.reads("may not shred a study")


def test_a_desk_that_has_ended_is_never_asked_again(
    finished: Finished, browser: Browser, tmp_path: Path
) -> None:
    """Whoever listens there afterwards may be anybody, and the page asks for passphrases."""
    with ExitStack() as stack:
        someone = stack.enter_context(person(browser, tmp_path))
        with desk(finished.sites[0], said=tmp_path / "said") as opened:
            someone.page.goto(opened)
            someone.click("Opt-outs")
            someone.page.get_by_label("The patient's id").fill("north0001")
        someone.reads("This desk has ended.")
        asked: list[str] = []
        someone.page.on("request", lambda request: asked.append(request.url))
        someone.page.wait_for_timeout(3000)
        assert asked == []
        assert someone.page.locator("button:enabled, input:enabled, a[href]").count() == 0


def test_a_keyboard_is_enough_to_come_from_the_list_to_a_study(
    finished: Finished, browser: Browser, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        someone = stack.enter_context(person(browser, tmp_path))
        sign_in(someone, finished.coordinator.home, "viewer", "Vera")
        page = someone.page
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
        page.keyboard.press("Enter")
        assert page.evaluate("document.activeElement.id") == "main"
        for _ in range(10):
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement.matches('a[href*=studies]')"):
                break
        page.keyboard.press("Enter")
        someone.reads("Hospitals in this study")

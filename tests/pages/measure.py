"""How fast the pages are, in a real browser on loopback: `python -m tests.pages.measure`.

First contentful paint of the console's pages (Chromium's own clock), and the time from when a round
is entered in the coordinator's events until the page shows it.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from tests.end_to_end.agents import agent
from tests.end_to_end.running import all_events, launch
from tests.pages.browser import chromium, person, sign_in
from tests.server.real_coordinator import serving

_PAINT = "performance.getEntriesByName('first-contentful-paint').map(e => e.startTime)"
_WATCH = """
window.seen = {};
new MutationObserver(() => {
  const found = document.getElementById("state").textContent.match(/rounds\\s*(\\d+) of 60/);
  if (found && !(found[1] in window.seen)) window.seen[found[1]] = Date.now();
}).observe(document.getElementById("state"), {childList: true, subtree: true});
"""
_TIMES = 5


def main() -> None:
    folder = Path(tempfile.mkdtemp())
    with ExitStack() as stack:
        coordinator = stack.enter_context(serving(folder / "home"))
        sites = [coordinator.enrol(folder / name, name) for name in ("north", "south", "west")]
        for site in sites:
            stack.enter_context(agent(site))
        playwright = stack.enter_context(sync_playwright())
        browser = stack.enter_context(chromium(playwright, coordinator.home))
        someone = stack.enter_context(person(browser, folder))
        sign_in(someone, coordinator.home, "operator", "Olga")
        digest = launch(coordinator, sites, "distributed noise", steps=60, epsilon=0.5)
        page, base = someone.page, f"{coordinator.home.read_private_url()}/console"
        page.goto(f"{base}/studies/{digest}")
        page.evaluate(_WATCH)
        someone.page.locator("#result").get_by_text("Noisy AUC").wait_for(timeout=120_000)
        _show_updates(page, _rounds(all_events(coordinator.home, digest)))
        for path in ("", f"/studies/{digest}", "/hospitals", "/audit", "/drafts/new"):
            found = sorted(_first_paint(page, f"{base}{path}") for _ in range(_TIMES))
            name = path.replace(digest, "DIGEST")
            _say(
                f"first paint of /console{name}: {found[_TIMES // 2]:.0f} ms, most {found[-1]:.0f}"
            )


def _first_paint(page: Page, url: str) -> float:
    """Milliseconds."""
    page.goto(url)
    while not (found := page.evaluate(_PAINT)):
        time.sleep(0.02)
    return float(found[0])


def _rounds(events: list[dict[str, object]]) -> dict[int, float]:
    """Round -> when it was entered, seconds since 1970."""
    found = {}
    for event in events:
        facts = event["facts"]
        if event["kind"] == "round" and isinstance(facts, dict) and facts["phase"] == "training":
            found[int(facts["round"])] = datetime.fromisoformat(str(event["time"])).timestamp()
    return found


def _show_updates(page: Page, rounds: dict[int, float]) -> None:
    seen = page.evaluate("window.seen")
    waits = sorted(seen[str(n)] / 1000 - entered for n, entered in rounds.items() if str(n) in seen)
    _say(
        f"a round on the page after it was entered: median {statistics.median(waits):.2f} s, "
        f"most {waits[-1]:.2f} s, over {len(waits)} of {len(rounds)} rounds"
    )


def _say(text: str) -> None:
    print(text)  # noqa: T201


if __name__ == "__main__":
    main()

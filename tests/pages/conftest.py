"""One coordinator, one browser and three hospitals for the tests of pages."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Playwright, sync_playwright

from flo.clients.home.site_home import SiteHome
from tests.end_to_end.agents import agent
from tests.end_to_end.running import card_of, launch, wait_for
from tests.pages.browser import chromium
from tests.server.real_coordinator import RealCoordinator, serving


@dataclass(frozen=True)
class Finished:
    """A consortium in which two studies are done. ``digest``: of the one that continues a model."""

    coordinator: RealCoordinator
    sites: list[SiteHome]
    digest: str


@pytest.fixture(scope="session")
def shots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where pictures go: into the docs for `make screenshots`, else nowhere that stays."""
    wanted = os.environ.get("FLO_SCREENSHOTS")
    return Path(wanted).resolve() if wanted else tmp_path_factory.mktemp("shots")


@pytest.fixture(scope="module")
def coordinator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealCoordinator]:
    with serving(tmp_path_factory.mktemp("coordinator") / "home") as real:
        yield real


@pytest.fixture(scope="module")
def playwright() -> Iterator[Playwright]:
    """One at a time; while it is there, nothing else in this process runs an event loop."""
    with sync_playwright() as started:
        yield started


@pytest.fixture(scope="module")
def browser(playwright: Playwright, coordinator: RealCoordinator) -> Iterator[Browser]:
    with chromium(playwright, coordinator.home) as opened:
        yield opened


@pytest.fixture(scope="module")
def finished(
    coordinator: RealCoordinator, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Finished]:
    folder = tmp_path_factory.mktemp("sites")
    sites = [coordinator.enrol(folder / name, name) for name in ("north", "south", "west")]
    with ExitStack() as stack:
        for site in sites:
            stack.enter_context(agent(site))
        home = coordinator.home.directory
        card: str | None = None
        for version in (1, 2):
            more: dict[str, Any] = {"version": version, "schema": 4, "continues": card}
            digest = launch(coordinator, sites, "distributed noise", epsilon=0.5, **more)
            wait_for(lambda s: s["status"] == "done" and _published(s), home, digest)
            card = card_of(coordinator.home, digest)
        yield Finished(coordinator, sites, digest)


def _published(summary: dict[str, list[dict[str, str]]]) -> bool:
    return any(event["kind"] == "published" for event in summary["events"])

"""A real browser for tests: Chromium, a person in front of it, and what they would complain of."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from axe_playwright_python.sync_playwright import Axe
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from playwright.sync_api import Browser, ConsoleMessage, Page, Playwright

from flo.clients.home.site_home import SiteHome
from flo.server.home.coordinator_home import CoordinatorHome
from flo.server.http.tokens import PersonRole, issue

Scheme = Literal["light", "dark"]
_FLAGS = (
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
_SERIOUS = ("serious", "critical")
_WIDTH, _HEIGHT = 1180, 860
_NAMES = ("chromium", "chromium-browser", "google-chrome")


@contextlib.contextmanager
def chromium(playwright: Playwright, trusted: CoordinatorHome) -> Iterator[Browser]:
    """A browser that trusts this coordinator's very key, as if its authority were imported."""
    program = next(filter(None, map(shutil.which, _NAMES)), None)
    assert program, "these tests need Chromium: apt-get install chromium"
    flags = [*_FLAGS]
    if os.geteuid() == 0:
        flags.append("--no-sandbox")
    certificate = x509.load_pem_x509_certificate(trusted.certificate_path.read_bytes())
    public = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    digest = base64.b64encode(hashlib.sha256(public).digest()).decode()
    flags.append(f"--ignore-certificate-errors-spki-list={digest}")
    browser = playwright.chromium.launch(executable_path=program, args=flags)
    try:
        yield browser
    finally:
        browser.close()


@dataclass
class Person:
    """Somebody in front of a page. ``complaints``: what the browser said that it should not."""

    page: Page
    shots: Path
    complaints: list[str] = field(default_factory=list)
    clicks: int = 0

    def click(self, what: str) -> None:
        """A link or button by its name; counted."""
        self.clicks += 1
        named = self.page.get_by_role("button", name=what).or_(
            self.page.get_by_role("link", name=what)
        )
        named.first.click()

    def reads(self, text: str | re.Pattern[str]) -> None:
        """Waits until it can be read."""
        self.page.get_by_text(text).first.wait_for(timeout=120_000)

    def shows(self, name: str) -> None:
        """Keeps a picture of the page, and complains of what a person with a handicap would."""
        self.shots.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=self.shots / f"{name}.png", full_page=True)
        assert violations(self.page) == [], name


@contextlib.contextmanager
def person(
    browser: Browser,
    shots: Path,
    *,
    scheme: Scheme = "light",
    width: int = _WIDTH,
    zoom: float = 1.0,
    script: bool = True,
) -> Iterator[Person]:
    """``zoom``: as in the browser's menu, where a page is then so much narrower."""
    context = browser.new_context(
        color_scheme=scheme,
        viewport={"width": round(width / zoom), "height": round(_HEIGHT / zoom)},
        device_scale_factor=zoom,
        java_script_enabled=script,
    )
    someone = Person(context.new_page(), shots)

    def last_seen(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            someone.complaints.append(message.text)

    someone.page.on("console", last_seen)
    someone.page.on("pageerror", lambda error: someone.complaints.append(str(error)))
    try:
        yield someone
    finally:
        context.close()


def sign_in(someone: Person, home: CoordinatorHome, role: PersonRole, name: str) -> None:
    """With the link that `flo coordinator console` prints."""
    text, _ = issue(home.open_identity(), name, role, 3600)
    someone.page.goto(f"{home.read_private_url()}/console/sign-in#{text}")
    someone.reads(f"This link signs you in as {name}, {role}.")
    someone.click("Sign in")
    someone.page.wait_for_url(f"{home.read_private_url()}/console")


@contextlib.contextmanager
def desk(home: SiteHome, *, said: Path) -> Iterator[str]:
    """`flo site desk` in a process of its own: the link that it prints."""
    place = str(home.directory)
    command = [sys.executable, "-u", "-m", "flo.cli", "site", "desk", "--home", place]
    with (
        said.open("ab") as errors,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, stdin=subprocess.DEVNULL, text=True
        ) as process,
    ):
        try:
            assert process.stdout is not None
            for line in process.stdout:
                if found := re.search(r"http://\S+", line):
                    yield found.group()
                    return
            raise AssertionError(said.read_text())
        finally:
            process.terminate()


def violations(page: Page) -> list[str]:
    """Serious ones of the rules of axe-core, with the element."""
    found: list[dict[str, Any]] = Axe().run(page).response["violations"]
    return [
        f"{rule['id']}: {node['html'][:200]}"
        for rule in found
        if rule["impact"] in _SERIOUS
        for node in rule["nodes"]
    ]


def scrolls_sideways(page: Page) -> bool:
    """Whether the page as a whole is wider than its window."""
    wide = "document.documentElement.scrollWidth > document.documentElement.clientWidth"
    return bool(page.evaluate(wide))

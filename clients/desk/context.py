"""Shared by all desk pages: the site, the page frame, and forms."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from fastapi import Request
from starlette.responses import Response

from flo.clients.approvals.approvers import load_key
from flo.clients.home.emergency_stop import halted
from flo.clients.home.site_home import SiteHome
from flo.keys.identity import Identity
from flo.pages.forms import read_form
from flo.pages.live import LiveUpdates
from flo.pages.templates import Pages, now
from flo.published import explained_page

_TEMPLATES = Path(__file__).parent
QUALITY = _TEMPLATES.parent / "quality"
_MOST_FORM = 16_384


@dataclass(frozen=True)
class DeskContext:
    """State shared by all pages. ``base``: prefix of every path of the desk."""

    home: SiteHome
    base: str
    live: LiveUpdates = field(default_factory=LiveUpdates)

    @cached_property
    def _pages(self) -> Pages:
        return Pages(
            _TEMPLATES,
            QUALITY,
            explained_page.TEMPLATES,
            base=self.base,
            hospital=self.home.read_config().hospital,
            fingerprint=self.home.open_identity().fingerprint,
            coordinator=_coordinator(self.home),
        )

    def page(
        self, request: Request, template: str, status: int = 200, /, **values: Any
    ) -> Response:
        """Return a whole page."""
        return self._pages.page(template, status, **self._frame(request.url.path), **values)

    def parts(self, template: str, path: str, /, **values: Any) -> dict[str, str]:
        """Return the live parts of a page, which are updated while it is open."""
        return self._pages.parts(template, **self._frame(path), **values)

    async def form(self, request: Request, most: int = _MOST_FORM) -> dict[str, str]:
        """Return a form's fields, ``most`` bytes or fewer. Raises MessageError."""
        return await read_form(request.receive, most)

    def _frame(self, path: str) -> dict[str, Any]:
        return {
            "path": path,
            "halt": halted(self.home),
            "now": now(),
            "live": f"{self.base}/live",
            "once": True,
        }


def _coordinator(home: SiteHome) -> str:
    """Return the fingerprint of the coordinator's trusted key; empty before enrolment."""
    return home.read_coordinator().fingerprints[0] if home.coordinator_path.exists() else ""


def person_in(fields: dict[str, str]) -> Identity | None:
    """Load the person's key that a form names; None if none. Raises as ``load_key`` does."""
    path = fields.get("key", "").strip()
    return load_key(Path(path), fields.get("passphrase", "").encode()) if path else None

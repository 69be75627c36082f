"""Data that every page of the console needs, the page frame, and live updates."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from fastapi import Request
from starlette.responses import Response

from flo.audit.log import AuditLog
from flo.pages.live import LiveUpdates
from flo.pages.templates import Pages, now
from flo.published import explained_page
from flo.server.audit.rate_limited import RateLimitedAudit
from flo.server.console.sign_in import CONSOLE, TEMPLATES, person_of
from flo.server.console.view import STEPS, StudyViews
from flo.server.http.roles import ALLOWED
from flo.server.http.tokens import Token
from flo.server.studies.actions import OperatorActions


@dataclass(frozen=True)
class ConsoleContext:
    """``sign``: signs pending events into ``log``. ``fingerprint``: of the coordinator's key."""

    actions: OperatorActions
    views: StudyViews
    log: AuditLog
    sign: Callable[[], None]
    fingerprint: str
    audit: RateLimitedAudit
    live: LiveUpdates = field(default_factory=LiveUpdates)

    @cached_property
    def _pages(self) -> Pages:
        return Pages(
            TEMPLATES,
            explained_page.TEMPLATES,
            base=CONSOLE,
            fingerprint=self.fingerprint,
            steps=STEPS,
        )

    def page(
        self, request: Request, template: str, status: int = 200, /, **values: Any
    ) -> Response:
        """Render a whole page for the role of the signed-in person."""
        frame = _frame(person_of(request.scope), request.url.path)
        return self._pages.page(template, status, **frame, **values)

    def stream(
        self, request: Request, template: str, values: Callable[[], dict[str, Any]]
    ) -> Response:
        """Stream changes of the page at the request's path without its ``/live`` suffix."""
        person, path = person_of(request.scope), request.url.path.removesuffix("/live")
        return self.live.stream(
            self.views.version,
            lambda: self._pages.parts(template, **_frame(person, path), **values()),
            shown=f"{path} {person.role}",
            owner=person.id,
            until=person.expires,
        )


def _frame(person: Token, path: str) -> dict[str, Any]:
    allowed = {action for (role, action), yes in ALLOWED.items() if role == person.role and yes}
    return {"person": person, "path": path, "allowed": allowed, "now": now()}

"""What every page of the console is made from, its frame, and how it is kept as things stand."""

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
from flo.server.audit.rate_limited import RateLimitedAudit
from flo.server.console.sign_in import CONSOLE, TEMPLATES, person_of
from flo.server.console.view import STEPS, StudyViews
from flo.server.http.roles import ALLOWED
from flo.server.http.tokens import Token
from flo.server.studies.actions import OperatorActions


@dataclass(frozen=True)
class ConsoleContext:
    """``log``: the audit log, up to date after ``sign``. ``fingerprint``: the coordinator's own."""

    actions: OperatorActions
    views: StudyViews
    log: AuditLog
    sign: Callable[[], None]
    fingerprint: str
    audit: RateLimitedAudit
    live: LiveUpdates = field(default_factory=LiveUpdates)

    @cached_property
    def _pages(self) -> Pages:
        return Pages(TEMPLATES, base=CONSOLE, fingerprint=self.fingerprint, steps=STEPS)

    def page(
        self, request: Request, template: str, status: int = 200, /, **values: Any
    ) -> Response:
        """A whole page, as its reader may see it."""
        frame = _frame(person_of(request.scope), request.url.path)
        return self._pages.page(template, status, **frame, **values)

    def stream(
        self, request: Request, template: str, values: Callable[[], dict[str, Any]]
    ) -> Response:
        """What changes of the page at this address but for ``/live``."""
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

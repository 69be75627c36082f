"""Access control of the desk: admit only a browser that opened the link on the steward's terminal.

Any user of this machine can connect to a loopback port, and any web page can make a browser do so.
Therefore every request must pass these checks:
    1. its host header names this address and port;
    2. its path begins with a random name, new at each start, so that the browser sends the cookie
       to no other server on this machine, on any port;
    3. it has the cookie, which the first browser to open a link gets; a link works once;
    4. if it changes something, it comes from a page of the desk.

Opening a link needs only 1; static files need only 1 and 2.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Callable

from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from flo.pages.forms import is_foreign
from flo.pages.responses import HEADERS, STATIC, redirect, static

_COOKIE, _OPEN = "flo-desk", "/open/"
_USE_THE_LINK = "open the desk with the link on the terminal where it was started"


class DeskAuth:
    """ASGI application that passes only requests of the steward's browser to ``inside``.

    ``renewed``: called with each link that opens the desk, a new one after each use.
    """

    def __init__(self, port: int, renewed: Callable[[str], None]) -> None:
        self.base = f"/desk-{secrets.token_urlsafe(16)}"
        self.inside: ASGIApp = _no_app
        self._hosts = {f"127.0.0.1:{port}", f"localhost:{port}"}
        self._link, self._renewed = f"http://127.0.0.1:{port}{_OPEN}", renewed
        self._cookie, self._code = secrets.token_urlsafe(32), ""

    def offer_link(self) -> None:
        """Make a new link, which opens the desk once, and report it."""
        self._code = secrets.token_urlsafe(32)
        self._renewed(f"{self._link}{self._code}")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on requests of the steward's browser; answer all others here, also the link."""
        if scope["type"] != "http":
            return
        refusal = self._answer(scope)
        if refusal is not None:
            await refusal(scope, receive, send)
            return
        await self.inside(scope, receive, send)

    def _answer(self, scope: Scope) -> Response | None:
        """Return a response that replaces the page; None to let the steward's browser pass."""
        headers, path = dict(scope["headers"]), scope["path"]
        host = headers.get(b"host", b"").decode("latin-1")
        if host not in self._hosts:
            return _no("this is not an address of the desk")
        if path.startswith(_OPEN):
            return self._open(path.removeprefix(_OPEN))
        if not path.startswith((f"{self.base}/", f"{self.base}?")) and path != self.base:
            return _no(_USE_THE_LINK)
        name = path.removeprefix(f"{self.base}/")
        if name in STATIC:
            return static(name)
        if not hmac.compare_digest(_shown(headers), self._cookie):
            return _no(_USE_THE_LINK)
        if scope["method"] != "GET" and is_foreign(headers, f"http://{host}"):
            return _no("this form did not come from a page of the desk")
        return None

    def _open(self, code: str) -> Response:
        if not self._code or not hmac.compare_digest(code.encode(), self._code.encode()):
            return _no("this link was already used; the terminal shows a new one")
        self.offer_link()
        response = redirect(self.base)
        response.set_cookie(_COOKIE, self._cookie, path=self.base, httponly=True, samesite="strict")
        return response


def _shown(headers: dict[bytes, bytes]) -> str:
    for part in headers.get(b"cookie", b"").decode("latin-1").split(";"):
        name, _, value = part.strip().partition("=")
        if name == _COOKIE and value.isascii():
            return value
    return ""


def _no(why: str) -> Response:
    return PlainTextResponse(f"{why}\n", 403, headers=HEADERS)


async def _no_app(scope: Scope, receive: Receive, send: Send) -> None:
    raise AssertionError("the desk has no pages yet")

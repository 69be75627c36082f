"""Who gets to the desk: the browser that was opened with the link on the steward's terminal.

Anyone on this machine can connect to a loopback port, and any web page can make a browser do so.
Therefore, for every request:
    1. it names this very address and port as its host;
    2. its path begins with a name that was drawn for this start, so that the cookie is sent to no
       other server on this machine, whatever its port;
    3. it shows the cookie, which is given once, to whoever opens the link first;
    4. a form stood on a page of ours.
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


class DeskAuth:
    """ASGI application: ``inside`` sees requests of the steward's browser only.

    ``renewed``: told of the link to open the desk with, and of another once that was used.
    """

    def __init__(self, port: int, renewed: Callable[[str], None]) -> None:
        self.base = f"/desk-{secrets.token_urlsafe(16)}"
        self.inside: ASGIApp = _no_app
        self._hosts = {f"127.0.0.1:{port}", f"localhost:{port}"}
        self._link, self._renewed = f"http://127.0.0.1:{port}{_OPEN}", renewed
        self._cookie, self._code = secrets.token_urlsafe(32), ""

    def offer_link(self) -> None:
        """Make a link that opens the desk once."""
        self._code = secrets.token_urlsafe(32)
        self._renewed(f"{self._link}{self._code}")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on what the steward's browser asks; all else is answered here, the link included."""
        if scope["type"] != "http":
            return
        refusal = self._answer(scope)
        if refusal is not None:
            await refusal(scope, receive, send)
            return
        await self.inside(scope, receive, send)

    def _answer(self, scope: Scope) -> Response | None:
        """What to say instead of what was asked for; None for the steward's browser."""
        headers, path = dict(scope["headers"]), scope["path"]
        host = headers.get(b"host", b"").decode("latin-1")
        if host not in self._hosts:
            return _no("this is not an address of the desk")
        if path.startswith(_OPEN):
            return self._open(path.removeprefix(_OPEN))
        if not path.startswith((f"{self.base}/", f"{self.base}?")) and path != self.base:
            return _no("open the desk with the link on the terminal where it was started")
        name = path.removeprefix(f"{self.base}/")
        if name in STATIC:
            return static(name)
        if not hmac.compare_digest(_shown(headers), self._cookie):
            return _no("open the desk with the link on the terminal where it was started")
        if scope["method"] != "GET" and is_foreign(headers, f"http://{host}"):
            return _no("this form did not come from a page of the desk")
        return None

    def _open(self, code: str) -> Response:
        if not self._code or not hmac.compare_digest(code.encode(), self._code.encode()):
            return _no("this link was used already; a new one stands on the terminal")
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

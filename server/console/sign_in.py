"""Authentication for the console: a person's token, sent once and then stored in a cookie.

    /console/style.css ...   static files, without authentication
    /console/sign-in         shows a form; accepts a token, or the access file that contains it
    /console/sign-out        deletes the cookie
    anything else            needs a token in the cookie whose role ``flo.server.http.roles`` allows
The cookie contains only the token and expires with it. Scripts cannot read it, and the browser
sends it over TLS and to this host only. A form is accepted only if its Origin header names this
host.
"""

from __future__ import annotations

import asyncio
import logging
import time
from pathlib import Path
from urllib.parse import quote

from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from flo.documents import canonical
from flo.errors import FloError, MessageError, PolicyError, TrustError
from flo.http.asgi import headers_of
from flo.http.protocol import PERSON
from flo.pages.forms import form_of, is_foreign, read_form
from flo.pages.live import over
from flo.pages.responses import STATIC, redirect, static
from flo.pages.templates import Pages
from flo.server.audit.rate_limited import RateLimitedAudit
from flo.server.http.roles import refuse_forbidden
from flo.server.http.tokens import Token
from flo.server.http.tokens import read as read_token

log = logging.getLogger("flo.server.console")

CONSOLE = "/console"
SIGN_IN, SIGN_OUT = f"{CONSOLE}/sign-in", f"{CONSOLE}/sign-out"
COOKIE = "__Host-flo"
TEMPLATES = Path(__file__).parent
_SAFE = ("GET", "HEAD")  # methods that change no state
_MOST_SHOWN = 32_768  # bytes: an access file with its certificate, in a form


class ConsoleAuth:
    """ASGI application that passes only authorised requests on to ``inside``."""

    def __init__(self, inside: ASGIApp, public: bytes, audit: RateLimitedAudit) -> None:
        """``public``: the coordinator's key, which signs tokens."""
        self._inside, self._public, self._audit = inside, public, audit
        self._pages = Pages(TEMPLATES, base=CONSOLE, person=None)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on a request that the person's role allows; answer any other one here."""
        response = await self._at_the_door(scope, receive)
        if response is not None:
            await response(scope, receive, send)
            return
        await self._inside(scope, receive, send)

    async def _at_the_door(self, scope: Scope, receive: Receive) -> Response | None:
        """Return a response, or None for an authorised request; its token is then in ``scope``."""
        path, method, headers = scope["path"], scope["method"], headers_of(scope)
        name = path.removeprefix(f"{CONSOLE}/")
        if method == "GET" and name in STATIC:
            return static(name)
        if method not in _SAFE and is_foreign(headers, _origin(headers)):
            return await self._refuse(path, 403, "this form is not from a page of this coordinator")
        if path == SIGN_IN:
            return await self._sign_in(method, receive, scope)
        if path == SIGN_OUT and method == "POST":
            return _with_cookie(redirect(SIGN_IN), "", 0)
        try:
            token = read_token(_cookie(headers), self._public)
        except TrustError as error:
            if path.endswith("/live"):
                return over()
            if method not in _SAFE:
                return await self._refuse(path, 401, f"you are signed out: {error}")
            return redirect(f"{SIGN_IN}?next={quote(path)}")
        try:
            refuse_forbidden(token.role, method, path)
        except PolicyError as error:
            return await self._refuse(path, 403, f"{token.name}: {error}")
        scope[PERSON] = token
        return None

    async def _sign_in(self, method: str, receive: Receive, scope: Scope) -> Response:
        query = scope["query_string"].decode("latin-1")
        if method != "POST":
            return self._form(200, query)
        try:
            fields = await read_form(receive, _MOST_SHOWN)
            token = read_token(_token_in(fields.get("token", "")), self._public)
            if token.role not in ("operator", "viewer", "auditor"):
                raise TrustError("this token is a job's, not a person's")
        except FloError as error:
            await self._note(SIGN_IN, str(error))
            return self._form(403, query, str(error))
        await asyncio.to_thread(
            self._audit.record, "signed-in", id=token.id, name=token.name, role=token.role
        )
        text = _token_in(fields["token"])
        return _with_cookie(redirect(_next(query)), text, int(token.expires - time.time()))

    def _form(self, status: int, query: str, why: str = "") -> Response:
        return self._pages.page("sign_in.html.j2", status, query=query, why=why)

    async def _refuse(self, path: str, status: int, why: str) -> Response:
        await self._note(path, why)
        return self._pages.page(
            "problem.html.j2",
            status,
            title="Not allowed",
            why=why,
            hint="sign in again, or ask the coordinator's operator for a token with another role",
        )

    async def _note(self, path: str, why: str) -> None:
        facts = {"path": path[:80], "why": why}
        log.warning("refused", extra={"fields": facts})
        await asyncio.to_thread(self._audit.record, "denied", **facts)


def person_of(scope: Scope) -> Token:
    """Return the token of a request that ``ConsoleAuth`` has authorised."""
    token: Token = scope[PERSON]
    return token


def _origin(headers: dict[bytes, bytes]) -> str:
    return f"https://{headers.get(b'host', b'').decode('latin-1')}"


def _cookie(headers: dict[bytes, bytes]) -> str:
    for part in headers.get(b"cookie", b"").decode("latin-1").split(";"):
        name, _, value = part.strip().partition("=")
        if name == COOKIE:
            return value
    return ""


def _with_cookie(response: Response, value: str, seconds: int) -> Response:
    """Set the cookie. ``value``: a token (no character needs quoting), or "" to delete it."""
    response.headers["set-cookie"] = (
        f"{COOKIE}={value}; Max-Age={seconds}; Path=/; Secure; HttpOnly; SameSite=Lax"
    )
    return response


def _token_in(text: str) -> str:
    """Return the token in ``text``: bare or in an access file. Raises MessageError."""
    text = text.strip()
    if not text.startswith("{"):
        return text
    document = canonical.decode(text.encode(), limit=_MOST_SHOWN, what="access file")
    found = document.get("token") if isinstance(document, dict) else None
    if not isinstance(found, str):
        raise MessageError("this is not an access file: it has no token")
    return found


def _next(query: str) -> str:
    """Return the console page to redirect to after signing in; by default the first page."""
    try:
        wanted = form_of(query.encode()).get("next", "")
    except MessageError:
        return CONSOLE
    plain = all(letter.isalnum() or letter in "/-" for letter in wanted)
    return wanted if plain and wanted.startswith(f"{CONSOLE}/") else CONSOLE

"""What the coordinator's console and the steward's desk have in common: look, templates, headers.

Pages are made here and on no other machine: no script, style, font or image comes from anywhere
else, and the headers say so to the browser. Every value is escaped; control characters and what
reorders a line are shown as �. What a page says, and who may see it, its own room decides.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from flo.errors import MessageError
from flo.identity import spoken
from flo.pages import plots
from flo.text import of_auc, printable

_HERE = Path(__file__).parent
_STATIC = {
    "style.css": "text/css; charset=utf-8",
    "live.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}
STATIC = frozenset(_STATIC)
LIVE = "live_"  # begins the name of a template's block that is sent again when it changes
_MACROS = ("plane", "intervals", "bar", "bars", "wide")
_MOST_FIELDS, _FORM_SECONDS = 50, 30.0
HEADERS = {
    "cache-control": "no-store",
    "content-security-policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; "
        "connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    ),
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "referrer-policy": "same-origin",  # "no-referrer" would hide the origin of a form, too
    "x-content-type-options": "nosniff",
}
# A document that brings its own style, such as a report: nothing runs in it and nothing is fetched.
ALONE = HEADERS | {
    "content-security-policy": "sandbox; default-src 'none'; style-src 'unsafe-inline'; "
    "img-src data:; frame-ancestors 'none'"
}


class Pages:
    """The templates of one room, in its folders. ``always``: values that every page is given."""

    def __init__(self, *folders: Path, **always: Any) -> None:
        self._environment = Environment(
            loader=FileSystemLoader([*folders, _HERE]),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            finalize=lambda value: printable(value) if type(value) is str else value,
        )
        self._environment.filters.update(
            spoken=spoken,
            short=lambda digest: str(digest)[:12],
            day=lambda time: str(time)[:10],
            moment=lambda time: str(time)[:19].replace("T", " "),
            percent=lambda share: f"{100 * share:.1f} %",
            eps=lambda epsilon: f"{epsilon:.4f}",
            auc=lambda found: of_auc(found["auc"], found["low"], found["high"]),
            facts=_facts,
        )
        self._environment.globals.update(plots=plots, **always)
        macros = self._environment.get_template("plots.html.j2").module
        # Known everywhere, so that a live block needs nothing of the page around it.
        self._environment.globals.update({name: getattr(macros, name) for name in _MACROS})

    def page(self, template: str, status: int = 200, /, **values: Any) -> Response:
        """A whole page."""
        return HTMLResponse(self._render(template, values), status, headers=HEADERS)

    def text(self, template: str, /, **values: Any) -> str:
        """A page that is a file: it brings its own style, as ``style``, and loads nothing."""
        style = Markup((_HERE / "style.css").read_text(encoding="utf-8"))  # noqa: S704 - our own
        return self._render(template, {**values, "style": style})

    def _render(self, template: str, values: dict[str, Any]) -> str:
        return self._environment.get_template(template).render(values)

    def parts(self, template: str, /, **values: Any) -> dict[str, str]:
        """The live blocks of a page, by the id of the element that holds each."""
        found = self._environment.get_template(template)
        context = found.new_context(values)
        return {
            name.removeprefix(LIVE): "".join(block(context))
            for name, block in found.blocks.items()
            if name.startswith(LIVE)
        }


def static(name: str) -> Response:
    """One of ``STATIC``."""
    return Response((_HERE / name).read_bytes(), headers=HEADERS | {"content-type": _STATIC[name]})


def redirect(path: str) -> Response:
    """See another page, whatever was sent here."""
    return RedirectResponse(path, 303, headers=HEADERS)


def download(data: bytes, name: str, media_type: str = "application/octet-stream") -> Response:
    """A file to keep; ``name`` has letters, digits, dots and hyphens only."""
    return Response(
        data,
        media_type=media_type,
        headers=HEADERS | {"content-disposition": f'attachment; filename="{name}"'},
    )


async def read_form(receive: Callable[[], Awaitable[Any]], limit: int) -> dict[str, str]:
    """The fields of a form that arrives. Raises MessageError: too large, too slow, or no form."""
    parts, size, more = list[bytes](), 0, True
    try:
        async with asyncio.timeout(_FORM_SECONDS):
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise MessageError("the form was cut off")
                parts.append(message.get("body", b""))
                size += len(parts[-1])
                if size > limit:
                    raise MessageError(f"this form has more than {limit} bytes")
                more = message.get("more_body", False)
    except TimeoutError as error:
        raise MessageError(f"no whole form in {_FORM_SECONDS:g} seconds") from error
    return form_of(b"".join(parts))


def form_of(body: bytes) -> dict[str, str]:
    """The fields of a form as a browser sends it. Raises MessageError for anything else."""
    try:
        pairs = parse_qsl(
            body.decode("ascii"),
            keep_blank_values=True,
            strict_parsing=bool(body),
            errors="strict",
            max_num_fields=_MOST_FIELDS,
        )
    except (UnicodeDecodeError, ValueError) as error:
        raise MessageError("this is not a form of ours") from error
    if len({name for name, _ in pairs}) != len(pairs):
        raise MessageError("a field stands twice in this form")
    return {name: value.replace("\r\n", "\n") for name, value in pairs}


def is_foreign(headers: dict[bytes, bytes], origin: str) -> bool:
    """Whether a request that changes something was sent by another page than ours.

    Browsers name the origin of every form; who does not is no browser of ours.
    """
    return headers.get(b"origin", b"").decode("latin-1") != origin


def came_from(request: Request) -> str:
    """The path of the page of ours that a request came from; empty if it is not known."""
    address = urlsplit(request.headers.get("referer", ""))
    own = address.netloc == request.headers.get("host", "")
    elsewhere = address.path.startswith("//")  # as a link, it would name another host
    return address.path if own and not elsewhere and address.path != request.url.path else ""


def now() -> str:
    """The time to show, to the second, with the zone of this machine."""
    return datetime.now().astimezone().isoformat(timespec="seconds")


def _facts(facts: dict[str, Any]) -> str:
    """An audit entry's facts on one line; long hexadecimal numbers by their first digits."""
    return " ".join(f"{name}={_brief(value)}" for name, value in facts.items())


def _brief(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    if len(text) > 40 and all(letter in "0123456789abcdef" for letter in text):
        return f"{text[:12]}…"
    return text if len(text) <= 200 else f"{text[:199]}…"

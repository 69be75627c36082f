"""Responses with the headers of every page: nothing is loaded from another machine, or cached."""

from __future__ import annotations

from pathlib import Path

from starlette.responses import RedirectResponse, Response

_HERE = Path(__file__).parent
_STATIC = {
    "style.css": "text/css; charset=utf-8",
    "live.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}
STATIC = frozenset(_STATIC)
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

"""HTTP responses with the security headers of every page: no cache, no content from elsewhere."""

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
    "referrer-policy": "same-origin",  # "no-referrer" would also hide the origin of a form
    "x-content-type-options": "nosniff",
}
# For a document with inline style, such as a report: it can run no script and load no resource.
ALONE = HEADERS | {
    "content-security-policy": "sandbox; default-src 'none'; style-src 'unsafe-inline'; "
    "img-src data:; frame-ancestors 'none'"
}


def static(name: str) -> Response:
    """Return the static file ``name``, one of ``STATIC``."""
    return Response((_HERE / name).read_bytes(), headers=HEADERS | {"content-type": _STATIC[name]})


def redirect(path: str) -> Response:
    """Redirect to ``path`` (303: the browser fetches it with GET, after any request)."""
    return RedirectResponse(path, 303, headers=HEADERS)


def download(data: bytes, name: str, media_type: str = "application/octet-stream") -> Response:
    """Return ``data`` as a download; ``name`` has letters, digits, dots and hyphens only."""
    return Response(
        data,
        media_type=media_type,
        headers=HEADERS | {"content-disposition": f'attachment; filename="{name}"'},
    )

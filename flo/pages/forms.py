"""Parsing of submitted forms, and checks that one of our pages sent them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from starlette.requests import Request

from flo.errors import MessageError

_MOST_FIELDS, _FORM_SECONDS = 1000, 30.0  # a field for each partner


async def read_form(receive: Callable[[], Awaitable[Any]], limit: int) -> dict[str, str]:
    """Receive a form and return its fields. Raises MessageError: too large, too slow, no form."""
    parts, size, more = list[bytes](), 0, True
    try:
        async with asyncio.timeout(_FORM_SECONDS):
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise MessageError("the form was interrupted")
                parts.append(message.get("body", b""))
                size += len(parts[-1])
                if size > limit:
                    raise MessageError(f"this form has more than {limit} bytes")
                more = message.get("more_body", False)
    except TimeoutError as error:
        raise MessageError(f"the form was not complete after {_FORM_SECONDS:g} seconds") from error
    return form_of(b"".join(parts))


def form_of(body: bytes) -> dict[str, str]:
    """Return the fields of a URL-encoded form. Raises MessageError for anything else."""
    try:
        pairs = parse_qsl(
            body.decode("ascii"),
            keep_blank_values=True,
            strict_parsing=bool(body),
            errors="strict",
            max_num_fields=_MOST_FIELDS,
        )
    except (UnicodeDecodeError, ValueError) as error:
        raise MessageError("this is not a valid form") from error
    if len({name for name, _ in pairs}) != len(pairs):
        raise MessageError("a field appears twice in this form")
    return {name: value.replace("\r\n", "\n") for name, value in pairs}


def is_foreign(headers: dict[bytes, bytes], origin: str) -> bool:
    """Check whether a state-changing request came from a page of another origin.

    Browsers send the origin with every form, so a request without it counts as foreign.
    """
    return headers.get(b"origin", b"").decode("latin-1") != origin


def came_from(request: Request) -> str:
    """Return the path of our page that a request came from; empty if unknown or the same page."""
    address = urlsplit(request.headers.get("referer", ""))
    own = address.netloc == request.headers.get("host", "")
    elsewhere = address.path.startswith("//")  # as a link, it would name another host
    return address.path if own and not elsewhere and address.path != request.url.path else ""

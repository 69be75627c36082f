"""Forms that a browser sends, and whether one of our own pages sent them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from starlette.requests import Request

from flo.errors import MessageError

_MOST_FIELDS, _FORM_SECONDS = 50, 30.0


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

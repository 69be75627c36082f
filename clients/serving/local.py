"""Calls to a running server through the site's own socket: for the desk and for `flo doctor`."""

from __future__ import annotations

import json
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

from flo.clients.serving.own_socket import connected
from flo.errors import NetworkError

_SECONDS = 10.0


def status(folder: Path) -> dict[str, Any] | None:
    """Return who answers, since when and how often; None if no server runs on this folder."""
    try:
        found: dict[str, Any] = _call(folder, "GET", "/status", None)
    except NetworkError:
        return None
    return found


def ask(folder: Path, name: str, request: bytes) -> Any:
    """Ask a model as the record system does; return the answer's JSON.

    Raises NetworkError: no server runs, or it refuses the request.
    """
    return _call(folder, "POST", f"/cds-services/{name}", request)


def _call(folder: Path, method: str, path: str, body: bytes | None) -> Any:
    connection = _Connection(folder)
    try:
        connection.request(method, path, body)
        answer = connection.getresponse()
        status, data = answer.status, answer.read()
    except (OSError, HTTPException) as error:
        raise NetworkError(
            "no server answers on this folder", hint="flo model serve; or systemctl start flo-model"
        ) from error
    finally:
        connection.close()
    try:
        found = json.loads(data)
    except ValueError as error:
        raise NetworkError(f"the server answered {status}") from error
    if status != HTTPStatus.OK:
        raise NetworkError(f"the server refused the request: {found.get('error', '')}")
    return found


class _Connection(HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, folder: Path) -> None:
        super().__init__("localhost", timeout=_SECONDS)
        self._folder = folder

    def connect(self) -> None:
        """Connect. Raises OSError if nobody listens."""
        self.sock = connected(self._folder, _SECONDS)

"""The operator's side of the private listener: a token, TLS to the coordinator's own authority."""

from __future__ import annotations

import ssl
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx

from flo.errors import EXIT_USAGE, FloError, NetworkError, TrustError
from flo.server.home import CoordinatorHome


class Operator:
    """Calls ``/v1/flo/*`` of the coordinator whose folder this is."""

    def __init__(self, directory: Path) -> None:
        home = CoordinatorHome.open(directory)
        context = ssl.create_default_context(cafile=str(home.ca_path))
        self._http = httpx.Client(
            base_url=home.private_url,
            verify=context,
            headers={"authorization": f"Bearer {home.token}"},
            timeout=30,
        )

    def __enter__(self) -> Operator:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._http.close()

    def call(self, method: str, path: str, *, body: bytes | None = None) -> Any:
        """Parsed reply. Raises NetworkError, TrustError, or the coordinator's own refusal."""
        try:
            response = self._http.request(method, f"/v1/flo/{path}", content=body)
        except httpx.TransportError as error:
            raise NetworkError(
                f"no coordinator answers at {self._http.base_url}",
                hint="start it: flo coordinator serve",
            ) from error
        if response.status_code == 401:
            raise TrustError("the coordinator does not accept this operator token")
        document = response.json()
        if response.status_code != 200:
            refusal = FloError(str(document.get("error")), hint=str(document.get("hint", "")))
            refusal.exit_code = int(document.get("exit_code", EXIT_USAGE))
            raise refusal
        return document

"""Client of the private listener: a token, and TLS verified by the coordinator's own CA."""

from __future__ import annotations

import ssl
import time
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, Literal

import httpx
from pydantic import Field, StringConstraints

from flo.documents.document import Document, read_json
from flo.errors import EXIT_USAGE, FloError, MessageError, NetworkError, TrustError, UsageError
from flo.host.proxy import proxy_for
from flo.server.home.coordinator_home import CoordinatorHome
from flo.server.http.tokens import issue

_LIMIT, _OWN_SECONDS = 1 << 20, 900
_ASK_AGAIN = "ask whoever owns the coordinator's folder: flo coordinator token NAME --role ROLE"


class Access(Document):
    """Access file, as ``flo coordinator token`` writes it."""

    schema_version: Literal[1] = 1
    url: Annotated[str, Field(pattern=r"^https://[^/\s]{1,253}$")]
    ca: Annotated[str, StringConstraints(max_length=8192)]
    token: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._=-]{1,2048}$")]


def read_access(place: Path) -> Access:
    """Read an access file. Raises UsageError if it is not one."""
    try:
        return read_json(Access, place, limit=_LIMIT)
    except (MessageError, UsageError) as error:
        raise UsageError(f"{place} is not an access file: {error}", hint=_ASK_AGAIN) from error


def call_once(place: Path, method: str, path: str, *, body: bytes | None = None) -> Any:
    """Make one call with an ``Operator``, then close its connection."""
    with Operator(place) as operator:
        return operator.call(method, path, body=body)


class Operator:
    """Client of ``/v1/flo/*``, with an access file or as the owner of the coordinator's folder."""

    def __init__(self, place: Path) -> None:
        self._home = None if place.is_file() else CoordinatorHome.open(place)
        if self._home is None:
            self._access = read_access(place)
        else:
            url, ca = self._home.read_private_url(), self._home.ca_path.read_text()
            unsigned = "-"  # ``_bearer`` signs a token when it is needed
            self._access = Access(url=url, ca=ca, token=unsigned)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        try:
            context.load_verify_locations(cadata=self._access.ca)
            self._http = httpx.Client(
                base_url=self._access.url,
                verify=context,
                timeout=30,
                trust_env=False,
                proxy=proxy_for(self._access.url),
            )
        except (ssl.SSLError, ValueError, TypeError, httpx.InvalidURL) as error:
            raise UsageError(f"{place} is not an access file", hint=_ASK_AGAIN) from error
        self._token, self._good_until = self._access.token, float("inf")
        if self._home is not None:
            self._good_until = 0.0

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
        """Return the parsed reply.

        Raises NetworkError, TrustError, or the coordinator's own refusal, as a FloError.
        """
        return self.fetch(method, path, body=body).json()

    def fetch(self, method: str, path: str, *, body: bytes | None = None) -> httpx.Response:
        """Return the raw reply. Raises as ``call`` does."""
        headers = {"authorization": f"Bearer {self._bearer()}"}
        try:
            response = self._http.request(method, f"/v1/flo/{path}", content=body, headers=headers)
        except httpx.TransportError as error:
            raise NetworkError(
                f"no coordinator answers at {self._http.base_url}",
                hint="start it: flo coordinator serve",
            ) from error
        if response.status_code == 401:
            raise TrustError(
                "the coordinator does not accept this token",
                hint="it has expired, or the coordinator's key is new: flo coordinator token",
            )
        if response.status_code == 403:
            raise TrustError(
                f"the coordinator refuses: {response.json().get('error')}",
                hint="ask its operator for a token with another role",
            )
        if response.status_code != 200:
            document = response.json()
            refusal = FloError(str(document.get("error")), hint=str(document.get("hint", "")))
            refusal.exit_code = int(document.get("exit_code", EXIT_USAGE))
            raise refusal
        return response

    def _bearer(self) -> str:
        """Return the token; as owner of the folder, sign a new one before the last expires."""
        if self._home is not None and time.monotonic() > self._good_until - 60:
            self._token, _ = issue(
                self._home.open_identity(), "owner of the folder", "operator", _OWN_SECONDS
            )
            self._good_until = time.monotonic() + _OWN_SECONDS
        return self._token

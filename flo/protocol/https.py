"""HTTPS connection to a coordinator: TLS 1.3 under its own authority, no redirects, capped replies.

Sites, operators' commands and aggregators use it. Each of them adds its credential, its paths, and
its own words for what was refused.
"""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

import httpx

from flo.documents import canonical
from flo.errors import (
    EXIT_BUG,
    EXIT_NETWORK,
    EXIT_REFUSED,
    EXIT_TRUST,
    EXIT_USAGE,
    FloError,
    MessageError,
    NetworkError,
    RefusedError,
    TrustError,
    UsageError,
)
from flo.host.proxy import proxy_for

TIMEOUT = httpx.Timeout(30.0, connect=5.0)
_MAX_ERROR_BYTES, _MAX_REASON = 1 << 20, 500
_EXIT_CODES = (EXIT_USAGE, EXIT_REFUSED, EXIT_TRUST, EXIT_NETWORK, EXIT_BUG)
_FAMILIES: dict[int, type[FloError]] = {
    400: MessageError,
    401: TrustError,
    403: TrustError,
    413: MessageError,
}


def trusting(ca: str) -> ssl.SSLContext:
    """Return a TLS 1.3 context that trusts the authority ``ca`` (PEM) and no other.

    Raises:
        TrustError: ``ca`` cannot be read.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # the CA may be an intermediate one
    try:
        context.load_verify_locations(cadata=ca)
    except (ssl.SSLError, ValueError, TypeError) as error:
        raise TrustError(
            "the coordinator's certificate authority cannot be read",
            hint="ask the coordinator for a new invitation, or restore the site's files",
        ) from error
    return context


class CappedTransport(httpx.HTTPTransport):
    """Transport that refuses encoded replies and replies larger than ``limit`` bytes.

    It connects through the proxy that the environment names for ``url``. The proxy cannot read
    what TLS protects.
    """

    def __init__(self, url: str, context: ssl.SSLContext, limit: int) -> None:
        super().__init__(verify=context, retries=0, proxy=proxy_for(url))
        self._limit = limit

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request that asks for no compression; the limit applies as the reply is read.

        Raises:
            httpx.HTTPError: the reply is compressed, or could not be fetched.
        """
        request.headers["accept-encoding"] = "identity"
        response = super().handle_request(request)
        if response.headers.get("content-encoding", "identity") != "identity":
            response.close()
            raise httpx.DecodingError("a compressed reply is refused", request=request)
        stream = response.stream
        if not isinstance(stream, httpx.SyncByteStream):
            raise httpx.ReadError("not a synchronous stream", request=request)
        return httpx.Response(
            response.status_code,
            headers=response.headers,
            stream=_Capped(stream, self._limit, request),
            extensions=response.extensions,
        )


class _Capped(httpx.SyncByteStream):
    def __init__(self, inner: httpx.SyncByteStream, limit: int, request: httpx.Request) -> None:
        self._inner, self._limit, self._request = inner, limit, request

    def __iter__(self) -> Iterator[bytes]:
        size = 0
        for part in self._inner:
            size += len(part)
            if size > self._limit:
                raise httpx.ReadError(
                    f"a reply of more than {self._limit} bytes", request=self._request
                )
            yield part

    def close(self) -> None:
        self._inner.close()


class Connection:
    """Connections to the coordinator at ``url``. ``limit``: bytes of the largest reply."""

    def __init__(
        self,
        url: str,
        context: ssl.SSLContext,
        *,
        limit: int,
        timeout: httpx.Timeout = TIMEOUT,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Raises UsageError if ``url`` is not a valid URL."""
        self.url = url
        try:
            self.http = httpx.Client(
                base_url=url,
                transport=CappedTransport(url, context, limit),
                timeout=timeout,
                follow_redirects=False,
                headers=headers,
            )
        except httpx.InvalidURL as error:
            raise UsageError(f"{url[:80]!r} is not a valid address of a coordinator") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections; a transfer in progress is lost."""
        self.http.close()


@dataclass(frozen=True)
class ErrorReply:
    """Error that a coordinator answered with.

    ``hint`` and ``exit_code`` (0: none named) are for an operator's own command only: another
    party must not choose how a site's command ends, or what it tells a steward to do.
    """

    status: int
    why: str
    hint: str
    exit_code: int

    @classmethod
    def of(cls, response: httpx.Response) -> ErrorReply:
        """Read the error document of a reply; without one, ``why`` is the status."""
        found: dict[str, Any] = {}
        with contextlib.suppress(MessageError):  # a proxy, or another program, may have answered
            document = canonical.decode(response.content, limit=_MAX_ERROR_BYTES, what="error")
            found = document if isinstance(document, dict) else {}
        code = found.get("exit_code")
        return cls(
            status=response.status_code,
            why=str(found.get("error") or f"status {response.status_code}")[:_MAX_REASON],
            hint=str(found.get("hint", ""))[:_MAX_REASON],
            exit_code=code if type(code) is int and code in _EXIT_CODES else 0,
        )

    def error(self, said: str, hint: str = "") -> FloError:
        """Return the error for this status, saying ``said``; the table for all clients.

        5xx is the network's; 401 and 403 are about trust; 400 and 413 about the request; any other
        status is a rule of the coordinator.
        """
        family = NetworkError if self.status >= 500 else _FAMILIES.get(self.status, RefusedError)
        return family(said, hint=hint)

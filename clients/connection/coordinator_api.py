"""Client for ``/v1/site/*``: mutual TLS, no redirects, replies of limited size."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

import httpx

from flo.documents import canonical
from flo.documents.text import escape_for_terminal
from flo.errors import MessageError, NetworkError, RefusedError, TrustError, UsageError
from flo.host.proxy import proxy_for, shown
from flo.keys.tls import load_certificate

MAX_REPLY_BYTES = 64 << 20
_TIMEOUT = httpx.Timeout(30.0, connect=5.0)


def client_context(ca: str, certificate: bytes, key: bytes) -> ssl.SSLContext:
    """Return a TLS 1.3 context that trusts ``ca`` and presents our certificate (both PEM).

    Raises:
        TrustError: ``ca``, ``certificate`` or ``key`` cannot be read.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    try:
        context.load_verify_locations(cadata=ca)
    except (ssl.SSLError, ValueError, TypeError) as error:
        raise TrustError(
            "the coordinator's certificate authority cannot be read",
            hint="ask the coordinator for a new invitation, or restore the site's files",
        ) from error
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # the CA may be an intermediate one
    load_certificate(context, certificate, key)
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


class CoordinatorApi:
    """Connection to the coordinator's ``/v1/site/*`` calls."""

    def __init__(self, url: str, context: ssl.SSLContext) -> None:
        """Raises UsageError if ``url`` is not a valid URL."""
        self._url = url
        try:
            self._http = httpx.Client(
                base_url=url,
                transport=CappedTransport(url, context, MAX_REPLY_BYTES),
                timeout=_TIMEOUT,
                follow_redirects=False,
            )
        except httpx.InvalidURL as error:
            raise UsageError(f"{url[:80]!r} is not an address of a coordinator") from error

    def __enter__(self) -> CoordinatorApi:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._http.close()

    def call(self, name: str, body: Any) -> Any:
        """POST ``/v1/site/name`` and return the parsed reply.

        Raises:
            NetworkError: the coordinator is not reachable, or failed. TrustError: its certificate
            is from another authority, or it refuses this hospital. RefusedError: one of its rules
            forbids the call. MessageError: the request has the wrong shape or names something that
            the coordinator does not have, or the reply is malformed.
        """
        try:
            response = self._http.post(f"/v1/site/{name}", content=canonical.encode(body))
        except httpx.RequestError as error:
            raise self._unreachable(error) from error
        if response.status_code >= 500:
            raise NetworkError(f"the coordinator answered {name} with {response.status_code}")
        if response.status_code != 200:
            raise self._refused(name, response)
        return canonical.decode(response.content, limit=MAX_REPLY_BYTES, what=f"reply to {name}")

    def _unreachable(self, error: httpx.RequestError) -> NetworkError | TrustError:
        text = str(error).upper()
        if any(word in text for word in ("NOT YET VALID", "HAS EXPIRED")):
            return NetworkError(
                f"{self._url} shows a certificate that is not valid at this machine's time, "
                f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
                hint="compare it with the coordinator's (date -u): a clock is wrong, or the "
                "coordinator has to be started again, which renews its certificate",
            )
        if any(word in text for word in ("CERTIFICATE", "UNKNOWN_CA", "UNKNOWN CA", "ALERT")):
            return TrustError(
                f"{self._url} shows a certificate of another authority, or refused ours",
                hint="compare the coordinator's fingerprint; enrol again if its keys changed",
            )
        proxy = proxy_for(self._url)
        if proxy is None:
            return NetworkError(
                f"the coordinator at {self._url} cannot be reached ({type(error).__name__})",
                hint="is `flo coordinator serve` running, and does the firewall allow it?",
            )
        said = (
            f": {escape_for_terminal(str(error))[:200]}"
            if isinstance(error, httpx.ProxyError)
            else ""
        )
        return NetworkError(
            f"the coordinator at {self._url} cannot be reached through the proxy {shown(proxy)} "
            f"({type(error).__name__}{said})",
            hint="HTTPS_PROXY names it; `flo doctor` tells which part does not answer",
        )

    @staticmethod
    def _refused(name: str, response: httpx.Response) -> TrustError | RefusedError | MessageError:
        try:
            document = canonical.decode(response.content, limit=65_536, what="error")
            why = str(document["error"])[:500]
        except (MessageError, KeyError, TypeError):
            why = f"status {response.status_code}"
        if response.status_code in (401, 403):
            return TrustError(
                f"the coordinator refused {name}: {why}",
                hint="an invitation works once; a revoked hospital needs a new one",
            )
        family = MessageError if response.status_code in (400, 413) else RefusedError
        return family(f"the coordinator refused {name}: {why}")

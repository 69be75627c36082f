"""Client for ``/v1/site/*``: mutual TLS, and errors in a site's words."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime
from typing import Any

import httpx

from flo.documents import canonical
from flo.documents.text import escape_for_terminal
from flo.errors import FloError, NetworkError, TrustError
from flo.host.proxy import proxy_for, shown
from flo.keys.tls import load_certificate
from flo.protocol.https import Connection, ErrorReply, trusting

MAX_REPLY_BYTES = 64 << 20


def client_context(ca: str, certificate: bytes, key: bytes) -> ssl.SSLContext:
    """Return a TLS 1.3 context that trusts ``ca`` and presents our certificate (all PEM).

    Raises:
        TrustError: ``ca``, ``certificate`` or ``key`` cannot be read.
    """
    context = trusting(ca)
    load_certificate(context, certificate, key)
    return context


class CoordinatorApi(Connection):
    """Connection to the coordinator's ``/v1/site/*`` calls."""

    def __init__(self, url: str, context: ssl.SSLContext) -> None:
        """Raises UsageError if ``url`` is not a valid URL."""
        super().__init__(url, context, limit=MAX_REPLY_BYTES)

    def call(self, name: str, body: Any, *, values: int = canonical.FEW) -> Any:
        """POST ``/v1/site/name`` and return the parsed reply, of about ``values`` values at most.

        Raises:
            NetworkError: the coordinator is not reachable, or failed. TrustError: its certificate
            is from another authority, or it refuses this hospital. RefusedError: one of its rules
            forbids the call. MessageError: the request has the wrong shape or names something that
            the coordinator does not have, or the reply is malformed.
        """
        try:
            response = self.http.post(f"/v1/site/{name}", content=canonical.encode(body))
        except httpx.RequestError as error:
            raise self._unreachable(error) from error
        if response.status_code != 200:
            raise self._refused(name, ErrorReply.of(response))
        what = f"reply to {name}"
        return canonical.decode(response.content, limit=MAX_REPLY_BYTES, what=what, values=values)

    def _unreachable(self, error: httpx.RequestError) -> NetworkError | TrustError:
        text = str(error).upper()
        if any(word in text for word in ("NOT YET VALID", "HAS EXPIRED")):
            return NetworkError(
                f"{self.url} shows a certificate that is not valid at this machine's time, "
                f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
                hint="compare it with the coordinator's (date -u): a clock is wrong, or the "
                "coordinator has to be started again, which renews its certificate",
            )
        if any(word in text for word in ("CERTIFICATE", "UNKNOWN_CA", "UNKNOWN CA", "ALERT")):
            return TrustError(
                f"{self.url} shows a certificate from another authority, or refused ours",
                hint="compare the coordinator's fingerprint; enrol again if its keys changed",
            )
        proxy = proxy_for(self.url)
        if proxy is None:
            return NetworkError(
                f"the coordinator at {self.url} cannot be reached ({type(error).__name__})",
                hint="check that `flo coordinator serve` runs there, and that firewalls allow the "
                "connection",
            )
        said = (
            f": {escape_for_terminal(str(error))[:200]}"
            if isinstance(error, httpx.ProxyError)
            else ""
        )
        return NetworkError(
            f"the coordinator at {self.url} cannot be reached through the proxy {shown(proxy)} "
            f"({type(error).__name__}{said})",
            hint="HTTPS_PROXY sets the proxy; `flo doctor` shows which part does not answer",
        )

    @staticmethod
    def _refused(name: str, reply: ErrorReply) -> FloError:
        if reply.status >= 500:
            return reply.error(f"the coordinator answered {name} with {reply.status}")
        hint = ""
        if reply.status in (401, 403):
            hint = "an invitation can be used once; a revoked hospital needs a new one"
        return reply.error(f"the coordinator refused {name}: {reply.why}", hint)

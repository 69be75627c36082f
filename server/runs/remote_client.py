"""An aggregator's client of the coordinator: TLS with its authority, and a token for one run."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import httpx

from flo.documents import canonical
from flo.errors import NetworkError, RefusedError, TrustError
from flo.protocol.https import Connection, ErrorReply, trusting
from flo.server.runs.remote_documents import MAX_RUN_REPORT_BYTES

_PAUSE = 0.5


class RemoteRunClient(Connection):
    """Client for one run. ``patience``: seconds to retry, as while the coordinator restarts."""

    def __init__(
        self,
        url: str,
        ca: str,
        token: str,
        run: str,
        *,
        patience: float,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        headers = {"authorization": f"Bearer {token}"}
        super().__init__(url, trusting(ca), limit=MAX_RUN_REPORT_BYTES, headers=headers)
        self._path, self._patience, self._sleep = f"/v1/run/{run}", patience, sleep

    def status(self) -> str:
        """Return running, paused, done, stopped or ended. Raises as ``post`` does."""
        return str(self._call("GET", self._path, None)["status"])

    def post(self, call: str, body: bytes) -> Any:
        """Make a call; return the parsed reply.

        Raises:
            NetworkError: no answer for longer than the patience. TrustError: the token is refused,
            for instance because it has expired. RefusedError: another process has taken over the
            run, or it is over.
        """
        return self._call("POST", f"{self._path}/{call}", body)

    def open(self, job: str) -> Any:
        """Return a job's keys, for its launch token. Raises as ``post`` does."""
        return self._call("POST", f"/v1/job/{job}/open", b"")

    def _call(self, method: str, path: str, body: bytes | None) -> Any:
        response = self._answer(method, path, body)
        if response.status_code == 401:
            raise TrustError(
                "the coordinator does not accept this job's token: it has expired, or the "
                "coordinator has a new key",
                hint="no action is needed: the coordinator starts another job",
            )
        if response.status_code != 200:
            reply = ErrorReply.of(response)
            if reply.status == 403:
                raise TrustError(f"the coordinator refused this job's token: {reply.why}")
            # The run's API answers 400 if another process has taken over the run, or it is over.
            raise RefusedError(f"the coordinator refused the call: {reply.why}")
        return canonical.decode(response.content, limit=MAX_RUN_REPORT_BYTES, what="reply")

    def _answer(self, method: str, path: str, body: bytes | None) -> httpx.Response:
        end = time.monotonic() + self._patience
        cause: httpx.RequestError | None
        while True:
            try:
                response = self.http.request(method, path, content=body)
            except httpx.RequestError as error:
                why, cause = "has not answered", error
            else:
                if response.status_code < 500:
                    return response
                why, cause = f"has answered {response.status_code}", None
            if time.monotonic() > end:
                raise NetworkError(
                    f"the coordinator at {self.url} {why} for {self._patience:g} seconds"
                ) from cause
            self._sleep(_PAUSE)

"""An agent pulls a request and pushes its reply, each in one call over mutual TLS."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator, Sequence

import httpx

from flo.clients.connection.large_bodies import CONNECT_SECONDS, LargeBodyClient
from flo.errors import MessageError, NetworkError
from flo.protocol.whole_messages import (
    MAX_REQUEST,
    NODE_HEADER,
    PULL_PATH,
    PUSH_PATH,
    joined,
    parted,
)

_HELD_SECONDS = 30.0  # the coordinator holds a pull for 20 s


class WholeMessageClient(LargeBodyClient):
    """The agent's calls beside Flower's own: whole messages and large bodies."""

    def __init__(self, url: str, context: ssl.SSLContext, public_key: tuple[str, bytes]) -> None:
        super().__init__(url, context, public_key)
        self.held_seconds = _HELD_SECONDS

    def pull(self, node: int) -> list[bytes] | None:
        """Wait for the next message as long as the coordinator holds the call; return its parts.

        ``node``: as Flower numbers this agent.

        Empty if none arrives. None if the coordinator is of a version without this call.

        Raises:
            MessageError: its run is over, or it is not whole. NetworkError, TrustError.
        """
        response = self._whole(PULL_PATH, node, b"", lambda: None)
        return None if response is None else parted(response.content, MAX_REQUEST)

    def push(self, node: int, parts: Sequence[bytes], may_leave: Callable[[], None]) -> bool:
        """Send a reply's parts. Return False if the coordinator is of a version without this call.

        ``may_leave``: called when the connection is open, before anything is sent; an exception
        that it raises ends the call.

        Raises:
            MessageError: its run is over. NetworkError, TrustError.
        """
        return self._whole(PUSH_PATH, node, joined(parts), may_leave) is not None

    def _whole(
        self, path: str, node: int, body: bytes, may_leave: Callable[[], None]
    ) -> httpx.Response | None:
        def sent() -> Iterator[bytes]:
            may_leave()
            yield body

        headers = {NODE_HEADER: str(node), "content-length": str(len(body))}
        timeout = httpx.Timeout(self.held_seconds, connect=CONNECT_SECONDS)
        try:
            response = self.http.post(path, content=sent(), headers=headers, timeout=timeout)
        except httpx.HTTPError as error:
            raise self._lost(error) from error
        if response.status_code == 404:
            return None
        if response.status_code == 409:
            raise MessageError("the message belongs to a run that is over")
        if response.status_code in (400, 401):
            # 401: the coordinator does not know this node any more. A new connection repairs it.
            raise NetworkError(f"the coordinator answered {response.status_code}")
        self._refuse(response)
        return response

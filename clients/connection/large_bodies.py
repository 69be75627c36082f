"""Calls of the agent beside Flower's: large bodies, and messages as a whole; over mutual TLS."""

from __future__ import annotations

import base64
import ssl
from collections.abc import Callable, Iterator, Sequence

import httpx
import numpy as np

from flo.errors import MessageError, NetworkError, TrustError
from flo.protocol.https import Connection
from flo.protocol.large_bodies import FETCH_PATH, NAME_HEADER, OFFER_PATH, RUN_HEADER, chunks
from flo.protocol.messages import MAX_MESSAGE_BYTES
from flo.protocol.whole_messages import (
    MAX_REQUEST,
    NODE_HEADER,
    PULL_PATH,
    PUSH_PATH,
    joined,
    parted,
)

_HELD_SECONDS = 30.0  # the coordinator holds a pull for 20 s
_CONNECT_SECONDS = 5.0
_TIMEOUT = httpx.Timeout(30.0, read=900.0, write=900.0, connect=_CONNECT_SECONDS)


class LargeBodyClient(Connection):
    """``public_key``: header name and value of the agent's public key, as Flower knows it."""

    def __init__(self, url: str, context: ssl.SSLContext, public_key: tuple[str, bytes]) -> None:
        header, key = public_key
        headers = {header: base64.b64encode(key).decode()}
        super().__init__(url, context, limit=MAX_MESSAGE_BYTES, timeout=_TIMEOUT, headers=headers)
        self.held_seconds = _HELD_SECONDS

    def fetch(self, name: str, head: bytes, size: int) -> memoryview:
        """Return ``head`` followed by the ``size`` bytes of the parcel ``name``.

        Raises:
            MessageError: it no longer exists, or has another size. NetworkError, TrustError.
        """
        data = np.empty(len(head) + size, dtype=np.uint8).data
        data[: len(head)] = head
        there = len(head)
        try:
            with self.http.stream("POST", FETCH_PATH, headers={NAME_HEADER: name}) as response:
                self._refuse(response)
                for piece in response.iter_raw():
                    if there + len(piece) > len(data):
                        raise MessageError(f"the parcel has more than the announced {size} bytes")
                    data[there : there + len(piece)] = piece
                    there += len(piece)
        except httpx.HTTPError as error:
            raise self._lost(error) from error
        if there != len(data):
            raise MessageError(f"the parcel has {there - len(head)} of {size} announced bytes")
        return data

    def offer(self, run: int, name: str, body: memoryview, may_leave: Callable[[], None]) -> None:
        """Wait until the body is taken or no longer wanted. Raises NetworkError, TrustError.

        ``run``: Flower's id of the body's run. ``may_leave``: called before each piece is sent; an
        exception that it raises ends the upload.
        """

        def held() -> Iterator[bytes]:
            for piece in chunks(body):
                may_leave()
                yield piece

        headers = {NAME_HEADER: name, RUN_HEADER: str(run), "content-length": str(len(body))}
        try:
            response = self.http.post(OFFER_PATH, content=held(), headers=headers)
        except httpx.HTTPError as error:
            raise self._lost(error) from error
        if response.status_code != 409:  # 409: no longer wanted, a newer request is waiting
            self._refuse(response)

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
        timeout = httpx.Timeout(self.held_seconds, connect=_CONNECT_SECONDS)
        try:
            response = self.http.post(path, content=sent(), headers=headers, timeout=timeout)
        except httpx.HTTPError as error:
            raise self._lost(error) from error
        if response.status_code == 404:
            return None
        if response.status_code == 409:
            raise MessageError("the message belongs to a run that is over")
        if response.status_code in (
            400,
            401,
        ):  # Flower does not know us: a new connection repairs it
            raise NetworkError(f"the coordinator answered {response.status_code}")
        self._refuse(response)
        return response

    @staticmethod
    def _refuse(response: httpx.Response) -> None:
        status = response.status_code
        if status in (401, 403):
            raise TrustError(
                f"the coordinator refuses this hospital (status {status})",
                hint="the certificate may be revoked; ask the coordinator",
            )
        if status == 404:
            raise MessageError("the coordinator no longer has the parcel")
        if status != 200:
            raise NetworkError(f"the coordinator answered {status}")

    def _lost(self, error: httpx.HTTPError) -> NetworkError:
        return NetworkError(f"the connection to {self.url} was lost ({type(error).__name__})")

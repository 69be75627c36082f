"""Bodies too large for Flower's messages: fetched and offered over mutual TLS."""

from __future__ import annotations

import base64
import ssl
from collections.abc import Callable, Iterator

import httpx
import numpy as np

from flo.errors import MessageError, NetworkError, TrustError
from flo.protocol.https import Connection
from flo.protocol.large_bodies import FETCH_PATH, NAME_HEADER, OFFER_PATH, RUN_HEADER, chunks
from flo.protocol.messages import MAX_MESSAGE_BYTES

CONNECT_SECONDS = 5.0
_TIMEOUT = httpx.Timeout(30.0, read=900.0, write=900.0, connect=CONNECT_SECONDS)


class LargeBodyClient(Connection):
    """``public_key``: header name and value of the agent's public key, as Flower knows it."""

    def __init__(self, url: str, context: ssl.SSLContext, public_key: tuple[str, bytes]) -> None:
        header, key = public_key
        headers = {header: base64.b64encode(key).decode()}
        super().__init__(url, context, limit=MAX_MESSAGE_BYTES, timeout=_TIMEOUT, headers=headers)

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
        if response.status_code != 409:  # 409: the run is over, or no longer waits for this reply
            self._refuse(response)

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

"""The ServerApp's calls to the coordinator (``flo.server.flower.app_calls``).

They use the connection, the task's token and the retries of Flower's own grid: a call is repeated
while the coordinator cannot be reached, and ends the process when its run is over.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

import httpx
import numpy as np
from flwr.app import Message
from flwr.app.message import remove_content_from_message
from flwr.common.serde import message_to_proto
from flwr.proto.message_pb2 import ObjectTree
from flwr.proto.runtime_pb2 import (
    PullAppMessagesRequest,
    PullAppMessagesResponse,
    PushAppMessagesRequest,
    PushAppMessagesResponse,
)
from flwr.supercore.constant import TASK_TOKEN_HEADER
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    iterate_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents

from flo.errors import MessageError, NetworkError
from flo.host.shared_memory import SharedBytes, opened
from flo.protocol.large_bodies import NAME_HEADER, NODES_HEADER, PLACE_HEADER, SIZE_HEADER, chunks
from flo.protocol.whole_messages import joined, parted
from flo.server.flower.announced import UNREADABLE
from flo.server.flower.app_calls import (
    BATCH_BYTES,
    MAX_PULLED_PART,
    MOST_MESSAGES,
    MOST_PARTS,
    PULL_PATH,
    PUSH_PATH,
    PUT_PATH,
    TAKE_PATH,
)

log = logging.getLogger("flo.server.flower.app_client")

_TAKE_SECONDS = 60.0  # between two pieces of a streamed body
_PAUSES = (0.2, 1.0, 3.0)


class _OverGrid:
    """Connection and credential of Flower's ``HttpGrid``."""

    def __init__(self, grid: Any) -> None:
        self._grid = grid

    @property
    def _http(self) -> httpx.Client:
        client: httpx.Client = self._grid._runtime_client._client
        return client

    def _url(self, path: str) -> str:
        return f"{self._grid._runtime_client._base_url}{path}"

    @property
    def _credential(self) -> dict[str, str]:
        return {TASK_TOKEN_HEADER: self._grid._token}


class GridMessages(_OverGrid):
    """Flower's grid with one call for all requests, and one for all replies that are there."""

    def __init__(self, grid: Any) -> None:
        super().__init__(grid)
        self._questions = itertools.count(time.time_ns())

    def get_node_ids(self) -> set[int]:
        """Return the nodes of the agents that are online."""
        return set(self._grid.get_node_ids())

    def push_messages(self, messages: Sequence[Message]) -> list[str]:
        """Send messages; return their ids, each empty if Flower did not accept the message.

        Raises:
            NetworkError: the coordinator refused the call.
        """
        pushed = list[str]()
        with no_object_id_recompute():
            for batch in _batches(map(_Outgoing, messages)):
                objects: dict[str, bytes] = {}
                for one in batch:
                    objects |= one.objects
                announced = PushAppMessagesRequest(
                    messages_list=[one.announced for one in batch],
                    message_object_trees=[one.tree for one in batch],
                )
                body = joined([announced.SerializeToString(), *objects.values()])
                answer = PushAppMessagesResponse.FromString(self._call(PUSH_PATH, body))
                pushed.extend(answer.message_ids)
        return pushed

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Return replies to these messages; wait a moment if there is none.

        A reply that is no message of Flower is passed over: its hospital will be asked again.

        Raises:
            NetworkError: the coordinator refused the call. MessageError: its answer is not whole.
        """
        question = PullAppMessagesRequest(message_ids=message_ids)
        name = {NAME_HEADER: f"{next(self._questions):032x}"}  # the same when it is repeated
        body = self._call(PULL_PATH, question.SerializeToString(), name)
        first, *contents = parted(body, MAX_PULLED_PART, MOST_PARTS) or [b""]
        answer = PullAppMessagesResponse.FromString(first)
        rest, found = iter(contents), list[Message]()
        for named, tree in zip(answer.messages_list, answer.message_object_trees, strict=True):
            reply = _inflated(named.metadata, tree, rest)
            if reply is not None:
                found.append(reply)
        return found

    def _call(self, path: str, body: bytes, named: dict[str, str] | None = None) -> bytes:
        headers = self._credential | (named or {})

        def send() -> httpx.Response:
            answer = self._http.post(self._url(path), content=body, headers=headers)
            answer.raise_for_status()
            return answer

        for pause in (*_PAUSES, None):
            try:
                answer: httpx.Response = self._grid._retry_invoker.invoke(send)
            except httpx.HTTPError as error:
                # Flower does not repeat a call whose TLS connection broke.
                if pause is None or not isinstance(error, httpx.TransportError):
                    raise NetworkError(f"the coordinator did not accept {path}: {error}") from error
                time.sleep(pause)
            else:
                break
        return answer.content


class _Outgoing:
    """A message as Flower announces it, with the content of its objects by their names."""

    def __init__(self, message: Message) -> None:
        message.metadata.__dict__["_message_id"] = message.object_id
        self.announced = message_to_proto(remove_content_from_message(message))
        self.tree = get_object_tree(message)
        nested = get_all_nested_objects(message)
        self.objects = {name: one.deflate() for name, one in nested.items()}
        self.size = sum(map(len, self.objects.values()))


def _batches(messages: Iterable[_Outgoing]) -> Iterator[list[_Outgoing]]:
    """Yield as many messages as one call takes, then the next ones."""
    batch, size = list[_Outgoing](), 0
    for message in messages:
        if batch and (size + message.size > BATCH_BYTES or len(batch) == MOST_MESSAGES):
            yield batch
            batch, size = [], 0
        batch.append(message)
        size += message.size
    if batch:
        yield batch


def _inflated(named: Any, tree: ObjectTree, contents: Iterator[bytes]) -> Message | None:
    """Return the message whose objects are next; None if they are not the message ``named``."""
    names = [one.object_id for one in iterate_object_tree(tree)]
    objects = {one: next(contents, b"") for one in names}
    try:
        message = inflate_object_from_contents(named.message_id, objects)
    except UNREADABLE as error:
        log.warning("a reply is no message of Flower", extra={"fields": {"error": repr(error)}})
        return None
    if not isinstance(message, Message):
        return None
    says = message.metadata
    if (says.src_node_id, says.reply_to_message_id) != (
        named.src_node_id,
        named.reply_to_message_id,
    ):
        log.warning("a reply is in another's name", extra={"fields": {"node": named.src_node_id}})
        return None
    says.__dict__["_message_id"] = named.message_id
    return message


class GridLargeBodies(_OverGrid):
    """Transport of large bodies over the connection of Flower's grid, with its credential.

    ``here``: the coordinator is on this machine, so bodies are passed in shared memory.
    """

    def __init__(self, grid: Any, *, here: bool) -> None:
        super().__init__(grid)
        self._shared = SharedBytes() if here else None

    def put(self, name: str, nodes: Collection[int], body: memoryview) -> None:
        """Store a body through shared memory or by streaming it, with retries.

        Raises:
            NetworkError: the coordinator did not accept it.
        """
        headers = self._headers(name, nodes)
        if self._shared is not None:
            self._shared.write(body)  # hospitals that still fetch the last body reject it
            headers |= {PLACE_HEADER: self._shared.place, SIZE_HEADER: str(len(body))}
        else:
            headers |= {"content-length": str(len(body))}
        for pause in (*_PAUSES, None):
            content = b"" if self._shared is not None else chunks(body)
            try:
                answer = self._http.post(self._url(PUT_PATH), content=content, headers=headers)
                answer.raise_for_status()
            except httpx.HTTPError as error:
                if pause is None:
                    raise NetworkError("the coordinator did not accept a request's body") from error
                time.sleep(pause)
            else:
                return

    def take(self, name: str, node: int, size: int, seconds: float) -> memoryview:
        """Fetch a body from shared memory or as a stream, without retries.

        Raises:
            MessageError: it does not arrive whole.
        """
        headers = self._headers(name, [node]) | {SIZE_HEADER: str(size)}
        try:
            if self._shared is None:
                return self._streamed(headers, size, time.monotonic() + seconds)
            answer = self._http.post(
                self._url(TAKE_PATH),
                headers=headers | {PLACE_HEADER: "here"},
                timeout=seconds,
            )
            answer.raise_for_status()
            return opened(str(answer.json()["place"]), size)
        except (httpx.HTTPError, ValueError) as error:  # ValueError: more bytes than announced
            raise MessageError(f"a reply did not arrive ({type(error).__name__})") from error

    def _streamed(self, headers: dict[str, str], size: int, end: float) -> memoryview:
        data, there = np.empty(size, dtype=np.uint8).data, 0
        with self._http.stream(
            "POST", self._url(TAKE_PATH), headers=headers, timeout=_TAKE_SECONDS
        ) as answer:
            answer.raise_for_status()
            for piece in answer.iter_raw():
                data[there : there + len(piece)] = piece
                there += len(piece)
                if time.monotonic() > end:
                    break
        if there != size:
            raise MessageError(f"a reply has {there} bytes instead of the announced {size}")
        return data

    def _headers(self, name: str, nodes: Collection[int]) -> dict[str, str]:
        named = {NAME_HEADER: name, NODES_HEADER: ",".join(map(str, nodes))}
        return self._credential | named

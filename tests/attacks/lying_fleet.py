"""What Flower does at a coordinator for one agent: a message at a time, to be answered or not."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

from flwr.app import ConfigRecord, Message, Metadata, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.common.serde import message_to_proto
from flwr.proto.fleet_pb2 import (
    ActivateNodeResponse,
    DeactivateNodeResponse,
    PullMessagesResponse,
    PushMessagesRequest,
    PushMessagesResponse,
)
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatResponse
from flwr.proto.message_pb2 import (
    ConfirmMessageReceivedResponse,
    PullObjectRequest,
    PullObjectResponse,
    PushObjectRequest,
    PushObjectResponse,
)
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    iterate_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents

from flo.protocol.whole_messages import MAX_REPLY, PUSH_PATH, joined, parted

NODE, HELD_SECONDS, PATIENCE_SECONDS = 7, 5.0, 30.0
Spoil = Callable[[bytes], bytes]


@dataclass
class Parcel:
    """A message on its way to the agent, and what comes back."""

    message: Any
    tree: Any
    objects: dict[str, bytes]
    answer: dict[str, bytes] = field(default_factory=dict)
    expected: list[str] = field(default_factory=list)
    wanted: tuple[str, ...] = ()
    over: bool = False

    @classmethod
    def of(cls, data: bytes, spoil: Spoil, records: int, wanted: tuple[str, ...]) -> Parcel:
        content = RecordDict({"flo": ConfigRecord({"message": data})})
        for number in range(1, records):
            content[f"more-{number}"] = ConfigRecord({"message": b""})
        metadata = Metadata(
            run_id=1,
            message_id="",
            src_node_id=1,
            dst_node_id=NODE,
            reply_to_message_id="",
            group_id="",
            created_at=time.time(),
            ttl=60,
            message_type="query",
        )
        message: Any = cast(Any, Message)(content, metadata=metadata)
        with no_object_id_recompute():
            message.metadata.__dict__["_message_id"] = message.object_id
            objects = get_all_nested_objects(message)
            return cls(
                message_to_proto(remove_content_from_message(message)),
                get_object_tree(message),
                {name: spoil(found.deflate()) for name, found in objects.items()},
                wanted=wanted,
            )

    @property
    def body(self) -> bytes | None:
        """The agent's answer; None if it gave none."""
        if not self.expected or set(self.expected) != set(self.answer):
            return None
        message = inflate_object_from_contents(self.expected[0], self.answer)
        assert isinstance(message, Message)
        body = message.content.config_records["flo"]["message"]
        assert isinstance(body, bytes)
        return body


class ByObjects(Exception):
    """This message only comes in a call for each object, as from an earlier version."""


class Fleet:
    """Thread-safe: a test asks, the server's threads answer the agent's calls."""

    def __init__(self) -> None:
        self._turn = threading.Condition()
        self._waiting: Parcel | None = None
        self._asked: Parcel | None = None
        self._hang_up = False

    def ask(
        self, data: bytes, *, spoil: Spoil = bytes, records: int = 1, wanted: tuple[str, ...] = ()
    ) -> bytes | None:
        """The agent's reply to ``data``; None if it went on without one.

        ``spoil`` changes the objects that carry it, ``records`` how many there are; ``wanted``:
        parts that are asked for beside those of the reply.
        """
        parcel = Parcel.of(data, spoil, records, wanted)
        with self._turn:
            self._waiting = parcel
            self._turn.notify_all()
            assert self._turn.wait_for(lambda: parcel.over, PATIENCE_SECONDS), "no agent came"
        return parcel.body

    def hang_up(self, wanted: bool = True) -> None:
        """Cut the agent's long poll off, so that it connects anew."""
        with self._turn:
            self._hang_up = wanted
            self._turn.notify_all()

    def call(self, name: str, body: bytes) -> bytes | None:
        """The answer to one Fleet call; None to hang up."""
        match name:
            case "activate-node":
                return bytes(ActivateNodeResponse(node_id=NODE).SerializeToString())
            case "deactivate-node":
                return bytes(DeactivateNodeResponse().SerializeToString())
            case "send-node-heartbeat":
                return bytes(SendNodeHeartbeatResponse(success=True).SerializeToString())
            case "confirm-message-received":
                return bytes(ConfirmMessageReceivedResponse().SerializeToString())
            case "pull-messages":
                return self._pull()
            case "pull-object":
                return self._object(PullObjectRequest.FromString(body).object_id)
            case "push-messages":
                return self._announced(PushMessagesRequest.FromString(body))
            case _:
                return self._pushed(PushObjectRequest.FromString(body))

    def whole(self, path: str, body: bytes) -> bytes | None:
        """The answer to one call with a whole message; None to hang up.

        Raises:
            ByObjects: more parts of the reply are to be asked for than there are.
        """
        if path == PUSH_PATH:
            announced, *objects = parted(body, MAX_REPLY)
            self._announced(PushMessagesRequest.FromString(announced))
            for one in objects:
                self._pushed(PushObjectRequest.FromString(one))
            return b""
        pulled, asked = self._pull(whole=True), self._asked
        if pulled is None or not PullMessagesResponse.FromString(pulled).messages_list:
            return None if pulled is None else b""
        assert asked is not None
        names = [tree.object_id for tree in iterate_object_tree(asked.tree)]
        return joined([pulled, *(self._object(name) for name in names)])

    def _pull(self, *, whole: bool = False) -> bytes | None:
        with self._turn:
            self._end()  # whoever comes for the next one gives no answer to the last
            self._turn.wait_for(lambda: self._waiting or self._hang_up, HELD_SECONDS)
            if self._hang_up:
                self._hang_up = False
                return None
            if self._waiting is None:
                return bytes(PullMessagesResponse().SerializeToString())
            if whole and self._waiting.wanted:
                raise ByObjects
            self._asked, self._waiting = self._waiting, None
            found = PullMessagesResponse(
                messages_list=[self._asked.message], message_object_trees=[self._asked.tree]
            )
            return bytes(found.SerializeToString())

    def _object(self, name: str) -> bytes:
        content = self._asked.objects[name] if self._asked else b""
        found = PullObjectResponse(object_found=True, object_available=True, object_content=content)
        return bytes(found.SerializeToString())

    def _announced(self, request: Any) -> bytes:
        names = [tree.object_id for tree in iterate_object_tree(request.message_object_trees[0])]
        with self._turn:
            if self._asked is not None:
                root = request.message_object_trees[0].object_id
                self._asked.expected = [root, *(name for name in names if name != root)]
                names += self._asked.wanted
        response = PushMessagesResponse(objects_to_push=names, session_id="one")
        return bytes(response.SerializeToString())

    def _pushed(self, request: Any) -> bytes:
        with self._turn:
            if self._asked is not None:
                self._asked.answer[request.object_id] = request.object_content
                if set(self._asked.answer) == set(self._asked.expected):
                    self._end()
        return bytes(PushObjectResponse(stored=True).SerializeToString())

    def _end(self) -> None:
        if self._asked is not None:
            self._asked.over, self._asked = True, None
            self._turn.notify_all()

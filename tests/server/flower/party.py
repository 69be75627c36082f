"""A run and an activated node in Flower's real state, and what its two sides do there."""

from __future__ import annotations

import base64
import itertools
import time
from types import SimpleNamespace
from typing import Any

from flwr.app import ConfigRecord, Message, Metadata, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.common.constant import NOOP_ACCOUNT_NAME, NOOP_FLWR_AID
from flwr.common.serde import message_to_proto
from flwr.proto.fleet_pb2 import PullMessagesResponse, PushMessagesRequest
from flwr.proto.message_pb2 import PushObjectRequest
from flwr.proto.node_pb2 import Node
from flwr.proto.runtime_pb2 import PushAppMessagesRequest
from flwr.supercore.constant import NOOP_FEDERATION_ID, TaskType
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.superlink.servicer.runtime import runtime_handlers

from flo.protocol.whole_messages import MAX_REQUEST, joined, parted
from flo.server.flower.superlink import SuperLink

SERVER_APP = 1
_numbers = itertools.count()


class Party:
    """A run, an activated node, and what its ServerApp and the node do."""

    def __init__(self, superlink: SuperLink) -> None:
        self.superlink, self.state = superlink, superlink._state
        self.key = f"key {next(_numbers)}".encode()
        self.node = self.state.create_node(NOOP_FLWR_AID, NOOP_ACCOUNT_NAME, self.key, 0)
        self.state.activate_node(self.node, 10.0)
        self.run = self.new_run()

    def new_run(self) -> int:
        run = self.state.create_run(
            "", "", "", {}, NOOP_FEDERATION_ID, None, NOOP_FLWR_AID, TaskType.SERVER_APP
        )
        task = self.state.run_ids[run].run.primary_task_id
        self.token: str = self.state.claim_task(task)
        self.state.activate_task(task)
        return int(run)

    def message(self, data: bytes, *, source: int = SERVER_APP, **metadata: Any) -> Any:
        content = RecordDict({"flo": ConfigRecord({"message": data})})
        facts = {"run_id": self.run, "dst_node_id": self.node, "reply_to_message_id": ""}
        facts["group_id"] = ""
        made: Any = Message
        message = made(
            content,
            metadata=Metadata(
                **(facts | metadata),
                message_id="",
                src_node_id=source,
                created_at=time.time(),
                ttl=60.0,
                message_type="query",
            ),
        )
        message.metadata.__dict__["_message_id"] = message.object_id
        return message

    def announced(self, message: Message) -> Any:
        """The ServerApp announces a message; its objects are not there yet."""
        request = PushAppMessagesRequest(
            messages_list=[message_to_proto(remove_content_from_message(message))],
            message_object_trees=[get_object_tree(message)],
        )
        task: Any = SimpleNamespace(run_id=message.metadata.run_id)
        return runtime_handlers.push_messages(request, self.state, task)

    def uploaded(self, message: Message, reply: Any) -> list[bool]:
        """The ServerApp pushes the objects; whether each was stored."""
        task: Any = SimpleNamespace(run_id=message.metadata.run_id)
        return [
            runtime_handlers.push_object(
                PushObjectRequest(
                    node=Node(node_id=SERVER_APP),
                    run_id=message.metadata.run_id,
                    object_id=name,
                    object_content=one.deflate(),
                    session_id=reply.session_id,
                ),
                self.state,
                task,
            ).stored
            for name, one in get_all_nested_objects(message).items()
        ]

    def asked(self, data: bytes = b"a request", **metadata: Any) -> Any:
        message = self.message(data, **metadata)
        assert all(self.uploaded(message, self.announced(message)))
        return message

    def pull(self) -> list[bytes]:
        return parted(self.superlink.pull_whole(self.node), MAX_REQUEST)

    def pulled(self) -> Any:
        """The node pulls its next request; return it without its content."""
        (message,) = PullMessagesResponse.FromString(self.pull()[0]).messages_list
        return message

    def objects(self) -> set[str]:
        """Objects that the coordinator keeps for the run."""
        store = self.state.object_store
        return {name for name in store.run_objects_mapping.get(self.run, ()) if name in store.store}

    def waits(self) -> bool:
        return self.superlink.has_message_for(base64.b64encode(self.key))

    def reply(self, request: Message, data: bytes = b"numbers") -> tuple[Any, list[Any], Message]:
        """Announcement and objects of a reply, as an agent makes them."""
        message = self.message(
            data,
            source=self.node,
            dst_node_id=SERVER_APP,
            reply_to_message_id=request.metadata.message_id,
        )
        announced = PushMessagesRequest(
            messages_list=[message_to_proto(remove_content_from_message(message))],
            message_object_trees=[get_object_tree(message)],
        )
        objects = [
            PushObjectRequest(run_id=self.run, object_id=name, object_content=one.deflate())
            for name, one in get_all_nested_objects(message).items()
        ]
        return announced, objects, message

    def push(self, announced: Any, objects: list[Any]) -> None:
        parts = [announced, *objects]
        self.superlink.push_whole(self.node, joined([one.SerializeToString() for one in parts]))

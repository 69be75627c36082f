"""A hospital pulls or pushes a whole message in one call (``flo.protocol.whole_messages``).

The hospital listener has authenticated the hospital by its certificate, so the handlers of Flower's
Fleet API are called directly, without the signature that each of Flower's own calls carries.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from flwr.proto.fleet_pb2 import PullMessagesRequest, PushMessagesRequest
from flwr.proto.message_pb2 import (
    ConfirmMessageReceivedRequest,
    PullObjectRequest,
    PushObjectRequest,
)
from flwr.proto.node_pb2 import Node
from flwr.supercore.error import FlowerError
from flwr.supercore.inflatable.inflatable_object import iterate_object_tree
from flwr.superlink.servicer.fleet import fleet_handlers
from google.protobuf.message import DecodeError

from flo.errors import MessageError, RefusedError
from flo.protocol.whole_messages import MOST_OBJECTS, joined, parted


def pull(state: Any, node: int) -> bytes:
    """Return the next message for a node: Flower's reply, then the content of each object.

    Empty if none waits. The message counts as received: a hospital that loses it is asked again.

    Raises:
        RefusedError: its run is over. MessageError: it has too many objects.
    """
    me = Node(node_id=node)
    with _refusals():
        reply = fleet_handlers.pull_messages(
            PullMessagesRequest(node=me), state, state.object_store
        )
        if not reply.messages_list:
            return b""
        run = reply.messages_list[0].metadata.run_id
        names = [tree.object_id for tree in iterate_object_tree(reply.message_object_trees[0])]
        if len(names) > MOST_OBJECTS:
            raise MessageError(f"the message has {len(names)} objects, at most {MOST_OBJECTS}")
        parts = [reply.SerializeToString()]
        for name in names:
            asked = PullObjectRequest(node=me, run_id=run, object_id=name)
            parts.append(fleet_handlers.pull_object(asked, state).SerializeToString())
        message = reply.messages_list[0].metadata.message_id
        received = ConfirmMessageReceivedRequest(node=me, run_id=run, message_object_id=message)
        fleet_handlers.confirm_message_received(received, state, state.object_store)
    return joined(parts)


def push(state: Any, node: int, body: bytes) -> None:
    """Store a node's reply: the body is Flower's announcement, then a push of each object.

    Raises:
        RefusedError: its run is over. MessageError: it is not a whole reply.
    """
    me = Node(node_id=node)
    with _refusals():
        first, *rest = parted(body) or [b""]
        announced = PushMessagesRequest.FromString(first)
        announced.node.CopyFrom(me)
        if len(announced.messages_list) != 1 or len(announced.message_object_trees) != 1:
            raise MessageError("this is not one reply")
        if announced.messages_list[0].metadata.src_node_id != node:
            raise MessageError("this reply is in another node's name")
        objects = [PushObjectRequest.FromString(part) for part in rest]
        reply = fleet_handlers.push_messages(announced, state)
        if not set(reply.objects_to_push) <= {one.object_id for one in objects}:
            raise MessageError("an object of the reply is missing")
        for one in objects:
            if one.object_id in reply.objects_to_push:
                one.node.CopyFrom(me)
                one.session_id = reply.session_id
                fleet_handlers.push_object(one, state)


@contextmanager
def _refusals() -> Iterator[None]:
    """Turn what Flower's handlers raise on foreign input and on ended runs into our errors."""
    try:
        yield
    except FlowerError as error:
        raise RefusedError("the message belongs to a run that is over") from error
    except (DecodeError, ValueError, KeyError, IndexError, TypeError) as error:
        raise MessageError("this is not a message of Flower") from error

"""A hospital pulls or pushes a whole message in one call (``flo.protocol.whole_messages``).

The hospital listener has authenticated the hospital by its certificate, so the handlers of Flower's
Fleet API are called directly, without the signature that each of Flower's own calls carries.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from flwr.proto.fleet_pb2 import (
    PullMessagesRequest,
    PullMessagesResponse,
    PushMessagesRequest,
)
from flwr.proto.message_pb2 import (
    ConfirmMessageReceivedRequest,
    PullObjectRequest,
    PullObjectResponse,
    PushObjectRequest,
)
from flwr.proto.node_pb2 import Node
from flwr.supercore.error import FlowerError
from flwr.supercore.inflatable.inflatable_object import (
    UnexpectedObjectContentError,
    get_object_id,
    iterate_object_tree,
)
from flwr.superlink.servicer.fleet import fleet_handlers
from google.protobuf.message import DecodeError

from flo.errors import MessageError, RefusedError
from flo.protocol.whole_messages import MAX_REPLY, MOST_OBJECTS, joined, parted
from flo.server.flower.announced import refuse_unlike


def pull(state: Any, node: int) -> bytes:
    """Return the next whole message for a node: Flower's reply, then the content of each object.

    Empty if none waits. Messages that are still being uploaded are passed over and wait on: their
    sender may have died. What is returned counts as received: a hospital that loses it is asked
    again.

    Raises:
        RefusedError: its run is over. MessageError: it has too many objects.
    """
    me, passed_over = Node(node_id=node), []
    try:
        with _refusals():
            while True:
                reply = fleet_handlers.pull_messages(
                    PullMessagesRequest(node=me), state, state.object_store
                )
                if not reply.messages_list:
                    return b""
                named = reply.messages_list[0].metadata
                objects = _objects(me, reply, state)
                if all(one.object_available for one in objects):
                    break
                passed_over.append(named.message_id)
            received = ConfirmMessageReceivedRequest(
                node=me, run_id=named.run_id, message_object_id=named.message_id
            )
            fleet_handlers.confirm_message_received(received, state, state.object_store)
    finally:
        for identifier in passed_over:
            waiting = state.message_ins_store.get(identifier)
            if waiting is not None:
                waiting.metadata.delivered_at = ""
    return joined([reply.SerializeToString(), *(one.SerializeToString() for one in objects)])


def _objects(me: Node, reply: PullMessagesResponse, state: Any) -> list[PullObjectResponse]:
    """Return the objects of the reply's message. Raises MessageError if they are too many."""
    names = [tree.object_id for tree in iterate_object_tree(reply.message_object_trees[0])]
    if len(names) > MOST_OBJECTS:
        raise MessageError(f"the message has {len(names)} objects, at most {MOST_OBJECTS}")
    run = reply.messages_list[0].metadata.run_id
    return [
        fleet_handlers.pull_object(PullObjectRequest(node=me, run_id=run, object_id=name), state)
        for name in names
    ]


def push(state: Any, node: int, body: bytes) -> str:
    """Store a node's reply; return the id of the message that it answers.

    ``body``: Flower's announcement, then a push of each object.

    Raises:
        RefusedError: its run is over. MessageError: it is not a whole reply.
    """
    me = Node(node_id=node)
    with _refusals():
        first, *rest = parted(body, MAX_REPLY) or [b""]
        announced = PushMessagesRequest.FromString(first)
        announced.node.CopyFrom(me)
        if len(announced.messages_list) != 1 or len(announced.message_object_trees) != 1:
            raise MessageError("this is not one reply")
        if announced.messages_list[0].metadata.src_node_id != node:
            raise MessageError("this reply is in another node's name")
        objects = [PushObjectRequest.FromString(part) for part in rest]
        contents = {get_object_id(one.object_content): one.object_content for one in objects}
        tree = announced.message_object_trees[0]
        refuse_unlike(announced.messages_list[0], tree, contents)
        if len(objects) != len(list(iterate_object_tree(tree))):
            raise MessageError("the reply does not consist of the objects that it announces")
        reply = fleet_handlers.push_messages(announced, state)
        for one in objects:
            if one.object_id in reply.objects_to_push:
                one.node.CopyFrom(me)
                one.session_id = reply.session_id
                fleet_handlers.push_object(one, state)
    return str(announced.messages_list[0].metadata.reply_to_message_id)


@contextmanager
def _refusals() -> Iterator[None]:
    """Turn what Flower's handlers raise on foreign input and on ended runs into our errors."""
    try:
        yield
    except FlowerError as error:
        raise RefusedError("the message belongs to a run that is over") from error
    except (
        DecodeError,
        UnexpectedObjectContentError,
        ValueError,
        KeyError,
        IndexError,
        TypeError,
    ) as error:
        raise MessageError("this is not a message of Flower") from error

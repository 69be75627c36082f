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
    get_object_id,
    iterate_object_tree,
)
from flwr.superlink.servicer.fleet import fleet_handlers

from flo.errors import MessageError, RefusedError
from flo.protocol.whole_messages import MAX_REPLY, MOST_OBJECTS, joined, parted
from flo.server.flower.announced import UNREADABLE, names_in, refuse_unlike, reply_in
from flo.server.flower.stored import end_session


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
        message, tree = reply_in(first)
        if message.metadata.src_node_id != node:
            raise MessageError("this reply is in another node's name")
        objects = {get_object_id(one): one for one in map(_content, rest)}
        refuse_unlike(message, tree, objects)
        if len(rest) != len(names_in(message, tree)):
            raise MessageError("the reply does not consist of the objects that it announces")
        announced = PushMessagesRequest(
            node=me, messages_list=[message], message_object_trees=[tree]
        )
        reply = fleet_handlers.push_messages(announced, state)
        for name in reply.objects_to_push:
            one = PushObjectRequest(
                node=me,
                run_id=message.metadata.run_id,
                object_id=name,
                object_content=objects[name],
                session_id=reply.session_id,
            )
            if not fleet_handlers.push_object(one, state).stored:
                raise RefusedError("Flower did not store an object of the reply")
        if not reply.objects_to_push:  # it answers nothing that still waits
            end_session(state, reply.session_id)
    return str(message.metadata.reply_to_message_id)


def _content(part: bytes) -> bytes:
    return bytes(PushObjectRequest.FromString(part).object_content)


@contextmanager
def _refusals() -> Iterator[None]:
    """Turn what Flower's handlers raise on foreign input and on ended runs into our errors."""
    try:
        yield
    except FlowerError as error:
        raise RefusedError("the message belongs to a run that is over") from error
    except UNREADABLE as error:
        raise MessageError("this is not a message of Flower") from error

"""What the coordinator does when a ServerApp pushes requests or pulls replies in one call.

The private listener has verified the ServerApp's task, so Flower's handlers of its Runtime API are
called directly (``flo.server.flower.app_calls``).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.proto.message_pb2 import (
    ConfirmMessageReceivedRequest,
    ObjectTree,
    PullObjectRequest,
    PushObjectRequest,
)
from flwr.proto.node_pb2 import Node
from flwr.proto.runtime_pb2 import (
    PullAppMessagesRequest,
    PullAppMessagesResponse,
    PushAppMessagesRequest,
)
from flwr.supercore.error import FlowerError
from flwr.supercore.inflatable.inflatable_object import (
    UnexpectedObjectContentError,
    get_object_id,
    iterate_object_tree,
)
from google.protobuf.message import DecodeError

from flo.errors import MessageError, RefusedError
from flo.protocol.whole_messages import MAX_REQUEST, joined, parted
from flo.server.flower.announced import refuse_unlike
from flo.server.flower.app_calls import MOST_MESSAGES, MOST_PARTS
from flo.server.flower.scoped_runtime import Handlers

_COORDINATOR = Node(node_id=SUPERLINK_NODE_ID)


def push(handlers: Handlers, state: Any, task: Any, body: bytes) -> bytes:
    """Store requests to hospitals; return Flower's answer, with their ids.

    ``body``: Flower's announcement of the messages, then the content of each object once. All of it
    is checked before anything is stored.

    Raises:
        RefusedError: Flower or the run's scope refuses it. MessageError: it is no such body.
    """
    with _refusals():
        first, *contents = parted(body, MAX_REQUEST, MOST_PARTS) or [b""]
        announced = PushAppMessagesRequest.FromString(first)
        if not 0 < len(announced.messages_list) <= MOST_MESSAGES:
            raise MessageError(f"a call has 1 to {MOST_MESSAGES} messages")
        trees = announced.message_object_trees
        objects = {get_object_id(content): content for content in contents}
        if objects.keys() != {one.object_id for tree in trees for one in iterate_object_tree(tree)}:
            raise MessageError("the messages do not consist of the objects that came with them")
        for message, tree in zip(announced.messages_list, trees, strict=True):
            refuse_unlike(message, tree, objects)
            if message.metadata.run_id != task.run_id:
                raise MessageError("a message is of another run")
        with handlers.storing:
            handlers.refuse_out_of_scope(announced, contents, state, task)
            answer = handlers.push_messages(announced, state, task)
            for name in answer.objects_to_push:
                one = PushObjectRequest(
                    node=_COORDINATOR,
                    run_id=task.run_id,
                    object_id=name,
                    object_content=objects[name],
                    session_id=answer.session_id,
                )
                if not handlers.push_object(one, state, task).stored:
                    raise RefusedError("Flower did not store a message's object")
    return bytes(answer.SerializeToString())


def awaited(body: bytes) -> frozenset[str]:
    """Return the ids of the requests whose replies a pull asks for. Raises MessageError."""
    with _refusals():
        return frozenset(PullAppMessagesRequest.FromString(body).message_ids)


def pull(handlers: Handlers, state: Any, task: Any, requests: list[str]) -> bytes:
    """Return the replies to these requests, and forget them: Flower's answer, then each object.

    Raises:
        RefusedError: Flower refuses it. MessageError: a request is of another run.
    """
    with _refusals():
        asked = PullAppMessagesRequest(message_ids=requests)
        found = handlers.pull_messages(asked, state, task)
        answer, contents = PullAppMessagesResponse(), list[bytes]()
        for message, tree in zip(found.messages_list, found.message_object_trees, strict=True):
            objects = [_object(handlers, state, task, one) for one in iterate_object_tree(tree)]
            if all(objects):  # a hospital may have deleted its own reply since it was complete
                answer.messages_list.append(message)
                answer.message_object_trees.append(tree)
                contents += objects
            received = ConfirmMessageReceivedRequest(
                node=_COORDINATOR,
                run_id=task.run_id,
                message_object_id=message.metadata.message_id,
            )
            handlers.confirm_message_received(received, state, task)
    return joined([answer.SerializeToString(), *contents]) if contents else b""


def _object(handlers: Handlers, state: Any, task: Any, named: ObjectTree) -> bytes:
    """Return an object's content; empty if it is not there."""
    wanted = PullObjectRequest(node=_COORDINATOR, run_id=task.run_id, object_id=named.object_id)
    return bytes(handlers.pull_object(wanted, state, task).object_content)


@contextmanager
def _refusals() -> Iterator[None]:
    """Turn what Flower's handlers raise on foreign input and on ended runs into our errors."""
    try:
        yield
    except FlowerError as error:
        raise RefusedError(str(error)) from error
    except (
        DecodeError,
        UnexpectedObjectContentError,
        ValueError,
        KeyError,
        IndexError,
        TypeError,
    ) as error:
        raise MessageError("this is not a call of a ServerApp") from error

"""What the coordinator does when a ServerApp pushes requests or pulls replies in one call.

The private listener has verified the ServerApp's task, so Flower's handlers of its Runtime API are
called directly (``flo.server.flower.app_calls``). Replies are read from Flower's state.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.message_pb2 import PushObjectRequest
from flwr.proto.node_pb2 import Node
from flwr.proto.runtime_pb2 import (
    PullAppMessagesRequest,
    PullAppMessagesResponse,
    PushAppMessagesRequest,
)
from flwr.server.utils.validator import validate_message
from flwr.supercore.error import FlowerError
from flwr.supercore.inflatable.inflatable_object import (
    get_object_id,
    iterate_object_tree,
)

from flo.errors import MessageError, RefusedError
from flo.protocol.whole_messages import MAX_REQUEST, joined, parted
from flo.server.flower.announced import UNREADABLE, names_in, refuse_unlike
from flo.server.flower.app_calls import MOST_ASKED, MOST_MESSAGES, MOST_PARTS
from flo.server.flower.scoped_runtime import Handlers
from flo.server.flower.stored import end_session, objects_of

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
        messages, trees = announced.messages_list, announced.message_object_trees
        if not 0 < len(messages) <= MOST_MESSAGES or len(messages) != len(trees):
            raise MessageError(f"a call has 1 to {MOST_MESSAGES} messages")
        objects = {get_object_id(content): content for content in contents}
        named = set[str]()
        for message, tree in zip(messages, trees, strict=True):
            named |= {*names_in(message, tree)}
            refuse_unlike(message, tree, objects)
            if wrong := validate_message(message_from_proto(message), is_reply_message=False):
                raise MessageError(f"Flower does not take a message: {', '.join(wrong)}")
            if message.metadata.run_id != task.run_id:
                raise MessageError("a message is of another run")
        if objects.keys() != named:
            raise MessageError("the messages do not consist of the objects that came with them")
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
            if not answer.objects_to_push:
                end_session(state, answer.session_id)
    return bytes(answer.SerializeToString())


def awaited(body: bytes) -> frozenset[str]:
    """Return the ids of the requests whose replies a pull asks for. Raises MessageError."""
    with _refusals():
        requests = frozenset(PullAppMessagesRequest.FromString(body).message_ids)
    if len(requests) > MOST_ASKED:
        raise MessageError(f"a question is about more than {MOST_ASKED} requests")
    return requests


def pull(state: Any, flower_run: int, requests: Sequence[str]) -> bytes:
    """Return the replies to these requests, and forget them: Flower's answer, then each object.

    Empty if none is there whole. Flower's own handler would return no reply of a hospital that has
    gone offline since.

    Raises:
        MessageError: a request is of another run.
    """
    answer, contents, store = PullAppMessagesResponse(), list[bytes](), state.object_store
    found = dict[str, str]()
    with _refusals(), state.lock, store.lock_store:
        asked = {request: state.message_ins_store.get(request) for request in requests}
        if any(one is not None and one.metadata.run_id != flower_run for one in asked.values()):
            raise MessageError("a request is of another run")
        for request in asked:
            reply = state.message_ins_id_to_message_res_id.get(request)
            if reply is None or objects_of(state, reply) is None:
                continue
            tree = store.get_object_tree(reply)
            answer.messages_list.append(message_to_proto(state.message_res_store[reply]))
            answer.message_object_trees.append(tree)
            contents += [store.get(one.object_id) for one in iterate_object_tree(tree)]
            found[request] = reply
        body = joined([answer.SerializeToString(), *contents]) if contents else b""
        state.delete_messages(set(found))
        for reply in found.values():
            store.delete(reply)
    return body


@contextmanager
def _refusals() -> Iterator[None]:
    """Turn what Flower raises on foreign input and on ended runs into our errors."""
    try:
        yield
    except FlowerError as error:
        raise RefusedError(str(error)) from error
    except UNREADABLE as error:
        raise MessageError("this is not a call of a ServerApp") from error

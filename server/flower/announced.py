"""A message is what it was announced as.

Flower stores what a sender says of a message's objects, and reads their contents later. Objects of
all runs and hospitals have one space of names, so wrong words about one object would be believed of
another sender's.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import Any

from flwr.app import Message
from flwr.proto.fleet_pb2 import PushMessagesRequest
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.proto.message_pb2 import ObjectTree
from flwr.supercore.inflatable.inflatable_object import (
    UnexpectedObjectContentError,
    get_object_body,
    get_object_children_ids_from_object_content,
    iterate_object_tree,
)
from flwr.supercore.inflatable.inflatable_utils import validate_object_content
from google.protobuf.message import DecodeError

from flo.errors import MessageError
from flo.protocol.whole_messages import MOST_OBJECTS

UNREADABLE = (  # what Flower raises for bytes of another party that it cannot read
    DecodeError,
    UnexpectedObjectContentError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    RuntimeError,
)
MAX_ANNOUNCED = 4096  # bytes of Flower's record of a message without its content


def reply_in(body: bytes) -> tuple[Any, ObjectTree]:
    """Return Flower's record of the one reply that a hospital announces, and its objects.

    Raises:
        MessageError: it is not one reply of few objects. DecodeError.
    """
    announced = PushMessagesRequest.FromString(body)
    if len(announced.messages_list) != 1 or len(announced.message_object_trees) != 1:
        raise MessageError("this is not one reply")
    message, tree = announced.messages_list[0], announced.message_object_trees[0]
    names_in(message, tree)
    return message, tree


def names_in(announced: Any, tree: ObjectTree) -> list[str]:
    """Return the names of an announced message's objects, innermost first.

    Raises:
        MessageError: they are too many, are not this message's, or the announcement is too long.
    """
    names = [one.object_id for one in islice(iterate_object_tree(tree), MOST_OBJECTS + 1)]
    if len(names) > MOST_OBJECTS:
        raise MessageError(f"a message has more than {MOST_OBJECTS} objects")
    if tree.object_id != announced.metadata.message_id:
        raise MessageError("the message is not the object that it announces")
    if announced.ByteSize() > MAX_ANNOUNCED or announced.content.ByteSize():
        raise MessageError(f"an announcement has more than {MAX_ANNOUNCED} bytes, or content")
    return names


def refuse_unlike(announced: Any, tree: ObjectTree, objects: Mapping[str, bytes]) -> None:
    """Refuse a message unless these objects are it, as its sender announced it.

    ``announced``: Flower's record of the message. ``tree``: which object is inside which.
    ``objects``: the content of each by its true name, perhaps among those of other messages.

    Raises:
        MessageError, or one of ``UNREADABLE`` for an object.
    """
    if not objects.keys() >= set(names_in(announced, tree)):
        raise MessageError("the message does not consist of the objects that came with it")
    for one in iterate_object_tree(tree):
        content = objects[one.object_id]
        validate_object_content(content)
        inside = get_object_children_ids_from_object_content(content)
        if inside != [child.object_id for child in one.children]:
            raise MessageError("an object has other parts than announced")
    said = ProtoMessage.FromString(get_object_body(objects[tree.object_id], Message))
    said.metadata.message_id = announced.metadata.message_id
    if (said.metadata, said.error) != (announced.metadata, announced.error):
        raise MessageError("the message says other things than its announcement")

"""A message is what it was announced as.

Flower stores what a sender says of a message's objects, and reads their contents later. Objects of
all runs and hospitals have one space of names, so wrong words about one object would be believed of
another sender's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flwr.app import Message
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.proto.message_pb2 import ObjectTree
from flwr.supercore.inflatable.inflatable_object import (
    get_object_body,
    get_object_children_ids_from_object_content,
    iterate_object_tree,
)

from flo.errors import MessageError
from flo.protocol.whole_messages import MOST_OBJECTS


def refuse_unlike(announced: Any, tree: ObjectTree, objects: Mapping[str, bytes]) -> None:
    """Refuse a message unless these objects are it, as its sender announced it.

    ``announced``: Flower's record of the message. ``tree``: which object is inside which.
    ``objects``: the content of each by its true name, perhaps among those of other messages.

    Raises:
        MessageError, or what Flower raises for an object that it cannot read.
    """
    names = [one.object_id for one in iterate_object_tree(tree)]
    if len(names) > MOST_OBJECTS:
        raise MessageError(f"the message has {len(names)} objects, at most {MOST_OBJECTS}")
    if tree.object_id != announced.metadata.message_id:
        raise MessageError("the message is not the object that it announces")
    if not objects.keys() >= set(names):
        raise MessageError("the message does not consist of the objects that came with it")
    for one in iterate_object_tree(tree):
        inside = get_object_children_ids_from_object_content(objects[one.object_id])
        if inside != [child.object_id for child in one.children]:
            raise MessageError("an object has other parts than announced")
    said = ProtoMessage.FromString(get_object_body(objects[tree.object_id], Message)).metadata
    said.message_id = announced.metadata.message_id
    if said != announced.metadata:
        raise MessageError("the message says other things than its announcement")

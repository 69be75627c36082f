"""A hospital's reply in one call: what is not a whole reply of its own is refused, by our words."""

from __future__ import annotations

from unittest import mock

import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.common.serde import message_to_proto
from flwr.proto.fleet_pb2 import PushMessagesRequest
from flwr.proto.message_pb2 import PushObjectRequest
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.task_identity import TaskIdentity
from hypothesis import given
from hypothesis import strategies as st

from flo.errors import MessageError
from flo.protocol.whole_messages import MAX_BODY, MOST_OBJECTS, joined, parted
from flo.server.flower.superlink import SuperLink

NODE, RUN = 7, 3


@pytest.fixture(scope="module")
def superlink() -> SuperLink:
    return SuperLink(superexec_secret=b"a secret of 32 bytes for tests..")


def reply(source: int = NODE) -> list[bytes]:
    """A reply as an agent makes it: its announcement, then its objects."""
    record = RecordDict({"flo": ConfigRecord({"message": b"numbers"})})
    with mock.patch.multiple(TaskIdentity, _run_id=RUN, _task_id=1, _node_id=source):
        message = Message(record, dst_node_id=1, message_type="query")
    message.metadata.__dict__.update(
        _src_node_id=source, _message_id=message.object_id, _reply_to_message_id="a"
    )
    announced = PushMessagesRequest(
        messages_list=[message_to_proto(remove_content_from_message(message))],
        message_object_trees=[get_object_tree(message)],
    )
    objects = [
        PushObjectRequest(run_id=RUN, object_id=name, object_content=one.deflate())
        for name, one in get_all_nested_objects(message).items()
    ]
    return [announced.SerializeToString(), *(one.SerializeToString() for one in objects)]


def test_a_reply_has_as_many_objects_as_the_limit_allows() -> None:
    assert len(reply()) == 1 + MOST_OBJECTS


def test_where_nothing_waits_nothing_is_pulled(superlink: SuperLink) -> None:
    assert superlink.pull_whole(NODE) == b""


def test_a_reply_to_a_run_that_flower_does_not_know_is_refused(superlink: SuperLink) -> None:
    with pytest.raises(MessageError, match="not a message of Flower"):
        superlink.push_whole(NODE, joined(reply()))


@pytest.mark.parametrize(
    "body", [b"", b"x", b"\0\0\0\1", joined([b"x"]), joined([b"\xff" * 9] * 4)]
)
def test_what_is_no_reply_is_refused(superlink: SuperLink, body: bytes) -> None:
    with pytest.raises(MessageError):
        superlink.push_whole(NODE, body)


def test_a_reply_in_another_nodes_name_is_refused(superlink: SuperLink) -> None:
    with pytest.raises(MessageError, match="in another node's name"):
        superlink.push_whole(NODE, joined(reply(source=8)))


def test_two_replies_at_once_are_refused(superlink: SuperLink) -> None:
    both = PushMessagesRequest.FromString(reply()[0])
    both.MergeFrom(PushMessagesRequest.FromString(reply()[0]))
    with pytest.raises(MessageError, match="not one reply"):
        superlink.push_whole(NODE, joined([both.SerializeToString()]))


@given(st.lists(st.binary(min_size=1, max_size=100), max_size=1 + MOST_OBJECTS))
def test_parts_come_back_as_they_were_joined(parts: list[bytes]) -> None:
    assert parted(joined(parts)) == parts


def test_too_many_or_too_large_parts_are_refused() -> None:
    with pytest.raises(MessageError, match="more than 3 objects"):
        parted(joined([b"x"] * (2 + MOST_OBJECTS)))
    with pytest.raises(MessageError, match="limit"):
        parted(joined([b"x" * (MAX_BODY + 1)]))
    with pytest.raises(MessageError, match="empty or incomplete"):
        parted(b"\0\0\0\0")

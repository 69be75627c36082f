"""A message in one call, over Flower's real state: it arrives whole, and only whose it is."""

from __future__ import annotations

import base64
import itertools
import time
from types import SimpleNamespace
from typing import Any

import pytest
from flwr.app import ConfigRecord, Message, Metadata, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.common.constant import NOOP_ACCOUNT_NAME, NOOP_FLWR_AID
from flwr.common.serde import message_to_proto
from flwr.proto.fleet_pb2 import PullMessagesResponse, PushMessagesRequest
from flwr.proto.message_pb2 import PullObjectResponse, PushObjectRequest
from flwr.proto.node_pb2 import Node
from flwr.proto.runtime_pb2 import PushAppMessagesRequest
from flwr.supercore.constant import NOOP_FEDERATION_ID, TaskType
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.superlink.servicer.runtime import runtime_handlers
from hypothesis import given
from hypothesis import strategies as st

from flo.errors import MessageError, RefusedError
from flo.protocol.messages import MAX_HEADER_BYTES, MAX_INLINE_BYTES
from flo.protocol.whole_messages import MAX_REPLY, MAX_REQUEST, MOST_OBJECTS, joined, parted
from flo.server.flower.superlink import SuperLink

SERVER_APP = 1
_numbers = itertools.count()


@pytest.fixture(scope="module")
def superlink() -> SuperLink:
    return SuperLink(superexec_secret=b"a secret of 32 bytes for tests..")


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
        self.state.claim_task(task)
        self.state.activate_task(task)
        return int(run)

    def message(self, data: bytes, *, source: int = SERVER_APP, **metadata: Any) -> Any:
        content = RecordDict({"flo": ConfigRecord({"message": data})})
        facts = {"run_id": self.run, "dst_node_id": self.node, "reply_to_message_id": ""}
        made: Any = Message
        message = made(
            content,
            metadata=Metadata(
                **(facts | metadata),
                message_id="",
                src_node_id=source,
                group_id="",
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


@pytest.fixture
def party(superlink: SuperLink) -> Party:
    return Party(superlink)


def pulled_id(party: Party) -> str:
    (message,) = PullMessagesResponse.FromString(party.pull()[0]).messages_list
    return str(message.metadata.message_id)


def contents(parts: list[bytes]) -> list[bytes]:
    return [PullObjectResponse.FromString(part).object_content for part in parts[1:]]


def test_a_request_is_pulled_once_with_all_its_objects(party: Party) -> None:
    asked = party.asked()
    first, *_ = parts = party.pull()
    pulled = PullMessagesResponse.FromString(first).messages_list[0]
    assert pulled.metadata.message_id == asked.metadata.message_id
    assert len(parts) == 1 + MOST_OBJECTS
    assert set(contents(parts)) == {o.deflate() for o in get_all_nested_objects(asked).values()}
    assert party.pull() == []


def test_the_largest_request_arrives(party: Party) -> None:
    """The header of a request to 128 hospitals is hundreds of kilobytes."""
    data = bytes(MAX_HEADER_BYTES + MAX_INLINE_BYTES)
    party.asked(data)
    assert max(map(len, contents(party.pull()))) > len(data)


def test_a_reply_is_stored_whole(party: Party) -> None:
    announced, objects, message = party.reply(party.asked())
    party.pull()
    party.push(announced, objects)
    assert party.superlink._complete(message.metadata.message_id)


def test_a_request_that_is_still_uploaded_holds_up_no_other_and_is_not_lost(party: Party) -> None:
    """Its ServerApp may have died: the request of another run, behind it, arrives at once."""
    early = party.message(b"early")
    reply = party.announced(early)
    assert not party.waits()
    assert party.pull() == []
    late = party.asked(b"late", run_id=party.new_run())
    assert party.waits(), "for the late one"
    assert pulled_id(party) == late.metadata.message_id
    assert not party.waits()
    assert all(party.uploaded(early, reply)), "the upload goes on"
    assert pulled_id(party) == early.metadata.message_id
    assert party.pull() == []


def test_a_reply_to_a_run_that_is_over_is_refused(party: Party) -> None:
    announced, objects, _ = party.reply(party.asked())
    party.pull()
    party.state.finish_task(party.state.run_ids[party.run].run.primary_task_id, "completed", "")
    with pytest.raises(RefusedError, match="a run that is over"):
        party.push(announced, objects)


def test_a_reply_in_another_nodes_name_is_refused(superlink: SuperLink, party: Party) -> None:
    announced, objects, _ = party.reply(party.asked())
    party.pull()
    with pytest.raises(MessageError, match="in another node's name"):
        Party(superlink).push(announced, objects)


@pytest.mark.parametrize("spoil", ["object missing", "object too many", "another root", "deep"])
def test_a_reply_that_is_not_what_it_announces_is_not_stored(party: Party, spoil: str) -> None:
    announced, objects, message = party.reply(party.asked())
    party.pull()
    tree = announced.message_object_trees[0]
    if spoil == "object missing":
        objects.pop()
    elif spoil == "object too many":
        objects.append(PushObjectRequest(run_id=party.run, object_id="f" * 64))
    elif spoil == "another root":
        tree.CopyFrom(tree.children[0])
        objects = [one for one in objects if one.object_id != message.metadata.message_id]
    else:
        for _ in range(20):
            tree = tree.children.add(object_id="e" * 64)
    with pytest.raises(MessageError, match=r"announces|more than 4 parts"):
        party.push(announced, objects)
    assert message.metadata.message_id not in party.state.message_res_store


def test_two_replies_at_once_are_refused(party: Party) -> None:
    announced, objects, _ = party.reply(party.asked())
    announced.messages_list.append(announced.messages_list[0])
    with pytest.raises(MessageError, match="not one reply"):
        party.push(announced, objects)


@pytest.mark.parametrize(
    "body", [b"", b"x", b"\0\0\0\1", joined([b"x"]), joined([b"\xff" * 9] * 4)]
)
def test_what_is_no_reply_is_refused(superlink: SuperLink, body: bytes) -> None:
    with pytest.raises(MessageError):
        superlink.push_whole(7, body)


def test_objects_within_each_other_without_end_are_not_complete(superlink: SuperLink) -> None:
    entry = SimpleNamespace(is_available=True, child_object_ids=["itself"])
    superlink._state.object_store.store["itself"] = entry
    assert not superlink._complete("itself")
    del superlink._state.object_store.store["itself"]


@given(st.lists(st.binary(min_size=1, max_size=100), max_size=1 + MOST_OBJECTS))
def test_parts_come_back_as_they_were_joined(parts: list[bytes]) -> None:
    assert parted(joined(parts), 100) == parts


def test_too_many_or_too_large_parts_are_refused() -> None:
    with pytest.raises(MessageError, match="more than 4 parts"):
        parted(joined([b"x"] * (2 + MOST_OBJECTS)), MAX_REPLY)
    with pytest.raises(MessageError, match="limit"):
        parted(joined([b"x" * (MAX_REPLY + 1)]), MAX_REPLY)
    with pytest.raises(MessageError, match="empty or incomplete"):
        parted(b"\0\0\0\0", MAX_REPLY)

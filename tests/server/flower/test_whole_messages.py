"""A message in one call, over Flower's real state: it arrives whole, and only whose it is."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from flwr.proto.fleet_pb2 import PullMessagesResponse
from flwr.proto.message_pb2 import PullObjectResponse, PushObjectRequest
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from hypothesis import given
from hypothesis import strategies as st

from flo.errors import MessageError, RefusedError
from flo.protocol.messages import MAX_HEADER_BYTES, MAX_INLINE_BYTES
from flo.protocol.whole_messages import MAX_REPLY, MOST_OBJECTS, joined, parted
from flo.server.flower.stored import objects_of
from flo.server.flower.superlink import SuperLink
from tests.server.flower.party import Party


@pytest.fixture(scope="module")
def superlink() -> SuperLink:
    return SuperLink(superexec_secret=b"a secret of 32 bytes for tests..")


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
    assert objects_of(party.state, message.metadata.message_id)


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
    with pytest.raises(MessageError, match=r"announces|came with it|at most 3|more than 3"):
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
    entry = SimpleNamespace(is_available=True, child_object_ids=["itself"] * 20, content=b"x")
    superlink._state.object_store.store["itself"] = entry
    assert objects_of(superlink._state, "itself") is None
    del superlink._state.object_store.store["itself"]


@given(st.lists(st.binary(min_size=1, max_size=100), max_size=1 + MOST_OBJECTS))
def test_parts_come_back_as_they_were_joined(parts: list[bytes]) -> None:
    assert parted(joined(parts), 100) == parts


def test_too_many_or_too_large_parts_are_refused() -> None:
    with pytest.raises(MessageError, match="more than 3 objects"):
        parted(joined([b"x"] * (2 + MOST_OBJECTS)), MAX_REPLY)
    with pytest.raises(MessageError, match="limit"):
        parted(joined([b"x" * (MAX_REPLY + 1)]), MAX_REPLY)
    with pytest.raises(MessageError, match="empty or incomplete"):
        parted(b"\0\0\0\0", MAX_REPLY)

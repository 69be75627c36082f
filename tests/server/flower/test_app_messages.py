"""A ServerApp's messages in one call, over Flower's real state: whole, and its own only."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import httpx
import pytest
from flwr.app import ConfigRecord, Message
from flwr.app.message import remove_content_from_message
from flwr.common.serde import message_to_proto
from flwr.proto.message_pb2 import PushObjectRequest
from flwr.proto.runtime_pb2 import (
    PullAppMessagesRequest,
    PushAppMessagesRequest,
    PushAppMessagesResponse,
)
from flwr.supercore.constant import TASK_TOKEN_HEADER
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_id,
    get_object_tree,
)
from flwr.superlink.servicer.fleet import fleet_handlers

from flo.errors import FloError, MessageError, NetworkError, RefusedError, TrustError
from flo.protocol.large_bodies import NAME_HEADER
from flo.protocol.whole_messages import joined
from flo.server.flower import app_client, app_messages
from flo.server.flower import superlink as superlink_module
from flo.server.flower.app_calls import PUSH_PATH
from flo.server.flower.app_client import GridMessages
from flo.server.flower.scoped_runtime import RuntimeScope
from flo.server.flower.superlink import SuperLink
from tests.server.flower.party import Party


class Line:
    """Flower's grid of a ServerApp, connected to the coordinator as the private listener is."""

    def __init__(self, party: Party, runtime: Any = None) -> None:
        self._superlink, self._runtime = party.superlink, runtime or party.superlink.runtime
        self._token, self._base_url, self._runtime_client = party.token, "https://here", self
        self._client = httpx.Client(transport=httpx.MockTransport(self._answer))
        self._retry_invoker = self
        self.calls: list[str] = []
        self.questions: list[str] = []

    def invoke(self, send: Callable[[], httpx.Response]) -> httpx.Response:
        return send()

    def _answer(self, request: httpx.Request) -> httpx.Response:
        self.calls.append(request.url.path)
        headers = {TASK_TOKEN_HEADER.encode(): request.headers[TASK_TOKEN_HEADER].encode()}
        body = request.read()
        try:
            if request.url.path == PUSH_PATH:
                assert NAME_HEADER not in request.headers
                answer = self._superlink.push_requests(self._runtime, headers, body)
            else:
                self.questions.append(request.headers[NAME_HEADER])
                there = self._superlink.with_complete_replies(sorted(app_messages.awaited(body)))
                answer = self._superlink.pull_replies(headers, there)
        except FloError as error:
            return httpx.Response(400, json={"error": str(error)})
        return httpx.Response(200, content=answer)


@pytest.fixture
def superlink() -> SuperLink:
    return SuperLink(superexec_secret=b"a secret of 32 bytes for tests..")


@pytest.fixture
def party(superlink: SuperLink) -> Party:
    return Party(superlink)


@pytest.fixture
def line(party: Party) -> Line:
    return Line(party)


def text(message: Message) -> bytes:
    body = message.content.config_records["flo"]["message"]
    assert isinstance(body, bytes)
    return body


def answered(party: Party, data: bytes = b"numbers") -> None:
    """The hospital pulls its next request and answers it."""
    pulled = party.pulled()
    announced, objects, _ = party.reply(pulled, data)
    party.push(announced, objects)


def test_requests_arrive_and_replies_come_back_in_one_call_each(party: Party, line: Line) -> None:
    grid = GridMessages(line)
    names = grid.push_messages([party.message(b"first"), party.message(b"second")])
    assert len(set(names)) == 2
    assert len(line.calls) == 1
    assert grid.pull_messages(names) == []
    answered(party, b"one")
    answered(party, b"two")
    replies = grid.pull_messages(names)
    assert {text(reply) for reply in replies} == {b"one", b"two"}
    assert {reply.metadata.reply_to_message_id for reply in replies} == set(names)
    assert {reply.metadata.src_node_id for reply in replies} == {party.node}
    assert len(line.calls) == 3
    assert grid.pull_messages(names) == [], "each is delivered once"
    party.superlink.tidy()
    assert not party.objects(), "and nothing of it is kept"


def test_the_same_request_to_two_hospitals_and_the_same_reply_are_one_object(
    superlink: SuperLink, party: Party, line: Line
) -> None:
    other = Party(superlink)
    grid = GridMessages(line)
    names = grid.push_messages([party.message(b"x"), party.message(b"x", dst_node_id=other.node)])
    other.run = party.run
    answered(party)
    answered(other)
    assert [text(reply) for reply in grid.pull_messages(names)] == [b"numbers"] * 2
    superlink.tidy()
    assert not party.objects()


def test_many_bytes_are_several_calls(
    party: Party, line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app_client, "BATCH_BYTES", 2500)
    monkeypatch.setattr(superlink_module, "_MOST_PULLED", 2500)
    grid = GridMessages(line)
    sent = [bytes([number]) * 1000 for number in range(5)]
    names = grid.push_messages([party.message(data) for data in sent])
    assert len(line.calls) == 5, "two of 1,000 bytes have more than 2,500 with what Flower adds"
    for data in sent:
        answered(party, data)
    replies: list[bytes] = []
    while len(replies) < 5:
        found = grid.pull_messages(names)
        assert len(found) == 1
        replies += map(text, found)
    assert sorted(replies) == sent


def test_many_messages_are_several_calls(
    party: Party, line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app_client, "MOST_MESSAGES", 2)
    names = GridMessages(line).push_messages([party.message(bytes([n])) for n in range(5)])
    assert len(set(names)) == 5
    assert len(line.calls) == 3


def test_a_message_that_flower_does_not_accept_has_no_name(party: Party, line: Line) -> None:
    pair = [party.message(b"to nobody", dst_node_id=77), party.message(b"to somebody")]
    nobody, somebody = GridMessages(line).push_messages(pair)
    assert nobody == ""
    assert somebody == pair[1].metadata.message_id


def test_a_reply_that_is_still_uploaded_is_not_returned(party: Party, line: Line) -> None:
    grid = GridMessages(line)
    names = grid.push_messages([party.message(b"a")])
    announced, objects, message = party.reply(party.pulled())
    party.push(announced, objects)
    entry = party.state.object_store.store[message.metadata.message_id]
    entry.is_available = False
    assert grid.pull_messages(names) == []
    entry.is_available = True
    assert len(grid.pull_messages(names)) == 1


def test_a_reply_that_its_hospital_deletes_meanwhile_is_left_out(
    superlink: SuperLink, party: Party
) -> None:
    (name,) = GridMessages(Line(party)).push_messages([party.message(b"a")])
    announced, objects, message = party.reply(party.pulled())
    party.push(announced, objects)
    entry = party.state.object_store.store[message.metadata.message_id]
    entry.content, entry.is_available = b"", False
    headers = {TASK_TOKEN_HEADER.encode(): party.token.encode()}
    assert superlink.pull_replies(headers, [name]) == b""


def two_asked(
    superlink: SuperLink, party: Party, line: Line
) -> tuple[GridMessages, list[str], Party]:
    """A run asks ``party`` and another hospital; return its grid, both requests, the other one."""
    other, grid = Party(superlink), GridMessages(line)
    names = grid.push_messages([party.message(b"a"), party.message(b"a", dst_node_id=other.node)])
    other.run = party.run
    return grid, names, other


def by_flowers_calls(party: Party, announced: Any, objects: list[PushObjectRequest]) -> None:
    """A hospital sends a reply as Flower's own client does."""
    announced.node.node_id = party.node
    session = fleet_handlers.push_messages(announced, party.state).session_id
    for one in objects:
        one.node.node_id, one.session_id = party.node, session
        assert fleet_handlers.push_object(one, party.state).stored


def test_a_lying_hospitals_reply_is_passed_over_and_the_others_arrive(
    superlink: SuperLink, party: Party, line: Line
) -> None:
    """Its objects have the names and sizes that Flower checks, and make no message.

    Flower's own calls, which hospitals of the release before make, take it.
    """
    grid, names, other = two_asked(superlink, party, line)
    announced, objects, _ = party.reply(party.pulled())
    swapped = {one.object_id: one for one in objects}
    tree = announced.message_object_trees[0]
    record = ConfigRecord({"message": b"lies"}).deflate()
    spoilt = PushObjectRequest(
        run_id=party.run, object_id=get_object_id(record), object_content=record
    )
    inner = tree.children[0].children[0].object_id
    tree.children[0].children[0].object_id = spoilt.object_id
    del swapped[inner]
    by_flowers_calls(party, announced, [*swapped.values(), spoilt])
    answered(other, b"honest")
    assert [reply.metadata.src_node_id for reply in grid.pull_messages(names)] == [other.node]


def test_a_reply_of_more_objects_than_a_message_has_is_not_returned(
    superlink: SuperLink, party: Party, line: Line
) -> None:
    """A hospital can send one by Flower's own calls; it ends no run, and the others arrive."""
    grid, names, other = two_asked(superlink, party, line)
    announced, _, message = party.reply(party.pulled())
    message.content["more"] = ConfigRecord({"message": b"more"})
    message.metadata.__dict__["_message_id"] = message.object_id
    announced.messages_list[0].metadata.message_id = message.object_id
    announced.message_object_trees[0].CopyFrom(get_object_tree(message))
    objects = [
        PushObjectRequest(run_id=party.run, object_id=name, object_content=one.deflate())
        for name, one in get_all_nested_objects(message).items()
    ]
    by_flowers_calls(party, announced, objects)
    answered(other, b"honest")
    assert [reply.metadata.src_node_id for reply in grid.pull_messages(names)] == [other.node]


def test_a_reply_that_says_it_answers_another_request_is_passed_over(
    superlink: SuperLink, party: Party, line: Line
) -> None:
    """Flower reads which request it answers from the announcement, the run from the message."""
    grid, names, other = two_asked(superlink, party, line)
    announced, _, _ = party.reply(party.pulled())
    _, objects, message = party.reply(other.pulled(), b"another's")  # as if it were the other one
    announced.messages_list[0].metadata.message_id = message.metadata.message_id
    announced.messages_list[0].metadata.ttl = 50.0  # it ends before its request
    announced.message_object_trees[0].CopyFrom(get_object_tree(message))
    by_flowers_calls(party, announced, objects)
    assert grid.pull_messages(names) == []


def test_each_question_for_replies_has_a_name_of_its_own(party: Party, line: Line) -> None:
    grid = GridMessages(line)
    names = grid.push_messages([party.message(b"a")])
    for _ in range(3):
        grid.pull_messages(names)
    assert len(set(line.questions)) == 3


def test_requests_sent_twice_wait_once(superlink: SuperLink, party: Party) -> None:
    """The answer to a call may be lost, so that it is repeated."""
    headers = {TASK_TOKEN_HEADER.encode(): party.token.encode()}
    said, objects = announced(party.message(b"x"))
    body = joined([said.SerializeToString(), *objects.values()])
    answers = [superlink.push_requests(superlink.runtime, headers, body) for _ in range(2)]
    assert len({tuple(PushAppMessagesResponse.FromString(a).message_ids) for a in answers}) == 1
    assert party.pull()
    assert not party.pull()


@pytest.mark.parametrize("pulls", [False, True])
def test_nothing_of_an_expired_request_and_its_reply_is_kept(
    superlink: SuperLink, party: Party, line: Line, pulls: bool
) -> None:
    """Also if Flower deletes the record of a request first, when some hospital pulls."""
    other = Party(superlink)
    grid = GridMessages(line)
    grid.push_messages([party.message(b"answered"), party.message(b"never pulled")])
    answered(party, b"expires")
    there = party.objects()
    for waiting in party.state.message_ins_store.values():
        if waiting.metadata.run_id == party.run:
            waiting.metadata.created_at -= 61
    if pulls:
        assert not other.pull()
        assert not party.pull()
    grid.push_messages([party.message(b"next")])
    superlink.tidy()
    assert len(there) == 6
    assert len(party.objects()) == 3
    assert not party.objects() & there
    assert party.pull(), "the next one still arrives"


def test_nothing_of_a_run_that_is_over_is_kept(
    superlink: SuperLink, party: Party, line: Line
) -> None:
    other = Party(superlink)
    GridMessages(Line(other)).push_messages([other.message(b"another run's")])
    grid = GridMessages(line)
    grid.push_messages([party.message(b"answered"), party.message(b"never pulled")])
    answered(party, b"of a run that ends")
    party.announced(party.message(b"half sent"))
    superlink.tidy()
    assert len(party.objects()) == 9, "while it runs, all waits"
    party.state.finish_task(party.state.run_ids[party.run].run.primary_task_id, "completed", "")
    superlink.tidy()
    assert not party.objects()
    runs = {one.metadata.run_id for one in party.state.message_ins_store.values()}
    assert party.run not in runs
    assert party.run not in {one.run_id for one in party.state._object_push_sessions.values()}
    assert other.pull()


def test_requests_sent_again_after_they_arrived_leave_nothing(
    superlink: SuperLink, party: Party, line: Line
) -> None:
    grid, message = GridMessages(line), party.message(b"x")
    names = grid.push_messages([message])
    pulled = party.pulled()
    assert grid.push_messages([message]) == names
    announced, objects, _ = party.reply(pulled, b"only once")
    party.push(announced, objects)
    assert len(grid.pull_messages(names)) == 1
    superlink.tidy()
    assert not party.objects()


def test_tidying_while_a_message_is_stored_locks_nobody_out(
    superlink: SuperLink, party: Party, line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Flower holds its state's lock, and then that of uploads, while it stores a message."""
    inside, go_on, store = threading.Event(), threading.Event(), party.state.store_message_ins

    def slowly(message: Any) -> Any:
        inside.set()
        assert go_on.wait(10)
        return store(message)

    monkeypatch.setattr(party.state, "store_message_ins", slowly)
    pushing = threading.Thread(
        target=GridMessages(line).push_messages, args=([party.message(b"a")],), daemon=True
    )
    tidying = threading.Thread(target=superlink.tidy, daemon=True)
    pushing.start()
    assert inside.wait(10)
    tidying.start()
    tidying.join(0.3)  # it waits for the state's lock, and must hold no other meanwhile
    go_on.set()
    for thread in (pushing, tidying):
        thread.join(10)
        assert not thread.is_alive()
    assert party.pull()


def test_an_upload_that_flower_refused_is_forgotten(superlink: SuperLink, party: Party) -> None:
    sessions = party.state._object_push_sessions
    request = party.asked()
    party.push(*party.reply(request)[:2])
    assert not sessions
    party.push(*party.reply(request, b"another reply to the same")[:2])
    assert not sessions, "by one call"
    announced, _, _ = party.reply(request, b"and one by Flower's own call")
    announced.node.node_id = party.node
    fleet_handlers.push_messages(announced, party.state)
    superlink.tidy()
    assert len(sessions) == 1, "its message may be about to be stored"
    (session,) = sessions.values()
    session.expires_at -= timedelta(seconds=11)
    superlink.tidy()
    assert not sessions


def test_a_reply_that_comes_too_late_is_taken_and_dropped(party: Party) -> None:
    """Else an honest hospital that slept would be refused, and entered in the audit log."""
    request = party.asked()
    announced, objects, message = party.reply(request)
    party.state.message_ins_store[request.metadata.message_id].metadata.created_at -= 61
    party.push(announced, objects)
    assert message.metadata.message_id not in party.state.message_res_store
    assert not party.state._object_push_sessions


def test_a_reply_of_a_hospital_that_went_offline_since_arrives(
    superlink: SuperLink, party: Party, line: Line
) -> None:
    grid = GridMessages(line)
    names = grid.push_messages([party.message(b"a")])
    answered(party)
    superlink.mark_offline(party.node)
    assert [text(reply) for reply in grid.pull_messages(names)] == [b"numbers"]


@pytest.mark.parametrize("spoil", ["two", "another root", "many objects", "long", "inside", "anew"])
def test_an_announcement_by_flowers_own_call_is_of_one_reply(
    superlink: SuperLink, party: Party, spoil: str
) -> None:
    """Else one reply would bring objects without number into the store."""
    announced, _, message = party.reply(party.asked())
    with pytest.raises(MessageError, match="another node's name"):
        superlink.note_announcement(party.node + 1, announced.SerializeToString())
    superlink.note_announcement(party.node, announced.SerializeToString())
    assert superlink.answered_last(party.node) == message.metadata.reply_to_message_id
    said, tree = announced.messages_list[0], announced.message_object_trees[0]
    if spoil == "two":
        announced.message_object_trees.append(tree)
    elif spoil == "another root":
        tree.object_id = "e" * 64
    elif spoil == "many objects":
        tree.children.add(object_id="e" * 64)
    elif spoil == "long":
        said.metadata.group_id = "x" * 5000
    elif spoil == "inside":
        tree.children[0].object_id = party.asked(b"another").metadata.message_id
    else:
        announced.node.node_id = party.node
        fleet_handlers.push_messages(announced, party.state)
        superlink.note_announcement(party.node, announced.SerializeToString())
        tree.children[0].object_id = "e" * 64
    with pytest.raises(MessageError):
        superlink.note_announcement(party.node, announced.SerializeToString())


def test_a_connection_that_breaks_is_tried_again(
    party: Party, line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Flower's own retries leave out TLS errors."""
    monkeypatch.setattr(app_client, "_PAUSES", (0.0, 0.0))
    broken = [httpx.ReadError("_ssl.c: EOF"), httpx.ConnectError("tls")]

    def invoke(send: Callable[[], httpx.Response]) -> httpx.Response:
        if broken:
            raise broken.pop()
        return send()

    monkeypatch.setattr(line, "invoke", invoke)
    grid = GridMessages(line)
    (name,) = grid.push_messages([party.message(b"a")])
    answered(party)
    broken += [httpx.ReadError("_ssl.c: EOF")]
    assert len(grid.pull_messages([name])) == 1
    broken += [httpx.ReadError("_ssl.c: EOF")] * 3
    with pytest.raises(NetworkError):
        grid.pull_messages([name])


def announced(*messages: Message) -> tuple[Any, dict[str, bytes]]:
    """What a ServerApp says and sends."""
    said = PushAppMessagesRequest(
        messages_list=[message_to_proto(remove_content_from_message(one)) for one in messages],
        message_object_trees=[get_object_tree(one) for one in messages],
    )
    objects: dict[str, bytes] = {}
    for one in messages:
        objects |= {name: o.deflate() for name, o in get_all_nested_objects(one).items()}
    return said, objects


SPOILT = [
    "one missing",
    "one too many",
    "no message",
    "another run's",
    "the second another run's",
    "other parts",
    "another root",
    "another addressee",
    "a tree too few",
    "trees without number",
    "inline content",
    "a long name",
    "a reply",
    "an object of another length",
]


@pytest.mark.parametrize("spoil", SPOILT)
def test_what_is_no_whole_request_is_refused_and_nothing_is_stored(
    superlink: SuperLink, party: Party, spoil: str
) -> None:
    headers = {TASK_TOKEN_HEADER.encode(): party.token.encode()}
    said, objects = announced(party.message(b"x"))
    if spoil == "one missing":
        objects.popitem()
    elif spoil == "one too many":
        objects["other"] = ConfigRecord({"other": b"x"}).deflate()
    elif spoil == "no message":
        said, objects = PushAppMessagesRequest(), {}
    elif spoil == "other parts":
        other = ConfigRecord({"message": b"y"})
        del objects[said.message_object_trees[0].children[0].children[0].object_id]
        said.message_object_trees[0].children[0].children[0].object_id = other.object_id
        objects[other.object_id] = other.deflate()
    elif spoil == "another root":
        said.messages_list[0].metadata.message_id = "e" * 64
    elif spoil == "another addressee":
        said.messages_list[0].metadata.dst_node_id += 1
    elif spoil == "a tree too few":
        del said.message_object_trees[0]
        objects = {}
    elif spoil == "trees without number":
        for _ in range(10_000):
            said.message_object_trees.add()
    elif spoil == "inline content":
        with_content = message_to_proto(party.message(b"inside"))
        said.messages_list[0].content.CopyFrom(with_content.content)
    elif spoil == "a long name":
        said, objects = announced(party.message(b"x", group_id="x" * 5000))
    elif spoil == "a reply":
        said, objects = announced(
            party.message(b"x"), party.message(b"y", reply_to_message_id="e" * 64)
        )
    elif spoil == "an object of another length":
        tree = said.message_object_trees[0]
        longer = objects.pop(tree.object_id) + b"\x18\x01"  # a field that the message may have
        tree.object_id = said.messages_list[0].metadata.message_id = get_object_id(longer)
        objects[tree.object_id] = longer
    elif spoil == "another run's":
        said, objects = announced(party.message(b"x", run_id=party.new_run()))
    else:
        message = party.message(b"x")
        said, objects = announced(message, party.message(b"y", run_id=party.new_run()))
        party.run = message.metadata.run_id
    body = joined([said.SerializeToString() or b"\x32\0", *objects.values()])
    with pytest.raises(MessageError):
        superlink.push_requests(superlink.runtime, headers, body)
    assert not party.waits()
    assert not party.objects()


@pytest.mark.parametrize("body", [b"", b"x", joined([b"x"]), joined([b"\xff" * 9] * 4)])
def test_what_is_no_call_is_refused(superlink: SuperLink, party: Party, body: bytes) -> None:
    headers = {TASK_TOKEN_HEADER.encode(): party.token.encode()}
    with pytest.raises(MessageError):
        superlink.push_requests(superlink.runtime, headers, body)


def test_replies_of_another_run_are_not_told(
    superlink: SuperLink, party: Party, line: Line
) -> None:
    names = GridMessages(line).push_messages([party.message(b"a")])
    answered(party)
    with pytest.raises(NetworkError, match="did not accept"):
        GridMessages(Line(Party(superlink))).pull_messages(names)
    assert len(GridMessages(line).pull_messages(names)) == 1, "its own run still gets it"


def test_a_question_that_is_none_is_refused() -> None:
    assert app_messages.awaited(PullAppMessagesRequest(message_ids=["a"]).SerializeToString())
    with pytest.raises(MessageError):
        app_messages.awaited(b"\xff" * 9)


def test_a_jobs_requests_are_refused_before_any_is_stored(
    superlink: SuperLink, party: Party
) -> None:
    loan = RuntimeScope("run-1-000001", "a study", lambda: {party.node})
    scoped = superlink.scoped_runtime(party.run, bytes(32), loan)
    said, objects = announced(party.message(b"not a request of the study"))
    body = joined([said.SerializeToString(), *objects.values()])
    headers = {TASK_TOKEN_HEADER.encode(): party.token.encode()}
    with pytest.raises(RefusedError):
        superlink.push_requests(scoped, headers, body)
    assert not party.waits()
    assert not party.objects()


def test_a_task_that_is_over_sends_and_gets_nothing(superlink: SuperLink, party: Party) -> None:
    said, objects = announced(party.message(b"late"))
    headers = {TASK_TOKEN_HEADER.encode(): party.token.encode()}
    party.state.finish_task(party.state.run_ids[party.run].run.primary_task_id, "completed", "")
    body = joined([said.SerializeToString(), *objects.values()])
    with pytest.raises(TrustError):
        superlink.push_requests(superlink.runtime, headers, body)
    with pytest.raises(TrustError):
        superlink.pull_replies(headers, [])
    assert not party.objects()

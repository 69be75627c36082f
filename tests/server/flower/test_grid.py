"""Carrying a round's messages through Flower: asking again, giving up, and noticing restarts."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Sequence
from typing import Any

import httpx
import pytest
from flwr.app import ConfigRecord, Error, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from flo.errors import MessageError, NetworkError
from flo.protocol.messages import MAX_INLINE_BYTES
from flo.server.flower import grid
from flo.server.flower.app_client import GridLargeBodies
from flo.server.flower.grid import GridExchange
from tests.server.in_memory_run import Clock

NODES = {"north": 11, "south": 22, "west": 33}
DEADLINE = 20.0
Reply = Callable[[Message], Message]


def body_of(message: Message) -> bytes:
    body = message.content.config_records["flo"]["message"]
    assert isinstance(body, bytes)
    return body


def answer(message: Message) -> Message:
    """What a site sends: the request's bytes, with a mark of the hospital that answers."""
    data = body_of(message) + f" from {message.metadata.dst_node_id}".encode()
    return Message(RecordDict({"flo": ConfigRecord({"message": data})}), reply_to=message)


def error(message: Message) -> Message:
    return Message(Error(code=1, reason="no"), reply_to=message)


class FakeGrid:
    """Flower's grid in memory: each message is answered as told, or lost, or not even taken."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.online = set(NODES.values())
        self.pushed: list[tuple[float, str, bytes, float]] = []  # when, to whom, what, ttl
        self.seconds: dict[str, list[float | None]] = {}  # until an answer; None: never
        self.reply: dict[str, Reply] = {}
        self.refused: set[str] = set()
        self.looks = 0
        self._due: dict[str, tuple[float, Message]] = {}

    def get_node_ids(self) -> set[int]:
        self.looks += 1
        return set(self.online)

    def push_messages(self, messages: Sequence[Message]) -> list[str]:
        return [self._push(message) for message in messages]

    def _push(self, message: Message) -> str:
        (hospital,) = (h for h, node in NODES.items() if node == message.metadata.dst_node_id)
        if hospital in self.refused:
            return ""
        identifier = f"message-{len(self.pushed)}"
        message.metadata.__dict__["_message_id"] = identifier
        self.pushed.append((self.clock.now, hospital, body_of(message), message.metadata.ttl))
        queue = self.seconds.get(hospital, [])
        wait = queue.pop(0) if queue else 0.1
        if wait is not None:
            made = self.reply.get(hospital, answer)(message)
            self._due[identifier] = (self.clock.now + wait, made)
        return identifier

    def pull_messages(self, message_ids: Sequence[str]) -> list[Message]:
        """Each answer once, as Flower hands them out."""
        there = [i for i in message_ids if i in self._due and self._due[i][0] <= self.clock.now]
        return [self._due.pop(identifier)[1] for identifier in there]

    def pushes_to(self, hospital: str) -> list[float]:
        return [when for when, to, *_ in self.pushed if to == hospital]


class FakeParcels:
    """Keeps what is put; gives what is offered, or nothing of who went away."""

    def __init__(self) -> None:
        self.kept: dict[str, tuple[set[int], bytes]] = {}
        self.offered: dict[tuple[str, int], bytes] = {}

    def put(self, name: str, nodes: Collection[int], body: memoryview) -> None:
        self.kept[name] = (set(nodes), bytes(body))

    def take(self, name: str, node: int, size: int, seconds: float) -> memoryview:
        assert 5 <= seconds <= DEADLINE
        data = self.offered.pop((name, node), b"")
        if len(data) != size:
            raise MessageError("it went away")
        return memoryview(data)


class World:
    """An exchange over a fake grid, and what the coordinator's database would say."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.grid = FakeGrid(self.clock)
        self.nodes, self.connections = dict(NODES), dict.fromkeys(NODES, 1)
        self.stopped, self.later = False, list[tuple[float, Callable[[], object]]]()
        self.parcels = FakeParcels()
        self.exchange = GridExchange(
            self.grid,
            lambda: dict(self.nodes),
            lambda: dict(self.connections),
            lambda: self.stopped,
            self.parcels,
        )

    def at(self, instant: float, deed: Callable[[], object]) -> None:
        self.later.append((instant, deed))

    def monotonic(self) -> float:
        return self.clock.now

    def sleep(self, seconds: float) -> None:
        self.clock.sleep(seconds)
        due = [item for item in self.later if item[0] <= self.clock.now]
        self.later = [item for item in self.later if item not in due]
        for _, deed in due:
            deed()

    def reconnect(self, hospital: str) -> None:
        self.connections[hospital] += 1

    def ask(self, *hospitals: str, what: bytes = b"hello") -> dict[str, bytes]:
        heads = dict.fromkeys(hospitals or NODES, what[:10])
        replies = self.exchange.ask(heads, memoryview(what)[10:], DEADLINE)
        return {hospital: bytes(data) for hospital, data in replies}


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    for name in ("_task_id", "_run_id", "_node_id"):  # as in a ServerApp's process
        monkeypatch.setattr(TaskIdentity, name, 1)
    made = World()
    monkeypatch.setattr(grid, "time", made)
    return made


# -- asking ------------------------------------------------------------------------------------


def test_bytes_arrive_as_they_were_sent_and_answers_by_hospital(world: World) -> None:
    assert world.ask("north", "west", what=b"\x00\xff") == {
        "north": b"\x00\xff from 11",
        "west": b"\x00\xff from 33",
    }
    assert [(to, what) for _, to, what, _ in world.grid.pushed] == [
        ("north", b"\x00\xff"),
        ("west", b"\x00\xff"),
    ]
    assert world.clock.now < 0.2, "nobody waits once everyone has answered"


def test_a_message_outlives_its_deadline(world: World) -> None:
    world.ask("north")
    assert all(ttl > DEADLINE for *_, ttl in world.grid.pushed)


def test_who_answers_after_the_deadline_is_absent(world: World) -> None:
    world.grid.seconds["south"] = [DEADLINE + 5, DEADLINE + 5]
    assert set(world.ask()) == {"north", "west"}
    assert DEADLINE < world.clock.now < DEADLINE + 0.1


def test_a_late_answer_is_no_answer_to_the_next_question(world: World) -> None:
    world.grid.seconds["south"] = [DEADLINE + 1, None, 3.0]
    assert "south" not in world.ask("south", what=b"first")
    assert world.ask("south", what=b"second") == {"south": b"second from 22"}


def test_an_error_is_no_answer(world: World) -> None:
    world.grid.reply["south"] = error
    assert set(world.ask()) == {"north", "west"}


@pytest.mark.parametrize(
    "content",
    [
        RecordDict(),
        RecordDict({"flo": ConfigRecord({"another": b"x"})}),
        RecordDict({"flo": ConfigRecord({"message": "text"})}),
    ],
    ids=["no record", "another name", "text"],
)
def test_an_answer_that_is_no_record_of_bytes_says_nothing(
    world: World, content: RecordDict
) -> None:
    world.grid.reply["south"] = lambda message: Message(content, reply_to=message)
    assert world.ask("south") == {"south": b""}


# -- large bodies -------------------------------------------------------------------------------

LARGE = os.urandom(MAX_INLINE_BYTES + 1)
REQUEST = (6).to_bytes(4, "big") + b"header" + LARGE


def offers(world: World, data: bytes, *, size: int | None = None, name: Any = "a" * 32) -> Reply:
    """A reply whose whole text a hospital offers beside Flower's message."""

    def reply(message: Message) -> Message:
        node = message.metadata.dst_node_id
        world.parcels.offered[(name, node)] = data
        record = ConfigRecord({"parcel": name, "size": len(data) if size is None else size})
        return Message(RecordDict({"flo": record}), reply_to=message)

    return reply


def test_a_large_body_is_put_beside_its_messages_once_for_all(world: World) -> None:
    world.ask(what=REQUEST)
    ((name, (nodes, body)),) = world.parcels.kept.items()
    assert (nodes, body) == (set(NODES.values()), LARGE)
    assert re.fullmatch("[0-9a-f]{32}", name)
    assert {what for _, _, what, _ in world.grid.pushed} == {REQUEST[:10]}
    world.ask(what=REQUEST)
    assert len(world.parcels.kept) == 2, "the next question has a parcel of its own"


def test_who_is_asked_again_finds_the_same_parcel(world: World) -> None:
    world.grid.seconds["south"] = [None, 0.1]
    world.at(1.0, lambda: world.reconnect("south"))
    assert set(world.ask(what=REQUEST)) == set(NODES)
    assert len(world.grid.pushes_to("south")) == 2
    assert len(world.parcels.kept) == 1


def test_what_is_small_goes_inside_flowers_message(world: World) -> None:
    small = REQUEST[:10] + LARGE[:-1]
    world.ask(what=small)
    assert world.parcels.kept == {}
    assert {what for _, _, what, _ in world.grid.pushed} == {small}


def test_a_large_reply_is_taken_whole_from_the_hospital_that_offers_it(world: World) -> None:
    world.grid.reply["south"] = offers(world, LARGE)
    assert world.ask()["south"] == LARGE


def test_a_hospital_that_goes_away_while_it_sends_is_asked_again(world: World) -> None:
    replies = [offers(world, LARGE[:-1], size=len(LARGE)), offers(world, LARGE)]
    world.grid.reply["south"] = lambda message: replies.pop(0)(message)
    world.at(1.0, lambda: world.reconnect("south"))
    assert world.ask()["south"] == LARGE
    assert len(world.grid.pushes_to("south")) == 2


def test_a_body_inside_flowers_message_has_a_limit(world: World) -> None:
    content = RecordDict({"flo": ConfigRecord({"message": LARGE})})
    world.grid.reply["south"] = lambda message: Message(content, reply_to=message)
    assert world.ask("south") == {"south": b""}


def test_who_left_since_the_cohort_was_chosen_is_not_asked(world: World) -> None:
    del world.nodes["south"]
    assert set(world.ask(what=REQUEST)) == {"north", "west"}
    ((nodes, _),) = world.parcels.kept.values()
    assert nodes == {NODES["north"], NODES["west"]}


@pytest.mark.parametrize(
    ("size", "name"),
    [(0, "a" * 32), (-1, "a" * 32), (1 << 40, "a" * 32), (1.5, "a" * 32), (3, b"bytes")],
    ids=repr,
)
def test_a_parcel_without_a_name_or_of_absurd_size_says_nothing(
    world: World, size: Any, name: Any
) -> None:
    world.grid.reply["south"] = offers(world, b"", size=size, name=name)
    assert world.ask("south") == {"south": b""}


def test_a_hospital_without_a_node_is_not_waited_for(world: World) -> None:
    del world.nodes["south"]
    assert set(world.ask()) == {"north", "west"}
    assert world.clock.now < 0.2


def test_a_message_that_flower_does_not_take_is_not_waited_for(world: World) -> None:
    world.grid.refused = {"south"}
    assert set(world.ask()) == {"north", "west"}
    assert world.clock.now < 0.2


def test_nobody_to_ask_is_no_question(world: World) -> None:
    assert list(world.exchange.ask({}, memoryview(b""), DEADLINE)) == []
    assert world.grid.pushed == []


# -- asking again ------------------------------------------------------------------------------


def test_who_connects_anew_is_asked_again_at_once_with_the_same_bytes(world: World) -> None:
    world.grid.seconds["south"] = [None, 0.1]
    world.at(3.0, lambda: world.reconnect("south"))
    assert set(world.ask()) == set(NODES)
    first, again = world.grid.pushes_to("south")
    assert 3.0 <= again - first < 3.0 + 2 * grid._LOOK_SECONDS
    assert {what for _, to, what, _ in world.grid.pushed if to == "south"} == {b"hello"}
    assert len(world.grid.pushes_to("north")) == 1


def test_one_new_connection_is_one_more_message(world: World) -> None:
    world.grid.seconds["south"] = [None] * 9
    world.at(2.0, lambda: world.reconnect("south"))
    world.at(6.0, lambda: world.reconnect("south"))
    world.ask("south")
    waits = world.grid.pushes_to("south")
    assert [round(when) for when in waits] == [0, 2, 6, 10]  # 10: half way


def test_a_hospital_that_connects_without_end_is_asked_a_few_times(world: World) -> None:
    """Each time is one more message that waits, of which a run may have so many."""
    world.grid.seconds["south"] = [None] * 99
    for tenth in range(int(10 * DEADLINE)):
        world.at(tenth / 10, lambda: world.reconnect("south"))
    assert set(world.ask()) == {"north", "west"}
    assert len(world.grid.pushes_to("south")) == grid._MOST_REPEATS


def test_half_way_to_the_deadline_who_is_missing_is_asked_once_more(world: World) -> None:
    world.grid.seconds = {"south": [None, None], "west": [None, 0.1]}
    assert set(world.ask()) == {"north", "west"}
    for hospital in ("south", "west"):
        first, again = world.grid.pushes_to(hospital)
        assert DEADLINE / 2 <= again - first < DEADLINE / 2 + 2 * grid._LOOK_SECONDS
    assert len(world.grid.pushes_to("north")) == 1


def test_of_two_answers_the_first_counts(world: World) -> None:
    copies = iter([b"one", b"two"])

    def numbered(message: Message) -> Message:
        return Message(RecordDict({"flo": ConfigRecord({"message": next(copies)})}),
                       reply_to=message)  # fmt: skip

    world.grid.reply["south"] = numbered
    world.grid.seconds = {"south": [12.0, 3.0], "west": [None] * 9}
    assert world.ask("south", "west")["south"] == b"one"


# -- giving up ---------------------------------------------------------------------------------


def test_nobody_waits_for_a_hospital_that_went_offline(world: World) -> None:
    world.grid.seconds["south"] = [None] * 9
    world.at(1.0, lambda: world.grid.online.discard(22))
    assert set(world.ask()) == {"north", "west"}
    earliest = 1.0 + grid._OFFLINE_SECONDS
    assert earliest <= world.clock.now < earliest + 2 * grid._LOOK_SECONDS


def test_a_hospital_that_only_lost_its_connection_is_waited_for(world: World) -> None:
    world.grid.seconds["south"] = [8.0]
    gap = grid._OFFLINE_SECONDS - 2 * grid._LOOK_SECONDS
    for start in (1.0, 1.0 + 2 * grid._OFFLINE_SECONDS):
        world.at(start, lambda: world.grid.online.discard(22))
        world.at(start + gap, lambda: world.grid.online.add(22))
    assert set(world.ask()) == set(NODES)


def test_an_answer_that_came_before_its_hospital_went_offline_counts(world: World) -> None:
    world.grid.seconds = {"south": [0.1], "west": [6.0]}
    world.at(1.0, lambda: world.grid.online.discard(22))
    assert set(world.ask()) == set(NODES)


def test_who_is_online_is_not_asked_of_flower_more_than_twice_a_second(world: World) -> None:
    world.grid.seconds["south"] = [None] * 9
    world.ask("south")
    assert world.grid.looks <= DEADLINE / grid._LOOK_SECONDS + 1


# -- who is there ------------------------------------------------------------------------------


def test_connected_are_those_whose_agents_are_online(world: World) -> None:
    assert world.exchange.connected() == {"north", "south", "west"}
    world.grid.online = {11, 33, 99}
    assert world.exchange.connected() == {"north", "west"}
    world.grid.online.add(22)
    assert world.exchange.connected() == {"north", "south", "west"}


def test_a_revoked_hospital_is_not_connected(world: World) -> None:
    del world.nodes["south"]
    assert world.exchange.connected() == {"north", "west"}


def test_reconnected_are_those_who_connected_anew_since_they_answered(world: World) -> None:
    world.reconnect("north")  # before it was ever asked: nothing to compare with
    assert world.exchange.reconnected() == set()
    world.ask()
    assert world.exchange.reconnected() == set()
    world.reconnect("south")
    assert world.exchange.reconnected() == {"south"}
    assert world.exchange.reconnected() == {"south"}, "until it answers again"
    world.ask("north")
    assert world.exchange.reconnected() == {"south"}
    world.ask("south")
    assert world.exchange.reconnected() == set()


def test_who_does_not_answer_after_it_reconnected_stays_reconnected(world: World) -> None:
    world.ask()
    world.reconnect("south")
    world.grid.seconds["south"] = [None] * 9
    world.ask()
    assert world.exchange.reconnected() == {"south"}


def test_who_answers_and_restarts_while_others_are_waited_for_has_reconnected(
    world: World,
) -> None:
    world.grid.seconds = {"south": [0.1], "west": [8.0]}
    world.at(3.0, lambda: world.reconnect("south"))
    assert set(world.ask()) == set(NODES)
    assert world.exchange.reconnected() == {"south"}


# -- before the first round --------------------------------------------------------------------


def test_a_run_begins_as_soon_as_everyone_is_online(world: World) -> None:
    world.grid.online = {11}
    world.at(1.0, lambda: world.grid.online.add(22))
    world.at(2.0, lambda: world.grid.online.add(33))
    assert world.exchange.wait_for(list(NODES), 10) == list(NODES)
    assert 2.0 <= world.clock.now < 2.2


def test_after_a_while_enough_are_enough(world: World) -> None:
    world.grid.online = {11, 33}
    assert world.exchange.wait_for(list(NODES), 10) == ["north", "west"]
    assert 10 <= world.clock.now < 10.3


def test_nobody_is_waited_for_once_the_run_is_stopped(world: World) -> None:
    world.grid.online = {11}
    world.at(3.0, lambda: setattr(world, "stopped", True))
    assert world.exchange.wait_for(list(NODES), 10) == ["north"]
    assert 3 <= world.clock.now < 3.3


# -- on Flower's connection ------------------------------------------------------------------------


class Line:
    """Flower's grid as far as large bodies need it: answers a request as told."""

    def __init__(self, *answers: int | type[httpx.TransportError]) -> None:
        self.answers, self.asked = list(answers), 0
        self._token, self._base_url, self._runtime_client = "token", "https://here", self
        self._client = httpx.Client(transport=httpx.MockTransport(self._answer))

    def _answer(self, request: httpx.Request) -> httpx.Response:
        request.read()
        self.asked += 1
        answer = self.answers.pop(0)
        if isinstance(answer, int):
            return httpx.Response(answer)
        raise answer("lost")


@pytest.mark.parametrize("here", [True, False])
def test_a_request_is_put_again_until_the_coordinator_takes_it(world: World, *, here: bool) -> None:
    line = Line(503, httpx.ConnectError, 200)
    GridLargeBodies(line, here=here).put("a" * 32, [11], memoryview(LARGE))
    assert line.asked == 3
    line = Line(*[503] * 9)
    with pytest.raises(NetworkError, match="did not accept a request"):
        GridLargeBodies(line, here=here).put("a" * 32, [11], memoryview(LARGE))
    assert line.asked == 4


def test_a_slow_hospital_gets_no_more_than_its_share_of_the_deadline(world: World) -> None:
    given: list[float] = []
    take = world.parcels.take

    def slow(name: str, node: int, size: int, seconds: float) -> memoryview:
        given.append(seconds)
        world.clock.sleep(seconds)
        return take(name, node, size, seconds)

    world.parcels.take = slow  # type: ignore[method-assign]
    world.grid.reply["north"] = offers(world, LARGE[:-1], size=len(LARGE))
    world.grid.seconds["north"] = [0.0, None]
    assert set(world.ask()) == {"south", "west"}
    assert given[0] <= DEADLINE / 3 + 0.1

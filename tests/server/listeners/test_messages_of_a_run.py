"""The private listener and a run's messages: a question waits, and its answer is never lost."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from flwr.app.message import remove_content_from_message
from flwr.common.serde import message_to_proto
from flwr.proto.runtime_pb2 import (
    PullAppMessagesRequest,
    PullAppMessagesResponse,
    PushAppMessagesRequest,
    PushAppMessagesResponse,
)
from flwr.supercore.constant import TASK_TOKEN_HEADER
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from starlette.types import Receive, Scope, Send

from flo.protocol.large_bodies import NAME_HEADER
from flo.protocol.whole_messages import joined, parted
from flo.server.flower.app_calls import MAX_PULL_BYTES, MAX_PULLED_PART, PULL_PATH, PUSH_PATH
from flo.server.flower.large_bodies import LargeBodyRelay
from flo.server.flower.scoped_runtime import RuntimeScope
from flo.server.flower.superlink import SuperLink
from flo.server.http.notifier import Notifier
from flo.server.listeners import private_listener
from flo.server.listeners.last_answers import LastAnswers
from flo.server.listeners.private_listener import PrivateListener
from flo.server.runs.job_access import PREFIX
from tests.server.flower.party import Party

FIRST, SECOND = "a" * 32, "b" * 32


async def nothing(scope: Scope, receive: Receive, send: Send) -> None:
    raise AssertionError("this is no call of a person")


class World:
    """The listener over Flower's real state, and one run; the same run may be a job's."""

    def __init__(self) -> None:
        self.superlink = SuperLink(superexec_secret=bytes(32))
        self.party, self.notifier, self.refused = Party(self.superlink), Notifier(), list[Any]()
        loan = RuntimeScope("run-1-000001", "a study", lambda: {self.party.node})
        lent = SimpleNamespace(
            job="job",
            flower_run=self.party.run,
            nodes=loan.nodes,
            app=self.superlink.scoped_runtime(self.party.run, bytes(32), loan),
        )
        jobs: Any = SimpleNamespace(
            ready=True, leased_to=lambda path: (lent, path.removeprefix(f"{PREFIX}job"))
        )
        audit: Any = SimpleNamespace(record=lambda kind, **facts: self.refused.append(facts))
        self.last_answers = LastAnswers()
        self.app = PrivateListener(
            self.superlink,
            nothing,
            nothing,
            b"",
            audit,
            self.notifier,
            jobs,
            LargeBodyRelay(),
            self.last_answers,
        )

    def runs(self, walk: Callable[[httpx.AsyncClient], Awaitable[None]]) -> None:
        async def all_of_it() -> None:
            transport = httpx.ASGITransport(self.app)
            token = {TASK_TOKEN_HEADER: self.party.token}
            async with httpx.AsyncClient(
                transport=transport, base_url="https://here", headers=token
            ) as client:
                await walk(client)

        asyncio.run(all_of_it())

    def request(self, data: bytes = b"a") -> bytes:
        message = self.party.message(data)
        said = PushAppMessagesRequest(
            messages_list=[message_to_proto(remove_content_from_message(message))],
            message_object_trees=[get_object_tree(message)],
        )
        objects = [one.deflate() for one in get_all_nested_objects(message).values()]
        return joined([said.SerializeToString(), *objects])

    def answers(self) -> None:
        announced, objects, _ = self.party.reply(self.party.pulled())
        self.party.push(announced, objects)


@pytest.fixture
def world() -> World:
    return World()


async def asked(client: httpx.AsyncClient, world: World) -> bytes:
    """The run sends a request; return its question for the reply."""
    answer = await client.post(PUSH_PATH, content=world.request())
    assert answer.status_code == 200, answer.text
    (name,) = PushAppMessagesResponse.FromString(answer.content).message_ids
    return bytes(PullAppMessagesRequest(message_ids=[name]).SerializeToString())


def replies(answer: httpx.Response) -> int:
    assert answer.status_code == 200, answer.text
    parts = parted(answer.content, MAX_PULLED_PART)
    return len(PullAppMessagesResponse.FromString(parts[0]).messages_list) if parts else 0


async def pull(client: httpx.AsyncClient, question: bytes, name: str) -> httpx.Response:
    return await client.post(PULL_PATH, content=question, headers={NAME_HEADER: name})


def test_a_question_waits_for_the_reply_and_no_longer(world: World) -> None:
    async def walk(client: httpx.AsyncClient) -> None:
        question = await asked(client, world)
        waiting = asyncio.ensure_future(pull(client, question, FIRST))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        await asyncio.to_thread(world.answers)
        world.notifier.notify_all()
        began = time.monotonic()
        assert replies(await waiting) == 1
        assert time.monotonic() - began < private_listener._RECHECK_SECONDS

    world.runs(walk)


def test_a_question_without_a_reply_ends(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(private_listener, "_HOLD_SECONDS", 0.1)

    async def walk(client: httpx.AsyncClient) -> None:
        question = await asked(client, world)
        began = time.monotonic()
        assert replies(await pull(client, question, FIRST)) == 0
        assert time.monotonic() - began >= 0.1

    world.runs(walk)


def test_who_lost_the_answer_gets_it_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if the repeated question comes while the first one is still held."""
    monkeypatch.setattr(private_listener, "_HOLD_SECONDS", 0.1)

    async def walk(client: httpx.AsyncClient) -> None:
        question = await asked(client, world)
        lost = asyncio.ensure_future(pull(client, question, FIRST))
        again = asyncio.ensure_future(pull(client, question, FIRST))
        await asyncio.to_thread(world.answers)
        world.notifier.notify_all()
        first, second = await asyncio.gather(lost, again)
        assert first.content == second.content == (await pull(client, question, FIRST)).content
        assert replies(first) == 1
        assert replies(await pull(client, question, SECOND)) == 0
        world.last_answers.forget(lambda run: run != world.party.run)
        assert replies(await pull(client, question, SECOND)) == 0
        assert world.last_answers._of
        assert (await pull(client, question, FIRST)).status_code == 400, "a later one was answered"
        world.last_answers.forget(lambda run: run == world.party.run)
        assert not world.last_answers._of

    world.runs(walk)


@pytest.mark.parametrize("at", ["", f"{PREFIX}job"], ids=["the coordinator's own", "a job's"])
def test_what_is_no_call_is_refused_by_its_fault(world: World, at: str) -> None:
    async def walk(client: httpx.AsyncClient) -> None:
        named = {NAME_HEADER: FIRST}
        statuses = [
            (await client.post(f"{at}{path}", content=body, headers=headers)).status_code
            for path, body, headers in (
                (PUSH_PATH, b"\xff" * 9, {}),
                (PULL_PATH, b"\xff" * 9, named),
                (PULL_PATH, b"", {NAME_HEADER: "x"}),
                (PULL_PATH, b"", {}),
                (PULL_PATH, bytes(MAX_PULL_BYTES + 1), named),
                (PULL_PATH, b"", named | {TASK_TOKEN_HEADER: "wrong"}),
                ("/v1/runtime/pull-messages", b"", {}),
            )
        ]
        assert statuses == [400, 400, 400, 400, 413, 401, 401]

    world.runs(walk)


def test_a_jobs_request_of_another_study_is_refused_and_its_question_answered(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(private_listener, "_HOLD_SECONDS", 0.05)

    async def walk(client: httpx.AsyncClient) -> None:
        refused = await client.post(f"{PREFIX}job{PUSH_PATH}", content=world.request(b"x"))
        assert refused.status_code == 400, refused.text
        assert not world.party.waits()
        question = await asked(client, world)  # by the coordinator's own path
        await asyncio.to_thread(world.answers)
        at = f"{PREFIX}job{PULL_PATH}"
        answer = await client.post(at, content=question, headers={NAME_HEADER: FIRST})
        assert replies(answer) == 1

    world.runs(walk)

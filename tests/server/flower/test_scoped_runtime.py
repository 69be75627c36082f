"""What a job may ask of Flower: requests of its own run, to hospitals of its own study."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fastapi.routing import iter_route_contexts
from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from flwr.proto.message_pb2 import ObjectTree
from flwr.supercore.error import FlowerError
from flwr.supercore.inflatable.inflatable_object import get_object_id
from flwr.supercore.object_store.in_memory_object_store import InMemoryObjectStore

from flo.protocol.messages import Request
from flo.server.flower.scoped_runtime import (
    MOST_WAITING,
    MOST_WAITING_BYTES,
    RUNTIME_CALLS,
    RuntimeScope,
    ScopedHandlers,
)
from flo.server.flower.superlink import SuperLink
from flo.server.rounds.state import NO_WEIGHTS, RunState, request_header
from tests.builders import small_study
from tests.partners import encode_request

STUDY, OTHER = small_study(), small_study(name="other")
RUN = "run-1-000001"
LOAN = RuntimeScope(RUN, STUDY.digest, lambda: {1, 2})


def uploaded(study: Any = STUDY, run: str = RUN, kind: str = "finish") -> bytes:
    """A request as Flower uploads it."""
    header = request_header(study, run, RunState.start(study), kind, ("north",))
    return record(encode_request(Request(header, NO_WEIGHTS)))


def record(data: bytes) -> bytes:
    return ConfigRecord({"message": data}).deflate()


def test_a_request_of_its_own_run_passes() -> None:
    LOAN.refuse_object(uploaded())
    LOAN.refuse_object(RecordDict().deflate())


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(uploaded(OTHER), id="another study"),
        pytest.param(uploaded(run="run-1-000002"), id="another run"),
        pytest.param(uploaded(OTHER, kind="join"), id="another study's join"),
        pytest.param(record(b"nonsense"), id="no request"),
        pytest.param(ConfigRecord({"other": b"x"}).deflate(), id="another record"),
        pytest.param(ArrayRecord([np.zeros(3)]).deflate(), id="arrays"),
        pytest.param(MetricRecord({"x": 1.0}).deflate(), id="metrics"),
        pytest.param(b"", id="nothing"),
        pytest.param(b"\x00" * 100, id="zeros"),
    ],
)
def test_any_other_object_is_refused(content: bytes) -> None:
    with pytest.raises(FlowerError):
        send([1], contents=[uploaded(), content])


class Flower:
    """Flower's handlers, as far as they are asked."""

    def get_nodes(self, request: Any, state: Any, task: Any) -> Any:
        from flwr.proto.node_pb2 import NodeInfo

        return SimpleNamespace(nodes=[NodeInfo(node_id=node) for node in (1, 2, 3)])


def handlers() -> ScopedHandlers:
    return ScopedHandlers(Flower(), lambda run: True, threading.Lock(), LOAN)


TASK = SimpleNamespace(run_id=7)


def messages(*nodes: int, run: int = 7) -> list[Any]:
    return [
        SimpleNamespace(
            metadata=SimpleNamespace(dst_node_id=node, run_id=run, created_at=time.time(), ttl=60)
        )
        for node in nodes
    ]


def send(nodes: Sequence[int], found: Any = None, contents: Sequence[bytes] = ()) -> None:
    """A job sends messages to these nodes."""
    announced = SimpleNamespace(messages_list=messages(*nodes))
    handlers().refuse_out_of_scope(announced, contents, found or waiting(), TASK)


def waiting(*found: Any) -> Any:
    """Flower's state with these messages."""
    return SimpleNamespace(
        message_ins_store=dict(enumerate(found)), object_store=InMemoryObjectStore()
    )


def test_it_sees_and_reaches_its_own_hospitals_only() -> None:
    found = handlers().get_nodes(None, None, None)
    assert [node.node_id for node in found.nodes] == [1, 2]
    send([1, 2], contents=[uploaded()])
    for nodes in ((3,), (1, 3), (0,)):
        with pytest.raises(FlowerError):
            send(nodes)


def test_a_job_has_few_requests_waiting_for_each_hospital() -> None:
    """Those of another run, such as one before it, are not its own."""
    most = [1, 2] * MOST_WAITING
    send(most)
    send(most, waiting(*messages(*most, run=6)))
    flapping = [1] * (2 * MOST_WAITING - 2)  # a hospital that connects again and again
    send([1, 2], waiting(*messages(*flapping)))
    for asked, there in (([*most, 1], []), ([1], most), ([2, 1], most)):
        with pytest.raises(FlowerError):
            send(asked, waiting(*messages(*there)))


def test_a_jobs_requests_are_valid_for_some_time() -> None:
    """While a request is valid it is counted; one that has just expired still takes up memory."""
    short = messages(1)
    short[0].metadata.ttl = 5
    announced = SimpleNamespace(messages_list=[*messages(1, 2), *short])
    with pytest.raises(FlowerError, match="valid for 20 seconds"):
        handlers().refuse_out_of_scope(announced, [], waiting(), TASK)


def test_a_jobs_waiting_requests_have_few_bytes() -> None:
    """Counted are its own requests that no hospital has fetched, and no replies."""
    large, found = record(bytes(2 * MOST_WAITING_BYTES - 100)), waiting(*messages(1))
    name = get_object_id(large)
    found.object_store.preregister(7, ObjectTree(object_id=name))
    found.object_store.put(name, large)
    send([1, 2], found, contents=[uploaded()])  # a reply, or a request that was fetched
    found.message_ins_store[name] = messages(1, run=6)[0]
    send([1, 2], found, contents=[uploaded()])  # another run's
    found.message_ins_store[name] = messages(1)[0]
    with pytest.raises(FlowerError, match="bytes to each hospital would wait"):
        send([1, 2], found, contents=[uploaded()])


def test_its_calls_are_a_part_of_flowers() -> None:
    routes = iter_route_contexts(SuperLink(superexec_secret=bytes(32)).runtime.routes)
    paths = {str(route.path) for route in routes}
    assert paths > RUNTIME_CALLS
    closed = {"create-task", "start-automation", "push-messages", "pull-object"}
    assert {f"/v1/runtime/{call}" for call in closed} <= paths - RUNTIME_CALLS


def test_a_lent_runs_token_opens_no_other_path() -> None:
    link = SuperLink(superexec_secret=bytes(32))
    link._lent.add(7)
    known = {"x": SimpleNamespace(run_id=7)}
    link._state = SimpleNamespace(get_task_by_token=known.get)
    from flwr.supercore.constant import TASK_TOKEN_HEADER

    headers = {TASK_TOKEN_HEADER.encode(): b"x"}
    path = "/v1/runtime/get-nodes"
    assert link.credential(path, headers, 7)
    assert not link.credential(path, headers)
    assert not link.credential(path, headers, 8)
    known["x"] = SimpleNamespace(run_id=9)
    assert link.credential(path, headers)
    assert not link.credential(path, headers, 7)

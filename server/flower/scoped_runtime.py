"""Flower's runtime, restricted for a remote job to its own run and its own study's hospitals.

Part of the adapter to Flower, with ``superlink`` and ``grid``. Flower binds a task's token to its
run, but lets the task see every node and send any message to any of them; a hospital acts on a
message's header. So for a lent run each uploaded object must be part of a request of that study and
run, and each message must go to a hospital of that study. Few requests of a job may wait for
answers, so that no job fills the coordinator's memory.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

from flwr.app import ConfigRecord
from flwr.common.constant import Status
from flwr.proto.runtime_pb2 import AcquireTaskRequest, AcquireTaskResponse, GetNodesResponse
from flwr.supercore.error import ApiErrorCode, FlowerError
from flwr.supercore.inflatable.inflatable_object import get_object_type_from_object_content

from flo.errors import FloError, MessageError
from flo.protocol.messages import request_header_of
from flo.protocol.whole_messages import MAX_REQUEST
from flo.server.flower.grid import body_of
from flo.server.flower.stored import bytes_waiting

# Requests of a job to each hospital on average, until they are answered or expire. A round needs
# one, and another whenever the hospital connects anew.
MOST_WAITING = 64
MOST_WAITING_BYTES = 4 * MAX_REQUEST  # of those that it has not fetched
_LEAST_SECONDS = (
    20.0  # of a request; it is counted until it expires, its objects stay a little longer
)
_STRUCTURE = ("Message", "RecordDict")  # these contain only names of objects

# Flower's calls that a ServerApp and its SuperExec make; for messages they make our own
# (``flo.server.flower.app_calls``), and no others are open.
RUNTIME_CALLS = frozenset(
    f"/v1/runtime/{call}"
    for call in (
        "acquire-task",
        "send-task-heartbeat",
        "pull-task-input",
        "push-task-output",
        "get-nodes",
        "push-logs",
    )
)


@dataclass(frozen=True)
class RuntimeScope:
    """Scope of a lent run: FLO's run id, the study's digest, current nodes of its hospitals."""

    run: str
    study: str
    nodes: Callable[[], Collection[int]]

    def refuse_object(self, content: bytes) -> None:
        """Raise MessageError unless the object is part of a request of this study and run."""
        kind = get_object_type_from_object_content(content)
        if kind in _STRUCTURE:
            return
        if kind != "ConfigRecord":
            raise MessageError(f"a job may upload requests only, not a {kind}")
        header = request_header_of(body_of(ConfigRecord.inflate(content)))
        if (header.study, header.run) != (self.study, self.run):
            raise MessageError("this request is for another study or run than this job's")


class Handlers:
    """Flower's handlers of its Runtime API, issuing only tasks of runs that ``may`` allows."""

    def __init__(self, handlers: Any, may: Callable[[int], bool], giving: threading.Lock) -> None:
        self._handlers, self._may, self._giving = handlers, may, giving
        self.storing = threading.Lock()  # from a check of what waits until more of it is stored

    def __getattr__(self, name: str) -> Any:
        return getattr(self._handlers, name)

    def acquire_task(self, request: AcquireTaskRequest, state: Any) -> AcquireTaskResponse:
        """Issue the oldest pending task of an allowed run; empty if there is none."""
        with self._giving:
            for task in self.waiting(state):
                if task.type in request.supported_task_types:
                    token = state.claim_task(task.task_id)
                    if token:
                        return AcquireTaskResponse(task=task, token=token)
        return AcquireTaskResponse()

    def refuse_out_of_scope(
        self, announced: Any, contents: Sequence[bytes], state: Any, task: Any
    ) -> None:
        """Refuse messages that this run may not send; the coordinator's own may send any."""

    def waiting(self, state: Any) -> list[Any]:
        """Return the pending tasks of allowed runs, oldest first."""
        pending = state.get_tasks(statuses=[Status.PENDING], order_by="pending_at")
        return [task for task in pending if self._may(task.run_id)]


class ScopedHandlers(Handlers):
    """Handlers for one lent run, restricted to its scope."""

    def __init__(
        self, handlers: Any, may: Callable[[int], bool], giving: threading.Lock, loan: RuntimeScope
    ) -> None:
        super().__init__(handlers, may, giving)
        self._loan = loan

    def get_nodes(self, request: Any, state: Any, task: Any) -> GetNodesResponse:
        """Return only the nodes of the lent study's hospitals."""
        ours = set(self._loan.nodes())
        found = self._handlers.get_nodes(request, state, task)
        return GetNodesResponse(nodes=[node for node in found.nodes if node.node_id in ours])

    def refuse_out_of_scope(
        self, announced: Any, contents: Sequence[bytes], state: Any, task: Any
    ) -> None:
        """Refuse all messages if one goes to another study's hospital, if too many would wait, or
        unless all objects are parts of requests of the lent study and run.

        Raises:
            FlowerError.
        """
        ours = set(self._loan.nodes())
        if not {m.metadata.dst_node_id for m in announced.messages_list} <= ours:
            raise _refused("this message is to a hospital of another study")
        waiting = sum(
            message.metadata.run_id == task.run_id
            for message in list(state.message_ins_store.values())
        )
        if waiting + len(announced.messages_list) > MOST_WAITING * len(ours):
            raise _refused(f"more than {MOST_WAITING} requests to each hospital would wait")
        soonest = time.time() + _LEAST_SECONDS
        if any(m.metadata.created_at + m.metadata.ttl < soonest for m in announced.messages_list):
            raise _refused(f"a request is not valid for {_LEAST_SECONDS:g} seconds")
        there = bytes_waiting(state, task.run_id)
        if there + sum(map(len, contents)) > MOST_WAITING_BYTES * len(ours):
            raise _refused(f"more than {MOST_WAITING_BYTES} bytes to each hospital would wait")
        for content in contents:
            try:
                self._loan.refuse_object(content)
            except FloError as error:
                raise _refused(str(error)) from error
            except (ValueError, KeyError, TypeError) as error:  # Flower's, for invalid objects
                raise _refused("this is not a valid object of Flower") from error


def _refused(why: str) -> FlowerError:
    return FlowerError(ApiErrorCode.RUNTIME_UNEXPECTED_NODE_ID, why)

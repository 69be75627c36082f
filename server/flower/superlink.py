"""Flower's SuperLink inside the coordinator: its applications, pending messages, nodes and runs.

State in memory, ``isolation="process"``, no telemetry. The adapter to Flower is the package
``flo.server.flower``; the rest of ``flo.server`` does not use Flower's types. Contract tests
(``tests/server/flower/test_flower_contract.py``) and the pin ``flwr>=1.42,<1.43`` guard the
internals of Flower that are used here.
"""

from __future__ import annotations

import hmac
import secrets
import threading
from base64 import b64decode
from collections.abc import Callable, Collection
from typing import Any, cast

from fastapi import FastAPI
from flwr.common.serde import user_config_to_proto
from flwr.proto.control_pb2 import RegisterNodeRequest, StartRunRequest
from flwr.proto.fab_pb2 import Fab
from flwr.supercore.constant import (
    FLEET_HTTP_PUBLIC_KEY_HEADER,
    FLWR_IN_MEMORY_DB_NAME,
    SUPEREXEC_AUTH_SIGNATURE_HEADER,
    TASK_TOKEN_HEADER,
    NodeStatus,
)
from flwr.supercore.control.control_http_client import ControlHttpClient
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supercore.routers.runtime import create_runtime_router
from flwr.superlink.cli.flower_superlink import SuperLinkLifespan
from flwr.superlink.config_loader import SuperLinkLifespanConfig
from flwr.superlink.main import create_app
from flwr.superlink.routers.fleet.node_auth import NodeAuthMiddleware
from flwr.superlink.routers.fleet.router import router as fleet_router
from google.protobuf.message import DecodeError
from starlette.datastructures import State
from starlette.middleware import Middleware

from flo.errors import MessageError, TrustError
from flo.keys.identity import load_public
from flo.server.flower import app_messages, stored, whole_messages
from flo.server.flower.announced import names_in, reply_in
from flo.server.flower.app_calls import MOST_MESSAGES, RUNTIME_PREFIX
from flo.server.flower.control import (
    CONTROL_PREFIX,
    Bearer,
    OneToken,
    OtherState,
    app_bundle,
    part_of,
)
from flo.server.flower.scoped_runtime import Handlers, RuntimeScope, ScopedHandlers
from flo.server.flower.stored import objects_of

FLEET_PATHS = frozenset(
    f"/v1/fleet/{call}"
    for call in (
        "activate-node",
        "deactivate-node",
        "send-node-heartbeat",
        "pull-messages",
        "push-messages",
        "pull-object",
        "push-object",
        "confirm-message-received",
    )
)
PULL_PATH, PUSH_PATH = "/v1/fleet/pull-messages", "/v1/fleet/push-messages"
ACTIVATE_PATH = "/v1/fleet/activate-node"
PUBLIC_KEY_HEADER = FLEET_HTTP_PUBLIC_KEY_HEADER
ACQUIRE_PATH = f"{RUNTIME_PREFIX}acquire-task"
_MOST_PULLED = 1 << 24  # bytes of replies in one answer, unless a single reply has more
APP_HERE = "flo.server.runs.app:app"


class SuperLink:
    """Flower's SuperLink inside this process, as three ASGI applications over one state.

    ``fleet`` (for hospitals) and ``runtime`` (for ServerApps) contain only their own routes and the
    middleware that these need: each layer costs half a millisecond per request, and a round has
    some thirty requests. ``control`` is the full application, for this process.
    """

    def __init__(self, *, superexec_secret: bytes) -> None:
        self._token = secrets.token_urlsafe(32)  # for this process's own calls
        self._registering = threading.Lock()
        config = SuperLinkLifespanConfig(
            control_address="",
            health_server_address=None,
            host="127.0.0.1",
            port=0,
            insecure=False,
            certificates=None,
            superexec_auth_secret=superexec_secret,
            authn_plugin=OneToken(self._token),
            event_log_plugin=None,
            fleet_event_log_plugin=None,
            enable_event_log=False,
            artifact_provider=None,
            enable_supernode_auth=True,
            fleet_api_type="grpc-rere",
            fleet_api_address=None,
            simulation=False,
            ssl_ca_certfile=None,
            ssl_certfile=None,
            ssl_keyfile=None,
            database=FLWR_IN_MEMORY_DB_NAME,
            isolation="process",
            runtime_dependency_install=False,
        )
        self.control: Any = create_app(config, SuperLinkLifespan)
        self.fleet = part_of(self.control, fleet_router, Middleware(NodeAuthMiddleware))
        self._giving = threading.Lock()  # held while runs are assigned to a SuperExec
        self._lent: set[int] = set()  # runs carried out by a SuperExec of a remote job
        self.runtime = self._runtime(superexec_secret, lambda run: run not in self._lent)
        self._state: Any = self.control.state.linkstate_factory.state()
        self._answered: dict[int, str] = {}  # node -> the message that it answered last

    def node_id(self, public_key_header: bytes) -> int | None:
        """Return the node with this key; None if Flower does not know the key."""
        node: int | None = self._state.get_node_id_by_public_key(b64decode(public_key_header))
        return node

    def has_message_for(self, public_key_header: bytes) -> bool:
        """Return whether an undelivered, completely uploaded message waits for this key's node."""
        node = self.node_id(public_key_header)
        return any(
            message.metadata.dst_node_id == node
            and message.metadata.delivered_at == ""
            and objects_of(self._state, identifier) is not None
            for identifier, message in list(self._state.message_ins_store.items())
        )

    def pull_whole(self, node: int) -> bytes:
        """Return the next message for a node with all its objects. Raises as ``pull``."""
        return whole_messages.pull(self._state, node)

    def push_whole(self, node: int, body: bytes) -> None:
        """Store a node's reply with all its objects. Raises as ``push``."""
        self._answered[node] = whole_messages.push(self._state, node, body)

    def note_announcement(self, node: int, body: bytes) -> None:
        """Note which message a node of an earlier version answers, from its ``push-messages``.

        Raises:
            MessageError: it is not one reply of few objects, or one of them is another message.
        """
        try:
            message, tree = reply_in(body)
        except DecodeError as error:
            raise MessageError("this is not a message of Flower") from error
        if message.metadata.src_node_id != node:
            raise MessageError("this reply is in another node's name")
        *inside, name = names_in(message, tree)
        state = self._state
        messages = state.message_ins_store.keys() | state.message_res_store.keys()
        if not messages.isdisjoint(inside):
            raise MessageError("an object of this message is a message")
        store = state.object_store.store
        if name in messages and not all(each in store for each in (*inside, name)):
            raise MessageError("this message was announced with other objects before")
        self._answered[node] = message.metadata.reply_to_message_id

    def answered_last(self, node: int) -> str | None:
        """Return the id of the message that this node answered last; None if it answered none."""
        return self._answered.get(node)

    def tidy(self) -> None:
        """Delete what no run that goes on needs; to be called now and then."""
        stored.tidy(self._state, self.has_finished)

    def force_offline(self, public_key_header: bytes) -> None:
        """Let the agent with this key activate immediately after a crash.

        Flower considers a node online until its heartbeats have been missing for a minute, and
        refuses to activate it meanwhile. A site has one agent, which has just presented this key.
        """
        node = self._state.get_node_id_by_public_key(b64decode(public_key_header))
        if node is not None:
            self._state.deactivate_node(node)

    def mark_offline(self, node: int) -> None:
        """Mark a node as offline now; its next heartbeat marks it as online again."""
        self._state.deactivate_node(node)

    def is_online(self, node: int) -> bool:
        """Return whether Flower considers this node's agent online."""
        return bool(self._state.get_node_info(node_ids=[node], statuses=[NodeStatus.ONLINE]))

    def oldest_pending_request(self, node: int) -> float | None:
        """Return the creation time of the oldest request that a node has not answered.

        In seconds since 1970; None if there is no such request in an unfinished run.
        """
        answers = self._state.message_ins_id_to_message_res_id
        return min(
            (
                message.metadata.created_at
                for identifier, message in list(self._state.message_ins_store.items())
                if message.metadata.dst_node_id == node
                and identifier not in answers
                and not self.has_finished(message.metadata.run_id)
            ),
            default=None,
        )

    def push_requests(self, runtime: Any, headers: dict[bytes, bytes], body: bytes) -> bytes:
        """Store a ServerApp's requests to hospitals.

        Raises:
            TrustError: its run is over. As ``app_messages.push``.
        """
        handlers = runtime.state.runtime_handlers
        return app_messages.push(handlers, self._state, self._running_task(headers), body)

    def pull_replies(self, headers: dict[bytes, bytes], requests: list[str]) -> bytes:
        """Return replies to a ServerApp's requests.

        Raises:
            TrustError: its run is over. As ``app_messages.pull``.
        """
        return app_messages.pull(self._state, self._running_task(headers).run_id, requests)

    def with_complete_replies(self, requests: Collection[str]) -> list[str]:
        """Return requests whose reply is there with all its objects, as many as one answer takes.

        An agent that was killed while it sent must not block a round, nor one that sends objects
        without number.
        """
        answers = self._state.message_ins_id_to_message_res_id
        found, size = list[str](), 0
        for request in requests:
            reply = answers.get(request)
            objects = objects_of(self._state, reply) if reply is not None else None
            if objects is None:
                continue
            if len(found) == MOST_MESSAGES:
                break
            size += sum(len(one.content) for one in objects)
            if found and size > _MOST_PULLED:
                break
            found.append(request)
        return found

    def credential(
        self, path: str, headers: dict[bytes, bytes], flower_run: int | None = None
    ) -> bool:
        """Return whether a Runtime or Control call carries the credential it needs.

        ``flower_run``: the only run that a call by a job's path may be for; a call by any other
        path must not be for a lent run. Only this process may make Control calls. Flower verifies
        the credentials of Runtime calls in full.
        """
        if path.startswith(CONTROL_PREFIX):
            given = headers.get(b"authorization", b"")
            return hmac.compare_digest(given, f"Bearer {self._token}".encode())
        if path == ACQUIRE_PATH:
            return bool(headers.get(SUPEREXEC_AUTH_SIGNATURE_HEADER.encode()))
        run = self.run_of(headers)
        if run is None:
            return False
        return run == flower_run if flower_run else run not in self._lent

    def run_of(self, headers: dict[bytes, bytes]) -> int | None:
        """Return Flower's id of the calling ServerApp's run; None without a valid task token."""
        task = self._task_of(headers)
        return int(task.run_id) if task is not None else None

    def _running_task(self, headers: dict[bytes, bytes]) -> Any:
        task = self._task_of(headers)
        if task is None:
            raise TrustError("this task is over")
        return task

    def _task_of(self, headers: dict[bytes, bytes]) -> Any:
        """Return Flower's task of the calling ServerApp; None without a valid task token."""
        token = headers.get(TASK_TOKEN_HEADER.encode(), b"").decode("latin-1")
        return self._state.get_task_by_token(token) if token else None

    def register_node(self, url: str, ca: bytes, public: bytes) -> int:
        """Register a hospital's key with Flower; return Flower's node id, valid until a restart.

        Calls are serialized: a starting coordinator registers all enrolled keys while a hospital
        may enrol again, and Flower refuses a key that it knows.
        """
        key = public_key_to_bytes(load_public(public))
        with self._registering:
            known = self._state.get_node_id_by_public_key(key)
            if known is not None:
                return int(known)
            with self._control(url, ca) as control:
                return int(control.RegisterNode(RegisterNodeRequest(public_key=key)).node_id)

    def start_run(self, url: str, ca: bytes, run: str, app: str = APP_HERE) -> int:
        """Start Flower's run for FLO's ``run``; return Flower's run id, valid until a restart.

        ``app``: name of the ServerApp. A run for a remote job waits until it is lent to the job.
        """
        request = StartRunRequest(
            fab=Fab(hash_str="", content=app_bundle(app)),
            override_config=user_config_to_proto({"run": run}),
        )
        with self._giving, self._control(url, ca) as control:
            flower_run = int(control.StartRun(request).run_id)
            if app != APP_HERE:
                self._lent.add(flower_run)
        return flower_run

    def has_task_for(self, runtime: Any) -> bool:
        """Return whether a task waits for the SuperExec that asks this runtime application."""
        return bool(runtime.state.runtime_handlers.waiting(self._state))

    def scoped_runtime(self, flower_run: int, secret: bytes, loan: RuntimeScope) -> Any:
        """Return an application for a remote SuperExec that knows ``secret``, for this run only.

        The coordinator's own SuperExec never receives a lent run, and the remote one receives no
        other run. ``flo.server.flower.scoped_runtime`` defines which other calls it may make.
        """
        return self._runtime(secret, lambda run: run == flower_run, loan)

    def has_finished(self, flower_run: int) -> bool:
        """Return whether Flower considers this run over, whether it succeeded or failed."""
        status = self._state.get_run_status({flower_run}).get(flower_run)
        return status is None or status.status == "finished"

    def is_waiting(self, flower_run: int) -> bool:
        """Return whether no SuperExec has begun to carry out this run."""
        status = self._state.get_run_status({flower_run}).get(flower_run)
        return status is not None and status.status == "pending"

    def _runtime(
        self, secret: bytes, may: Callable[[int], bool], loan: RuntimeScope | None = None
    ) -> FastAPI:
        """Return Flower's Runtime API for a SuperExec with this secret and the allowed runs."""
        part = part_of(self.control, create_runtime_router("SuperLink"))
        own = self.control.state.runtime_handlers
        handlers: Handlers = Handlers(own, may, self._giving)
        if loan is not None:
            handlers = ScopedHandlers(own, may, self._giving, loan)
        part.state = cast(
            State,
            OtherState(self.control.state, superexec_auth_secret=secret, runtime_handlers=handlers),
        )
        return part

    def _control(self, url: str, ca: bytes) -> ControlHttpClient:
        return ControlHttpClient.from_server_address(
            url.removeprefix("https://"), False, ca, interceptors=[Bearer(self._token)]
        )

"""Client for Flower's Fleet protocol, the site's only contact with Flower; runs no foreign code.

No app bundle is fetched and no received code is executed; a message is a record of bytes that
``flo.clients.agent.handler`` reads. Only this module uses Flower's types.
"""

from __future__ import annotations

import base64
import contextlib
import secrets
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import httpx
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.common.constant import TIMESTAMP_HEADER
from flwr.common.serde import message_to_proto
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    DeactivateNodeRequest,
    PullMessagesRequest,
    PullMessagesResponse,
    PushMessagesRequest,
)
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import (
    ConfirmMessageReceivedRequest,
    PullObjectRequest,
    PullObjectResponse,
    PushObjectRequest,
)
from flwr.proto.node_pb2 import Node
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER, FLEET_HTTP_SIGNATURE_HEADER
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    iterate_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.interceptors.http.runtime_version import RuntimeVersionHttpInterceptor
from flwr.supercore.interceptors.http.utils import add_headers
from flwr.supercore.primitives.asymmetric import public_key_to_bytes, sign_message
from flwr.supercore.protobuf.client import ProtobufCall, ProtobufRequestContext
from flwr.supernode.fleet_http_client import FleetHttpClient
from google.protobuf.message import DecodeError

from flo.clients.connection.coordinator_clock import CoordinatorClock
from flo.clients.connection.whole_messages import WholeMessageClient
from flo.errors import MessageError, NetworkError, TrustError
from flo.keys.identity import Identity
from flo.protocol.https import CappedTransport
from flo.protocol.messages import MAX_INLINE_BYTES, MAX_MESSAGE_BYTES
from flo.protocol.whole_messages import MOST_OBJECTS

_HEARTBEAT_SECONDS = 3.0
_ALIVE_SECONDS = 10.0  # the minimum that Flower accepts; a node is offline after twice that
_RECORD, _BODY, _PARCEL, _SIZE = "flo", "message", "parcel", "size"


@dataclass(frozen=True)
class Incoming:
    """A request's bytes, and the Flower message (opaque) that ``reply`` needs."""

    data: bytes | memoryview
    message: Any


class FleetLink:
    """Connection to the coordinator's Fleet calls, with a heartbeat. Use as a context manager."""

    def __init__(
        self, url: str, context: ssl.SSLContext, identity: Identity, clock: CoordinatorClock
    ) -> None:
        self._url, self._context, self._identity = url, context, identity
        self._clock = clock
        self._client, self._parcels = self._new_client(), self._new_parcels()
        self._by_objects = False  # whether the coordinator's version takes no whole messages
        self._node = Node()
        self._stop = threading.Event()
        self._heart = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def __enter__(self) -> FleetLink:
        key = public_key_to_bytes(self._identity.key.public_key())
        wish = ActivateNodeRequest(public_key=key, heartbeat_interval=_ALIVE_SECONDS)
        try:
            response = self._call(self._client.ActivateNode, wish)
        except BaseException:
            self._close()
            raise
        self._node = Node(node_id=response.node_id)
        self._heart.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop.set()
        # If the coordinator cannot be reached, it marks us offline when heartbeats stop.
        with contextlib.suppress(httpx.HTTPError):
            self._client.DeactivateNode(DeactivateNodeRequest(node_id=self._node.node_id))
        self._close()

    def _close(self) -> None:
        self._client.close()
        self._parcels.close()

    def reload_certificate(self, context: ssl.SSLContext) -> None:
        """Reconnect as the same node with a renewed certificate; its first use ends the old one."""
        self._context = context
        before = self._client, self._parcels
        self._client, self._parcels = self._new_client(), self._new_parcels()
        for link in before:
            link.close()

    def pull(self) -> Incoming | None:
        """Wait for the next request as long as the gateway holds the call; None if none arrives.

        Raises:
            NetworkError, TrustError: see ``_call``. MessageError: not a record of bytes, or its run
            is over.
        """
        pulled = self._pull_objects() if self._by_objects else self._pull_whole()
        if pulled is None:
            return None
        metadata, contents = pulled
        try:
            message = inflate_object_from_contents(metadata.message_id, contents)
        except Exception as error:  # Flower's parsers may raise anything on foreign input
            raise MessageError("the message cannot be read") from error
        if not isinstance(message, Message) or not message.has_content():
            raise MessageError("the message has no content")
        message.metadata.__dict__["_message_id"] = metadata.message_id
        record = message.content.config_records.get(_RECORD, ConfigRecord())
        head, name, size = record.get(_BODY), record.get(_PARCEL), record.get(_SIZE)
        if not isinstance(head, bytes):
            raise MessageError("the message is not a record of bytes")
        if name is None:
            return Incoming(head, message)
        if not isinstance(name, str) or type(size) is not int or not 0 < size < MAX_MESSAGE_BYTES:
            raise MessageError("the message names a parcel without a valid name and size")
        data = self._parcels.fetch(name, head, size)
        return Incoming(data, message)

    def reply(
        self, incoming: Incoming, data: bytes, may_leave: Callable[[], None] = lambda: None
    ) -> None:
        """Send the reply to ``incoming``.

        ``may_leave``: called before each part is sent; raises if the reply may no longer leave.

        Raises:
            NetworkError, TrustError: see ``_call``. MessageError: the coordinator requests a part
            that the reply does not have, or the run is over.
        """
        record, name = ConfigRecord({_BODY: data}), ""
        if len(data) > MAX_INLINE_BYTES:
            name = secrets.token_hex(16)
            record = ConfigRecord({_PARCEL: name, _SIZE: len(data)})
        message = Message(RecordDict({_RECORD: record}), reply_to=incoming.message)
        # The reply expires with its request, independently of this machine's clock.
        asked = incoming.message.metadata
        message.metadata.created_at, message.metadata.ttl = asked.created_at, asked.ttl
        with no_object_id_recompute():
            message.metadata.__dict__["_message_id"] = message.object_id
            announced = PushMessagesRequest(
                node=self._node,
                messages_list=[message_to_proto(remove_content_from_message(message))],
                message_object_trees=[get_object_tree(message)],
                clientapp_runtime_list=[0.0],
            )
            objects = {
                identifier: PushObjectRequest(
                    node=self._node,
                    run_id=message.metadata.run_id,
                    object_id=identifier,
                    object_content=one.deflate(),
                )
                for identifier, one in get_all_nested_objects(message).items()
            }
        if self._by_objects:
            self._push_objects(announced, objects, may_leave)
        else:
            parts = [one.SerializeToString() for one in objects.values()]
            parts = [announced.SerializeToString(), *parts]
            if not self._parcels.push(self._node.node_id, parts, may_leave):
                raise NetworkError("the coordinator takes no whole messages")
        if name:
            self._parcels.offer(message.metadata.run_id, name, memoryview(data), may_leave)

    def _pull_whole(self) -> tuple[Any, dict[str, bytes]] | None:
        """Return a message's metadata and objects from one call."""
        parts = self._parcels.pull(self._node.node_id)
        if parts is None:
            self._by_objects = True
            return None
        if not parts:
            return None
        with _readable():
            response = PullMessagesResponse.FromString(parts[0])
            replies = [PullObjectResponse.FromString(part) for part in parts[1:]]
        objects = _objects_of(response)
        if len(objects) != len(replies):
            raise MessageError(f"the message has {len(replies)} of {len(objects)} objects")
        contents = dict(zip(objects, map(_content, replies), strict=True))
        return response.messages_list[0].metadata, contents

    def _pull_objects(self) -> tuple[Any, dict[str, bytes]] | None:
        """Return the same from a coordinator of an earlier version, in a call for each object."""
        response = self._call(self._client.PullMessages, PullMessagesRequest(node=self._node))
        if not response.messages_list:
            return None
        metadata = response.messages_list[0].metadata
        contents = {
            name: self._pull_object(metadata.run_id, name) for name in _objects_of(response)
        }
        self._call_in_run(
            self._client.ConfirmMessageReceived,
            ConfirmMessageReceivedRequest(
                node=self._node, run_id=metadata.run_id, message_object_id=metadata.message_id
            ),
        )
        return metadata, contents

    def _push_objects(
        self,
        announced: PushMessagesRequest,
        objects: dict[str, PushObjectRequest],
        may_leave: Callable[[], None],
    ) -> None:
        """Send a reply to a coordinator of an earlier version, in a call for each object."""
        response = self._call_in_run(self._client.PushMessages, announced)
        if not set(response.objects_to_push) <= set(objects):
            raise MessageError("the coordinator requests a part that this reply does not have")
        for identifier in response.objects_to_push:
            may_leave()
            objects[identifier].session_id = response.session_id
            self._call_in_run(self._client.PushObject, objects[identifier])

    def _pull_object(self, run: int, identifier: str) -> bytes:
        response = self._call_in_run(
            self._client.PullObject,
            PullObjectRequest(node=self._node, run_id=run, object_id=identifier),
        )
        return _content(response)

    def _beat(self) -> None:
        client, context = self._new_client(), self._context
        while not self._stop.wait(_HEARTBEAT_SECONDS):
            if context is not self._context:
                client.close()
                client, context = self._new_client(), self._context
            try:
                client.SendNodeHeartbeat(
                    SendNodeHeartbeatRequest(node=self._node, heartbeat_interval=_ALIVE_SECONDS)
                )
            except httpx.HTTPError:
                continue  # the main connection reports the loss; the next beat may arrive
        client.close()

    def _new_parcels(self) -> WholeMessageClient:
        key = public_key_to_bytes(self._identity.key.public_key())
        return WholeMessageClient(self._url, self._context, (FLEET_HTTP_PUBLIC_KEY_HEADER, key))

    def _new_client(self) -> FleetHttpClient:
        client = FleetHttpClient(
            self._url,
            verify=self._context,
            interceptors=[
                RuntimeVersionHttpInterceptor(component_name="SuperNode"),
                _Signing(self._identity, self._clock),
            ],
        )
        # Flower's own client follows redirects and reads replies of any size.
        client._client.close()
        client._client = httpx.Client(
            transport=CappedTransport(self._url, self._context, MAX_MESSAGE_BYTES),
            timeout=30.0,
            follow_redirects=False,
            event_hooks={"response": [self._clock.hear]},
        )
        return client

    def _call_in_run(self, method: Any, request: Any) -> Any:
        """Make a call about a message of a run; once the run is over, raise MessageError.

        Flower then answers 403, as it does to a refused hospital. If the hospital itself is
        refused, its next ``pull`` raises TrustError.
        """
        try:
            return self._call(method, request)
        except TrustError as error:
            raise MessageError("the message belongs to a run that is over") from error

    def _call(self, method: Any, request: Any) -> Any:
        """Make a call.

        Raises:
            NetworkError: the coordinator is not reachable, its reply cannot be read, or Flower does
            not accept our node or signed time (401), which a new connection repairs.
            TrustError: the coordinator refuses this hospital.
        """
        try:
            return method(request)
        except httpx.HTTPStatusError as error:
            status = error.response.status_code
            if status == 403:
                raise TrustError(
                    "the coordinator refuses this hospital",
                    hint="the certificate may be revoked; ask the coordinator",
                ) from error
            raise NetworkError(f"the coordinator answered {status}") from error
        except (httpx.HTTPError, DecodeError, ValueError) as error:
            raise NetworkError(
                f"the connection to {self._url} was lost ({type(error).__name__})"
            ) from error


def _objects_of(response: PullMessagesResponse) -> list[str]:
    """Return the names of the first message's objects. Raises MessageError: none, or too many."""
    trees = list(response.message_object_trees)[:1]
    objects = [tree.object_id for tree in iterate_object_tree(trees[0])] if trees else []
    if not 1 <= len(objects) <= MOST_OBJECTS or not response.messages_list:
        raise MessageError(f"the message has {len(objects)} objects, not 1 to {MOST_OBJECTS}")
    return objects


def _content(response: PullObjectResponse) -> bytes:
    if not response.object_found or not response.object_available:
        raise NetworkError("the coordinator no longer has a part of the message")
    return bytes(response.object_content)


@contextlib.contextmanager
def _readable() -> Iterator[None]:
    try:
        yield
    except DecodeError as error:
        raise MessageError("the message cannot be read") from error


class _Signing:
    """Adds Flower's authentication headers: the agent's key, the time, and its signature.

    Flower's own class signs this machine's time, which a coordinator refuses if its clock is 5 s
    behind or 305 s ahead. This class signs the coordinator's time. TLS authenticates the caller,
    and the gateway checks that the key is the caller's.
    """

    def __init__(self, identity: Identity, clock: CoordinatorClock) -> None:
        self._key, self._clock = identity.key, clock
        self._public = base64.b64encode(public_key_to_bytes(self._key.public_key())).decode()

    def intercept(self, context: ProtobufRequestContext, call_next: ProtobufCall) -> httpx.Response:
        """Sign the call and pass it on."""
        now = self._clock.now().isoformat()
        signature = base64.b64encode(sign_message(self._key, now.encode("ascii"))).decode()
        signed = {
            FLEET_HTTP_PUBLIC_KEY_HEADER: self._public,
            TIMESTAMP_HEADER: now,
            FLEET_HTTP_SIGNATURE_HEADER: signature,
        }
        add_headers(context.request, signed)
        return call_next(context)

"""The hospital listener: an exact list of paths, for enrolled hospitals only.

For every request, in this order:
    1. the path and method are on the list, or 404;
    2. the client certificate is a hospital's, is the enrolled one, and is not revoked; a bootstrap
       certificate gives access to ``enrol`` only;
    3. a Fleet call names the certificate's own key (Flower's signature covers only a timestamp);
    4. the body is within its limit.
A pull becomes a long poll, held in async code while the client is connected. Large bodies bypass
Flower (``flo.server.flower.large_bodies``), and messages come and go whole
(``flo.server.flower.whole_messages``). Other Fleet calls are passed to Flower, and other
``/v1/site/*`` calls to ``flo.server.api.site_api``.
"""

from __future__ import annotations

import asyncio
import base64
import functools
import logging
from collections.abc import Mapping

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from starlette.concurrency import run_in_threadpool
from starlette.types import Receive, Scope, Send

from flo.errors import FloError, MessageError, RefusedError, TrustError
from flo.host.memory import give_back_freed_memory
from flo.http.asgi import (
    ByteQuota,
    Refused,
    dated,
    headers_of,
    read_body,
    replay,
    send_bytes,
    send_json,
)
from flo.http.protocol import PEER
from flo.keys.identity import public_bytes
from flo.protocol.large_bodies import FETCH_PATH, OFFER_PATH, RUN_HEADER
from flo.protocol.messages import MAX_MESSAGE_BYTES
from flo.protocol.whole_messages import NODE_HEADER
from flo.protocol.whole_messages import PULL_PATH as WHOLE_PULL_PATH
from flo.protocol.whole_messages import PUSH_PATH as WHOLE_PUSH_PATH
from flo.server.api.site_api import SITE_CALLS, SiteApi
from flo.server.audit.rate_limited import RateLimitedAudit
from flo.server.flower.large_bodies import LargeBodyRelay, name_in, number_in
from flo.server.flower.superlink import (
    ACTIVATE_PATH,
    FLEET_PATHS,
    PUBLIC_KEY_HEADER,
    PULL_PATH,
    PUSH_PATH,
    SuperLink,
)
from flo.server.http.last_seen import LastSeen
from flo.server.http.metrics import Traffic
from flo.server.http.notifier import Notifier
from flo.server.keys.authority import Peer, read_peer
from flo.server.listeners.extract_turns import ExtractTurns
from flo.server.store.store import Store

log = logging.getLogger("flo.server.listeners.hospital_listener")

HOLD_SECONDS = 20.0  # the Fleet client gives up after 30
MAX_SITE_BODY = 1 << 20
_MAX_BODY = {PUSH_PATH: 1 << 16}  # an announcement is a few hundred bytes
MOST_AT_ONCE = 8 * MAX_SITE_BODY  # bytes of all requests of a hospital that are under way
REPORTS_PATH = "/v1/site/reports"
_MAX_FLEET_BODY = 1 << 20
_OF_A_NODE = FLEET_PATHS | {FETCH_PATH, OFFER_PATH, WHOLE_PULL_PATH, WHOLE_PUSH_PATH}
_KEY, _NODE = PUBLIC_KEY_HEADER.encode(), NODE_HEADER.encode()
_RECHECK_SECONDS = 1.0
_STATUS = {2: 400, 3: 409, 4: 403, 5: 503, 70: 500}


class Gateway:
    """ASGI application of the hospital listener.

    ``store`` is read on the event loop for every request, so it must be a connection that no writer
    uses. A revocation takes effect at the next request.
    """

    def __init__(
        self,
        superlink: SuperLink,
        site_api: SiteApi,
        store: Store,
        audit: RateLimitedAudit,
        notifier: Notifier,
        traffic: Traffic,
        large_bodies: LargeBodyRelay,
        last_seen: LastSeen,
    ) -> None:
        self._traffic, self._large_bodies, self._last_seen = traffic, large_bodies, last_seen
        self._superlink, self._site_api, self._store = superlink, site_api, store
        self._audit, self._notifier = audit, notifier
        self._allowance = ByteQuota(MOST_AT_ONCE)
        self._reports, self._turns = ByteQuota(0), ExtractTurns()  # each hospital has its own limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request of a hospital; a forbidden one is refused and audited."""
        if scope["type"] != "http":
            return
        path, send = scope["path"], self._traffic.counting(dated(send))
        try:
            if scope["method"] != "POST" or path not in _OF_A_NODE | set(SITE_CALLS):
                raise Refused(404, "this path is not open to hospitals")
            peer = self._admit(scope, path)
            self._last_seen.touch(peer.hospital)
            if path == OFFER_PATH:
                await self._offer(scope, receive, send)
                return
            if path == REPORTS_PATH:
                self._turns.refuse_early(peer.hospital)
                try:
                    await self._report(peer, receive, send)
                finally:
                    give_back_freed_memory()
                return
            limit = MAX_SITE_BODY if path in SITE_CALLS else _MAX_FLEET_BODY
            with self._allowance.reserve(peer.hospital) as take:
                body = await read_body(receive, _MAX_BODY.get(path, limit), take)
                self._traffic.received += len(body)
                if path in SITE_CALLS:
                    await self._site_call(path, peer, body, send)
                elif path == FETCH_PATH:
                    headers = headers_of(scope)
                    await self._large_bodies.serve_request(
                        self._node(headers), name_in(headers), send
                    )
                elif path in (WHOLE_PULL_PATH, WHOLE_PUSH_PATH):
                    await self._whole(path, body, scope, receive, send)
                else:
                    await self._fleet_call(path, peer, body, scope, receive, send)
        except Refused as refusal:
            facts = {"path": path[:80], "why": str(refusal)}
            log.warning("refused", extra={"fields": facts})
            await asyncio.to_thread(self._audit.record, "refused-request", **facts)
            await send_json(send, refusal.status, {"error": "refused"})

    async def _report(self, peer: Peer, receive: Receive, send: Send) -> None:
        """Read an extract in the hospital's turn, limited to the size its studies can need."""
        limit = await asyncio.to_thread(self._site_api.largest_report, peer.hospital)
        with self._reports.reserve(peer.hospital, limit) as take:
            body = await read_body(receive, limit, take)
            self._traffic.received += len(body)
            with self._turns.of(peer.hospital):
                await self._site_call(REPORTS_PATH, peer, body, send)

    async def _fleet_call(
        self, path: str, peer: Peer, body: bytes, scope: Scope, receive: Receive, send: Send
    ) -> None:
        key = headers_of(scope)[_KEY]
        if path == ACTIVATE_PATH:
            self._superlink.force_offline(key)
            await asyncio.to_thread(self._site_api.note_connection, peer)
        if path == PULL_PATH:
            if not await self._hold(key, receive):
                return
            self._admit(scope, path)  # the certificate may have been revoked meanwhile
        if path == PUSH_PATH and (node := self._superlink.node_id(key)) is not None:
            try:
                self._superlink.note_announcement(node, body)
            except MessageError as error:
                raise Refused(400, str(error)) from error
        await self._superlink.fleet(scope, replay(body, receive), send)
        self._notifier.notify_all()

    async def _whole(
        self, path: str, body: bytes, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Deliver the next message, once there is one; or take a reply."""
        key = headers_of(scope)[_KEY]
        node = self._superlink.node_id(key)
        if node is None or headers_of(scope).get(_NODE) != str(node).encode():
            # After a restart of the coordinator nodes have other numbers: the agent connects anew.
            return await send_json(send, 401, {"error": "this agent is not activated"})
        pulls, found = path == WHOLE_PULL_PATH, b""
        if pulls:
            if not await self._hold(key, receive):
                return
            self._admit(scope, path)  # the certificate may have been revoked meanwhile
            if not self._superlink.has_message_for(key):
                return await send_bytes(send, b"")
        try:
            if pulls:
                found = await run_in_threadpool(self._superlink.pull_whole, node)
            else:
                await run_in_threadpool(self._superlink.push_whole, node, body)
        except RefusedError as error:
            return await send_json(send, 409, {"error": str(error)})
        except MessageError as error:
            raise Refused(400, str(error)) from error
        self._notifier.notify_all()
        await send_bytes(send, found)

    async def _offer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hold an offered reply. Its body is read only when the ServerApp takes it."""
        headers = headers_of(scope)
        size = number_in(headers, "content-length", MAX_MESSAGE_BYTES)
        run, node = number_in(headers, RUN_HEADER, 1 << 64), self._node(headers)
        answers = self._superlink.answered_last(node)
        wanted = await self._large_bodies.hold_reply(
            node, run, answers, name_in(headers), size, receive, self._superlink.has_finished
        )
        self._traffic.received += size if wanted else 0
        await send_json(send, 200 if wanted else 409, {})

    def _node(self, headers: Mapping[bytes, bytes]) -> int:
        node = self._superlink.node_id(headers[_KEY])
        if node is None:
            raise Refused(403, "this agent is not activated")
        return node

    def _admit(self, scope: Scope, path: str) -> Peer:
        der = scope["extensions"].get(PEER)
        if der is None:
            raise Refused(401, "no client certificate")
        try:
            peer = read_peer(der)
        except TrustError as error:
            raise Refused(403, str(error)) from error
        if peer.kind == "bootstrap":
            if path != "/v1/site/enrol" or not self._store.invited(peer.serial, peer.hospital):
                raise Refused(403, "an invitation is valid for one enrolment only")
            return peer
        member = self._store.member(peer.hospital)
        if (
            member is None
            or peer.serial not in (member.serial, member.earlier)
            or member.public != peer.public
        ):
            raise Refused(403, f"{peer.hospital}: this is not the enrolled certificate")
        if member.revoked:
            raise Refused(403, f"{peer.hospital}: the certificate is revoked")
        if path in _OF_A_NODE and not self._own_key(scope, peer):
            raise Refused(403, f"{peer.hospital}: the node key is not the certificate's key")
        if member.earlier and peer.serial == member.serial:
            self._site_api.note_renewed(peer)
        return peer

    @staticmethod
    def _own_key(scope: Scope, peer: Peer) -> bool:
        claimed = [v for k, v in scope["headers"] if k == _KEY]
        if len(claimed) != 1:
            return False
        try:
            raw = base64.b64decode(claimed[0], validate=True)
        except ValueError:
            return False
        return _same_key(raw, peer.public)

    async def _hold(self, key: bytes, receive: Receive) -> bool:
        """Wait for a message or the end of the hold. Return False if the client disconnected."""
        gone = asyncio.ensure_future(_disconnected(receive))
        end = asyncio.get_running_loop().time() + HOLD_SECONDS
        try:
            while not gone.done() and not self._superlink.has_message_for(key):
                left = end - asyncio.get_running_loop().time()
                if left <= 0:
                    break
                ring = asyncio.ensure_future(self._notifier.wait(min(left, _RECHECK_SECONDS)))
                await asyncio.wait({gone, ring}, return_when=asyncio.FIRST_COMPLETED)
                ring.cancel()
            return not gone.done()
        finally:
            gone.cancel()

    async def _site_call(self, path: str, peer: Peer, body: bytes, send: Send) -> None:
        try:
            result = await asyncio.to_thread(self._site_api.call, path, peer, body)
        except FloError as error:
            if path == REPORTS_PATH:
                self._turns.wasted(peer.hospital)
            facts = {"path": path, "hospital": peer.hospital, "why": str(error)}
            log.warning("site call refused", extra={"fields": facts})
            await asyncio.to_thread(self._audit.record, "refused-call", **facts)
            status = 400 if isinstance(error, MessageError) else _STATUS[error.exit_code]
            await send_json(send, status, {"error": str(error)})
            return
        self._notifier.notify_all()
        await send_json(send, 200, result)


@functools.lru_cache(maxsize=4096)
def _same_key(pem: bytes, public: bytes) -> bool:
    try:
        key = serialization.load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm):
        return False
    return isinstance(key, ec.EllipticCurvePublicKey) and public_bytes(key) == public


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass

"""Ask hospitals and check what they answer: the coordinator's side of one request of a run.

The message transport (``Exchange``) is an argument; ``flo simulate`` passes its own.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, Protocol

from flo.documents.canonical import Bytes
from flo.errors import FloError
from flo.keys.claims import LedgerHead
from flo.protocol.messages import (
    Reply,
    ReplyHeader,
    RequestHeader,
    decode_reply,
    request_body,
    request_head,
)
from flo.server.rounds.state import NO_WEIGHTS, check_reply
from flo.study.document import Study
from flo.study.parameters import Vector

Take = Callable[[str, Reply], bool]  # a hospital's valid reply; returns whether it was the last
ForOne = Callable[[str], dict[str, Any]]  # fields of the header that only this hospital is told


class Exchange(Protocol):
    """Transport of a run's requests and replies; it does not check their content."""

    def ask(
        self, heads: Mapping[str, bytes], body: memoryview, deadline_seconds: float
    ) -> Iterator[tuple[str, Bytes]]:
        """Send each hospital its head and the same body; yield each reply in time, once."""

    def connected(self) -> Collection[str]:
        """Return the hospitals whose agents are connected now."""

    def reconnected(self) -> Collection[str]:
        """Return the hospitals whose agents have reconnected since their last answer."""


class Records(Protocol):
    """What is recorded of every reply."""

    def keep_head(self, hospital: str, head: LedgerHead) -> None:
        """Store a hospital's head if it is its highest. Raises TrustError if it is not signed."""

    def event(self, kind: str, **facts: object) -> None:
        """Record an event of the run; ``facts`` must be public."""


class Conversation:
    """Requests of one study to its hospitals."""

    def __init__(self, study: Study, exchange: Exchange, records: Records) -> None:
        self._study, self._exchange, self._records = study, exchange, records

    def ask(
        self,
        header: RequestHeader,
        hospitals: Collection[str],
        deadline_seconds: float,
        take: Take = lambda hospital, reply: False,
        *,
        weights: Vector = NO_WEIGHTS,
        for_one: ForOne = lambda hospital: {},
    ) -> dict[str, ReplyHeader]:
        """Send one request to these hospitals; return the headers of their valid replies.

        ``take`` is called with each valid reply as it arrives. An invalid one is recorded.
        """
        if not hospitals:
            return {}
        heads = {
            hospital: request_head(header.model_copy(update=for_one(hospital)))
            for hospital in sorted(hospitals)
        }
        replies: dict[str, ReplyHeader] = {}
        for hospital, data in self._exchange.ask(heads, request_body(weights), deadline_seconds):
            try:
                reply = decode_reply(data)
                check_reply(self._study, header, hospital, reply)
                self._records.keep_head(hospital, reply.header.head)
            except FloError as error:
                self._records.event("bad-reply", hospital=hospital, why=str(error))
                continue
            replies[hospital] = reply.header
            if take(hospital, reply):
                break
        return replies

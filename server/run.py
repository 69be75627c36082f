"""One run of a study, from its saved state to its published model: ask, check, advance, save.

The loop reads top to bottom like the protocol. Who carries the messages (``Exchange``) and who
keeps the state (``RunStore``) come in as arguments; ``flo simulate`` brings its own of both.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Protocol

import numpy as np
import numpy.typing as npt

from flo.errors import FloError
from flo.messages import Head, Reply, Request, RequestHeader, decode_reply, encode_request
from flo.server.rounds import RunState, advance, check_reply, request_header, retried
from flo.study import Study

_GONE_FOR_GOOD = frozenset({"not-approved", "over-budget", "rolled-back"})


class Exchange(Protocol):
    def ask(self, requests: dict[str, bytes], deadline_seconds: float) -> dict[str, bytes]:
        """Send each hospital its request; return the replies that came before the deadline."""


class RunStore(Protocol):
    def save(self, state: RunState) -> None:
        """Keep the state, atomically, before anything is asked with it."""

    def heads(self) -> dict[str, Head]:
        """The highest ledger head seen of each hospital of the study."""

    def keep_head(self, hospital: str, head: Head) -> None:
        """Keep a hospital's head if it is the highest. Raises TrustError if it is not signed."""

    def event(self, kind: str, **facts: object) -> None:
        """Tell whoever watches: public facts only."""

    def stop_requested(self) -> bool:
        """Whether the coordinator wants the run to end after this round."""


def run_study(
    study: Study, run: str, state: RunState, exchange: Exchange, store: RunStore
) -> RunState:
    """Run to the end, or as far as the cohort floor allows. Returns the last saved state."""
    active = [hospital.id for hospital in study.hospitals]
    while state.phase != "done" and not store.stop_requested():
        began = time.monotonic()
        header = request_header(study, run, state, tuple(sorted(active)))
        header = header.model_copy(update={"heads": store.heads()})
        state = replace(state, cohort=header.cohort)
        store.save(state)
        request = encode_request(Request(header, state.asked))
        raw = exchange.ask(dict.fromkeys(header.cohort, request), study.limits.deadline_seconds)
        values, refused = _read(study, header, raw, store)
        active = [hospital for hospital in active if refused.get(hospital) not in _GONE_FOR_GOOD]
        if len(values) < study.limits.minimum_cohort:
            store.event("attempt-failed", phase=state.phase, round=state.round, got=len(values))
            again = retried(study, state)
            if again is None or len(active) < study.limits.minimum_cohort:
                break
            state = again
            continue
        advanced = advance(study, state, values)
        store.save(advanced)
        store.event(
            "round",
            phase=state.phase,
            round=state.round,
            cohort=sorted(values),
            seconds=time.monotonic() - began,
        )
        state = advanced
    _finish(study, run, state, exchange, store)
    return state


def _read(
    study: Study, header: RequestHeader, raw: dict[str, bytes], store: RunStore
) -> tuple[dict[str, npt.NDArray[np.int64]], dict[str, str]]:
    values: dict[str, npt.NDArray[np.int64]] = {}
    refused: dict[str, str] = {}
    for hospital, data in raw.items():
        try:
            reply: Reply = decode_reply(data)
            check_reply(study, header, hospital, reply)
            store.keep_head(hospital, reply.header.head)
        except FloError as error:
            store.event("bad-reply", hospital=hospital, why=str(error))
            continue
        if reply.header.kind == "release":
            values[hospital] = reply.values
        elif reply.header.kind == "refused":
            refused[hospital] = reply.header.code or "not-ready"
            store.event("refused", hospital=hospital, code=refused[hospital])
    return values, refused


def _finish(study: Study, run: str, state: RunState, exchange: Exchange, store: RunStore) -> None:
    """Tell every hospital that the run is over, so that it settles and frees what is unused."""
    everyone = tuple(sorted(hospital.id for hospital in study.hospitals))
    header = request_header(study, run, state, everyone).model_copy(
        update={"kind": "finish", "heads": store.heads()}
    )
    request = encode_request(Request(header, state.asked))
    raw = exchange.ask(dict.fromkeys(everyone, request), study.limits.deadline_seconds)
    _read(study, header, raw, store)
    store.save(state)

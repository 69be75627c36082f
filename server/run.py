"""One run of a study, from its saved state to its published model: join, ask, check, save.

The coordinator's side of the protocol in ``flo.privacy.masking``:

    1. ``join``: who is there shows a run key; then everyone vouches for the ledgers of newcomers;
    2. the cohort of the attempt is chosen and saved, then asked;
    3. all answered: the noisy sum appears, the model takes a step, both are saved;
    4. one is missing: the attempt is thrown away and a new one names the survivors. Who missed it
       is welcome in the next round if connected; when too few can go on, the run ends.

Who carries the messages (``Exchange``) and who keeps the state (``RunStore``) come in as arguments;
``flo simulate`` brings its own of both.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from typing import Protocol

from flo.claims import Head, Voucher
from flo.errors import FloError, MessageError, TrustError
from flo.messages import Reply, Request, Values, decode_reply, encode_request
from flo.server.rounds import (
    NO_WEIGHTS,
    RunState,
    advance,
    check_reply,
    is_complete,
    request_header,
    retried,
)
from flo.study import Study

_GONE_FOR_GOOD = frozenset({"not-approved", "over-budget", "rolled-back"})
_JOIN_AGAIN = frozenset({"stale-key", "unconfirmed"})  # once a round
_MOST_MISSES = 2  # of attempts; who fails more often costs the others their retries
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 2.0


class Exchange(Protocol):
    def ask(self, requests: dict[str, bytes], deadline_seconds: float) -> dict[str, bytes]:
        """Send each hospital its request; return the replies that came before the deadline."""

    def away(self) -> Collection[str]:
        """Hospitals whose agents are not connected now."""

    def reconnected(self) -> Collection[str]:
        """Hospitals whose agent connected anew since it last answered."""


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
    return _Run(study, run, state, exchange, store).to_the_end()


@dataclass
class _Run:
    study: Study
    run: str
    state: RunState
    exchange: Exchange
    store: RunStore
    gone: set[str] = field(default_factory=set)  # for the rest of the run
    out: set[str] = field(default_factory=set)  # for this round
    stale: set[str] = field(default_factory=set)  # asked to join again in this round
    misses: Counter[str] = field(default_factory=Counter)

    def to_the_end(self) -> RunState:
        while self.state.phase != "done" and not self.store.stop_requested():
            began = time.monotonic()
            if not self.state.cohort and not self._choose_cohort():
                break
            asked = self.state
            values = self._ask_cohort()
            advanced = self._advanced(values)
            if advanced is None:
                again = retried(self.study, self.state, drawn=bool(values))
                if again is None:
                    break
                self.state = again
                continue
            self.state = advanced
            self.out.clear()
            self.stale.clear()
            self.store.save(self.state)
            self.store.event(
                "round",
                phase=asked.phase,
                round=asked.round,
                cohort=sorted(values),
                seconds=time.monotonic() - began,
            )
        self._finish()
        return self.state

    # 1, 2 ---------------------------------------------------------------------------------------

    def _choose_cohort(self) -> bool:
        """Choose who is asked and save it. False if too few are there before the deadline."""
        end, pause = time.monotonic() + self.study.limits.deadline_seconds, _FIRST_PAUSE
        while True:
            cohort = self._joined()
            if len(cohort) >= self.study.cohort_floor:
                heads = {name: head for name, head in self.store.heads().items() if name in cohort}
                self.state = replace(self.state, cohort=tuple(sorted(cohort)), heads=heads)
                self.store.save(self.state)
                return True
            possible = len(self.study.hospitals) - len(self.gone)
            if possible < self.study.cohort_floor or time.monotonic() > end:
                self.store.event("too-few", there=sorted(cohort), floor=self.study.cohort_floor)
                return False
            if self.store.stop_requested():
                return False
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _joined(self) -> list[str]:
        """Hospitals that are there, with a run key and a partner's voucher for their ledger."""
        for hospital in self.exchange.reconnected():
            self._void_voucher(hospital)
        away = {*self.gone, *self.out, *self.exchange.away()}
        present = [hospital.id for hospital in self.study.hospitals if hospital.id not in away]
        newcomers = [hospital for hospital in present if not self._has_joined(hospital)]
        if newcomers:
            for hospital, reply in self._ask("join", newcomers).items():
                self._keep_key(hospital, reply)
            self._gather_vouchers(newcomers, present)
        return [hospital for hospital in present if self._has_joined(hospital)]

    def _gather_vouchers(self, newcomers: list[str], present: list[str]) -> None:
        """Ask who was there before what they saw of the newcomers; at the start, everyone."""
        partners = [hospital for hospital in present if hospital not in newcomers] or newcomers
        for partner, reply in self._ask("join", partners).items():
            for hospital in newcomers:
                voucher = reply.header.vouchers.get(hospital)
                if voucher is not None and hospital != partner:
                    self._keep_voucher(partner, hospital, voucher)

    def _has_joined(self, hospital: str) -> bool:
        if len(self.study.hospitals) == 1:
            return hospital in self.state.keys
        return hospital in self.state.vouchers

    def _keep_key(self, hospital: str, reply: Reply) -> None:
        """The latest run key of a hospital; a voucher for an older one is void."""
        key, known = reply.header.key, self.state.keys.get(hospital)
        if key is None or key == known:
            return
        try:
            key.check(self.study.digest, self.run, self.study.hospital(hospital).fingerprint)
        except TrustError as error:
            self.store.event("bad-reply", hospital=hospital, why=str(error))
            return
        self.state = replace(self.state, keys=self.state.keys | {hospital: key})
        self._void_voucher(hospital)

    def _void_voucher(self, hospital: str) -> None:
        kept = {name: v for name, v in self.state.vouchers.items() if name != hospital}
        self.state = replace(self.state, vouchers=kept)

    def _keep_voucher(self, partner: str, hospital: str, voucher: Voucher) -> None:
        """Of several partners' the one who saw most: it lets the least be forgotten."""
        kept, key = self.state.vouchers.get(hospital), self.state.keys.get(hospital)
        if key is None or (voucher.hospital, voucher.key) != (key.fingerprint, key.key):
            return
        try:
            signer = self.study.hospital(partner).fingerprint
            voucher.check(self.study.digest, self.run, signer)
        except TrustError as error:
            self.store.event("bad-reply", hospital=partner, why=str(error))
            return
        if kept is None or voucher.sequence > kept.sequence:
            self.state = replace(self.state, vouchers=self.state.vouchers | {hospital: voucher})

    # 3, 4 ---------------------------------------------------------------------------------------

    def _ask_cohort(self) -> dict[str, Values]:
        """What the cohort releases. Who does not is out for the round, or for good."""
        values = {}
        replies = self._ask("release", self.state.cohort)
        for hospital, reply in replies.items():
            if reply.header.kind == "release":
                values[hospital] = reply.values
            elif reply.header.code in _JOIN_AGAIN and hospital not in self.stale:
                self.stale.add(hospital)
                self._void_voucher(hospital)
                self._keep_key(hospital, reply)
            else:
                self._count_out(hospital)
        for hospital in set(self.state.cohort) - set(replies):
            self._void_voucher(hospital)  # it may come back with another key
            self._count_out(hospital)
        return values

    def _count_out(self, hospital: str) -> None:
        self.out.add(hospital)
        self.misses[hospital] += 1
        left = len(self.study.hospitals) - len(self.gone | {hospital})
        if self.misses[hospital] >= _MOST_MISSES and left >= self.study.cohort_floor:
            self.gone.add(hospital)
            self.store.event("excluded", hospital=hospital, misses=self.misses[hospital])

    def _advanced(self, values: dict[str, Values]) -> RunState | None:
        missing = sorted(set(self.state.cohort) - set(values))
        try:
            if is_complete(self.study, self.state, values):
                return advance(self.study, self.state, values)
            why = "not everyone answered"
        except MessageError as error:
            why = str(error)
        self.store.event(
            "attempt-failed",
            phase=self.state.phase,
            round=self.state.round,
            attempt=self.state.attempt,
            cohort=list(self.state.cohort),
            missing=missing,
            why=why,
        )
        return None

    def _finish(self) -> None:
        """Tell whoever is there that the run is over, so that it settles and frees what is unused.

        Who is away learns it from the study's status when it comes back.
        """
        away = self.exchange.away()
        self._ask("finish", [h.id for h in self.study.hospitals if h.id not in away])
        self.store.save(self.state)

    def _ask(self, kind: str, hospitals: Collection[str]) -> dict[str, Reply]:
        """One request to each of these hospitals; their replies as far as they answer it."""
        if not hospitals:
            return {}
        named = tuple(sorted(hospitals))
        header = request_header(self.study, self.run, self.state, kind, named)
        weights = self.state.asked if kind == "release" else NO_WEIGHTS
        request = encode_request(Request(header, weights))
        deadline = self.study.limits.deadline_seconds
        replies = {}
        for hospital, data in self.exchange.ask(dict.fromkeys(named, request), deadline).items():
            try:
                reply = decode_reply(data)
                check_reply(self.study, header, hospital, reply)
                self.store.keep_head(hospital, reply.header.head)
            except FloError as error:
                self.store.event("bad-reply", hospital=hospital, why=str(error))
                continue
            if reply.header.kind == "refused":
                code = reply.header.code or "not-ready"
                self.store.event("refused", hospital=hospital, code=code)
                if code in _GONE_FOR_GOOD:
                    self.gone.add(hospital)
            replies[hospital] = reply
        return replies

"""One run of a study, from its saved state to its published model: join, ask, check, save.

The coordinator's side of the protocol in ``flo.privacy.secure_sum.masking``:

    1. ``join``: who is there shows a run key; then everyone vouches for the ledgers of newcomers;
    2. the cohort of the attempt is chosen and saved, then asked;
    3. all answered: the noisy sum appears, the model takes a step, both are saved;
    4. one is missing: the attempt is thrown away and a new one names the survivors. Who missed it
       is welcome in the next round if connected. When too few are there the run is paused, as it
       was saved; when its retries are used up it ends with the model so far.

Who carries the messages (``Exchange``) and who keeps the state (``RunStore``) come in as arguments;
``flo simulate`` brings its own of both.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from typing import Literal, Protocol

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from flo.documents.canonical import Bytes
from flo.errors import FloError, MessageError, TrustError
from flo.keys.claims import HeadAttestation, LedgerHead
from flo.privacy.accounting.plan import Plan
from flo.privacy.secure_sum.masking import pair_secret
from flo.protocol.messages import ReplyHeader, Request, Values, decode_reply, request_parts
from flo.server.rounds.aggregation import StreamingSum
from flo.server.rounds.deadline import AdaptiveDeadline
from flo.server.rounds.participation import JOIN_AGAIN, ParticipationPolicy
from flo.server.rounds.state import (
    NO_WEIGHTS,
    RunState,
    advance,
    check_reply,
    is_complete,
    request_header,
    retried,
)
from flo.study.document import Study

_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 2.0
RunEnding = Literal["done", "stopped", "paused", "ended"]


class Exchange(Protocol):
    """How a run's requests reach hospitals and replies come back; it checks nothing in them."""

    def ask(
        self, hospitals: Collection[str], request: tuple[bytes, memoryview], deadline_seconds: float
    ) -> Iterator[tuple[str, Bytes]]:
        """Send the hospitals a request, head and body; give each reply that comes in time, once."""

    def connected(self) -> Collection[str]:
        """Hospitals whose agents are connected now."""

    def reconnected(self) -> Collection[str]:
        """Hospitals whose agent connected anew since it last answered."""


class RunStore(Protocol):
    """Keeps what a run must not forget, and hears what happens in it."""

    def save(self, state: RunState) -> None:
        """Keep the state, atomically, before anything is asked with it."""

    def heads(self) -> dict[str, LedgerHead]:
        """The highest ledger head seen of each hospital of the study."""

    def keep_head(self, hospital: str, head: LedgerHead) -> None:
        """Keep a hospital's head if it is the highest. Raises TrustError if it is not signed."""

    def event(self, kind: str, **facts: object) -> None:
        """Tell whoever watches: public facts only."""

    def stop_requested(self) -> bool:
        """Whether the run is to end after this round."""


def run_study(
    study: Study, run: str, state: RunState, exchange: Exchange, store: RunStore
) -> tuple[RunState, RunEnding]:
    """Run as far as it goes. Returns the last saved state, and why it goes no further now.

    Done, stopped when asked to, ended because the retries are used up; or paused, because fewer
    hospitals than the cohort floor are there: then nobody is told that it is over, and the same
    state can be run on.
    """
    return StudyRun(study, run, state, exchange, store).as_far_as_it_goes()


class StudyRun:
    """See ``run_study``. Whoever makes one with a large state had better keep none of it."""

    def __init__(
        self, study: Study, run: str, state: RunState, exchange: Exchange, store: RunStore
    ) -> None:
        self.study, self.run, self.state = study, run, state
        self.exchange, self.store = exchange, store
        self.attendance, self.patience = (
            ParticipationPolicy(study),
            AdaptiveDeadline(study.limits.deadline_seconds),
        )

    def as_far_as_it_goes(self) -> tuple[RunState, RunEnding]:
        """As ``run_study``."""
        end = self._rounds()
        if end == "paused":
            self.store.save(self.state)
        else:
            self._finish()
        return self.state, end

    def _rounds(self) -> RunEnding:
        while self.state.phase != "done":
            if self.store.stop_requested():
                return "stopped"
            began = time.monotonic()
            if not self.state.cohort and not self._choose_cohort():
                return "stopped" if self.store.stop_requested() else "paused"
            phase, number = self.state.phase, self.state.round
            gathered = self._ask_cohort()
            advanced = self._advanced(gathered)
            if advanced is None:
                again = retried(self.study, self.state, drawn=bool(gathered))
                if again is None:
                    return "ended"
                self.state = again
                time.sleep(min(_FIRST_PAUSE * 2**again.attempt, _LONGEST_PAUSE))
                continue
            self.state, cohort = advanced, sorted(gathered.hospitals)
            del gathered, advanced  # they may be large, and a save needs room
            self.attendance.next_round()
            self.store.save(self.state)
            seconds = time.monotonic() - began
            self.patience.observe(phase, seconds)
            self.store.event(
                "round",
                phase=phase,
                round=number,
                cohort=cohort,
                seconds=seconds,
            )
        return "done"

    # 1, 2 ---------------------------------------------------------------------------------------

    def _choose_cohort(self) -> bool:
        """Choose who is asked and save it. False if too few are there before the deadline."""
        end, pause = time.monotonic() + self.study.limits.deadline_seconds, _FIRST_PAUSE
        while True:
            self._let_join()
            cohort = sorted(filter(self._has_joined, self._present()))
            if len(cohort) >= self.study.cohort_floor:
                heads = {name: head for name, head in self.store.heads().items() if name in cohort}
                self.state = replace(self.state, cohort=tuple(cohort), heads=heads)
                self.store.save(self.state)
                return True
            if not self.attendance.can_reach_the_floor or time.monotonic() > end:
                self.store.event("too-few", there=cohort, floor=self.study.cohort_floor)
                return False
            if self.store.stop_requested():
                return False
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _let_join(self) -> None:
        """Whoever is there and new, or back: its run key, and partners' vouchers for its ledger."""
        for hospital in self.exchange.reconnected():
            self._void_voucher(hospital)
        newcomers = [hospital for hospital in self._present() if not self._has_joined(hospital)]
        joined = []
        for hospital, reply in self._ask("join", newcomers).items():
            self._keep_key(hospital, reply)
            if reply.kind == "joined" and hospital in self.state.keys:
                joined.append(hospital)
        present = self._present()
        newcomers = [hospital for hospital in joined if hospital in present]
        if newcomers:
            self.store.save(self.state)  # before anyone else is shown their keys
        if newcomers and len(self.study.hospitals) > 1:
            partners = list(filter(self._has_joined, present))
            if len(newcomers) > 1 or not partners:
                partners += newcomers
            for partner, reply in self._ask("join", partners).items():
                for hospital in newcomers:
                    voucher = reply.vouchers.get(hospital)
                    if voucher is not None and hospital != partner:
                        self._keep_voucher(partner, hospital, voucher)

    def _present(self) -> list[str]:
        return self.attendance.present(self.exchange.connected())

    def _has_joined(self, hospital: str) -> bool:
        if len(self.study.hospitals) == 1:
            return hospital in self.state.keys
        return hospital in self.state.vouchers

    def _keep_key(self, hospital: str, reply: ReplyHeader) -> None:
        """The latest run key of a hospital; a voucher for an older one is void."""
        key, known = reply.key, self.state.keys.get(hospital)
        if key is None or (known is not None and key.epoch <= known.epoch):
            return
        try:
            key.check(self.study.digest, self.run, self.study.hospital(hospital).fingerprint)
            pair_secret(X25519PrivateKey.generate(), key)  # one of low order would stop the others
        except TrustError as error:
            self.store.event("bad-reply", hospital=hospital, why=str(error))
            return
        self.state = replace(self.state, keys=self.state.keys | {hospital: key})
        self._void_voucher(hospital)

    def _void_voucher(self, hospital: str) -> None:
        """It may have another run key now; it joins again before it is asked."""
        kept = {name: v for name, v in self.state.vouchers.items() if name != hospital}
        self.state = replace(self.state, vouchers=kept)

    def _keep_voucher(self, partner: str, hospital: str, voucher: HeadAttestation) -> None:
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
        if kept is None or _rows(voucher) > _rows(kept):
            self.state = replace(self.state, vouchers=self.state.vouchers | {hospital: voucher})

    # 3, 4 ---------------------------------------------------------------------------------------

    def _ask_cohort(self) -> StreamingSum:
        """What the cohort releases; whoever does not has to join again."""
        part = Plan.of(self.study).purpose(self.state.purpose)
        gathered = StreamingSum(self.study, part, len(self.state.cohort))
        replies = self._ask("release", self.state.cohort, gathered.add)
        for hospital, header in replies.items():
            if header.kind != "release" and header.code in JOIN_AGAIN:
                self._void_voucher(hospital)
                self._keep_key(hospital, header)
        for hospital in set(self.state.cohort) - set(replies):
            self._void_voucher(hospital)
        return gathered

    def _advanced(self, gathered: StreamingSum) -> RunState | None:
        missing = sorted(set(self.state.cohort) - gathered.hospitals)
        try:
            if is_complete(self.study, self.state, gathered):
                return advance(self.study, self.state, gathered)
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

        The latest heads go along: so each has seen its partners' last release, and no hospital can
        leave that out of its extract. Who is away learns it from the study's status when it comes
        back.
        """
        self.state = replace(self.state, heads=self.store.heads())
        connected = self.exchange.connected()
        self._ask("finish", [h.id for h in self.study.hospitals if h.id in connected])
        self.store.save(self.state)

    def _ask(
        self,
        kind: str,
        hospitals: Collection[str],
        take: Callable[[str, Values], None] = lambda hospital, values: None,
    ) -> dict[str, ReplyHeader]:
        """One request to each of these hospitals; what they say, as far as they answer it.

        ``take`` is given each release as it comes. Who does not answer, or refuses, is taken note
        of.
        """
        if not hospitals:
            return {}
        named = tuple(sorted(hospitals))
        header = request_header(self.study, self.run, self.state, kind, named)
        weights = self.state.asked if kind == "release" else NO_WEIGHTS
        request = request_parts(Request(header, weights))
        deadline = self.study.limits.deadline_seconds  # to join is to load the data
        if kind == "release":
            deadline = self.patience.timeout(self.state.phase)
        replies: dict[str, ReplyHeader] = {}
        for hospital, data in self.exchange.ask(named, request, deadline):
            try:
                reply = decode_reply(data)
                check_reply(self.study, header, hospital, reply)
                self.store.keep_head(hospital, reply.header.head)
            except FloError as error:
                self.store.event("bad-reply", hospital=hospital, why=str(error))
                continue
            replies[hospital] = reply.header
            if reply.header.kind == "release":
                take(hospital, reply.values)
        for hospital in named:
            self._take_note(hospital, replies.get(hospital))
        return replies

    def _take_note(self, hospital: str, reply: ReplyHeader | None) -> None:
        """Of absence and refusal."""
        before = self.attendance.is_gone(hospital)
        if reply is None:
            self.attendance.missed(hospital)
        elif reply.kind == "refused":
            code = reply.code or "not-ready"
            self.store.event("refused", hospital=hospital, code=code)
            self.attendance.refused(hospital, code)
        if self.attendance.is_gone(hospital) and not before:
            self.store.event("excluded", hospital=hospital)


def _rows(voucher: HeadAttestation) -> int:
    return voucher.head.sequence if voucher.head else 0

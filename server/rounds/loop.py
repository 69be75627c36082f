"""One run of a study, from its saved state to its last round: join, request, check, save.

The coordinator's side of the protocol in ``flo.privacy.secure_sum.masking``:

    1. ``join``: connected hospitals send a run key; then partners vouch for newcomers' ledgers;
    2. the cohort of the attempt is chosen and saved, then asked for its releases;
    3. all replies are in: the noisy sum appears, the model takes a step, the state is saved;
    4. a reply is missing: the attempt is discarded and a new one names the remaining hospitals. The
       missing hospital may take part in the next round if it is connected. If too few hospitals are
       there, the run is paused as it was saved; if its retries are used up, it ends with the
       current model.

Without masking the replies of ``cohort_floor`` hospitals suffice in steps 3 and 4. The message
transport (``Exchange``) and the state's storage (``RunStore``) are arguments; ``flo simulate``
passes its own implementations.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Literal, Protocol

from flo.errors import MessageError, TrustError
from flo.keys.claims import LedgerHead, RunKey
from flo.privacy.accounting.plan import Plan
from flo.privacy.secure_sum.deals import Turn, turn_after, turn_of
from flo.privacy.secure_sum.unmasking import BadDeal
from flo.protocol.deals import Deal
from flo.protocol.messages import Reply, ReplyHeader, RequestHeader
from flo.server.rounds.aggregation import StreamingSum
from flo.server.rounds.conversation import Conversation, Exchange, Take
from flo.server.rounds.deadline import AdaptiveDeadline
from flo.server.rounds.opening import Opening
from flo.server.rounds.participation import (
    GONE_FOR_GOOD,
    JOIN_AGAIN,
    ExpectedReturns,
    ParticipationPolicy,
)
from flo.server.rounds.relayed import (
    check_deal,
    for_one,
    short_deals,
    with_key,
    with_voucher,
    without,
    without_voucher,
)
from flo.server.rounds.state import RunState, advance, is_complete, request_header, retried
from flo.study.document import Study

_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 2.0
RunEnding = Literal["done", "stopped", "paused", "ended"]


class RunStore(Protocol):
    """Durable storage of a run's state, heads and events."""

    def save(self, state: RunState) -> None:
        """Store the state atomically, before any request is made from it."""

    def save_round(self, state: RunState, **facts: object) -> None:
        """Store the state after a round and the event ``round`` with these facts: both or none."""

    def heads(self) -> dict[str, LedgerHead]:
        """Return the highest ledger head seen of each hospital of the study."""

    def keep_head(self, hospital: str, head: LedgerHead) -> None:
        """Store a hospital's head if it is its highest. Raises TrustError if it is not signed."""

    def event(self, kind: str, **facts: object) -> None:
        """Record an event of the run; ``facts`` must be public."""

    def stop_requested(self) -> bool:
        """Return whether the run is to end after this round."""


def run_study(
    study: Study, run: str, state: RunState, exchange: Exchange, store: RunStore
) -> tuple[RunState, RunEnding]:
    """Run until the study is done or cannot continue. Return the last saved state and the reason.

    ``done``; ``stopped``: on request; ``ended``: the retries are used up; ``paused``: fewer
    hospitals than the cohort floor are connected. A paused run sends no ``finish`` and can be
    continued from the same state.
    """
    return StudyRun(study, run, state, exchange, store).as_far_as_it_goes()


class StudyRun:
    """See ``run_study``. The caller should not keep a reference to a large ``state``."""

    def __init__(
        self, study: Study, run: str, state: RunState, exchange: Exchange, store: RunStore
    ) -> None:
        self.study, self.run, self.state = study, run, state
        self.saved_keys = state.keys
        if not state.cohort:  # agents may have started anew since it was saved
            self.state = replace(state, vouchers={})
        self.exchange, self.store = exchange, store
        self.attendance = ParticipationPolicy(study)
        self.patience = AdaptiveDeadline(study.limits.deadline_seconds)
        self.conversation = Conversation(study, exchange, store)
        self.returns = ExpectedReturns(time.monotonic)
        # Of the last attempt: whether anyone released; who did not; what was dealt for the next.
        self.drawn = False
        self.absent: dict[str, ReplyHeader | None] = {}
        self.dealt: dict[str, Deal] = {}

    def as_far_as_it_goes(self) -> tuple[RunState, RunEnding]:
        """Run as ``run_study`` does."""
        end = self._rounds()
        if end == "paused":
            self._save()
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
            cohort = self.state.cohort
            advanced = self._ask_cohort()
            if advanced is None:
                again = retried(self.study, self.state, drawn=self.drawn)
                self._after_attempt(again or self.state, failed=True)
                if again is None:
                    return "ended"
                time.sleep(min(_FIRST_PAUSE * 2**again.attempt, _LONGEST_PAUSE))
                continue
            there = sorted(set(cohort) - set(self.absent))
            self._after_attempt(advanced, failed=False)
            del advanced  # it may be large, and a save needs memory
            self.attendance.next_round()
            seconds = time.monotonic() - began
            self.store.save_round(
                self.state, phase=phase, round=number, cohort=there, seconds=seconds
            )
            self.saved_keys = self.state.keys
            self.patience.observe(phase, seconds)
        return "done"

    def _save(self) -> None:
        self.store.save(self.state)
        self.saved_keys = self.state.keys

    # 1, 2 ---------------------------------------------------------------------------------------

    def _choose_cohort(self) -> bool:
        """Choose and save the cohort. Return False if too few join before the deadline."""
        end, pause = time.monotonic() + self.study.limits.deadline_seconds, _FIRST_PAUSE
        while True:
            self._let_join()
            cohort = sorted(filter(self._has_joined, self._present()))
            short = short_deals(self.state, cohort) if self.study.tolerance else []
            self.state = replace(self.state, deals=without(self.state.deals, short))
            waits = (short or self._waits_for_return(cohort)) and time.monotonic() < end
            cohort = [hospital for hospital in cohort if hospital not in short]
            if len(cohort) >= self.study.cohort_floor and not waits:
                heads = {name: head for name, head in self.store.heads().items() if name in cohort}
                self.state = replace(self.state, cohort=tuple(cohort), heads=heads)
                self._save()
                return True
            if not self.attendance.can_reach_the_floor or time.monotonic() > end:
                self.store.event("too-few", there=cohort, floor=self.study.cohort_floor)
                return False
            if self.store.stop_requested():
                return False
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _let_join(self) -> None:
        """Get run keys and deals, and partners' vouchers for newcomers' ledgers."""
        for hospital in self.exchange.reconnected():
            self.state = without_voucher(self.state, hospital)
        wanted = [hospital for hospital in self._present() if not self._has_joined(hospital)]
        joined = self._join(wanted)
        present = self._present()
        newcomers = [h for h in joined if h in present and h not in self.state.vouchers]
        if newcomers and len(self.study.hospitals) > 1:
            partners = [h for h in present if self._has_joined(h) and h not in newcomers]
            if len(newcomers) > 1 or not partners:
                partners += newcomers
            for partner, reply in self._join(partners).items():
                for hospital, voucher in reply.vouchers.items():
                    if hospital in newcomers and hospital != partner:
                        self._keep(partner, with_voucher, partner, hospital, voucher)

    def _join(self, hospitals: Collection[str]) -> dict[str, ReplyHeader]:
        """Ask hospitals to join; keep their keys and deals. Return the replies of those who did."""
        if not hospitals:
            return {}
        if self.state.keys != self.saved_keys:
            self._save()  # before new keys are sent to partners, who then refuse older ones
        header, joined = self._header("join", hospitals), dict[str, ReplyHeader]()
        turn, deals = turn_of(header), dict[str, Deal]()
        for hospital, reply in self._ask(header).items():
            if reply.key is not None:
                self._keep(hospital, with_key, hospital, reply.key)
            if reply.kind == "joined" and hospital in self.state.keys:
                joined[hospital] = reply
                self._take_deal(hospital, reply, turn, header.keys, deals)
        self.state = replace(self.state, deals=self.state.deals | deals)
        return joined

    def _header(self, kind: str, hospitals: Collection[str]) -> RequestHeader:
        named = tuple(sorted(hospitals))
        return request_header(self.study, self.run, self.state, kind, named)

    def _present(self) -> list[str]:
        return self.attendance.present(self.exchange.connected())

    def _waits_for_return(self, cohort: list[str]) -> bool:
        """Return whether to wait: one more dropout would cost an attempt, and one was just here."""
        if self.study.tolerance is None or len(cohort) > self.study.cohort_floor:
            return False
        named = [hospital.id for hospital in self.study.hospitals]
        return self.returns.are_expected([name for name in named if name not in cohort])

    def _has_joined(self, hospital: str) -> bool:
        if self.study.tolerance and hospital not in self.state.deals:
            return False
        if len(self.study.hospitals) == 1:
            return hospital in self.state.keys
        return hospital in self.state.vouchers

    def _keep(self, claimant: str, rule: Callable[..., RunState], *claim: object) -> None:
        """Keep a claim by its rule, or record why not."""
        try:
            self.state = rule(self.study, self.run, self.state, *claim)
        except TrustError as error:
            self.store.event("bad-reply", hospital=claimant, why=str(error))

    def _take_deal(
        self,
        hospital: str,
        reply: ReplyHeader,
        turn: Turn | None,
        keys: Mapping[str, RunKey],
        deals: dict[str, Deal],
    ) -> None:
        """Put a hospital's deal for a turn among ``deals``, or record why not.

        ``keys``: the run keys that the request relayed.
        """
        if reply.deal is None or turn is None:
            return
        try:
            own = {hospital: self.state.keys[hospital]}
            check_deal(self.study, turn, hospital, reply.deal, {**keys, **own})
            deals[hospital] = reply.deal
        except TrustError as error:
            self.store.event("bad-reply", hospital=hospital, why=str(error))

    # 3, 4 ---------------------------------------------------------------------------------------

    def _ask_cohort(self) -> RunState | None:
        """Gather the cohort's releases; return the state after the attempt, None if it failed."""
        part = Plan.of(self.study).purpose(self.state.purpose_in(self.study))
        gathered = StreamingSum(self.study, part, len(self.state.cohort))
        header = self._header("release", self.state.cohort)
        opening = Opening.of(self.study, header, self.state.deals)

        def take(hospital: str, reply: Reply) -> bool:
            if reply.header.kind == "release":
                gathered.add(hospital, reply.values)
            return False

        asked = self.state.survivors or self.state.cohort
        replies = self.conversation.ask(
            header,
            asked,
            self.patience.timeout(self.state.phase),
            take,
            weights=self.state.asked,
            for_one=lambda hospital: for_one(self.state, hospital),
        )
        self._note_uploads(header, asked, replies)
        return self._advanced(gathered, opening)

    def _note_uploads(
        self, header: RequestHeader, asked: Collection[str], replies: Mapping[str, ReplyHeader]
    ) -> None:
        """Record who did not release, and what was dealt for the turn after."""
        self.drawn, self.dealt, self.absent = False, {}, {}
        turn = turn_after(self.study, header)
        for hospital in asked:
            reply = replies.get(hospital)
            if reply is None or reply.kind != "release":
                self.absent[hospital] = reply
                continue
            self.drawn = True
            self._take_deal(hospital, reply, turn, header.keys, self.dealt)

    def _advanced(self, gathered: StreamingSum, opening: Opening | None) -> RunState | None:
        missing = sorted(set(self.state.cohort) - gathered.hospitals)
        try:
            if opening is not None and len(gathered.hospitals) >= self.study.cohort_floor:
                opening.open(self._listed(gathered), gathered, self._ask_survivors)
            if is_complete(self.study, self.state, gathered):
                return advance(self.study, self.state, gathered)
            why = "not all hospitals of the cohort replied"
        except BadDeal as error:
            if self.attendance.exclude(error.dealer):
                self.store.event("excluded", hospital=error.dealer)
            why = str(error)
        except (MessageError, TrustError) as error:
            why = str(error)
        now = self.state
        where = {"phase": now.phase, "round": now.round, "attempt": now.attempt}
        cohort = list(now.cohort)
        self.store.event("attempt-failed", **where, cohort=cohort, missing=missing, why=why)
        return None

    def _listed(self, gathered: StreamingSum) -> tuple[str, ...]:
        """Return the list of survivors. It is saved before it is named: a restart names it again.

        The list of the whole cohort need not be: it says only what was asked.
        """
        survivors = self.state.survivors or tuple(sorted(gathered.hospitals))
        if survivors not in (self.state.cohort, self.state.survivors):
            self.state = replace(self.state, survivors=survivors)
            self._save()
        return survivors

    def _ask_survivors(self, header: RequestHeader, hospitals: Collection[str], take: Take) -> None:
        self.conversation.ask(header, hospitals, self.patience.timeout(self.state.phase), take)

    def _after_attempt(self, following: RunState, *, failed: bool) -> None:
        """Go on to the state that follows an attempt; record absences, and take up new keys.

        Absence counts as missed where it cost an attempt. A hospital must join again if it gave no
        valid reply or refused with a ``JOIN_AGAIN`` code; all must if they have to deal for another
        turn than the one that they dealt for.
        """
        survived = self.study.tolerance is not None and not failed
        for hospital, reply in self.absent.items():
            self._take_note(hospital, reply, survived=survived)
        if survived:
            self.attendance.took_part(set(self.state.cohort) - set(self.absent))
            self.returns.left(self.absent)
        deals = self.dealt if survived else {}
        self.state = replace(following, deals=deals, survivors=())
        for hospital, reply in self.absent.items():
            if reply is None or reply.code in JOIN_AGAIN:
                self.state = without_voucher(self.state, hospital)
            if reply is not None and reply.key and reply.code in JOIN_AGAIN:
                self._keep(hospital, with_key, hospital, reply.key)

    def _finish(self) -> None:
        """Notify connected hospitals of the run's end; they settle and free unused reservations.

        The request relays the latest heads: so each hospital has seen its partners' last release,
        and no hospital can omit that from its extract. Other hospitals learn of the end from the
        study's status when they reconnect.
        """
        self.state = replace(self.state, heads=self.store.heads())
        connected = self.exchange.connected()
        there = [h.id for h in self.study.hospitals if h.id in connected]
        if there:
            self._ask(self._header("finish", there))
        self._save()

    def _ask(self, header: RequestHeader) -> dict[str, ReplyHeader]:
        """Send its cohort a request that carries no model; record absence and refusals."""
        # A join includes loading the data.
        seconds = self.study.limits.deadline_seconds
        replies = self.conversation.ask(header, header.cohort, seconds)
        for hospital in header.cohort:
            survived = self.study.tolerance is not None
            self._take_note(hospital, replies.get(hospital), survived=survived)
        return replies

    def _take_note(
        self, hospital: str, reply: ReplyHeader | None, *, survived: bool = False
    ) -> None:
        """Record a hospital's absence or refusal. ``survived``: it cost no attempt."""
        before, code = self.attendance.is_gone(hospital), None
        if reply is not None and reply.kind == "refused":
            code = reply.code or "not-ready"
            self.store.event("refused", hospital=hospital, code=code)
        if reply is None or code:
            if survived and code not in GONE_FOR_GOOD:
                self.attendance.absent(hospital)
            elif code:
                self.attendance.refused(hospital, code)
            else:
                self.attendance.missed(hospital)
        if self.attendance.is_gone(hospital) and not before:
            self.store.event("excluded", hospital=hospital)

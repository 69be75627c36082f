"""Handling of one request at a site: decide, compute, write ahead, answer.

    1. the request parses and names this hospital in its cohort;
    2. the emergency stop (``flo.clients.home.emergency_stop``) is off, the study has a valid,
       unexpired approval of this site's steward for the installed code, and the site's policy still
       allows it;
    3. the relayed heads agree with this ledger (no rollback), and partners' heads are stored;
    4. ``join``: return our run key and the partners' ledger heads that we saw; no release. Data and
       model are loaded now, so that the first attempt, which may be charged, need not wait
       (inputs are whitened in it, because W arrives with it);
    5. the same request gets the same bits; a differing request for an attempt that was already
       answered is refused, never recomputed;
    6. else the cohort must be admissible (``flo.clients.agent.partners``), and with local noise the
       same round on the same model gets the same noisy bits under new pads, at charge 0;
    7. else: compute, mask, write and flush the encrypted reply, commit the ledger row, then answer.
       If a patient opted out meanwhile, discard the result and compute it again. With distributed
       noise each attempt draws its share of the noise again and is charged;
    8. ``sign`` and ``reveal``: open the sum of the attempt that was answered last, where sums
       survive dropouts (``flo.clients.agent.dealing``).

5 to 7 are step 6 of the protocol in ``flo.privacy.secure_sum.masking``.

Every refusal is one public code and charges no budget.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime
from typing import Any, Protocol

import numpy as np

from flo.arrays import Integers
from flo.clients.agent.masking import attempt_at, mask
from flo.clients.agent.message_log import MessageLog
from flo.clients.agent.partners import PartnerChecks, PartnerRefused, refused_as
from flo.clients.agent.request_facts import cohort_of, request_key, row_facts
from flo.clients.agent.run_keys import RunKeys
from flo.clients.approvals.approvers import refuse_missing_people
from flo.clients.home.emergency_stop import refuse_halted
from flo.clients.home.policy import refuse_violations
from flo.clients.home.site_home import SiteHome
from flo.clients.records import approval
from flo.clients.records.approval import Approval, snapshot_path
from flo.clients.records.reply_store import ReplyStore
from flo.clients.records.settlement import settle
from flo.documents.canonical import Bytes
from flo.errors import BudgetError, FloError, MessageError, PolicyError, RefusedError, TrustError
from flo.host.environment import code_digest
from flo.privacy.accounting.plan import Plan, ring_of
from flo.privacy.ledger.ledger import Ledger
from flo.privacy.ledger.rows import Released
from flo.privacy.secure_sum.ring import Int32Array
from flo.protocol.messages import (
    Reply,
    ReplyHeader,
    Request,
    RequestHeader,
    Values,
    decode_request,
    encode_reply,
)
from flo.study.document import Study
from flo.study.models import request_length, request_precision
from flo.study.parameters import Vector
from flo.study.terms import Purpose

log = logging.getLogger("flo.clients.agent.handler")

_NOTHING = np.zeros(0, dtype=np.int64)


class Releaser(Protocol):
    """Interface that computes noisy releases: the warm child, or a test double."""

    def release(
        self,
        study: Study,
        snapshot: Any,
        snapshot_digest: str,
        purpose: Purpose,
        weights: Vector,
        cohort_size: int,
    ) -> Integers | Int32Array:
        """Return a noisy release. Raises RefusedError for "not ready"."""

    def warm_up(self, study: Study, snapshot: Any, snapshot_digest: str) -> None:
        """Load the data for a first release. Raises RefusedError for "not ready"."""

    def unload(self, study: str) -> None:
        """Drop a study's patients from memory."""


class Handler:
    """Answers one site's requests, one at a time; its state is in the ledger."""

    def __init__(
        self,
        home: SiteHome,
        ledger: Ledger,
        releaser: Releaser,
        run_keys: RunKeys,
        on_settled: Callable[[Study], None],
    ) -> None:
        self._home, self._ledger, self._releaser = home, ledger, releaser
        self._hospital, self._code = home.read_config().hospital, code_digest()
        self._partners = PartnerChecks(self._hospital, home.open_identity(), ledger, run_keys)
        self._replies = ReplyStore(home.directory / "replies", home.open_keystore())
        self._message_log = MessageLog(home)
        self._on_settled = on_settled

    def close(self) -> None:
        """Enter messages that were only counted in the audit log, and close it."""
        self._message_log.close()

    def answer(self, data: Bytes) -> bytes | None:
        """Return the reply to send, or None if not even the request's header can be read."""
        try:
            request = decode_request(data)
        except MessageError as error:
            log.warning("malformed request", extra={"fields": {"why": str(error)}})
            self._message_log.malformed(len(data))
            return None
        reply = self._answered(request)
        self._message_log.answered(request.header, reply)
        return reply

    def _answered(self, request: Request) -> bytes:
        header = request.header
        try:
            return self._decide(request)
        except PartnerRefused as refusal:
            log.warning(
                "refused",
                extra={"fields": {"code": refusal.code, "why": str(refusal), "run": header.run}},
            )
            return self._reply(header, "refused", code=refusal.code, key=refusal.key)
        except Exception:  # full disk, changed file, bug: reply one code, go on
            log.exception("could not answer")
            return self._reply(header, "refused", code="not-ready")

    def _decide(self, request: Request) -> bytes:
        header = request.header
        approved, study = self._approved(header)
        self._partners.witness(header, study)
        match header.kind:
            case "join":
                self._prepare(approved, study)
                key, vouchers = self._partners.join(header, study)
                dealt = self._partners.deal(header, study)
                self._refuse_halted()
                return self._reply(header, "joined", key=key, vouchers=vouchers, deal=dealt)
            case "release":
                values = self._release(request, approved, study)
                dealt = self._partners.deal(header, study)
                self._refuse_halted()  # a reply charged meanwhile is not sent
                cohort = cohort_of(header)
                return self._reply(header, "release", values, cohort=cohort, deal=dealt)
            case "sign":
                signature = self._partners.sign(header, study)
                self._refuse_halted()
                return self._reply(header, "signed", signature=signature)
            case "reveal":
                shares = self._partners.reveal(header, study)
                self._refuse_halted()
                return self._reply(header, "revealed", shares=shares)
            case "finish":
                settle(self._ledger, self._replies, self._home, approved, study)
                self._on_settled(study)
                return self._reply(header, "settled")

    # 1, 2 ---------------------------------------------------------------------------------------

    def _approved(self, header: RequestHeader) -> tuple[Approval, Study]:
        if self._hospital not in header.cohort:
            raise PartnerRefused("malformed", "the cohort does not name this hospital")
        with refused_as("not-approved", FloError):
            approved = approval.load(self._home, header.study)
            if header.kind != "finish":
                self._refuse_withdrawn(header.study)
                approval.refuse_expired(approved)
                approval.refuse_other_code(approved, self._code)
        study = approved.read_study()
        if header.kind != "finish":
            self._refuse_halted()
            self._refuse_by_policy(approved, study)
        unknown = set(header.cohort) - {hospital.id for hospital in study.hospitals}
        if unknown:
            raise PartnerRefused("malformed", "the cohort names hospitals that the study does not")
        if header.kind == "release":
            if header.purpose not in study.purposes:
                raise PartnerRefused("malformed", f"the study has no {header.purpose}")
            last = Plan.of(study).purpose(header.purpose).planned
            if not 1 <= header.round <= last:
                raise PartnerRefused("malformed", f"round {header.round} is outside 1..{last}")
        return approved, study

    def _refuse_halted(self) -> None:
        with refused_as("not-ready", RefusedError):
            refuse_halted(self._home)

    def _refuse_withdrawn(self, study: str) -> None:
        try:
            approval.refuse_withdrawn(self._home, study)
        except RefusedError:
            self._releaser.unload(study)
            raise

    def _refuse_by_policy(self, approved: Approval, study: Study) -> None:
        """Check the policy at every message: it may be stricter than at the approval."""
        with refused_as("not-ready", FloError):  # edited or forged, until signed again
            policy = self._home.read_policy(self._message_log.log)
        decision = approved.read_decision()
        with refused_as("not-approved", PolicyError, TrustError):
            refuse_violations(policy, study, self._hospital, approved.epsilon, decision.unconfirmed)
            refuse_missing_people(
                policy, decision.study, self._hospital, decision.terms, decision.people
            )
        if not policy.is_open(datetime.now().astimezone()):
            raise PartnerRefused("not-ready", "outside the hours of this site's policy")

    # 5, 6, 7 ------------------------------------------------------------------------------------

    def _release(self, request: Request, approved: Approval, study: Study) -> Values:
        header, key = request.header, request_key(request.header)
        self._partners.refuse_incomplete(header, study)
        part = Plan.of(study).purpose(header.purpose)
        ring, length = ring_of(study, part, len(header.cohort)), part.mechanism.length
        answered = self._ledger.find_release(key)
        if answered is not None:
            if answered.cohort != cohort_of(header):
                raise PartnerRefused(
                    "conflict", "this attempt was already answered for another cohort"
                )
            return self._kept(header, answered, answered.sent, ring, length)
        own = self._partners.admit(header, study)
        earlier = self._earlier_attempt(header, study)
        if earlier is not None:
            noisy = self._kept(header, earlier, earlier.reply, 0, length)
            return self._repeat(header, approved, study, earlier, mask(study, header, own, noisy))
        shape = (request_length(study, header.purpose),)
        if request.weights.shape != shape:
            why = f"the model has shape {request.weights.shape}, and the study's has {shape}"
            raise PartnerRefused("malformed", why)
        kind = request_precision(study, header.purpose)
        if request.weights.dtype != kind and len(request.weights):
            raise PartnerRefused("malformed", "the model does not have the study's precision")
        self._refuse_spent(approved, header.purpose)
        ready = self._partners.prepare(header, study, own)
        while True:
            noisy = self._compute(request, approved, study)
            values = mask(study, header, own, noisy, ready)
            with self._home.snapshot_lock():
                newest = approval.load(self._home, study.digest)
                self._refuse_halted()
                if newest.snapshot == approved.snapshot:
                    sent = reply = self._replies.store(study.digest, values)
                    if ring and study.mechanism.noise == "local":
                        reply = self._replies.store(study.digest, noisy)
                    facts = row_facts(header, reply, sent)
                    attempt = attempt_at(study, header, len(values)) if ready else None
                    own.dealing.use_up()  # before the row: a deal must not outlive it unused
                    with refused_as("over-budget", BudgetError):
                        self._ledger.charge(approved.reservation, header.purpose, key, facts)
                    if ready and attempt:
                        own.dealing.uploaded(header, attempt, ready)
                    return values
            approved = newest  # a patient opted out meanwhile: discard the result

    def _prepare(self, approved: Approval, study: Study) -> None:
        snapshot = snapshot_path(self._home, study.digest, approved.snapshot)
        with refused_as("not-ready", RefusedError):
            self._releaser.warm_up(study, snapshot, approved.snapshot)

    def _compute(self, request: Request, approved: Approval, study: Study) -> Integers | Int32Array:
        snapshot = snapshot_path(self._home, study.digest, approved.snapshot)
        with refused_as("not-ready", RefusedError):
            return self._releaser.release(
                study,
                snapshot,
                approved.snapshot,
                request.header.purpose,
                request.weights,
                len(request.header.cohort),
            )

    def _repeat(
        self,
        header: RequestHeader,
        approved: Approval,
        study: Study,
        earlier: Released,
        values: Values,
    ) -> Values:
        """Record that an earlier attempt's noisy bits go out under new pads, at charge 0."""
        with self._home.snapshot_lock():
            self._refuse_halted()
            facts = row_facts(header, earlier.reply, self._replies.store(study.digest, values))
            with refused_as("settled", BudgetError):
                self._ledger.repeat(
                    approved.reservation, earlier, header.purpose, request_key(header), facts
                )
        return values

    def _refuse_spent(self, approved: Approval, purpose: Purpose) -> None:
        """Refuse before computing; ``charge`` checks again inside its transaction."""
        held = self._ledger.balance().reservations.get(approved.reservation)
        if held is None or held.settled:
            raise PartnerRefused("settled", "the study is settled in this ledger")
        if held.remaining(purpose) < 1:
            raise PartnerRefused("over-budget", "the study's reservation is used up")

    def _kept(
        self, header: RequestHeader, answered: Released, digest: str, ring: int, length: int
    ) -> Values:
        """Return the stored bits of a request on the same model."""
        if answered.model != header.model:
            raise PartnerRefused("conflict", "this round was already answered for another model")
        with refused_as("settled", TrustError):
            values = self._replies.load(header.study, digest, ring, length)
        if values is None:
            raise PartnerRefused("settled", "the reply of this round was deleted")
        return values

    def _earlier_attempt(self, header: RequestHeader, study: Study) -> Released | None:
        """Return an earlier answered attempt of this round; None without local noise."""
        if study.mechanism.noise != "local":
            return None
        for attempt in range(1, header.attempt):
            found = self._ledger.find_release(
                request_key(header.model_copy(update={"attempt": attempt}))
            )
            if found is not None:
                return found
        return None

    def _reply(
        self, header: RequestHeader, kind: str, values: Values = _NOTHING, **facts: Any
    ) -> bytes:
        reply = ReplyHeader.model_validate(
            {
                "kind": kind,
                "hospital": self._hospital,
                "head": self._ledger.head(),
                "ring": 8 * values.itemsize if values.dtype.kind == "u" else 0,
                "bits": 32 if values.dtype == np.int32 else None,
                **header.model_dump(
                    include={"study", "run", "purpose", "round", "attempt", "model"}
                ),
                **facts,
            }
        )
        return encode_reply(Reply(reply, values))

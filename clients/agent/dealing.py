"""Our part in secure sums that survive dropouts: our deals, and opening the sum of an attempt.

Steps 9 to 13 of the protocol in ``flo.privacy.secure_sum.masking``. All of it is in memory
only and belongs to one run key. So only the process that uploaded can sign a list of survivors or
reveal shares, and a process that restarted knows no earlier secret or share.

A deal is for one turn, and the ledger lets us take part in a turn once. So we reveal at most one
share of any hospital's secrets for a turn, and the same secrets never serve two turns.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from flo.clients.agent.request_facts import request_key
from flo.errors import TrustError
from flo.keys.claims import ListSignature, RunKey
from flo.keys.identity import Identity
from flo.privacy.secure_sum.deals import (
    HeldShares,
    Holder,
    Secrets,
    Turn,
    check_signature,
    deal,
    numbers_of,
    sealing_key,
    turn_of,
    unseal,
)
from flo.privacy.secure_sum.masking import Attempt, deal_signer, exchange
from flo.privacy.secure_sum.survivors import check_certificate, statement
from flo.protocol.deals import Deal
from flo.protocol.messages import RequestHeader
from flo.study.document import Study
from flo.study.tolerance import Tolerance

log = logging.getLogger("flo.clients.agent")


class OwnHalves(Protocol):
    """Our run key, as ``flo.clients.agent.run_keys.OwnKey`` has it."""

    private: X25519PrivateKey
    public: RunKey

    def secrets(self, partners: list[RunKey]) -> dict[str, bytes]:
        """Return fingerprint -> the secret shared with that partner. Raises TrustError."""


class NotOurs(Exception):
    """The request is not about the attempt that this process uploaded to, or contradicts it."""


@dataclass(frozen=True)
class _Dealt:
    turn: Turn
    secrets: Secrets
    deal: Deal
    own: HeldShares


@dataclass(frozen=True)
class Ready:
    """What we need for one attempt.

    ``secrets``: of its pads, by the partner's fingerprint. ``seeds``: our chain. ``held``: our
    shares, by the hospital that dealt them.
    """

    secrets: dict[str, bytes] = field(repr=False)
    seeds: tuple[bytes, ...] = field(repr=False)
    held: dict[str, HeldShares] = field(repr=False)


@dataclass
class _Upload:
    request: str
    cohort: tuple[str, ...]
    attempt: Attempt
    held: dict[str, HeldShares] = field(repr=False)
    survivors: tuple[str, ...] | None = None  # the only list that we act on


class Dealing:
    """Our deals for one run, and the attempt that we uploaded to last."""

    def __init__(self) -> None:
        self._number = 0
        self._pending: _Dealt | None = None
        self._last: _Upload | None = None

    def deal(
        self,
        study: Study,
        turn: Turn,
        hospital: str,
        own: OwnHalves,
        partners: Mapping[str, RunKey],
    ) -> Deal:
        """Return a new deal for a turn, shared out among ``partners``, by hospital. [9]

        Raises:
            NotOurs: the study's sums survive no dropout. TrustError: a partner's run key is not
                usable.
        """
        tolerance, numbers = _tolerance(study), numbers_of(study)
        secrets = own.secrets(list(partners.values()))
        self._number += 1
        made, holders = Secrets.new(len(tolerance.levels)), {}
        for name, key in partners.items():
            sealing = sealing_key(secrets[key.fingerprint], turn, self._number, own.public, key)
            holders[name] = Holder(numbers[name], key.key, sealing)
        mine, signer = (hospital, numbers[hospital]), deal_signer(own.private)
        dealt, kept = deal(
            turn, self._number, made, tolerance.threshold, mine, holders, own.public, signer
        )
        self._pending = _Dealt(turn, made, dealt, kept)
        return dealt

    def pending(self, turn: Turn) -> Deal | None:
        """Return the unused deal that we dealt for this turn, if it is our last one."""
        pending = self._pending
        return pending.deal if pending and pending.turn == turn else None

    @property
    def has_pending(self) -> bool:
        """Whether we have an unused deal, for any turn."""
        return self._pending is not None

    def has_uploaded(self, header: RequestHeader) -> bool:
        """Return whether this process uploaded to this request, and to no other since."""
        return self._last is not None and self._last.request == request_key(header)

    def prepare(self, study: Study, header: RequestHeader, hospital: str, own: OwnHalves) -> Ready:
        """Check every member's deal for this turn, and read our shares of it. [10]

        Shares that decrypt authenticate the dealt key. Others are noted and left out, as other
        hospitals reveal theirs; the dealt key is then good if its dealer signed it.

        Raises:
            NotOurs: the attempt does not name our own deal for it. TrustError: a member's deal is
                missing, or not signed for this turn; the message names the member.
        """
        tolerance, pending, turn = _tolerance(study), self._pending, turn_of(header)
        if pending is None or (pending.turn, pending.deal.public) != (
            turn,
            header.deals.get(hospital),
        ):
            raise NotOurs("the attempt does not name our deal for it")
        if set(header.deals) != set(header.cohort):
            raise TrustError("the attempt does not name exactly one deal for each member")
        partners = {name: header.keys[name] for name in header.cohort if name != hospital}
        secrets = own.secrets(list(partners.values()))
        pads, held = {}, {hospital: pending.own}
        for name, key in partners.items():
            dealt = header.deals[name]
            sealing = sealing_key(secrets[key.fingerprint], turn, dealt.number, key, own.public)
            try:
                sealed = header.sealed.get(name, "")
                held[name] = unseal(sealing, dealt, sealed, len(tolerance.levels))
            except TrustError as error:
                log.warning(f"deal {dealt.number} of {name}: {error}")
            try:
                if name not in held:
                    check_signature(turn, dealt, key)
                pads[key.fingerprint] = exchange(pending.secrets.key, dealt.key)
            except TrustError as error:
                raise TrustError(f"{name}: {error}") from error
        return Ready(pads, pending.secrets.seeds, held)

    def use_up(self) -> None:
        """Drop our deal and what we kept of the attempt before, even if the upload fails. [10]

        So a deal is in one upload at most, and we act on no attempt that we did not upload to.
        """
        self._pending = self._last = None

    def uploaded(self, header: RequestHeader, attempt: Attempt, ready: Ready) -> None:
        """Note that our upload to this attempt is charged. [10]"""
        self._last = _Upload(request_key(header), header.cohort, attempt, ready.held)

    def sign(
        self, study: Study, header: RequestHeader, hospital: str, identity: Identity
    ) -> ListSignature:
        """Sign the list of survivors that the request names. [11]

        Raises:
            NotOurs: see ``_act_on``.
        """
        last = self._act_on(study, header, hospital)
        last.survivors = header.survivors
        return ListSignature.signed(identity, statement(last.attempt, header.survivors))

    def reveal(self, study: Study, header: RequestHeader, hospital: str) -> dict[str, str]:
        """Return our share of one secret of each member: a seed of a survivor, else its key. [13]

        Raises:
            NotOurs: see ``_act_on``. TrustError: the list has no certificate; the list of the whole
                cohort needs none.
        """
        tolerance, last = _tolerance(study), self._act_on(study, header, hospital)
        if header.survivors != last.cohort:
            fingerprints = {h.id: h.fingerprint for h in study.hospitals}
            check_certificate(
                last.attempt,
                header.survivors,
                header.signatures,
                fingerprints,
                tolerance.threshold,
            )
        last.survivors = header.survivors
        level = tolerance.level(len(header.survivors))
        shares = {}
        for name, held in last.held.items():
            share = held.of_seeds[level] if name in header.survivors else held.of_key
            shares[name] = share.hex()
        return shares

    def _act_on(self, study: Study, header: RequestHeader, hospital: str) -> _Upload:
        """Return our last upload, if we may act on this list of its survivors.

        Raises:
            NotOurs: this process uploaded to no such attempt, the list is not an admissible part of
                the cohort with us in it, or we acted on another list.
        """
        last, listed = self._last, header.survivors
        asked = (request_key(header), header.cohort)
        if last is None or (last.request, last.cohort) != asked:
            raise NotOurs("this process has not uploaded to this attempt last")
        if list(listed) != sorted(set(listed)) or not {hospital} <= set(listed) <= set(last.cohort):
            raise NotOurs("the list of survivors is not a sorted part of the cohort with us in it")
        if len(listed) < study.cohort_floor:
            raise NotOurs(f"{len(listed)} survivors, at least {study.cohort_floor} needed")
        if last.survivors not in (None, listed):
            raise NotOurs("we acted on another list of survivors of this attempt")
        return last


def _tolerance(study: Study) -> Tolerance:
    if study.tolerance is None:
        raise NotOurs("sums of this study survive no dropout")
    return study.tolerance

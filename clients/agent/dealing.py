"""Our part in secure sums that survive dropouts: our deals, and opening the sum of an attempt.

Steps 3 and 5 to 7 of the protocol in ``flo.privacy.secure_sum.masking``. All of it is in memory
only and belongs to one run key. So only the process that uploaded can sign a list of survivors or
reveal shares, and a process that restarted knows no earlier secret or share.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from flo.clients.agent.request_facts import request_key
from flo.errors import TrustError
from flo.keys.claims import ListSignature, RunKey
from flo.keys.identity import Identity
from flo.privacy.secure_sum.deals import HeldShares, Holder, Secrets, deal, sealing_key, unseal
from flo.privacy.secure_sum.masking import Attempt, exchange
from flo.privacy.secure_sum.survivors import check_certificate, statement
from flo.protocol.deals import Deal
from flo.protocol.messages import RequestHeader
from flo.study.document import Study
from flo.study.tolerance import Tolerance


class NotOurs(Exception):
    """The request is not about the attempt that this process uploaded to, or contradicts it."""


@dataclass(frozen=True)
class _Dealt:
    secrets: Secrets
    deal: Deal
    own: HeldShares


@dataclass(frozen=True)
class Ready:
    """What one attempt needs: the pads' secrets by fingerprint, our seeds, our shares by dealer."""

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
        self._accepted: dict[str, int] = {}  # a dealer's run key -> its last deal in an upload
        self._last: _Upload | None = None

    def deal(
        self,
        study: Study,
        run: str,
        hospital: str,
        own: RunKey,
        partners: Mapping[str, RunKey],
        secrets: Mapping[str, bytes],
    ) -> Deal | None:
        """Return a new deal for the next attempt, shared out among ``partners``. [3]

        ``secrets``: of the pairs of run keys, by fingerprint. None if the study's sums survive no
        dropout.
        """
        if (tolerance := study.tolerance) is None:
            return None
        self._number += 1
        made, numbers = Secrets.new(len(tolerance.levels)), numbers_of(study)
        holders = {}
        for name, key in partners.items():
            shared = secrets[key.fingerprint]
            sealing = sealing_key(shared, study.digest, run, self._number, own, key)
            holders[name] = Holder(numbers[name], key.key, sealing)
        mine = (hospital, numbers[hospital])
        dealt, kept = deal(self._number, made, tolerance.threshold, mine, holders)
        self._pending = _Dealt(made, dealt, kept)
        return dealt

    @property
    def pending(self) -> Deal | None:
        """The deal that the next attempt must name."""
        return self._pending.deal if self._pending else None

    def prepare(
        self,
        study: Study,
        header: RequestHeader,
        hospital: str,
        own: RunKey,
        secrets: Mapping[str, bytes],
    ) -> Ready:
        """Read our shares of every member's deal. [5]

        Raises:
            NotOurs: the attempt does not name our last deal. TrustError: a member's deal was used
                before, or does not decrypt; the message names the member.
        """
        tolerance, pending = _tolerance(study), self._pending
        if pending is None or header.deals.get(hospital) != pending.deal.public:
            raise NotOurs("the attempt does not name our last deal")
        pads, held = {}, {hospital: pending.own}
        for name, key in header.keys.items():
            if name == hospital:
                continue
            dealt = header.deals.get(name)
            if dealt is None or dealt.number <= self._accepted.get(key.key, 0):
                raise TrustError(f"{name}: the attempt names no new deal")
            sealing = sealing_key(
                secrets[key.fingerprint], study.digest, header.run, dealt.number, key, own
            )
            try:
                sealed = header.sealed.get(name, "")
                held[name] = unseal(dealt, sealing, sealed, len(tolerance.levels))
                pads[key.fingerprint] = exchange(pending.secrets.key, dealt.key)
            except TrustError as error:
                raise TrustError(f"{name}: {error}") from error
        return Ready(pads, pending.secrets.seeds, held)

    def uploaded(self, header: RequestHeader, attempt: Attempt, ready: Ready) -> None:
        """Note that our upload to this attempt is charged: its deals are used up. [5]"""
        self._accepted |= {header.keys[name].key: d.number for name, d in header.deals.items()}
        self._pending = None
        self._last = _Upload(request_key(header), header.cohort, attempt, ready.held)

    def sign(
        self, study: Study, header: RequestHeader, hospital: str, identity: Identity
    ) -> ListSignature:
        """Sign the list of survivors that the request names. [6]

        Raises:
            NotOurs: see ``_act_on``.
        """
        last = self._act_on(study, header, hospital)
        last.survivors = header.survivors
        return ListSignature.signed(identity, statement(last.attempt, header.survivors))

    def reveal(self, study: Study, header: RequestHeader, hospital: str) -> dict[str, str]:
        """Return our share of one secret of each member: a seed of a survivor, else its key. [7]

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


def numbers_of(study: Study) -> dict[str, int]:
    """Return each hospital's number as a holder of shares: its place in the study, from 1."""
    return {hospital.id: place for place, hospital in enumerate(study.hospitals, start=1)}


def _tolerance(study: Study) -> Tolerance:
    if study.tolerance is None:
        raise NotOurs("sums of this study survive no dropout")
    return study.tolerance

"""Checks on a site's partners, made before anything is computed for a request.

Step 2 of the protocol in ``flo.privacy.secure_sum.masking``.

Every claim that the coordinator relays is signed by a hospital. It counts only under the
fingerprint that the approved study names for that hospital; certificates from the coordinator's
authority do not matter. A reply to ``join`` releases no data, so a site sends it once it is up.

The ledger's file stores permanently, for each partner, its highest ledger head and, for each run,
its latest run key with the epoch. Another key with an equal or lower epoch is refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from flo.clients.agent.dealing import Dealing, NotOurs, Ready
from flo.clients.agent.request_facts import request_key
from flo.clients.agent.run_keys import OwnKey, RunKeys
from flo.errors import TrustError
from flo.keys.claims import HeadAttestation, LedgerHead, ListSignature, RunKey
from flo.keys.identity import Identity
from flo.privacy.ledger.ledger import Ledger
from flo.privacy.secure_sum.deals import turn_after, turn_of
from flo.protocol.deals import Deal
from flo.protocol.messages import RefusalCode, RequestHeader
from flo.study.document import Study

_MAX_CHECKED_KEYS = 10_000


class PartnerRefused(Exception):
    """Refusal with a public code. ``key``: our current run key, if they must join again."""

    def __init__(self, code: RefusalCode, why: str, key: RunKey | None = None) -> None:
        super().__init__(why)
        self.code, self.key = code, key


@contextmanager
def refused_as(
    code: RefusalCode, *errors: type[Exception], about: str = "", key: RunKey | None = None
) -> Iterator[None]:
    """Turn one of ``errors`` into a PartnerRefused with ``code``; ``about`` precedes its text."""
    try:
        yield
    except errors as error:
        raise PartnerRefused(code, f"{about}{error}", key) from error


class PartnerChecks:
    """One site's checks on the other hospitals."""

    def __init__(
        self, hospital: str, identity: Identity, ledger: Ledger, run_keys: RunKeys
    ) -> None:
        self._hospital, self._identity = hospital, identity
        self._ledger, self._run_keys = ledger, run_keys
        self._checked_keys: set[tuple[str, str, str, RunKey]] = set()  # every request relays them

    def witness(self, header: RequestHeader, study: Study) -> None:
        """Store partners' heads; refuse if our own is not in our ledger (a rollback)."""
        for hospital, head in header.heads.items():
            if hospital == self._hospital and self._is_ours(head):
                continue
            with refused_as("malformed", TrustError, about=f"{hospital}: "):
                head.check(_fingerprint(study, hospital))
            if hospital != self._hospital:
                self._ledger.witness(head)
                continue
            with refused_as("rolled-back", TrustError):
                self._ledger.confirm(head)

    def _is_ours(self, head: LedgerHead) -> bool:
        """Check if the head is a row of our ledger under our key; its signature adds no proof."""
        return head.public == self._identity.public.hex() and self._ledger.holds(head)

    def join(
        self, header: RequestHeader, study: Study
    ) -> tuple[RunKey, dict[str, HeadAttestation]]:
        """Return our run key, later than any that others hold, and a voucher per partner."""
        self._check_keys(header, study)
        heads = self._ledger.witnessed()
        shown, deals = header.keys.get(self._hospital), study.tolerance is not None
        own = self._run_keys.join(study.digest, header.run, shown, heads, deals=deals)
        vouchers = {
            hospital: HeadAttestation.given(
                self._identity, study.digest, header.run, key, heads.get(key.fingerprint)
            )
            for hospital, key in header.keys.items()
            if hospital != self._hospital
        }
        return own.public, vouchers

    def deal(self, header: RequestHeader, study: Study) -> Deal | None:
        """Return our deal: when joining, for the turn of the request; else for the one after. [9]

        It is the pending one if that was dealt to just those whose run keys the request relays.
        None if the study's sums survive no dropout or nothing follows; and for a late request,
        which must not replace a newer deal: a join of a turn that we have answered, or a release
        that this process did not make, or that it has dealt after.
        """
        own = self._run_keys.current(study.digest, header.run)
        joining = header.kind == "join"
        turn = turn_of(header) if joining else turn_after(study, header)
        if own is None or study.tolerance is None or turn is None:
            return None
        partners = {name: key for name, key in header.keys.items() if name != self._hospital}
        pending = own.dealing.pending(turn)
        if pending and (not joining or pending.was_dealt_to(partners.values())):
            return pending
        if joining:
            late = self._ledger.find_release(request_key(header)) is not None
        else:
            late = own.dealing.has_pending or not own.dealing.has_uploaded(header)
        if late:
            return None
        with refused_as("malformed", TrustError):
            return own.dealing.deal(study, turn, self._hospital, own, partners)

    def prepare(self, header: RequestHeader, study: Study, own: OwnKey) -> Ready | None:
        """Read the deals of an admitted attempt; None if its sum survives no dropout. [10]"""
        if study.tolerance is None:
            return None
        try:
            with refused_as("malformed", TrustError):
                return own.dealing.prepare(study, header, self._hospital, own)
        except NotOurs as error:
            raise PartnerRefused("stale-key", str(error), own.public) from error

    def sign(self, header: RequestHeader, study: Study) -> ListSignature:
        """Sign the list of survivors of the attempt that we uploaded to last. [11]"""
        with refused_as("conflict", NotOurs):
            return self._dealing(header, study).sign(study, header, self._hospital, self._identity)

    def reveal(self, header: RequestHeader, study: Study) -> dict[str, str]:
        """Reveal our shares under a certified list of survivors. [13]"""
        with refused_as("conflict", NotOurs), refused_as("malformed", TrustError):
            return self._dealing(header, study).reveal(study, header, self._hospital)

    def _dealing(self, header: RequestHeader, study: Study) -> Dealing:
        own = self._run_keys.current(study.digest, header.run)
        if own is None:
            raise NotOurs("this process has not joined the run")
        return own.dealing

    def refuse_incomplete(self, header: RequestHeader, study: Study) -> None:
        """Refuse an attempt with too few members, or without a key and a head for each of them."""
        members, floor = set(header.cohort), study.cohort_floor
        if len(members) < floor:
            raise PartnerRefused(
                "malformed",
                f"the cohort has {len(members)} hospitals, and the study needs at least {floor}",
            )
        if set(header.keys) != members:
            raise PartnerRefused(
                "malformed", "the attempt does not name exactly one run key for each member"
            )
        if not members <= set(header.heads):
            raise PartnerRefused(
                "malformed", "the attempt does not relay the ledger head of each member"
            )

    def admit(self, header: RequestHeader, study: Study) -> OwnKey:
        """Refuse an attempt that we may not take part in; return the key to mask it with. [2]

        A study has one run: under a second run name, earlier releases would not count.
        """
        _, run = self._ledger.last_release(study.digest)
        if run not in (None, header.run):
            raise PartnerRefused("conflict", f"this study already has the run {run} here")
        self._check_keys(header, study)
        own = self._run_keys.join(
            study.digest,
            header.run,
            header.keys[self._hospital],
            self._ledger.witnessed(),
            deals=study.tolerance is not None,
        )
        if header.keys[self._hospital].key != own.public.key:
            raise PartnerRefused(
                "stale-key", "the attempt does not name our current run key", own.public
            )
        self._check_heads(header, own)
        if not own.confirmed:
            self._confirm(header, study, own)
        with refused_as("malformed", TrustError):
            own.secrets([key for key in header.keys.values() if key != own.public])
        own.seen.update(
            {header.heads[name].fingerprint: header.heads[name] for name in header.cohort}
        )
        return own

    def _check_heads(self, header: RequestHeader, own: OwnKey) -> None:
        """Refuse old ledger heads; our own must cover all that we released in this study.

        Heads are part of the cohort digest, so a coordinator that shows two hospitals different
        heads gets no sum. If a hospital's ledger was rolled back, every partner in the cohort that
        saw more of it refuses. Heads relayed by other runs do not count: they may be newer.
        """
        released, _ = self._ledger.last_release(header.study)
        for name in header.cohort:
            head = header.heads[name]
            seen = own.seen.get(head.fingerprint)
            least = released if name == self._hospital else seen.sequence if seen else 0
            if head.sequence < least:
                raise PartnerRefused(
                    "stale-key",
                    f"the ledger head of {name} is row {head.sequence}, before row {least}",
                    own.public,
                )
            if seen is not None and head.sequence == seen.sequence and head.hash != seen.hash:
                raise PartnerRefused(
                    "malformed", f"the ledger of {name} forked at row {head.sequence}"
                )

    def _check_keys(self, header: RequestHeader, study: Study) -> None:
        """Refuse keys that are not signed, or older than we have seen.

        The refusal names our own key: a coordinator that lost newer keys gets them back so.
        """
        own = self._run_keys.current(study.digest, header.run)
        mine = own.public if own else None
        for hospital, key in header.keys.items():
            claim = (study.digest, header.run, _fingerprint(study, hospital), key)
            with refused_as("malformed", TrustError, about=f"{hospital}: ", key=mine):
                if claim not in self._checked_keys:
                    key.check(*claim[:3])
                    if len(self._checked_keys) >= _MAX_CHECKED_KEYS:
                        self._checked_keys.clear()
                    self._checked_keys.add(claim)
                if hospital != self._hospital:
                    self._ledger.see_run_key(study.digest, header.run, hospital, key)

    def _confirm(self, header: RequestHeader, study: Study, own: OwnKey) -> None:
        """Refuse to release after a start until a partner has confirmed our ledger's head."""
        if len(study.hospitals) == 1:
            return
        voucher = header.vouchers.get(self._hospital)
        own_claim = (own.public.fingerprint, own.public.key)
        if voucher is None or (voucher.hospital, voucher.key) != own_claim:
            raise PartnerRefused(
                "unconfirmed", "no partner has confirmed our ledger's head", own.public
            )
        signers = {h.fingerprint for h in study.hospitals if h.id != self._hospital}
        if voucher.fingerprint not in signers:
            raise PartnerRefused("malformed", "the voucher is not signed by a partner of the study")
        with refused_as("malformed", TrustError):
            voucher.check(study.digest, header.run, voucher.fingerprint)
        if voucher.head is not None:
            with refused_as("rolled-back", TrustError):
                self._ledger.confirm(voucher.head)
        own.confirmed = True


def _fingerprint(study: Study, hospital: str) -> str:
    """Return the hospital's fingerprint in the study. Raises PartnerRefused if it has none."""
    for partner in study.hospitals:
        if partner.id == hospital:
            return partner.fingerprint
    raise PartnerRefused("malformed", "a claim is for a hospital that the study does not name")

"""What the coordinator relays between hospitals: run keys, vouchers, deals. Rules without IO.

Each function takes a state and returns the next one, or raises TrustError for a claim that is not
kept.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from flo.errors import TrustError
from flo.keys.claims import HeadAttestation, RunKey
from flo.privacy.secure_sum.deals import Turn, check_signature
from flo.privacy.secure_sum.masking import exchange, pair_secret
from flo.protocol.deals import Deal
from flo.server.rounds.state import RunState
from flo.study.document import Study

Kept = TypeVar("Kept")


def with_key(study: Study, run: str, state: RunState, hospital: str, key: RunKey) -> RunState:
    """Keep a hospital's run key if it is newer; its voucher and its deal were for the older one."""
    known = state.keys.get(hospital)
    if known is not None and key.epoch <= known.epoch:
        return state
    key.check(study.digest, run, study.hospital(hospital).fingerprint)
    pair_secret(X25519PrivateKey.generate(), key)  # partners would fail on a key of low order
    others = [other for name, other in state.keys.items() if name != hospital]
    if any(key.key == other.key or (key.deals and key.deals == other.deals) for other in others):
        raise TrustError("another hospital has the same run key")
    kept = replace(state, keys=state.keys | {hospital: key}, deals=without(state.deals, [hospital]))
    return without_voucher(kept, hospital)


def without_voucher(state: RunState, hospital: str) -> RunState:
    """Remove a hospital's voucher, so that it joins again: its run key may have changed."""
    return replace(state, vouchers=without(state.vouchers, [hospital]))


def with_voucher(
    study: Study, run: str, state: RunState, partner: str, hospital: str, voucher: HeadAttestation
) -> RunState:
    """Keep a partner's voucher if it covers the most ledger rows of the hospital.

    The more rows a voucher covers, the fewer the hospital could omit unnoticed.
    """
    kept, key = state.vouchers.get(hospital), state.keys.get(hospital)
    if key is None or (voucher.hospital, voucher.key) != (key.fingerprint, key.key):
        return state
    voucher.check(study.digest, run, study.hospital(partner).fingerprint)
    if kept is not None and _rows(voucher) <= _rows(kept):
        return state
    return replace(state, vouchers=state.vouchers | {hospital: voucher})


def check_deal(
    study: Study, turn: Turn, hospital: str, dealt: Deal, keys: Mapping[str, RunKey]
) -> None:
    """Refuse a deal with which partners or the opening would fail.

    ``keys``: the run keys that the hospital was told to deal to, and its own.
    """
    levels = study.tolerance.levels if study.tolerance else ()
    if len(dealt.commitments) != len(levels):
        raise TrustError(f"a deal of {len(dealt.commitments)} seeds, {len(levels)} expected")
    if set(dealt.checks) != set(keys):
        raise TrustError("a deal with hashes for other hospitals than those that were relayed")
    if set(dealt.sealed) != {key.key for name, key in keys.items() if name != hospital}:
        raise TrustError("a deal to other run keys than those that were relayed")
    exchange(X25519PrivateKey.generate(), dealt.key)  # refuses a key of low order
    check_signature(turn, dealt, keys[hospital])


def short_deals(state: RunState, cohort: Collection[str]) -> list[str]:
    """Return the members whose deal is missing or does not cover the cohort."""
    keys = {name: state.keys[name] for name in cohort}
    return [
        name
        for name in cohort
        if name not in state.deals
        or not state.deals[name].covers(key for other, key in keys.items() if other != name)
    ]


def without(kept: Mapping[str, Kept], names: Collection[str]) -> dict[str, Kept]:
    """Return the mapping without these hospitals."""
    return {name: value for name, value in kept.items() if name not in names}


def for_one(state: RunState, hospital: str) -> dict[str, Any]:
    """Return the fields of a request for a release that only this member of the cohort needs.

    They are ``vouchers``, with its own one, and ``sealed``, its encrypted shares of what the other
    members dealt. Told to all, they would grow with the square of the hospitals.
    """
    key = state.keys[hospital].key
    sealed = {
        name: state.deals[name].sealed[key]
        for name in state.cohort
        if name != hospital and name in state.deals
    }
    vouchers = {name: given for name, given in state.vouchers.items() if name == hospital}
    return {"sealed": sealed, "vouchers": vouchers}


def _rows(voucher: HeadAttestation) -> int:
    return voucher.head.sequence if voucher.head else 0

"""What a site signs for others: whoever knows its fingerprint can check it, and nothing else fits.

Three claims: a ledger's head, a run key, a voucher.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import ValidationError

from flo.errors import TrustError
from flo.keys.claims import (
    LARGEST_COUNT,
    Claim,
    HeadAttestation,
    LedgerHead,
    ListSignature,
    RunKey,
    row_statement,
)
from flo.keys.identity import Identity

SIGNER, OTHER = Identity.new(), Identity.new()
STUDY, RUN = "a" * 64, "run-1"


def head_of(by: Identity, sequence: int) -> LedgerHead:
    signature = by.sign("ledger-row", row_statement(sequence, "b" * 64))
    return LedgerHead(sequence=sequence, hash="b" * 64, public=by.public.hex(), signature=signature)


def head(by: Identity = SIGNER) -> LedgerHead:
    return head_of(by, 3)


def key(by: Identity = SIGNER) -> RunKey:
    return RunKey.signed(by, STUDY, RUN, 7, "c" * 64, "d" * 64)


def key_without_deals(by: Identity = SIGNER) -> RunKey:
    return RunKey.signed(by, STUDY, RUN, 7, "c" * 64)


def survivors(by: Identity = SIGNER) -> ListSignature:
    return ListSignature.signed(by, f"{STUDY} {RUN}".encode())


def voucher(by: Identity = SIGNER, seen: LedgerHead | None = head(OTHER)) -> HeadAttestation:  # noqa: B008
    return HeadAttestation.given(by, STUDY, RUN, key(OTHER), seen)


def check(claim: Claim, study: str = STUDY, run: str = RUN, signer: Identity = SIGNER) -> None:
    if isinstance(claim, LedgerHead):
        claim.check(signer.fingerprint)
    elif isinstance(claim, RunKey | HeadAttestation):
        claim.check(study, run, signer.fingerprint)
    elif isinstance(claim, ListSignature):
        claim.check(signer.fingerprint, f"{study} {run}".encode())


CLAIMS: dict[str, Callable[[], Claim]] = {
    **{"head": head, "run key": key, "run key without deals": key_without_deals},
    **{"voucher": voucher, "survivors": survivors},
}
every_claim = pytest.mark.parametrize("make", CLAIMS.values(), ids=CLAIMS.keys())


@every_claim
def test_a_claim_reads_back_and_is_its_signers(make: Callable[[], Claim]) -> None:
    claim = make()
    check(claim)
    assert claim.fingerprint == SIGNER.fingerprint
    again = type(claim).model_validate_json(claim.model_dump_json())
    assert again == claim
    check(again)


def changed(value: Any) -> list[Any]:
    """Other values of the same shape, as near as can be."""
    if isinstance(value, LedgerHead):
        return [None, value.model_copy(update={"sequence": 2}), head(), head_of(OTHER, 4)]
    if value is None:
        return ["c" * 64]
    if isinstance(value, int):
        return [value + 1, value - 1]
    last, first = ("0" if end != "0" else "1" for end in (value[-1], value[0]))
    return [value[:-1] + last, first + value[1:]]


@pytest.mark.parametrize(
    ("make", "name"),
    [
        pytest.param(make, name, id=f"{what}.{name}")
        for what, make in CLAIMS.items()
        for name in type(make()).model_fields
    ],
)
def test_a_claim_with_anything_changed_is_nobodys(make: Callable[[], Claim], name: str) -> None:
    claim = make()
    values = changed(getattr(claim, name))
    for value in values + ([OTHER.public.hex()] if name == "public" else []):
        with pytest.raises(TrustError):
            check(claim.model_copy(update={name: value}))


@pytest.mark.parametrize("make", [key, key_without_deals, voucher, survivors])
def test_run_keys_and_vouchers_count_for_one_study_and_run(make: Callable[[], Claim]) -> None:
    for study, run in (("d" * 64, RUN), (STUDY, "run-2"), (RUN, STUDY)):
        with pytest.raises(TrustError, match="does not match"):
            check(make(), study, run)


@every_claim
def test_a_claim_counts_under_its_signers_fingerprint_only(make: Callable[[], Claim]) -> None:
    with pytest.raises(TrustError, match="another key than the study names"):
        check(make(), signer=OTHER)


# -- purposes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("one", "two"), list(itertools.permutations(CLAIMS.values(), 2)))
def test_a_signature_of_one_claim_is_no_signature_of_another(
    one: Callable[[], Claim], two: Callable[[], Claim]
) -> None:
    borrowed = two().model_copy(update={"signature": one().signature})
    with pytest.raises(TrustError, match="does not match"):
        check(borrowed)


def test_a_voucher_holds_a_head_that_the_other_hospital_signed_itself() -> None:
    check(voucher(seen=head(OTHER)))
    with pytest.raises(TrustError, match="another key"):
        check(voucher(seen=head(SIGNER)))
    made_up = head(OTHER).model_copy(update={"sequence": 99})
    with pytest.raises(TrustError, match="ledger-row"):
        check(voucher(seen=made_up))


@pytest.mark.parametrize("purpose", ["study", "approval", "kept-approval", "extract", "voucher"])
def test_a_row_that_was_signed_for_something_else_is_no_head(purpose: str) -> None:
    signature = SIGNER.sign(purpose, row_statement(3, "b" * 64))
    with pytest.raises(TrustError):
        check(head().model_copy(update={"signature": signature}))


# -- edges -----------------------------------------------------------------------------------------


def test_a_voucher_for_a_hospital_never_seen_says_so() -> None:
    nothing = voucher(seen=None)
    check(nothing)
    assert nothing.head is None
    with pytest.raises(TrustError):
        check(nothing.model_copy(update={"head": head(OTHER)}))


@pytest.mark.parametrize(
    ("make", "changes"),
    [
        (head, {"sequence": 0}),
        (head, {"sequence": LARGEST_COUNT + 1}),
        (head, {"hash": "B" * 64}),
        (key, {"epoch": 0}),
        (key, {"epoch": LARGEST_COUNT + 1}),
        (key, {"key": "c" * 63}),
        (voucher, {"head": "none"}),
        (voucher, {"key": ""}),
        (head, {"public": "abc"}),
        (head, {"public": ""}),
        (head, {"signature": ""}),
        (head, {"note": "hello"}),
    ],
)
def test_a_claim_of_another_shape_is_none(
    make: Callable[[], Claim], changes: dict[str, Any]
) -> None:
    claim = make()
    with pytest.raises(ValidationError):
        type(claim).model_validate({**claim.model_dump(), **changes})

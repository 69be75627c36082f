"""Real sites and a sum of which one hospital goes missing: opened exactly, and in one way only."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flo.arrays import Integers
from flo.clients.home.emergency_stop import halt, resume
from flo.errors import BudgetError
from flo.keys.claims import ListSignature
from flo.keys.identity import Identity
from flo.privacy.accounting.plan import Plan, components_of
from flo.privacy.ledger.ledger import Ledger
from flo.privacy.secure_sum.masking import attempt_of
from flo.privacy.secure_sum.ring import from_ring
from flo.privacy.secure_sum.survivors import statement
from flo.privacy.secure_sum.unmasking import Member, Shares, remove
from flo.protocol.messages import ReplyHeader, RequestHeader, Values
from tests.builders import CountingReleaser
from tests.clients.real_partners import RealCompany
from tests.partners import handler_of

FOUR = ("east", "north", "south", "west")
THREE = ("east", "north", "south")
LENGTH = 6


@pytest.fixture
def company(tmp_path: Path) -> Iterator[RealCompany]:
    yield from RealCompany.of(tmp_path, FOUR, lambda *_: CountingReleaser(LENGTH), schema_version=4)


def certificate(
    company: RealCompany, asked: RequestHeader, listed: tuple[str, ...] = THREE
) -> dict[str, ListSignature]:
    signed = {name: company.say(name, company.listed(asked, *listed)).header for name in listed}
    return {name: reply.signature for name, reply in signed.items() if reply.signature}


def revealed(
    company: RealCompany,
    name: str,
    asked: RequestHeader,
    listed: tuple[str, ...],
    signatures: dict[str, ListSignature],
    **changes: Any,
) -> ReplyHeader:
    header = company.listed(asked, *listed, kind="reveal", signatures=signatures, **changes)
    return company.say(name, header).header


def opened_sum(
    company: RealCompany,
    asked: RequestHeader,
    uploads: dict[str, Values],
    shares: dict[str, dict[str, str]],
) -> Integers:
    """What a coordinator reads, in grid steps."""
    tolerance, study = company.study.tolerance, company.study
    assert tolerance is not None
    ring = 8 * next(iter(uploads.values())).itemsize
    places = {hospital.id: n for n, hospital in enumerate(study.hospitals, start=1)}
    members = {
        name: Member(
            places[name],
            study.hospital(name).fingerprint,
            company.dealt[name, asked.deals[name].number],
        )
        for name in asked.cohort
    }
    collected = Shares(members, tuple(uploads), tolerance)
    for holder, given in shares.items():
        wrong = collected.add(holder, {n: bytes.fromhex(share) for n, share in given.items()})
        assert wrong == []
    total = np.sum(list(uploads.values()), axis=0, dtype=next(iter(uploads.values())).dtype)
    added = components_of(study, Plan.of(study).purpose("training"), len(asked.cohort))
    attempt = attempt_of(asked, ring, LENGTH)
    remove(total, attempt, members, collected.open(), tolerance, added)
    return from_ring(total, ring)


def told(variance: int) -> int:
    """A number that fits every ring."""
    return variance % 10_007


def constant(monkeypatch: pytest.MonkeyPatch) -> None:
    """Removable noise tells its variance, so that a sum tells which of it is left."""
    monkeypatch.setattr(
        "flo.privacy.secure_sum.components.discrete_gaussian.blocks",
        lambda variance, size, source: iter([np.full(size, told(variance))]),
    )


@pytest.mark.parametrize("listed", [FOUR, THREE], ids=["all there", "one missing"])
def test_the_survivors_sum_is_exact_with_the_noise_of_their_number_and_no_more(
    company: RealCompany, monkeypatch: pytest.MonkeyPatch, listed: tuple[str, ...]
) -> None:
    constant(monkeypatch)
    asked = company.header()
    uploads = company.ask_all(asked)
    signatures = {} if listed == FOUR else certificate(company, asked)
    shares = {n: revealed(company, n, asked, listed, signatures).shares for n in THREE}
    found = opened_sum(company, asked, {name: uploads[name] for name in listed}, shares)
    mechanism = Plan.of(company.study).purpose("training").mechanism
    added = mechanism.variance_steps(2) - mechanism.variance_steps(3)
    left = 0 if listed == FOUR else told(added)
    assert found.tolist() == [len(listed) * (1 + left)] * LENGTH
    assert len({company.members[name].charged() for name in FOUR}) == 1
    assert company.members["west"].charged() == Plan.of(company.study).purpose("training").cost(
        company.members["west"].ledger.balance().lives["main"].order
    ) / (Plan.of(company.study).purpose("training").releases)


def test_without_the_shares_an_upload_is_uniform(company: RealCompany) -> None:
    """Even the whole cohort's: each has a mask of its own. A false alarm has less than 1e-6."""
    uploads = company.ask_all(company.header())
    total = np.sum(list(uploads.values()), axis=0, dtype=next(iter(uploads.values())).dtype)
    assert np.abs(from_ring(total, 8 * total.itemsize)).max() > 1 << 16


LISTS = {
    "too short": ("east", "north"),
    "without the one that is asked": ("north", "south", "west"),
    "a stranger": ("east", "north", "south", "zoo"),
}


@pytest.mark.parametrize("listed", LISTS.values(), ids=LISTS)
def test_a_list_that_cannot_be_is_not_signed(company: RealCompany, listed: tuple[str, ...]) -> None:
    asked = company.header()
    company.ask_all(asked)
    assert company.say("east", company.listed(asked, *listed)).header.code == "conflict"
    assert company.say("east", company.listed(asked, *THREE)).header.kind == "signed"


def test_a_list_in_another_order_or_with_a_name_twice_is_not_signed(company: RealCompany) -> None:
    asked = company.header()
    company.ask_all(asked)
    for listed in (("north", "east", "south"), ("east", "east", "north", "south")):
        header = company.listed(asked, *THREE).model_copy(update={"survivors": listed})
        assert company.say("east", header).header.code == "conflict"


def test_one_list_is_signed_and_no_other(company: RealCompany) -> None:
    asked = company.header()
    company.ask_all(asked)
    first = company.say("east", company.listed(asked, *THREE)).header
    assert first.signature is not None
    other = company.say("east", company.listed(asked, "east", "north", "west")).header
    assert other.code == "conflict"
    assert revealed(company, "east", asked, FOUR, {}).code == "conflict"
    again = company.say("east", company.listed(asked, *THREE)).header
    assert again.kind == "signed", "the same list again"


@pytest.mark.slow
def test_who_has_revealed_for_the_whole_cohort_signs_no_shorter_list(company: RealCompany) -> None:
    asked = company.header()
    company.ask_all(asked)
    assert revealed(company, "east", asked, FOUR, {}).kind == "revealed"
    assert company.say("east", company.listed(asked, *THREE)).header.code == "conflict"
    assert revealed(company, "east", asked, FOUR, {}).kind == "revealed", "the same again"


def test_nothing_is_revealed_without_a_certificate_of_the_very_list(company: RealCompany) -> None:
    asked = company.header()
    company.ask_all(asked)
    good = certificate(company, asked)
    stranger = ListSignature.signed(Identity.new(), b"anything")
    attempt = attempt_of(asked, 32, LENGTH)
    of_west = ListSignature.signed(
        company.members["west"].home.open_identity(), statement(attempt, THREE)
    )
    two = {name: good[name] for name in ("east", "north")}
    refused: dict[str, dict[str, ListSignature]] = {
        "none": {},
        "one too few": two,
        "a copy": {**two, "south": good["east"]},
        "a stranger": {**two, "south": stranger},
        "one who is not on it": {**two, "west": of_west},
    }
    for what, signatures in refused.items():
        assert revealed(company, "east", asked, THREE, signatures).code == "malformed", what
    other = ("east", "north", "west")
    assert revealed(company, "east", asked, other, good).code == "conflict"
    assert revealed(company, "east", asked, THREE, good).kind == "revealed"


def test_a_certificate_is_of_one_attempt(company: RealCompany) -> None:
    asked = company.header()
    company.ask_all(asked)
    signatures = certificate(company, asked)
    company.join(attempt=2)
    second = company.header(attempt=2)
    company.ask_all(second)
    assert revealed(company, "east", asked, THREE, signatures).code == "conflict", "it is over"
    assert revealed(company, "east", second, THREE, signatures).code == "malformed"


@pytest.mark.slow
def test_a_deal_serves_one_upload(company: RealCompany) -> None:
    asked = company.header()
    company.ask_all(asked)
    again = asked.model_copy(update={"attempt": 2})
    assert company.say("east", again).header.code == "stale-key"
    company.join(attempt=2)
    second = company.header(attempt=2)
    mixed = second.model_copy(update={"deals": second.deals | {"west": asked.deals["west"]}})
    assert company.say("east", mixed).header.code == "malformed"
    assert company.say("east", second).header.kind == "release"


@pytest.mark.parametrize("change", ["one more", "one fewer"])
def test_deals_of_others_than_the_cohort_cost_nothing(company: RealCompany, change: str) -> None:
    asked = company.header(*THREE)
    deals = dict(asked.deals)
    if change == "one more":
        deals["west"] = company.deals["west"].public
    else:
        del deals["south"]
    header = asked.model_copy(update={"deals": deals})
    reply = company.say(
        "east", header.model_copy(update={"sealed": company.sealed_for("east", asked)})
    )
    assert reply.header.code == "malformed"
    assert company.members["east"].charged() == 0
    assert company.say("east", asked).header.kind == "release"


def test_what_fails_at_the_ledger_uses_the_deal_up(
    company: RealCompany, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise BudgetError("no")

    asked = company.header()
    with monkeypatch.context() as patched:
        patched.setattr(Ledger, "charge", full)
        assert company.say("east", asked).header.code == "over-budget"
    assert company.say("east", asked).header.code == "stale-key"
    assert company.say("east", company.listed(asked, *THREE)).header.code == "conflict"


@pytest.mark.slow
def test_shares_that_do_not_decrypt_are_left_out_and_the_sum_is_opened_by_the_others(
    company: RealCompany,
) -> None:
    asked = company.header()
    sealed = company.sealed_for("east", asked)
    sealed["west"] = company.sealed_for("south", asked)["west"]  # dealt to another
    uploads = {"east": company.ask("east", asked.model_copy(update={"sealed": sealed}))}
    uploads |= {name: company.ask(name, asked) for name in FOUR if name != "east"}
    shares = {n: revealed(company, n, asked, FOUR, {}).shares for n in FOUR}
    assert set(shares["east"]) == set(THREE)
    del shares["east"]
    assert opened_sum(company, asked, uploads, shares).shape == (LENGTH,)


@pytest.mark.parametrize("when", ["before the list", "after the signature"])
def test_after_a_restart_nothing_is_signed_or_revealed(company: RealCompany, when: str) -> None:
    asked = company.header()
    company.ask_all(asked)
    signatures = certificate(company, asked) if when == "after the signature" else {}
    member = company.members["east"]
    member.handler = handler_of(member.home, member.ledger, CountingReleaser(LENGTH))
    assert company.say("east", company.listed(asked, *THREE)).header.code == "conflict"
    assert revealed(company, "east", asked, THREE, signatures).code == "conflict"
    assert revealed(company, "east", asked, FOUR, {}).code == "conflict"
    assert company.say("east", asked).header.kind == "release", "the same bits are sent again"


def test_a_stopped_site_signs_and_reveals_nothing(company: RealCompany) -> None:
    asked = company.header()
    company.ask_all(asked)
    signatures = certificate(company, asked)
    home = company.members["east"].home
    halt(home)
    assert company.say("east", company.listed(asked, *THREE)).header.code == "not-ready"
    assert revealed(company, "east", asked, THREE, signatures).code == "not-ready"
    resume(home)
    assert revealed(company, "east", asked, THREE, signatures).kind == "revealed"


@pytest.mark.slow
def test_joining_again_for_the_same_turn_deals_the_same(company: RealCompany) -> None:
    before = dict(company.deals)
    company.join()
    assert company.deals == before
    company.join(attempt=2)
    assert all(company.deals[name] != before[name] for name in FOUR)


def test_the_next_deal_comes_with_the_release_and_with_its_repeat(company: RealCompany) -> None:
    asked = company.header()
    first = company.say("east", asked).header.deal
    assert first is not None
    assert company.say("east", asked).header.deal == first
    for name in ("north", "south", "west"):
        company.say(name, asked)
    assert company.ask_all(company.header(round=2))
    assert company.say("east", asked).header.deal is None, "a late repeat deals nothing"


@pytest.mark.parametrize("change", ["the key", "the key, and no shares", "the signature"])
def test_a_dealt_key_that_is_not_its_dealers_is_refused(company: RealCompany, change: str) -> None:
    asked = company.header()
    field, value = ("signature", "0" * 128) if "signature" in change else ("key", "e" * 64)
    other = asked.deals["west"].model_copy(update={field: value})
    header = asked.model_copy(update={"deals": asked.deals | {"west": other}})
    sealed = company.sealed_for("east", asked)
    if "no shares" in change:
        del sealed["west"]
    reply = company.say("east", header.model_copy(update={"sealed": sealed})).header
    if field == "key":
        assert reply.code == "malformed"
        assert company.members["east"].charged() == 0
    else:
        assert reply.kind == "release", "its shares say that the key is the dealer's"

"""A deal reaches its holder and nobody else, and opens only as it was dealt."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from flo.errors import TrustError
from flo.keys.claims import RunKey
from flo.keys.identity import Identity
from flo.privacy.secure_sum import deals
from flo.privacy.secure_sum.components import seed_after
from flo.privacy.secure_sum.deals import (
    HeldShares,
    Holder,
    Secrets,
    Turn,
    check_signature,
    opened,
    sealing_key,
    unseal,
)
from flo.privacy.secure_sum.masking import deal_signer, new_run_key, pair_secret
from flo.privacy.secure_sum.sharing import PRIME
from flo.protocol.deals import Deal

STUDY, RUN = "a" * 64, "run-1"
NAMES = ("east", "north", "south", "west")
MADE = {name: new_run_key(Identity.new(), STUDY, RUN, 1) for name in NAMES}
SEEDS, THRESHOLD = 3, 3


TURN = Turn(STUDY, RUN, "training", 3, 1)


def key(by: str, to: str, number: int = 1, **turn: Any) -> bytes:
    """What encrypts for ``to``, as either of the two computes it."""
    secret = pair_secret(MADE[by][0], MADE[to][1])
    return sealing_key(secret, replace(TURN, **turn), number, MADE[by][1], MADE[to][1])


def dealt(by: str = "east", number: int = 1) -> tuple[Deal, Secrets, dict[str, HeldShares]]:
    made = Secrets.new(SEEDS)
    holders = {
        name: Holder(place, MADE[name][1].key, key(by, name, number))
        for place, name in enumerate(NAMES, start=1)
        if name != by
    }
    mine, signer = (by, NAMES.index(by) + 1), deal_signer(MADE[by][0])
    deal, own = deals.deal(TURN, number, made, THRESHOLD, mine, holders, MADE[by][1], signer)
    held = {name: read(deal, by, name, number) for name in holders}
    return deal, made, held | {by: own}


def read(deal: Deal, by: str, to: str, number: int) -> HeldShares:
    return unseal(key(by, to, number), deal.public, deal.sealed[run_key(to).key], SEEDS)


def run_key(name: str) -> RunKey:
    return MADE[name][1]


def test_any_three_of_four_open_the_key_and_every_seed() -> None:
    deal, made, held = dealt()
    for left_out in NAMES:
        some = {NAMES.index(name) + 1: held[name] for name in NAMES if name != left_out}
        keys = {number: one.of_key for number, one in some.items()}
        assert opened(deal, 0, keys, THRESHOLD) == made.private
        for place, seed in enumerate(made.seeds):
            shares = {number: one.of_seeds[place] for number, one in some.items()}
            assert opened(deal, 1 + place, shares, THRESHOLD) == seed


def test_a_share_too_few_opens_nothing() -> None:
    deal, _, held = dealt()
    two = {1: held["east"].of_key, 2: held["north"].of_key}
    with pytest.raises(TrustError, match="2 shares, 3 needed"):
        opened(deal, 0, two, THRESHOLD)
    with pytest.raises(TrustError, match="was not dealt as it shows"):
        opened(deal, 0, two, 2)


def test_each_seed_is_the_hash_of_the_one_before() -> None:
    _, made, _ = dealt()
    first, second, third = made.seeds
    assert (seed_after(first), seed_after(first, 2)) == (second, third)
    assert seed_after(third, 0) == third
    assert all(int.from_bytes(one) < PRIME for one in made.all())
    assert Secrets.new(SEEDS).seeds != made.seeds


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: key("north", "east"),  # turned round
        lambda: key("east", "south"),  # for another holder
        lambda: key("west", "north"),  # by another dealer
        lambda: key("east", "north", 2),  # of another deal
        lambda: key("east", "north", study="b" * 64),
        lambda: key("east", "north", run="run-2"),
        lambda: key("east", "north", purpose="evaluation"),
        lambda: key("east", "north", round=4),
        lambda: key("east", "north", attempt=2),
    ],
    ids=[
        *("direction", "holder", "dealer", "number", "study", "run"),
        *("purpose", "round", "attempt"),
    ],
)
def test_what_was_dealt_otherwise_does_not_decrypt(wrong: object) -> None:
    deal, _, _ = dealt()
    assert callable(wrong)
    with pytest.raises(TrustError, match="do not decrypt"):
        unseal(wrong(), deal.public, deal.sealed[run_key("north").key], SEEDS)


@pytest.mark.parametrize(
    ("turn", "change", "by"),
    [
        ({"round": 4}, {}, "east"),
        ({"attempt": 2}, {}, "east"),
        ({"purpose": "evaluation"}, {}, "east"),
        ({"study": "b" * 64}, {}, "east"),
        ({"run": "run-2"}, {}, "east"),
        ({}, {"key": "e" * 64}, "east"),
        ({}, {"number": 2}, "east"),
        ({}, {"signature": "0" * 128}, "east"),
        ({}, {}, "west"),
    ],
)
def test_a_dealt_key_is_signed_by_its_dealer_for_one_turn(
    turn: dict[str, Any], change: dict[str, Any], by: str
) -> None:
    deal, _, _ = dealt()
    check_signature(TURN, deal.public, run_key("east"))
    with pytest.raises(TrustError, match="is not signed for this request"):
        check_signature(replace(TURN, **turn), deal.public.model_copy(update=change), run_key(by))


def test_a_run_key_of_a_flo_without_deals_signs_none() -> None:
    old = run_key("east").model_copy(update={"deals": None})
    with pytest.raises(TrustError, match="signs no deals"):
        check_signature(TURN, dealt()[0].public, old)


def test_shares_do_not_decrypt_beside_another_key() -> None:
    deal, _, _ = dealt()
    other = deal.public.model_copy(update={"key": "e" * 64})
    with pytest.raises(TrustError, match="do not decrypt"):
        unseal(key("east", "north"), other, deal.sealed[run_key("north").key], SEEDS)


def test_a_deal_with_another_number_of_seeds_is_refused() -> None:
    deal, _, _ = dealt()
    with pytest.raises(TrustError, match="does not have 2 seeds"):
        unseal(key("east", "north"), deal.public, deal.sealed[run_key("north").key], 2)


def test_no_secret_is_shown_when_it_is_printed() -> None:
    deal, made, held = dealt()
    shown = repr((made, held, Holder(1, "k", b"secret")))
    assert "secret" not in shown
    for one in (*made.all(), *(share for each in held.values() for share in each.of_seeds)):
        assert repr(one) not in shown
        assert one.hex() not in shown + deal.model_dump_json()

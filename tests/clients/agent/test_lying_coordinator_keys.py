"""A coordinator that lies about keys, heads and vouchers gets no number, and its lie is free.

What it relays is signed by hospitals; it holds the certificate authority and no hospital's key.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flo.keys.claims import HeadAttestation, LedgerHead, RunKey
from flo.keys.identity import Identity
from flo.protocol.messages import MAX_ATTEMPTS
from tests.clients.approved_site import COORDINATOR, FOUR, Site, approved_site
from tests.partners import join, partner, run_key, signed

Lie = Callable[[Site], dict[str, Any]]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    yield from approved_site(tmp_path, partners=FOUR, noise="distributed", masking="on")


def own_key(site: Site, run: str = "run-1") -> RunKey:
    key = join(site.handler, site.study, run)
    assert key is not None
    return key


def in_souths_name(
    by: Identity | None = None, edits: dict[str, Any] | None = None, **signed_for: Any
) -> Lie:
    """A run key that ``by`` (south, if nobody) signed for something, and ``edits`` to it."""

    def lie(site: Site) -> dict[str, Any]:
        for_what = {"study": site.study.digest, "epoch": 9, **signed_for}
        _, key = run_key(by or partner("south"), **for_what)
        return {"keys": {"south": key.model_copy(update=edits or {})}}

    return lie


KEYS: dict[str, Lie] = {
    "a stranger's": in_souths_name(Identity.new()),
    "the coordinator's own": in_souths_name(COORDINATOR),
    "another hospital's of the study": in_souths_name(partner("west")),
    "of another run": in_souths_name(run="run-2"),
    "of another study": in_souths_name(study="d" * 64),
    "with another key put in": in_souths_name(edits={"key": "e" * 64}),
    "with a later epoch put in": in_souths_name(edits={"epoch": 10}),
    "ours in south's name": lambda s: {"keys": {"south": own_key(s)}},
    "south's in our name": lambda s: {
        "keys": {"north": run_key(partner("south"), s.study.digest)[1]}
    },
    "missing": lambda s: {"keys": {"south": None}},
    "ours missing": lambda s: {"keys": {"north": None}},
    "all missing": lambda s: {"keys": dict.fromkeys([*FOUR, "north"])},
    "of one who is no member": lambda s: {
        "cohort": ("east", "north", "west"),
        **in_souths_name()(s),
    },
    "of one whom the study does not name": lambda s: {
        "keys": {"stranger": run_key(partner("stranger"), s.study.digest)[1]}
    },
    "of everyone, and a cohort of three": lambda s: {
        "cohort": ("east", "north", "west"),
        "keys": {name: run_key(partner(name), s.study.digest)[1] for name in FOUR},
    },
}


@pytest.mark.parametrize("lie", KEYS.values(), ids=KEYS.keys())
@pytest.mark.parametrize("confirmed", [False, True], ids=["at the start", "later"])
def test_a_key_that_is_not_the_members_own_is_refused(
    site: Site, lie: Lie, confirmed: bool
) -> None:
    if confirmed:
        site.ask(round=3)
    site.refuses("malformed", **lie(site))
    assert site.ask().header.kind == "release"


def test_a_key_of_ours_from_before_the_start_is_stale(site: Site) -> None:
    old = own_key(site)
    site.restart()
    reply = site.refuses("stale-key", keys={"north": old})
    assert reply.header.key == own_key(site)
    assert site.ask().header.kind == "release"


# -- heads and vouchers ----------------------------------------------------------------------------


def voucher(
    by: str | Identity = "south",
    *,
    head: LedgerHead | None = None,
    run: str = "run-1",
    study: str | None = None,
    key: RunKey | None = None,
    edits: dict[str, Any] | None = None,
) -> Lie:
    """A voucher for us that ``by`` gave for something, and ``edits`` to it."""

    def lie(site: Site) -> dict[str, Any]:
        giver = partner(by) if isinstance(by, str) else by
        given = HeadAttestation.given(
            giver,
            study or site.study.digest,
            run,
            key or own_key(site),
            head or site.ledger.head(),
        )
        return {"vouchers": {"north": given.model_copy(update=edits or {})}}

    return lie


def old_key(site: Site) -> RunKey:
    """One of ours, from before the start."""
    return run_key(site.home.open_identity(), site.study.digest)[1]


def first_row(site: Site) -> LedgerHead:
    """The head of ours that covers the birth of our ledger."""
    return signed(site.home.open_identity(), 1, next(site.ledger.rows()).hash)


def lost(site: Site, sequence: int) -> LedgerHead:
    """A head that we signed and do not have."""
    return signed(site.home.open_identity(), sequence)


VOUCHERS: dict[str, tuple[str, Lie]] = {
    "none": ("unconfirmed", lambda s: {"vouchers": {"north": None}}),
    "for an older key of ours": ("unconfirmed", lambda s: voucher(key=old_key(s))(s)),
    "for our key in south's name": (
        "unconfirmed",
        voucher(edits={"hospital": partner("south").fingerprint}),
    ),
    "for south": (
        "unconfirmed",
        lambda s: {"vouchers": {"north": None, "south": voucher()(s)["vouchers"]["north"]}},
    ),
    "by ourselves": ("malformed", lambda s: voucher(s.home.open_identity())(s)),
    "by a stranger": ("malformed", voucher(Identity.new())),
    "by the coordinator": ("malformed", voucher(COORDINATOR)),
    "for another run": ("malformed", voucher(run="run-2")),
    "for another study": ("malformed", voucher(study="d" * 64)),
    "with our new key put in": (
        "malformed",
        lambda s: voucher(key=old_key(s), edits={"key": own_key(s).key})(s),
    ),
    "with an older head put in": ("malformed", lambda s: voucher(edits={"head": first_row(s)})(s)),
    "with no head put in": ("malformed", voucher(edits={"head": None})),
    "with a head that we never signed": ("malformed", voucher(head=signed(Identity.new(), 1))),
    "with west's key put in": (
        "malformed",
        voucher(edits={"public": partner("west").public.hex()}),
    ),
    "of a row that we do not have": ("rolled-back", lambda s: voucher(head=lost(s, 99))(s)),
    "of a row that we have otherwise": ("rolled-back", lambda s: voucher(head=lost(s, 1))(s)),
}


@pytest.mark.parametrize(("code", "lie"), VOUCHERS.values(), ids=VOUCHERS.keys())
@pytest.mark.parametrize("start", ["first", "later"])
def test_after_a_start_a_voucher_must_be_a_partners_for_this_start(
    site: Site, code: str, lie: Lie, start: str
) -> None:
    if start == "later":
        site.ask(round=3)
        site.restart()
    site.refuses(code, **lie(site))
    assert site.ask().header.kind == "release"


def test_a_site_that_was_confirmed_asks_for_no_other_voucher_until_it_starts_again(
    site: Site,
) -> None:
    site.ask()
    assert site.ask(round=2, vouchers={"north": None}).header.kind == "release"
    site.restart()
    site.refuses("unconfirmed", round=3, vouchers={"north": None})


@pytest.mark.parametrize("later", [{"round": 2}, {"attempt": 2}, {"purpose": "evaluation"}])
def test_an_attempt_shows_a_head_of_ours_that_covers_all_that_we_released_in_this_run(
    site: Site, later: dict[str, Any]
) -> None:
    old = site.ledger.head()
    site.ask()
    reply = site.refuses("stale-key", heads={"north": old}, **later)
    assert reply.header.head == site.ledger.head()
    assert site.ask(**later).header.kind == "release"


@pytest.mark.parametrize("hospital", ["north", *FOUR])
def test_an_attempt_shows_the_head_of_every_member(site: Site, hospital: str) -> None:
    site.refuses("malformed", heads={hospital: None})
    assert site.ask().header.kind == "release"


# -- attempts --------------------------------------------------------------------------------------

DIFFERENT: dict[str, Lie] = {
    "with fewer": lambda s: {"cohort": ("east", "north", "west")},
    "with south's newer key": in_souths_name(),
    "with a newer head of south": lambda s: {"heads": {"south": signed(partner("south"), 2)}},
    "with another head of ours": lambda s: {"heads": {"north": s.ledger.head()}},
    "on another model": lambda s: {"weights": np.full(6, 0.5)},
}


@pytest.mark.parametrize("lie", DIFFERENT.values(), ids=DIFFERENT.keys())
def test_an_attempt_that_was_answered_is_answered_for_one_cohort_and_model_only(
    site: Site, lie: Lie
) -> None:
    first = site.ask()
    site.refuses("conflict", **lie(site))
    np.testing.assert_array_equal(site.ask().values, first.values)


@pytest.mark.parametrize(
    "changes",
    [
        {"round": 0},
        {"round": 4},
        {"purpose": "survey"},
        {"purpose": "evaluation", "round": 2},
        {"cohort": ("east", "north")},
        {"cohort": ("east", "north", "stranger")},
        {"cohort": ("east", "south", "west")},
        {"weights": np.zeros(5)},
    ],
    ids=str,
)
def test_an_attempt_that_is_none_of_the_studys_is_refused(
    site: Site, changes: dict[str, Any]
) -> None:
    site.refuses("malformed", **changes)
    assert site.ask().header.kind == "release"


def test_a_flood_of_attempts_ends_at_the_allowance(site: Site) -> None:
    kinds = [site.ask(attempt=attempt).header.kind for attempt in range(1, 5)]
    assert kinds == ["release"] * 4
    for attempt in range(5, MAX_ATTEMPTS + 1):
        site.refuses("over-budget", attempt=attempt)
    beyond = site.request(attempt=16).replace(b'"attempt":16', b'"attempt":17')
    assert site.handler.answer(beyond) is None
    assert site.ask(attempt=4).header.kind == "release"  # the same bits as before
    assert site.releaser.calls == 4


def test_the_masks_of_two_rounds_attempts_and_purposes_are_different(site: Site) -> None:
    asked: list[dict[str, Any]] = [{}, {"round": 2}, {"attempt": 2}]
    asked.append({"purpose": "evaluation"})
    pads = [
        set((site.ask(**changes).values - np.uint32(number)).tolist())  # the releaser counts
        for number, changes in enumerate(asked, start=1)
    ]
    assert len(set.union(*pads)) == 4 * 6  # false alarm < 2^-22

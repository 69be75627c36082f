"""The roster's log: each digest fixes all entries, and nobody signs for another hospital."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from flo.documents import canonical
from flo.errors import TrustError
from flo.keys.identity import Identity
from flo.protocol.roster import Roster, RosterEntry, RosterStatement, WitnessedRoster
from tests.partners import partner

TIME = "2026-11-28T12:00:00+00:00"
NAMES = ("north", "south", "east", "west")


def added(roster: Roster, *entries: RosterEntry) -> Roster:
    return Roster(entries=(*roster.entries, *entries))


def roster_of(*names: str, **keys: Identity) -> Roster:
    roster = Roster()
    for name in names:
        identity = keys.get(name, partner(name))
        roster = added(roster, roster.joined(name, identity.fingerprint, TIME))
    return roster


def signed(name: str, roster: Roster, *confirmed: str, by: Identity | None = None) -> Any:
    return RosterStatement.signed(by or partner(name), name, roster.digest, confirmed)


def trusted(*names: str) -> dict[str, str]:
    return {name: partner(name).fingerprint for name in names}


def test_the_keys_are_those_of_hospitals_that_have_not_left() -> None:
    roster = roster_of("north", "south")
    assert roster.keys == trusted("north", "south")
    roster = added(roster, roster.left("north", TIME))
    assert roster.keys == trusted("south")
    other = Identity.new()
    roster = added(roster, roster.joined("south", other.fingerprint, TIME))
    assert roster.keys == {"south": other.fingerprint}
    assert roster.keys_at({roster_of("north", "south").digest}) == {
        roster_of("north", "south").digest: trusted("north", "south")
    }


@given(st.integers(0, 3), st.sampled_from(["previous", "event", "hospital", "fingerprint", "time"]))
def test_a_changed_entry_breaks_the_chain_or_changes_the_digest(number: int, field: str) -> None:
    roster = roster_of(*NAMES)
    changed = {"previous": "1" * 64, "event": "left", "hospital": "forged", "time": "now"}
    entries = [entry.model_dump() for entry in roster.entries]
    entries[number][field] = changed.get(field, Identity.new().fingerprint)
    try:
        other = Roster.model_validate({"entries": entries})
    except ValidationError:
        return
    assert number == len(entries) - 1, "an earlier entry is fixed by the one after it"
    assert other.digest != roster.digest
    assert not other.continues(roster)


def test_entries_cannot_be_left_out_or_exchanged() -> None:
    entries = roster_of(*NAMES).entries
    for wrong in (entries[1:], (*entries[:1], *entries[2:]), entries[::-1]):
        with pytest.raises(ValidationError, match="does not follow"):
            Roster(entries=wrong)


def test_a_roster_continues_only_an_earlier_self() -> None:
    roster = roster_of("north", "south")
    longer = added(roster, roster.joined("east", partner("east").fingerprint, TIME))
    assert longer.continues(roster)
    assert longer.continues(longer)
    assert longer.continues(Roster())
    assert not roster.continues(longer)
    assert not longer.continues(roster_of("south", "north"))


def test_one_key_is_not_two_hospitals() -> None:
    roster = roster_of("north")
    entry = roster.joined("twin", partner("north").fingerprint, TIME)
    with pytest.raises(ValidationError, match="the key of twin is in use already"):
        added(roster, entry)


def test_nobody_leaves_who_is_not_there() -> None:
    roster = roster_of("north")
    entry = roster.left("north", TIME)
    gone = added(roster, entry)
    again = entry.model_copy(update={"previous": gone.digest})
    with pytest.raises(ValidationError, match="north leaves without this key"):
        added(gone, again)


def test_vouchers_name_who_confirmed_which_key() -> None:
    roster = roster_of(*NAMES)
    seen = WitnessedRoster(
        roster=roster,
        statements=(signed("south", roster, "north", "west"), signed("east", roster, "west")),
    )
    found = seen.vouchers(trusted("south", "east"))
    assert found.by_key == {
        ("north", partner("north").fingerprint): {"south"},
        ("west", partner("west").fingerprint): {"south", "east"},
    }
    assert found.elsewhere == ()


def test_only_trusted_hospitals_vouch_under_the_key_that_is_trusted() -> None:
    roster, other = roster_of(*NAMES), Identity.new()
    seen = WitnessedRoster(
        roster=roster,
        statements=(signed("south", roster, "west", by=other), signed("east", roster, "west")),
    )
    assert seen.vouchers(trusted("south")).by_key == {}, "another key signed for south"
    assert seen.vouchers({}).by_key == {}


def test_nobody_vouches_for_themselves() -> None:
    roster = roster_of(*NAMES)
    seen = WitnessedRoster(roster=roster, statements=(signed("south", roster, "south"),))
    assert seen.vouchers(trusted("south")).by_key == {}


def test_a_statement_is_on_the_key_that_the_roster_then_had() -> None:
    """Whoever confirmed a hospital's first key has confirmed nothing about its second."""
    before = roster_of(*NAMES)
    new = Identity.new()
    now = added(before, before.joined("west", new.fingerprint, TIME))
    seen = WitnessedRoster(roster=now, statements=(signed("south", before, "west"),))
    assert set(seen.vouchers(trusted("south")).by_key) == {("west", partner("west").fingerprint)}


def test_a_statement_on_another_roster_is_reported_and_counts_for_nothing() -> None:
    """The roster was split in two, or the hospital lies."""
    seen = WitnessedRoster(
        roster=roster_of(*NAMES),
        statements=(signed("south", roster_of(*NAMES, west=Identity.new()), "west"),),
    )
    found = seen.vouchers(trusted("south"))
    assert (found.by_key, found.elsewhere) == ({}, ("south",))


@pytest.mark.parametrize("field", ["hospital", "roster", "confirmed", "signature"])
def test_a_changed_statement_is_refused(field: str) -> None:
    roster = roster_of(*NAMES)
    other = signed("south", roster_of("north", "south"), "west", "east")
    changed = {"hospital": "north", "signature": other.signature}
    value = changed.get(field, getattr(other, field))
    forged = signed("south", roster, "west").model_copy(update={field: value})
    with pytest.raises(TrustError):
        forged.check(partner("south").fingerprint)


def test_the_bytes_of_a_roster_are_read_again() -> None:
    roster = roster_of(*NAMES)
    seen = WitnessedRoster(roster=roster, statements=(signed("south", roster, "west"),))
    read = canonical.decode(seen.to_bytes(), limit=1 << 20, what="roster")
    assert WitnessedRoster.model_validate(read) == seen

"""The roster's log: each digest fixes all entries, and nobody signs for another hospital."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from flo.documents import canonical
from flo.errors import TrustError
from flo.keys.identity import Identity
from flo.keys.roster import Roster, RosterEntry, RosterStatement, WitnessedRoster
from tests.partners import partner

TIME = "2026-11-28T12:00:00.000+00:00"
NAMES = ("north", "south", "east", "west")


def added(roster: Roster, *entries: RosterEntry) -> Roster:
    return Roster(entries=(*roster.entries, *entries))


def roster_of(*names: str, **keys: Identity) -> Roster:
    roster = Roster()
    for name in names:
        identity = keys.get(name, partner(name))
        roster = added(roster, roster.joined(name, identity.fingerprint, TIME))
    return roster


def signed(
    name: str, roster: Roster, *confirmed: str, by: Identity | None = None, number: int = 1
) -> RosterStatement:
    return RosterStatement.signed(by or partner(name), name, number, roster.digest, confirmed)


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
    """Whoever confirmed a hospital's first key has confirmed nothing about its second, and the
    first is no longer in force."""
    before = roster_of(*NAMES)
    now = added(before, before.joined("west", Identity.new().fingerprint, TIME))
    assert now.replaced == {"west"}
    seen = WitnessedRoster(roster=now, statements=(signed("south", before, "west", "east"),))
    assert set(seen.vouchers(trusted("south")).by_key) == {("east", partner("east").fingerprint)}


def test_a_statement_on_another_roster_is_reported_and_counts_for_nothing() -> None:
    """The roster was split in two, or the hospital lies."""
    seen = WitnessedRoster(
        roster=roster_of(*NAMES),
        statements=(signed("south", roster_of(*NAMES, west=Identity.new()), "west"),),
    )
    found = seen.vouchers(trusted("south"))
    assert (found.by_key, found.elsewhere) == ({}, ("south",))


@pytest.mark.parametrize("field", ["hospital", "number", "roster", "confirmed", "signature"])
def test_a_changed_statement_is_left_out(field: str) -> None:
    """The coordinator keeps the genuine public key, and changes what it signed."""
    roster = roster_of(*NAMES)
    genuine, other = signed("south", roster, "west"), signed("south", roster, "east", number=2)
    changed = {"hospital": "north", "roster": roster_of("north", "south").digest}
    forged = genuine.model_copy(update={field: changed.get(field, getattr(other, field))})
    with pytest.raises(TrustError):
        forged.check(partner("south").fingerprint)
    found = WitnessedRoster(roster=roster).followed_by(
        WitnessedRoster(roster=roster, statements=(forged,))
    )
    assert found.statements == ()


def test_an_older_statement_never_replaces_a_newer_one() -> None:
    roster = roster_of(*NAMES)
    old, new = signed("south", roster, "west"), signed("south", roster, number=2)
    known = WitnessedRoster(roster=roster, statements=(new,))
    for shown in ((), (old,), (new,)):
        assert known.followed_by(WitnessedRoster(roster=roster, statements=shown)) == known
    kept = WitnessedRoster(roster=roster, statements=(old,))
    assert kept.followed_by(known).statements == (new,)


def test_a_statement_of_a_key_that_was_replaced_is_left_out() -> None:
    """Also where the coordinator shows it again after the new key's statement."""
    before, new = roster_of(*NAMES), Identity.new()
    roster = added(before, before.joined("south", new.fingerprint, TIME))
    old = signed("south", before, "west", number=9)
    now = signed("south", roster, "east", by=new)
    known = WitnessedRoster(roster=roster, statements=(now,))
    assert known.followed_by(WitnessedRoster(roster=roster, statements=(old,))) == known


def test_a_hospital_has_one_statement_and_names_each_other_once() -> None:
    roster = roster_of(*NAMES)
    twice = (signed("south", roster, "west"), signed("south", roster, "east"))
    with pytest.raises(ValidationError, match="two statements"):
        WitnessedRoster(roster=roster, statements=twice)
    named = twice[0].model_dump() | {"confirmed": ("west", "west")}
    with pytest.raises(ValidationError, match="appears twice"):
        RosterStatement.model_validate(named)


def test_the_bytes_of_a_roster_are_read_again() -> None:
    roster = roster_of(*NAMES)
    seen = WitnessedRoster(roster=roster, statements=(signed("south", roster, "west"),))
    read = canonical.decode(seen.to_bytes(), limit=1 << 20, what="roster")
    assert WitnessedRoster.model_validate(read) == seen

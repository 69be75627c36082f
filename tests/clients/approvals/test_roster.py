"""One call instead of one for each pair: what it confirms, and how hospitals come and go."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest

from flo.clients.approvals import roster
from flo.clients.approvals.fingerprints import AddressBook
from flo.clients.connection.coordinator_api import CoordinatorApi
from flo.errors import MessageError, TrustError, UsageError
from flo.keys.identity import Identity, format_fingerprint
from flo.keys.roster import WitnessedRoster
from tests.consortium import (
    SEVEN,
    Answer,
    Consortium,
    Line,
    entries,
    joined,
    known,
    of,
    study_of,
    with_newcomer,
)


@pytest.fixture
def consortium(tmp_path: Path) -> Consortium:
    return Consortium(tmp_path)


# -- one call --------------------------------------------------------------------------------------


def test_one_call_of_all_hospitals_confirms_every_key(consortium: Consortium) -> None:
    joined(consortium, *SEVEN)
    consortium.call(*SEVEN)
    study = study_of(consortium, *SEVEN)
    for name, site in consortium.sites.items():
        others = {n: key for n, key in consortium.roster.keys.items() if n != name}
        assert known(site) == others
        assert roster.unconfirmed(site, study) == []


@pytest.mark.slow  # 7 s: fifty sites are made
def test_fifty_hospitals_make_one_call_each(consortium: Consortium) -> None:
    """Each steward enters one digest once; 1,225 comparisons of pairs before."""
    names = [f"hospital-{number}" for number in range(50)]
    joined(consortium, *names)
    consortium.call(*names)
    study = study_of(consortium, *names, b=16)
    for site in consortium.sites.values():
        assert roster.unconfirmed(site, study) == []
        assert entries(site, "roster-confirmed") == 1


def test_the_digest_counts_as_it_is_read_out(consortium: Consortium) -> None:
    joined(consortium, "north", "south")
    consortium.confirm(
        "north", "south", digest=format_fingerprint(consortium.roster.digest).upper()
    )
    assert set(known(consortium.sites["north"])) == {"south"}


@pytest.mark.parametrize("spoken", ["", "abc", "g" * 64, "a" * 63])
def test_what_is_no_digest_confirms_nobody(consortium: Consortium, spoken: str) -> None:
    joined(consortium, "north", "south")
    with pytest.raises(UsageError, match="not the digest of a roster"):
        roster.check_spoken(consortium.roster, spoken)


def test_whom_nobody_heard_stays_unconfirmed(consortium: Consortium) -> None:
    joined(consortium, *SEVEN)
    consortium.confirm("north", "south", "east")
    study = study_of(consortium, *SEVEN)
    assert roster.unconfirmed(consortium.sites["north"], study) == ["west", "hill", "lake", "wood"]


@pytest.mark.parametrize("name", ["nobody", "north"])
def test_a_name_that_is_no_partner_is_refused_and_nothing_is_kept(
    consortium: Consortium, name: str
) -> None:
    joined(consortium, "north", "south")
    with pytest.raises(UsageError, match=f"no partner of this name is on the roster: {name}"):
        consortium.confirm("north", "south", name)
    assert known(consortium.sites["north"]) == {}


def test_a_digest_of_another_roster_confirms_nobody(consortium: Consortium) -> None:
    joined(consortium, "north", "south")
    old = consortium.roster.digest
    joined(consortium, "east")
    with pytest.raises(TrustError, match="another digest than the one that was read out"):
        consortium.confirm("north", "south", digest=old)
    assert known(consortium.sites["north"]) == {}


# -- a life of hospitals ---------------------------------------------------------------------------


@pytest.mark.slow
def test_a_hospital_that_joins_later_needs_one_call_with_more_than_b(
    consortium: Consortium,
) -> None:
    """Nobody else takes the telephone again: more than b hospitals signed what they heard."""
    joined(consortium, *SEVEN)
    consortium.call(*SEVEN)
    newcomer = consortium.join("new")
    consortium.call("new", "north", "south", "east")
    study = study_of(consortium, *SEVEN, "new", b=2)
    for name, site in consortium.sites.items():
        consortium.fetch(name)
        assert roster.unconfirmed(site, study) == [], name
    assert set(known(newcomer)) == {"north", "south", "east"}


@pytest.mark.parametrize("heard", range(4))
def test_b_hospitals_do_not_suffice(consortium: Consortium, heard: int) -> None:
    joined(consortium, *SEVEN)
    consortium.call(*SEVEN)
    consortium.join("new")
    for name in SEVEN[:heard]:
        consortium.confirm(name, "new")
    consortium.fetch("wood")
    strangers = roster.unconfirmed(
        consortium.sites["wood"], study_of(consortium, *SEVEN, "new", b=2)
    )
    assert strangers == ([] if heard > 2 else ["new"])


def test_a_new_key_is_unconfirmed_until_it_is_heard(consortium: Consortium) -> None:
    joined(consortium, *SEVEN)
    consortium.call(*SEVEN)
    consortium.store.revoke("west")
    consortium.sites.pop("west")
    consortium.enrol("west", Identity.new())
    site, study = consortium.sites["north"], study_of(consortium, *SEVEN)
    consortium.fetch("north")
    with pytest.raises(TrustError, match="another key for west"):
        roster.unconfirmed(site, study)
    consortium.confirm("north", "west")
    assert roster.unconfirmed(site, study) == []


def test_vouchers_are_on_the_key_that_is_in_force(consortium: Consortium) -> None:
    """The old key, which may be stolen, is shown with statements of before."""
    with_newcomer(consortium)
    site, study = consortium.sites["north"], study_of(consortium, *SEVEN, "new", b=2)
    assert roster.unconfirmed(site, study) == []
    consortium.enrol("new", Identity.new())
    consortium.fetch("north")
    assert roster.unconfirmed(site, study) == ["new"], "the study names the old key"
    assert roster.unconfirmed(site, study_of(consortium, *SEVEN, "new", b=2)) == ["new"]


def test_a_confirmation_that_was_taken_back_is_signed_away(consortium: Consortium) -> None:
    joined(consortium, "north", "south", "east")
    consortium.call("north", "south", "east")
    old = consortium.fetch("north").statement_of("north")
    AddressBook.forget(consortium.sites["north"], "south")
    new = consortium.fetch("north").statement_of("north")
    assert old is not None
    assert new is not None
    assert (old.confirmed, new.confirmed) == (("east", "south"), ("east",))
    assert consortium.store.roster().statement_of("north") == new
    with pytest.raises(UsageError, match="no key of 'south' is confirmed here"):
        AddressBook.forget(consortium.sites["north"], "south")


def test_a_fingerprint_that_was_compared_by_telephone_is_signed_too(
    consortium: Consortium,
) -> None:
    joined(consortium, "north", "south")
    AddressBook.confirm(consortium.sites["north"], {"south": consortium.roster.keys["south"]})
    AddressBook.confirm(consortium.sites["north"], {"unknown": "a" * 64})
    said = consortium.fetch("north").statement_of("north")
    assert said is not None
    assert said.confirmed == ("south",)


def test_a_statement_that_the_coordinator_lost_is_sent_again(consortium: Consortium) -> None:
    joined(consortium, "north", "south")
    consortium.call("north", "south")
    consortium.store._write("DELETE FROM roster_statements")
    consortium.fetch("south")
    assert [one.hospital for one in consortium.store.roster().statements] == ["south"]


def test_a_roster_that_the_site_knows_is_not_sent_again(consortium: Consortium) -> None:
    joined(consortium, "north", "south")
    fetched = consortium.fetch("north")
    body = {"statement": None, "known": fetched.digest}
    assert consortium.api_of("north").call("roster", body) == {"roster": None}
    assert consortium.fetch("north") == fetched


def test_a_roster_that_was_stored_during_the_call_is_kept(consortium: Consortium) -> None:
    """The agent and a command fetch at the same time; the later answer arrives first."""
    joined(consortium, "north", "south")
    site, early = consortium.sites["north"], consortium.store.roster()
    consortium.join("east")
    late = consortium.store.roster()

    def answers_late(answer: Answer) -> Answer:
        (site.directory / "roster.json").write_bytes(late.to_bytes())
        return early.model_dump(mode="json")

    consortium.lines["north"].lie = answers_late
    assert consortium.fetch("north") == late
    assert roster.read(site) == late


def test_a_hospital_can_leave_a_full_roster(
    consortium: Consortium, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flo.server.store.hospitals.MOST_ENTRIES", 4)
    joined(consortium, "north", "south")
    with pytest.raises(TrustError, match="the roster has 4 entries at most, and is full"):
        consortium.join("east")
    assert consortium.store.revoke("south")
    assert set(consortium.roster.keys) == {"north"}


def test_a_hospital_that_left_is_off_the_roster(consortium: Consortium) -> None:
    joined(consortium, "north", "south", "east")
    consortium.store.revoke("east")
    assert set(consortium.fetch("north").roster.keys) == {"north", "south"}
    with pytest.raises(UsageError, match="no partner of this name is on the roster: east"):
        consortium.confirm("north", "east")
    consortium.store.revoke("east")
    assert len(consortium.roster.entries) == 4, "leaving twice is one entry"


def test_what_was_confirmed_outlives_a_new_roster(consortium: Consortium) -> None:
    joined(consortium, "north", "south")
    consortium.call("north", "south")
    before = known(consortium.sites["north"])
    site = consortium.sites["north"]
    consortium.lines["north"].lie = lambda answer: WitnessedRoster(
        roster=of(consortium, "south", "north")
    ).model_dump(mode="json")
    with pytest.raises(TrustError, match="does not continue"):
        consortium.fetch("north")
    roster.begin_anew(site)
    assert consortium.fetch("north").roster.keys == consortium.roster.keys
    assert known(site) == before
    assert entries(site, "roster-forgotten") == 1


def test_what_a_site_fetched_is_kept_for_its_owner_only(consortium: Consortium) -> None:
    joined(consortium, "north", "south")
    fetched = consortium.fetch("north")
    assert roster.read(consortium.sites["north"]) == fetched
    path = consortium.sites["north"].directory / "roster.json"
    assert path.stat().st_mode & 0o777 == 0o600
    consortium.fetch("north")
    assert entries(consortium.sites["north"], "roster-fetched") == 1, "once, as long as it is equal"


@pytest.mark.parametrize("text", ["", "[]", '{"schema_version":2}', "{"])
def test_a_spoilt_copy_is_no_empty_roster(consortium: Consortium, text: str) -> None:
    site = joined(consortium, "north").sites["north"]
    (site.directory / "roster.json").write_text(text)
    with pytest.raises((UsageError, MessageError)):
        roster.read(site)


def test_the_agent_and_a_command_may_sign_what_was_heard_at_the_same_time(
    consortium: Consortium,
) -> None:
    joined(consortium, "north", "south")
    consortium.confirm("north", "south")
    AddressBook.confirm(consortium.sites["north"], {"south": consortium.roster.keys["south"]})
    consortium.store._write("DELETE FROM roster_statements")
    line = consortium.lines["north"]
    agent = Line(line.api, line.peer)

    class Command:
        """Its statement is on the way when the agent's arrives."""

        def call(self, name: str, body: Answer, *, values: int = 0) -> Answer:
            if body["statement"] is not None:
                roster.fetch(consortium.sites["north"], cast(CoordinatorApi, agent))
            return cast(Answer, line.call(name, body))

    found = roster.fetch(consortium.sites["north"], cast(CoordinatorApi, Command()))
    told = found.statement_of("north")
    assert told is not None
    assert told.confirmed == ("south",)

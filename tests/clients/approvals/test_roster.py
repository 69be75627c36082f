"""One call instead of one for each pair: what it confirms, and what no liar can make it confirm."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from flo.clients.approvals import roster
from flo.clients.approvals.fingerprints import AddressBook
from flo.clients.home.site_home import SiteHome
from flo.errors import MessageError, TrustError, UsageError
from flo.keys.identity import Identity, format_fingerprint
from flo.keys.roster import Roster, RosterStatement, WitnessedRoster
from flo.study.document import Study
from tests.builders import small_study
from tests.consortium import Answer, Consortium

LATER = 1 << 50  # number of a statement
SEVEN = ("north", "south", "east", "west", "hill", "lake", "wood")
TIME = "2026-11-28T12:00:00.000+00:00"


@pytest.fixture
def consortium(tmp_path: Path) -> Consortium:
    return Consortium(tmp_path)


def joined(consortium: Consortium, *names: str) -> Consortium:
    for name in names:
        consortium.join(name)
    return consortium


def study_of(consortium: Consortium, *names: str, b: int = 2) -> Study:
    """A study of these hospitals with distributed noise, as the coordinator's store names them."""
    hospitals = [{"id": name, "declared_size": 40} for name in names]
    study = small_study(hospitals=hospitals, schema_version=4).with_mechanism(
        noise="distributed", masking="on", colluders=b
    )
    return study.with_fingerprints(consortium.store.keys())


def known(site: SiteHome) -> dict[str, str]:
    return AddressBook.load(site).confirmed


def entries(site: SiteHome, kind: str) -> int:
    with closing(site.open_audit_log()) as log:
        return len(log.latest(1000, kind=kind)[0])


# -- one call --------------------------------------------------------------------------------------


def test_one_call_of_all_hospitals_confirms_every_key(consortium: Consortium) -> None:
    joined(consortium, *SEVEN)
    consortium.call(*SEVEN)
    study = study_of(consortium, *SEVEN)
    for name, site in consortium.sites.items():
        others = {n: key for n, key in consortium.roster.keys.items() if n != name}
        assert known(site) == others
        assert roster.unconfirmed(site, study) == []


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
    joined(consortium, *SEVEN)
    consortium.call(*SEVEN)
    consortium.join("new")
    for name in ("south", "east", "west"):
        consortium.confirm(name, "new")
    consortium.fetch("north")
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


# -- a lying coordinator ---------------------------------------------------------------------------


def of(consortium: Consortium, *names: str, **keys: Identity) -> Roster:
    """A roster of these hospitals; ``keys``: forged ones."""
    made = Roster()
    for name in names:
        key = keys[name].fingerprint if name in keys else consortium.store.keys()[name]
        made = Roster(entries=(*made.entries, made.joined(name, key, TIME)))
    return made


def shows(consortium: Consortium, name: str, shown: Roster) -> None:
    """From now on the coordinator shows this roster to this site."""

    def lie(answer: Answer) -> Answer:
        return answer | {"roster": shown.model_dump(mode="json")}

    consortium.lines[name].lie = lie


def test_a_roster_that_is_split_in_two_is_noticed_on_the_call(consortium: Consortium) -> None:
    """North is shown a forged key of east. Whatever digest is read out, north confirms no one."""
    joined(consortium, "north", "south", "east")
    forged = of(consortium, "north", "south", "east", east=Identity.new())
    shows(consortium, "north", forged)
    for spoken in (consortium.roster.digest, forged.digest):
        heard = [name for name in ("south", "east") if consortium.says_yes(name, spoken)]
        if heard:
            with pytest.raises(TrustError, match="another digest"):
                consortium.confirm("north", *heard, digest=spoken)
        assert known(consortium.sites["north"]) == {}


def test_whoever_is_shown_a_forged_key_of_their_own_does_not_say_yes(
    consortium: Consortium,
) -> None:
    """The same forged roster is shown to everyone, so the digests agree."""
    joined(consortium, "north", "south", "east")
    forged = of(consortium, "north", "south", "east", east=Identity.new())
    for name in ("north", "south", "east"):
        shows(consortium, name, forged)
    with pytest.raises(TrustError, match="the coordinator's roster holds another key for east"):
        consortium.says_yes("east", forged.digest)
    consortium.confirm("north", "south", digest=forged.digest)
    assert set(known(consortium.sites["north"])) == {"south"}, "east was not heard"


def test_a_yes_to_one_digest_is_none_to_the_next(consortium: Consortium) -> None:
    """East says yes to the true roster; then a forged key of east is added for all others. East,
    who enters the new digest as everyone does, does not say yes to it."""
    joined(consortium, "north", "south", "east")
    assert consortium.says_yes("east", consortium.roster.digest)
    common = consortium.roster
    forged = common.joined("east", Identity.new().fingerprint, TIME)
    shown = Roster(entries=(*common.entries, forged))
    for name in ("north", "south"):
        shows(consortium, name, shown)
        with pytest.raises(TrustError, match="another digest") as refused:
            consortium.confirm(name, "east", digest=common.digest)
        assert "what was said about the old one is void" in refused.value.hint
    assert not consortium.says_yes("east", shown.digest)
    line = roster.known_as("east", shown, {}, WitnessedRoster().vouchers({}))
    assert line == "not confirmed here; its key was replaced"


def test_a_statement_with_a_wrong_signature_stops_nothing(consortium: Consortium) -> None:
    joined(consortium, *SEVEN)
    consortium.call(*SEVEN)
    consortium.join("new")
    spoilt = [
        one.model_copy(update={"signature": "00"}) for one in consortium.store.roster().statements
    ]
    answer = WitnessedRoster(roster=consortium.roster, statements=tuple(spoilt))
    consortium.lines["wood"].lie = lambda _: answer.model_dump(mode="json")
    consortium.fetch("wood")
    study = study_of(consortium, *SEVEN, "new", b=2)
    assert roster.unconfirmed(consortium.sites["wood"], study) == ["new"]


def test_a_roster_without_this_site_is_refused(consortium: Consortium) -> None:
    joined(consortium, "north", "south")
    shows(consortium, "north", of(consortium, "south"))
    with pytest.raises(TrustError, match="the coordinator's roster holds no key for north"):
        consortium.fetch("north")


@pytest.mark.parametrize("kind", ["shorter", "another order", "a changed time"])
def test_a_log_that_was_witnessed_is_never_rewritten(consortium: Consortium, kind: str) -> None:
    joined(consortium, "north", "south", "east")
    kept = consortium.fetch("north")
    shows(
        consortium,
        "north",
        {
            "shorter": Roster(entries=kept.roster.entries[:2]),
            "another order": of(consortium, "east", "south", "north"),
            "a changed time": of(consortium, "north", "south", "east"),
        }[kind],
    )
    with pytest.raises(TrustError, match="does not continue the one"):
        consortium.fetch("north")
    assert roster.read(consortium.sites["north"]) == kept


def test_statements_of_the_other_half_of_a_split_roster_count_for_nothing(
    consortium: Consortium,
) -> None:
    """After the call the coordinator shows one half a newcomer with a forged key."""
    joined(consortium, *SEVEN)
    consortium.call(*SEVEN)
    real, forged = Identity.new(), Identity.new()
    common = consortium.roster
    here = Roster(entries=(*common.entries, common.joined("new", real.fingerprint, TIME)))
    there = Roster(entries=(*common.entries, common.joined("new", forged.fingerprint, TIME)))
    signed = [
        RosterStatement.signed(
            consortium.sites[name].open_identity(), name, LATER, there.digest, ("new",)
        ).model_dump(mode="json")
        for name in ("south", "east", "west")
    ]
    consortium.lines["north"].lie = lambda answer: {
        "roster": here.model_dump(mode="json"),
        "statements": signed,
    }
    fetched, site = consortium.fetch("north"), consortium.sites["north"]
    assert fetched.vouchers(known(site)).elsewhere == ("east", "south", "west")
    for key in (real, forged):
        keys = consortium.store.keys() | {"new": key.fingerprint}
        hospitals = [{"id": name, "declared_size": 40} for name in (*SEVEN, "new")]
        study = small_study(hospitals=hospitals).with_mechanism(
            noise="distributed", masking="on", colluders=2
        )
        assert roster.unconfirmed(site, study.with_fingerprints(keys)) == ["new"]


def test_the_coordinator_cannot_vouch_with_keys_of_its_own(consortium: Consortium) -> None:
    """It invents any number of hospitals, which all vouch for each other."""
    joined(consortium, *SEVEN)
    consortium.call(*SEVEN)
    fakes = {f"fake-{number}": Identity.new() for number in range(5)}
    for name, identity in fakes.items():
        consortium.enrol(name, identity)
    for name, identity in fakes.items():
        statement = RosterStatement.signed(
            identity, name, LATER, consortium.roster.digest, tuple(n for n in fakes if n != name)
        )
        consortium.store.keep_statement(statement)
    consortium.fetch("north")
    strangers = roster.unconfirmed(
        consortium.sites["north"], study_of(consortium, *SEVEN, *fakes, b=2)
    )
    assert strangers == list(fakes)


# -- lying hospitals -------------------------------------------------------------------------------


@pytest.mark.parametrize("liars", [("south", "east"), ("west", "wood"), ("hill", "lake")])
def test_b_lying_hospitals_forge_no_partner(consortium: Consortium, liars: tuple[str, str]) -> None:
    """Two of seven say yes to anything and sign anything: a forged hospital stays unconfirmed."""
    joined(consortium, *SEVEN)
    consortium.call(*SEVEN)
    consortium.enrol("forged", Identity.new())
    for name in liars:
        consortium.confirm(name, "forged")
    for name in set(SEVEN) - set(liars):
        consortium.fetch(name)
        strangers = roster.unconfirmed(
            consortium.sites[name], study_of(consortium, *SEVEN, "forged", b=2)
        )
        assert strangers == ["forged"]


def test_a_hospital_outside_the_study_does_not_vouch(consortium: Consortium) -> None:
    """b bounds the liars among the study's hospitals, and says nothing about others."""
    joined(consortium, *SEVEN)
    consortium.call(*SEVEN)
    consortium.join("new")
    for name in ("south", "east", "west"):
        consortium.confirm(name, "new")
    consortium.fetch("north")
    inside = study_of(consortium, *SEVEN, "new", b=2)
    outside = study_of(consortium, "north", "hill", "lake", "wood", "south", "new", b=2)
    assert roster.unconfirmed(consortium.sites["north"], inside) == []
    assert roster.unconfirmed(consortium.sites["north"], outside) == ["new"]


def test_a_partner_that_counts_by_others_word_is_never_vouched_for_in_turn(
    consortium: Consortium,
) -> None:
    """Otherwise b liars at the beginning of a chain would forge its end."""
    joined(consortium, *SEVEN)
    consortium.call(*SEVEN)
    consortium.join("new")
    consortium.call("new", "north", "south", "east")
    consortium.confirm("wood")
    (mine,) = [one for one in consortium.fetch("wood").statements if one.hospital == "wood"]
    assert "new" not in mine.confirmed


@pytest.mark.parametrize("wrong", ["name", "key", "roster", "stranger", "older", None])
def test_the_coordinator_stores_only_a_hospitals_own_newest_statement_on_its_roster(
    consortium: Consortium, wrong: str | None
) -> None:
    joined(consortium, "north", "south")
    consortium.confirm("north", "south")
    (before,) = consortium.store.roster().statements
    own = consortium.sites["north"].open_identity()
    statement = RosterStatement.signed(
        Identity.new() if wrong == "key" else own,
        "south" if wrong == "name" else "north",
        before.number if wrong == "older" else before.number + 1,
        "0" * 64 if wrong == "roster" else consortium.roster.digest,
        ("stranger",) if wrong == "stranger" else (),
    )
    body = {"statement": statement.model_dump(mode="json"), "known": "0" * 64}
    api = consortium.api_of("north")
    if wrong is None:
        api.call("roster", body)
        assert consortium.store.roster().statements == (statement,)
    else:
        with pytest.raises(TrustError):
            api.call("roster", body)
        assert consortium.store.roster().statements == (before,)


def test_a_new_key_ends_the_statement_of_the_old_one(consortium: Consortium) -> None:
    joined(consortium, "north", "south")
    consortium.call("north", "south")
    assert {one.hospital for one in consortium.store.roster().statements} == {"north", "south"}
    consortium.enrol("south", Identity.new())
    assert {one.hospital for one in consortium.store.roster().statements} == {"north"}

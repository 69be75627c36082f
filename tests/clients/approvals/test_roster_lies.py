"""What no lying coordinator, and no b lying hospitals, can have confirmed by the roster."""

from __future__ import annotations

from pathlib import Path

import pytest

from flo.clients.approvals import roster
from flo.errors import TrustError
from flo.keys.identity import Identity
from flo.keys.roster import Roster, RosterStatement, WitnessedRoster
from tests.builders import small_study
from tests.consortium import (
    LATER,
    SEVEN,
    TIME,
    Consortium,
    joined,
    known,
    of,
    shows,
    study_of,
    with_newcomer,
)


@pytest.fixture
def consortium(tmp_path: Path) -> Consortium:
    return Consortium(tmp_path)


# -- a lying coordinator ---------------------------------------------------------------------------


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
    with_newcomer(consortium)
    inside = study_of(consortium, *SEVEN, "new", b=2)
    outside = study_of(consortium, "north", "hill", "lake", "wood", "south", "new", b=2)
    assert roster.unconfirmed(consortium.sites["north"], inside) == []
    assert roster.unconfirmed(consortium.sites["north"], outside) == ["new"]


@pytest.mark.slow
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

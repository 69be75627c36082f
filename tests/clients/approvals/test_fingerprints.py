"""Whose key was compared, and what a site does with a study of partners whose key was not."""

from __future__ import annotations

import json
import math
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from flo.clients.approvals.fingerprints import AddressBook, parse_entries
from flo.clients.connection.offers import Offered
from flo.clients.records.extract import make_extract
from flo.documents import canonical
from flo.errors import BudgetError, MessageError, PolicyError, TrustError, UsageError
from flo.keys.identity import Identity, format_fingerprint
from flo.privacy.accounting.plan import Plan
from flo.privacy.ledger.reservation import Reservation
from flo.privacy.report.report import build, verify
from tests.builders import small_study
from tests.clients.approving_site import Site, enrolled_site
from tests.partners import partner

FOUR = ("north", "east", "south", "west")


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return enrolled_site(tmp_path)


def shared(site: Site, *, epsilon: float = 0.3, noise: str = "distributed") -> Offered:
    """A study of four hospitals of which one may collude (b = 1)."""
    hospitals = [{"id": name, "declared_size": 40} for name in FOUR]
    study = small_study(hospitals=hospitals).with_mechanism(noise=noise, masking="on")
    return site.offer(study.with_epsilon(epsilon))


def confirm(site: Site, *names: str, **others: str) -> AddressBook:
    """The steward compared these partners' fingerprints, and ``others`` as they were told."""
    entries = {name: partner(name).fingerprint for name in names} | others
    return AddressBook.confirm(site.home, entries)


def reservation(site: Site) -> Reservation:
    with closing(site.home.open_ledger()) as ledger:
        (found,) = ledger.balance().reservations.values()
    return found


# -- the book --------------------------------------------------------------------------------------


def test_what_was_compared_is_kept_and_added_to(site: Site) -> None:
    assert AddressBook.load(site.home).confirmed == {}
    confirm(site, "south")
    confirm(site, "west")
    known = {name: partner(name).fingerprint for name in ("south", "west")}
    assert AddressBook.load(site.home).confirmed == known
    assert (site.home.directory / "partners.json").stat().st_mode & 0o777 == 0o600


def test_a_fingerprint_counts_as_it_is_read_out(site: Site) -> None:
    told = format_fingerprint(partner("south").fingerprint).upper()
    confirm(site, south=f"  {told}\n")
    assert AddressBook.load(site.home).confirmed == {"south": partner("south").fingerprint}


@pytest.mark.parametrize("told", ["", "abc", "g" * 64, "a" * 63, "a" * 65, "é" * 64])
def test_what_is_no_fingerprint_is_not_kept(site: Site, told: str) -> None:
    with pytest.raises(UsageError, match="64 hexadecimal digits"):
        confirm(site, south=told)
    assert AddressBook.load(site.home).confirmed == {}


def test_a_key_that_really_changed_is_confirmed_anew(site: Site) -> None:
    confirm(site, south="a" * 64)
    confirm(site, "south")
    assert AddressBook.load(site.home).confirmed == {"south": partner("south").fingerprint}


def test_words_of_the_command_line_are_hospital_and_fingerprint() -> None:
    assert parse_entries(["south=ab cd", " west = ef"]) == {"south": "ab cd", "west": " ef"}
    with pytest.raises(UsageError, match="HOSPITAL=FINGERPRINT"):
        parse_entries(["south"])


@pytest.mark.parametrize("text", ["", "[]", '{"schema_version":1,"confirmed":{"south":"x"}}', "{"])
def test_a_book_that_was_spoilt_is_no_empty_book(site: Site, text: str) -> None:
    (site.home.directory / "partners.json").write_text(text)
    with pytest.raises((UsageError, MessageError)):
        AddressBook.load(site.home)


# -- approving with it -----------------------------------------------------------------------------


def test_partners_are_unconfirmed_until_somebody_asks_them(site: Site) -> None:
    study = shared(site).study
    assert AddressBook().unconfirmed(study, "north") == ["east", "south", "west"]
    assert confirm(site, "south").unconfirmed(study, "north") == ["east", "west"]
    assert confirm(site, "east", "west", "stranger").unconfirmed(study, "north") == []


@pytest.mark.parametrize("noise", ["local", "distributed"])
@pytest.mark.parametrize("if_broken", [False, True])
def test_a_study_that_names_another_key_than_was_compared_is_refused(
    site: Site, noise: str, if_broken: bool
) -> None:
    confirm(site, "east", "west", south=Identity.new().fingerprint)
    offer = shared(site, noise=noise)
    site.refuses(offer, TrustError, "another key for south", if_broken=if_broken)


@pytest.mark.parametrize("known", [(), ("south",)])
def test_more_unconfirmed_partners_than_may_collude_refuse_distributed_noise(
    site: Site, known: tuple[str, ...]
) -> None:
    confirm(site, *known)
    site.refuses(shared(site), PolicyError, "unconfirmed .*at most 1 colluding partners")


def test_as_many_unconfirmed_partners_as_may_collude_are_borne(site: Site) -> None:
    confirm(site, "south", "west")
    decision = json.loads(site.approve(shared(site)).decision)
    assert (decision["unconfirmed"], decision["charged"]) == (["east"], "as-designed")


def test_local_noise_asks_for_nobodys_key(site: Site) -> None:
    decision = json.loads(site.approve(shared(site, noise="local")).decision)
    assert decision["unconfirmed"] == ["east", "south", "west"]
    assert decision["charged"] == "as-designed"


# -- as if broken ----------------------------------------------------------------------------------


def test_as_if_broken_a_site_reserves_what_one_share_of_the_noise_costs(site: Site) -> None:
    offer = shared(site)
    decision = json.loads(site.approve(offer, if_broken=True).decision)
    assert decision["charged"] == "if-broken"
    plan, held = Plan.of(offer.study), reservation(site)
    for purpose, part in plan.purposes.items():
        share = part.mechanism.noise_multiplier / math.sqrt(len(FOUR) - 1)
        reserved = held.parts[purpose]
        assert reserved.mechanism.noise_multiplier == pytest.approx(share, rel=1e-12)
        assert reserved.releases == part.releases
    assert plan.worst_case(offer.study).epsilon > 1.5 * plan.epsilon


def test_local_noise_costs_the_same_broken_or_not(site: Site) -> None:
    offer = shared(site, noise="local")
    decision = json.loads(site.approve(offer, if_broken=True).decision)
    assert decision["charged"] == "as-designed"
    for purpose, part in Plan.of(offer.study).purposes.items():
        assert reservation(site).parts[purpose].mechanism == part.mechanism


def test_as_if_broken_an_epsilon_of_one_or_more_needs_the_sites_consent(site: Site) -> None:
    offer = shared(site, epsilon=0.6)
    assert Plan.of(offer.study).worst_case(offer.study).epsilon > 1
    site.refuses(offer, PolicyError, "consent_to_epsilon_of_one_or_more", if_broken=True)
    site.allow(consent_to_epsilon_of_one_or_more=True)
    why = "takes .* of the life budget"  # consent is no budget
    site.refuses(offer, BudgetError, why, heads=True, if_broken=True)


def test_the_largest_epsilon_of_the_policy_counts_as_if_broken_too(site: Site) -> None:
    site.allow(largest_study_epsilon=0.4)
    site.refuses(shared(site), PolicyError, "largest_study_epsilon = 0.4", if_broken=True)
    confirm(site, "south", "west")
    assert site.approve(shared(site))


# -- the report ------------------------------------------------------------------------------------


def extract(site: Site, offer: Offered) -> Any:
    with closing(site.home.open_ledger()) as ledger:
        return json.loads(make_extract(site.home, ledger, offer.study.digest))


@pytest.mark.parametrize("if_broken", [False, True])
def test_the_report_says_what_was_charged_and_who_was_not_asked(
    site: Site, if_broken: bool
) -> None:
    confirm(site, "south", "west")
    offer = shared(site)
    site.approve(offer, if_broken=if_broken)
    report = build([canonical.encode(extract(site, offer))])
    (facts,) = verify(report)["hospitals"]
    assert facts["charged"] == ("if-broken" if if_broken else "as-designed")
    assert facts["unconfirmed"] == ["east"]
    plan = Plan.of(offer.study)
    charged = plan.worst_case(offer.study) if if_broken else plan
    assert facts["epsilon_designed"] == pytest.approx(plan.epsilon, abs=1e-6)
    assert facts["epsilon_charged"] == pytest.approx(charged.epsilon, abs=1e-6)
    shown = verify(report)["guarantee"]["epsilon_if_secure_sum_is_broken"]
    assert shown == pytest.approx(plan.worst_case(offer.study).epsilon, abs=1e-6)


@pytest.mark.parametrize("if_broken", [False, True])
def test_a_decision_that_says_the_other_charge_than_the_ledger_is_no_evidence(
    site: Site, if_broken: bool
) -> None:
    """Even if the hospital itself signs it."""
    confirm(site, "south", "west")
    offer = shared(site)
    site.approve(offer, if_broken=if_broken)
    body, identity = extract(site, offer)["body"], site.home.open_identity()
    decision = json.loads(body["decision"])
    decision["charged"] = "as-designed" if if_broken else "if-broken"
    body["decision"] = canonical.encode(decision).decode()
    body["decision_signature"] = identity.sign("approval", body["decision"].encode())
    signature = identity.sign("extract", canonical.encode(body))
    with pytest.raises(TrustError, match="differ from the study's plan"):
        build([canonical.encode({"body": body, "signature": signature})])

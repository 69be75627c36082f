"""A coordinator that shows other lists to other hospitals reads no sum with too little noise."""

from __future__ import annotations

import random
from collections import defaultdict
from fractions import Fraction

import pytest

from flo.keys.claims import ListSignature
from tests.privacy.secure_sum.light_company import LightCompany

SIZES = [(4, 1, 1), (5, 1, 1), (6, 1, 2), (7, 2, 2), (9, 2, 3), (10, 3, 3)]
Lists = dict[str, tuple[str, ...]]


@pytest.fixture
def no_certificates(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hospitals reveal under any list that they are asked for, once."""
    monkeypatch.setattr("flo.clients.agent.dealing.check_certificate", lambda *_: None)


def attack(company: LightCompany, shown: Lists) -> None:
    """Show each honest hospital its list; use every signature, and ask everyone to reveal."""
    asked = company.header()
    company.upload(asked)
    signed = defaultdict[tuple[str, ...], dict[str, ListSignature]](dict)
    for name, listed in shown.items():
        signature = company.sign(asked, name, listed)
        if signature is not None:
            signed[listed][name] = signature
    for listed, signatures in signed.items():
        for name in set(company.colluders) & set(listed):
            signature = company.sign(asked, name, listed)
            assert signature is not None
            signatures[name] = signature
    for name, listed in shown.items():
        company.reveal(asked, name, listed, signed[listed])
        for other, signatures in signed.items():
            company.reveal(asked, name, other, signatures)


def random_lists(company: LightCompany, chance: random.Random) -> Lists:
    """A few lists, each hospital shown one of those that it is on."""
    everyone = [*company.honest, *company.colluders]
    most = company.tolerance.dropouts
    lists = [
        tuple(sorted(chance.sample(everyone, len(everyone) - chance.randint(0, most))))
        for _ in range(chance.randint(1, 3))
    ]
    shown = {}
    for name in company.honest:
        fitting = [listed for listed in lists if name in listed]
        if fitting:
            shown[name] = chance.choice(fitting)
    return shown


@pytest.mark.slow
@pytest.mark.parametrize(("hospitals", "colluders", "dropouts"), SIZES)
def test_no_lists_whatever_give_a_sum_with_too_little_noise(
    hospitals: int, colluders: int, dropouts: int
) -> None:
    read = 0
    for seed in range(6):
        company = LightCompany.of_size(hospitals, colluders, dropouts)
        attack(company, random_lists(company, random.Random(seed)))
        for name in company.honest:
            assert len(company.known(name)) <= 1
        thinnest = company.thinnest()
        assert thinnest is None or thinnest >= 1
        read += thinnest is not None
    assert read, "where all are shown one list, its sum is read"


def three_lists(company: LightCompany) -> Lists:
    """Three honest hospitals, each left out of two lists of three: two are missing from each."""
    everyone = [*company.honest, *company.colluders]
    one, two, three, *others = company.honest
    without = {
        kept: tuple(sorted(set(everyone) - ({one, two, three} - {kept})))
        for kept in (one, two, three)
    }
    return without | dict(zip(others, (without[three], without[two]), strict=True))


def test_three_lists_open_a_thin_sum_where_no_certificate_is_asked_for(
    no_certificates: None,
) -> None:
    """The attack for which hospitals sign first: .67 of the noise that was promised."""
    company = LightCompany.of_size(7, 2, 2)
    attack(company, three_lists(company))
    thinnest = company.thinnest()
    assert thinnest is not None
    assert thinnest < 1


def two_lists(company: LightCompany) -> Lists:
    """Two honest hospitals, each left out of one of two lists."""
    everyone = sorted([*company.honest, *company.colluders])
    one, two, three, four, five = company.honest
    first, second = (tuple(n for n in everyone if n != left_out) for left_out in (one, two))
    return {two: first, three: first, five: first, one: second, four: second}


def test_with_one_signature_fewer_two_lists_are_certified_and_an_upload_is_read_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("flo.study.tolerance._threshold", lambda n, b: (n + b) // 2)
    company = LightCompany.of_size(7, 2, 1)
    attack(company, two_lists(company))
    assert len(company.known(company.honest[0])) == 2
    assert company.thinnest() == Fraction(1, 4)


def test_with_all_signatures_one_of_two_lists_is_certified_at_most() -> None:
    company = LightCompany.of_size(7, 2, 1)
    attack(company, two_lists(company))
    assert all(len(company.known(name)) <= 1 for name in company.honest)
    thinnest = company.thinnest()
    assert thinnest is None or thinnest >= 1


def test_three_lists_open_nothing_at_all() -> None:
    company = LightCompany.of_size(7, 2, 2)
    attack(company, three_lists(company))
    assert company.thinnest() is None
    assert not any(company.known(name) for name in company.honest)


@pytest.mark.parametrize("split", [1, 2, 3])
def test_the_whole_cohort_and_a_shorter_list_are_never_both_opened(split: int) -> None:
    """Under the list of the whole cohort nobody asks for a certificate: the seeds open first."""
    company = LightCompany.of_size(4, 1, 1)
    everyone = tuple(sorted([*company.honest, *company.colluders]))
    shorter = tuple(name for name in everyone if name != company.honest[0])
    shown = {
        name: everyone if place < split else shorter
        for place, name in enumerate(company.honest)
        if place < split or name in shorter
    }
    attack(company, shown)
    for name in company.honest:
        assert len(company.known(name)) <= 1
    thinnest = company.thinnest()
    assert thinnest is None or thinnest >= 1


# -- several attempts -----------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("hospitals", "colluders", "dropouts"), SIZES[2:])
def test_two_cohorts_of_one_turn_give_no_thin_sum_either(
    hospitals: int, colluders: int, dropouts: int
) -> None:
    """Each honest hospital is shown one of two cohorts, and signs and reveals what it can."""
    for seed in range(4):
        chance = random.Random(seed)
        company = LightCompany.of_size(hospitals, colluders, dropouts)
        everyone = [*company.honest, *company.colluders]
        cohorts = [
            sorted(chance.sample(everyone, hospitals - chance.randint(0, dropouts)))
            for _ in range(2)
        ]
        told = {name: chance.choice([c for c in cohorts if name in c] or [[]]) for name in everyone}
        asked = [company.header(*cohort) for cohort in cohorts]
        for cohort, header in zip(cohorts, asked, strict=True):
            company.upload(header, only=[n for n in company.honest if told[n] is cohort])
        for cohort, header in zip(cohorts, asked, strict=True):
            least = hospitals - dropouts
            listed = tuple(sorted(chance.sample(cohort, chance.randint(least, len(cohort)))))
            signatures = {
                name: signature
                for name in listed
                if (name in company.colluders or company.uploads.get(name) is header)
                and (signature := company.sign(header, name, listed)) is not None
            }
            for name in company.honest:
                if company.uploads.get(name) is header:
                    company.reveal(header, name, listed, signatures)
        for name in company.honest:
            assert len(company.known(name)) <= 1
        thinnest = company.thinnest()
        assert thinnest is None or thinnest >= 1


def test_a_hospital_that_was_left_out_takes_no_part_with_what_the_others_have_opened() -> None:
    """An attempt for each partner opens its key; then one hospital alone is shown those deals.

    A deal is for one turn, so that hospital refuses them, and has uploaded nothing.
    """
    company = LightCompany.of_size(6, 1, 1)
    victim, *others = company.honest
    spent = {}
    for attempt, target in enumerate(others, start=1):
        asked = company.header(attempt=attempt)
        spent[target] = company.deals[target]
        for name in others:
            company.say(name, asked)
        listed = tuple(name for name in asked.cohort if name != target)
        signatures = {}
        for name in set(listed) - {victim}:
            signature = company.sign(asked, name, listed)
            if signature is not None:
                signatures[name] = signature
        for name in set(others) - {target}:
            company.reveal(asked, name, listed, signatures)
        company.join(attempt=attempt + 1)
    assert all(company.revealed[target] for target in others), "their keys are open, or nearly"
    asked = company.header(attempt=len(others) + 1)
    old = {name: deal.public for name, deal in spent.items()}
    reply = company.say(victim, asked.model_copy(update={"deals": asked.deals | old}))
    assert reply.header.code == "malformed"
    assert victim not in company.uploads

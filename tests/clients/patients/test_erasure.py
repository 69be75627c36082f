"""A patient asks what they were part of: a signed answer, with the most it can have changed."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import pytest

from flo.clients.approvals.decline import withdraw
from flo.clients.connection.coordinator_api import CoordinatorApi
from flo.clients.home.site_home import SiteHome
from flo.clients.patients.erasure import Contribution, erase
from flo.clients.patients.opt_outs import OptOuts, opt_out
from flo.clients.records import approval
from flo.documents import canonical
from flo.keys.identity import verify
from flo.privacy.accounting.accounting import epsilon_of
from flo.privacy.accounting.plan import Plan
from flo.study.document import Study
from flo.study.terms import Purpose
from tests.builders import WHITENED, SilentApi
from tests.clients.approved_site import Site, approved_site
from tests.clients.approving_site import enrolled_site
from tests.clients.exact_site import counts, frozen, one_of
from tests.privacy.ledgers import facts, study_of


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    yield from approved_site(tmp_path)


def contributions(home: SiteHome, patient: str) -> tuple[Contribution, ...]:
    return erase(home, patient)[0].contributions


def bound(study: Study, purpose: Purpose, releases: int) -> float:
    """ε of so many releases, rounded up to a millionth."""
    mechanism = Plan.of(study).purpose(purpose).mechanism
    return math.ceil(epsilon_of(mechanism, releases, study.mechanism.delta) * 1e6) / 1e6


def test_it_names_the_study_the_releases_and_the_most_they_can_have_changed(site: Site) -> None:
    patient = one_of(site.home, held_out=False)
    for number in (1, 2):
        site.ask(round=number)
    site.ask(purpose="evaluation")  # on others
    (part,) = contributions(site.home, patient)
    assert (part.study, part.name, part.version) == (site.study.digest, "tiny", 1)
    assert (part.side, part.releases, part.delta) == ("training", 2, 1e-6)
    assert part.epsilon == bound(site.study, "training", 2)
    assert part.factor == math.exp(part.epsilon)


@pytest.mark.slow
def test_the_bound_grows_with_each_release_up_to_the_studys_own(tmp_path: Path) -> None:
    found = []
    for releases in range(5):
        # of distributed noise each attempt is a release: of 3 rounds and a retry
        folder = tmp_path / str(releases)
        for site in approved_site(folder, noise="distributed", masking="on"):
            for number in range(releases):
                site.ask(round=number % 3 + 1, attempt=number // 3 + 1)
            (part,) = contributions(site.home, one_of(site.home, held_out=False))
            assert part.releases == releases
            found.append(part.epsilon)
    assert found == sorted(set(found))
    assert found[0] == 0
    # σ is calibrated to ε = 0.9 for all four, rounded up at the fourth decimal
    assert found[4] == pytest.approx(0.9, abs=1e-3)
    assert found[4] <= 0.9


def test_who_is_held_out_was_in_the_evaluation_only(site: Site) -> None:
    site.ask()
    site.ask(purpose="evaluation")
    (part,) = contributions(site.home, one_of(site.home, held_out=True))
    assert (part.side, part.releases) == ("held_out", 1)
    assert part.epsilon == bound(site.study, "evaluation", 1)


def test_second_moments_and_training_of_a_patient_add_up(tmp_path: Path) -> None:
    for site in approved_site(tmp_path, **WHITENED):
        site.ask(purpose="moments")
        site.ask(purpose="training")
        (part,) = contributions(site.home, one_of(site.home, held_out=False))
        alone = [bound(site.study, purpose, 1) for purpose in ("moments", "training")]
        assert part.releases == 2
        assert max(alone) < part.epsilon <= sum(alone)


@pytest.mark.parametrize("held_out", [False, True])
def test_a_survey_counts_everyone(tmp_path: Path, held_out: bool) -> None:
    for site in approved_site(tmp_path, survey=True):
        site.ask()
        (part,) = contributions(site.home, one_of(site.home, held_out=held_out))
        assert part.releases == 1
        assert part.epsilon == bound(site.study, "statistics", 1)


def test_bits_that_were_sent_again_are_no_further_release(site: Site) -> None:
    request = site.request()
    site.say(request)
    site.say(request)
    site.ask(attempt=2)
    (part,) = contributions(site.home, one_of(site.home, held_out=False))
    assert part.releases == 1


def test_what_was_released_after_they_left_is_not_theirs(site: Site) -> None:
    patient = one_of(site.home, held_out=False)
    site.ask()
    opt_out(site.home, patient)
    site.ask(round=2)
    (part,) = contributions(site.home, patient)
    assert part.releases == 1
    site.ask(round=3)
    assert contributions(site.home, patient) == (part,)


def test_a_study_that_has_ended_is_named_too(site: Site) -> None:
    site.ask()
    withdraw(site.home, cast(CoordinatorApi, SilentApi()), site.study.digest, "Enough.")
    assert frozen(site.home) == []
    (part,) = contributions(site.home, one_of(site.home, held_out=False))
    assert (part.study, part.releases) == (site.study.digest, 1)


def test_every_study_is_named_and_none_that_did_not_have_them(tmp_path: Path) -> None:
    site = enrolled_site(tmp_path)
    patient = one_of(site.home, held_out=False)
    first, second, third = (site.offer(study_of(0.2, name)) for name in ("one", "two", "three"))
    for offer, releases in ((first, 2), (second, 1)):
        reservation = site.approve(offer).reservation
        with closing(site.home.open_ledger()) as ledger:
            for n in range(releases):
                asked = facts(offer.study, n + 1)
                ledger.charge(reservation, "training", f"{offer.study.name} {n}", asked)
    opt_out(site.home, patient)
    site.approve(third)
    found = {part.name: part.releases for part in contributions(site.home, patient)}
    assert found == {"one": 2, "two": 1}


def test_one_whom_no_study_held_contributed_to_nothing(site: Site) -> None:
    site.ask()
    made, _ = erase(site.home, "somebody else")
    assert (made.contributions, made.unknown) == ((), ())
    assert "no release contains them" in made.said
    assert counts(frozen(site.home)[0]) == 40


def test_a_study_of_which_the_members_were_not_kept_is_said_to_be_unknown(site: Site) -> None:
    digest = approval.load(site.home, site.study.digest).snapshot
    path = site.home.directory / "approved" / f"{site.study.digest}.{digest[:16]}.members"
    path.unlink()  # as FLO 0.1 left it
    made, _ = erase(site.home, one_of(site.home, held_out=False))
    assert (made.contributions, made.unknown) == ((), (site.study.digest,))


def test_the_record_is_signed_and_names_no_patient(site: Site) -> None:
    patient = one_of(site.home, held_out=False)
    site.ask()
    made, path = erase(site.home, patient)
    text = path.read_text()
    document = json.loads(text)
    body = canonical.encode(document["body"])
    verify(site.home.open_identity().public, "erasure", body, document["signature"])
    assert document["body"] == made.model_dump(mode="json")
    assert path.name == f"{made.id}.json"
    assert path.stat().st_mode & 0o777 == 0o600
    assert patient not in text
    assert OptOuts.load(site.home).patients[0] not in text
    for promise in ("take part in nothing", "were not retrained", "probability 1 - delta"):
        assert promise in made.said


def test_an_erasure_is_an_opt_out_and_is_entered(site: Site) -> None:
    site.ask()
    made, _ = erase(site.home, one_of(site.home, held_out=False))
    assert counts(frozen(site.home)[0]) == 39
    assert len(OptOuts.load(site.home).patients) == 1
    with closing(site.home.open_audit_log()) as log:
        entered: list[tuple[str, dict[str, Any]]] = [
            (entry.kind, entry.facts) for entry in log.entries()
        ]
    assert entered[-1] == ("erasure", {"id": made.id, "studies": 1})
    assert site.kinds() == ["birth", "reserve", "release"]

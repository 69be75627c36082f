"""An approval is for the code that was installed; other code waits for a yes, free of charge."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import pytest

from flo.clients.approvals.approve import approve
from flo.clients.approvals.decline import withdraw
from flo.clients.connection.coordinator_api import CoordinatorApi
from flo.clients.connection.offers import Offered
from flo.clients.records import approval
from flo.clients.records.approval import Approval, snapshot_path
from flo.errors import FloError, PolicyError, RefusedError, TrustError
from flo.host.environment import code_digest
from flo.keys.identity import verify
from tests.builders import SilentApi, data_file
from tests.clients.approved_site import Site, approved_site
from tests.clients.approving_site import Site as ApprovingSite
from tests.clients.approving_site import enrolled_site
from tests.partners import partner
from tests.privacy.ledgers import study_of

BEFORE = "b" * 64


def installed(code: str | None, patch: pytest.MonkeyPatch) -> None:
    """From now on this is the installed code."""
    for module in ("approvals.approve", "agent.handler"):
        patch.setattr(f"flo.clients.{module}.code_digest", lambda: code)


@pytest.fixture(params=[BEFORE, None], ids=["other code", "FLO 0.1"])
def updated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[Site]:
    """A site that approved a study, answered its first round, and was then updated."""
    with monkeypatch.context() as earlier:
        installed(request.param or BEFORE, earlier)
        for site in approved_site(tmp_path, copied=False):
            site.ask()
            if request.param is None:  # FLO 0.1 entered no code
                installed(None, earlier)
                renew(site)
            earlier.undo()
            site.restart()
            yield site


def offer_of(site: Site) -> Offered:
    kept = approval.load(site.home, site.study.digest)
    return Offered(site.study, kept.study_signature)


def renew(site: Site, api: SilentApi | None = None) -> Approval:
    told = cast(CoordinatorApi, api or SilentApi())
    return approve(site.home, told, offer_of(site), site.home.read_config().population(None))


# -- the next message ------------------------------------------------------------------------------


def test_an_approval_names_the_installed_code_and_is_signed_with_it(tmp_path: Path) -> None:
    for site in approved_site(tmp_path):
        kept = approval.load(site.home, site.study.digest)
        assert kept.read_decision().code == code_digest()
        document, signature = kept.decision.encode(), kept.decision_signature
        verify(site.home.open_identity().public, "approval", document, signature)
        other = document.replace(code_digest().encode(), BEFORE.encode())
        with pytest.raises(TrustError):
            verify(site.home.open_identity().public, "approval", other, signature)
        assert site.ask().header.kind == "release"


@pytest.mark.parametrize("kind", ["join", "release"])
def test_other_code_is_refused_at_the_next_message(updated: Site, kind: str) -> None:
    updated.refuses("not-approved", kind=kind, round=2)


def test_a_round_that_was_answered_is_not_sent_again_by_other_code(updated: Site) -> None:
    updated.refuses("not-approved")


def test_a_study_can_be_ended_by_other_code(updated: Site) -> None:
    charged = updated.charged()
    assert updated.ask(kind="finish", round=0).header.kind == "settled"
    assert updated.charged() == charged


def test_the_refusal_names_both_codes_and_the_way_out(updated: Site) -> None:
    kept = approval.load(updated.home, updated.study.digest)
    with pytest.raises(TrustError) as refusal:
        approval.refuse_other_code(kept, code_digest())
    before = (kept.read_decision().code or "of FLO 0.1")[:12]
    assert before in str(refusal.value)
    assert code_digest()[:12] in str(refusal.value)
    assert f"flo site approve {updated.study.digest[:12]}" in refusal.value.hint


@pytest.mark.parametrize("updated", [BEFORE], indirect=True)
def test_going_back_to_the_code_that_was_approved_needs_no_yes(
    updated: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(BEFORE, monkeypatch)
    updated.restart()
    assert updated.ask(round=2).header.kind == "release"


# -- another yes -----------------------------------------------------------------------------------


def test_a_renewal_charges_nothing_and_the_study_goes_on(updated: Site) -> None:
    before, rows = approval.load(updated.home, updated.study.digest), updated.kinds()
    charged, first = updated.charged(), updated.replies()
    api = SilentApi()
    data_file(updated.home).unlink()  # what was frozen stays frozen
    renewed = renew(updated, api)
    assert renewed == approval.load(updated.home, updated.study.digest)
    assert renewed.read_decision().code == code_digest()
    same = ("study", "population", "snapshot", "reservation")
    assert [getattr(renewed, name) for name in same] == [getattr(before, name) for name in same]
    assert (updated.kinds(), updated.charged(), updated.replies()) == (rows, charged, first)
    assert snapshot_path(updated.home, updated.study.digest, renewed.snapshot).exists()
    assert api.calls[-1] == (
        "approvals",
        {"document": renewed.decision, "signature": renewed.decision_signature},
    )
    assert updated.ask(round=2).header.kind == "release"


def test_after_a_renewal_what_was_sent_is_sent_again_bit_for_bit(updated: Site) -> None:
    renew(updated)
    again = updated.ask()
    assert again.values.tolist() == [1] * 6
    assert updated.releaser.calls == 1


def test_a_renewal_does_not_open_the_reservation_anew(updated: Site) -> None:
    renew(updated)
    reserved = updated.ledger.balance().committed("main", "training")
    for number in (2, 3):
        assert updated.ask(round=number).header.kind == "release"
    assert updated.charged()[0] == pytest.approx(reserved * 3 / 4, rel=1e-12)
    assert updated.ledger.balance().committed("main", "training") == reserved


def test_a_renewal_is_entered_with_the_new_code(updated: Site) -> None:
    renew(updated)
    with closing(updated.home.open_audit_log()) as log:
        entered = [e.facts for e in log.entries() if e.kind == "approved"]
    assert entered[-1]["code"] == code_digest()
    assert entered[-2]["code"] != code_digest()
    assert entered[-1]["reservation"] == entered[-2]["reservation"]


def test_a_renewal_that_was_cut_off_leaves_the_earlier_approval_whole(
    updated: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = approval.load(updated.home, updated.study.digest)

    def power_fails(*_: Any) -> None:
        raise OSError("power cut")

    with monkeypatch.context() as broken:
        broken.setattr(approval, "write_private", power_fails)
        with pytest.raises(OSError, match="power cut"):
            renew(updated)
    assert approval.load(updated.home, updated.study.digest) == before
    updated.refuses("not-approved", round=2)
    assert renew(updated).reservation == before.reservation


def test_what_was_paid_as_if_broken_stays_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = enrolled_site(tmp_path)
    site.allow(consent_to_epsilon_of_one_or_more=True)
    offer = site.offer(study_of(0.3, noise="distributed", masking="on"))
    with monkeypatch.context() as earlier:
        installed(BEFORE, earlier)
        first = site.approve(offer, if_broken=True)
    again = site.approve(offer)
    assert first.read_decision().charged == again.read_decision().charged == "if-broken"
    assert first.epsilon == again.epsilon > 0.3
    assert site.kinds() == ["birth", "reserve"]


# -- and no other ----------------------------------------------------------------------------------


def stays_unapproved(site: Site, error: type[FloError], why: str) -> None:
    before = approval.load(site.home, site.study.digest)
    with pytest.raises(error, match=why):
        renew(site)
    assert approval.load(site.home, site.study.digest) == before


def test_a_withdrawn_study_is_not_renewed(updated: Site) -> None:
    withdraw(updated.home, cast(CoordinatorApi, SilentApi()), updated.study.digest, "Enough.")
    stays_unapproved(updated, RefusedError, "withdrawn")


def test_a_policy_that_forbids_the_study_forbids_a_renewal(updated: Site) -> None:
    ApprovingSite(updated.home, SilentApi()).allow(forbidden_columns=["ward"])
    stays_unapproved(updated, PolicyError, "forbidden_columns")


def test_people_say_yes_to_the_new_code_too(updated: Site) -> None:
    ada = {"name": "Ada", "role": "steward", "public": partner("Ada").public.hex()}
    ApprovingSite(updated.home, SilentApi()).allow(people=[ada])
    stays_unapproved(updated, PolicyError, "0 of 1 required people have approved")


def test_an_expired_study_is_not_renewed(updated: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    class Later(dt.datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Later:
            return cls(2100, 1, 1, tzinfo=tz)

    monkeypatch.setattr("flo.clients.approvals.reserve.datetime", Later)
    stays_unapproved(updated, RefusedError, "expired")

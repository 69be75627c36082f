"""The steward's no, before an approval and after one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, cast

import pytest

from flo.clients.approvals.approve import approve
from flo.clients.approvals.decline import refuse, withdraw
from flo.clients.connection.coordinator_api import CoordinatorApi
from flo.clients.patients.erasure import erase
from flo.clients.patients.opt_outs import opt_out
from flo.clients.records.approval import sweep, withdrawal_path
from flo.clients.records.extract import extract_path
from flo.errors import NetworkError, RefusedError
from flo.keys.identity import Identity, verify
from flo.privacy.report.report import build
from flo.privacy.report.report import verify as verify_report
from tests.builders import SilentApi, make_site, offered, pretend_enrolled, small_study
from tests.clients.approved_site import COORDINATOR, Site, approved_site
from tests.clients.power_cut import PowerCutError, cut_off_at

REASON = "A partner left the consortium."


@pytest.fixture(params=["local", "distributed"])
def site(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Site]:
    yield from approved_site(tmp_path, masking="on", noise=request.param)


def api() -> Any:
    return SilentApi()


class Unreachable(SilentApi):
    def call(self, name: str, body: Any) -> Any:
        raise NetworkError("the coordinator cannot be reached")


def test_the_next_message_of_a_withdrawn_study_is_refused(site: Site) -> None:
    site.ask()
    request = site.request(round=2)
    assert withdraw(site.home, api(), site.study.digest, REASON)
    reply = site.say(request)
    assert (reply.header.kind, reply.header.code, reply.values.size) == (
        "refused",
        "not-approved",
        0,
    )
    assert site.releaser.calls == 1


def test_a_withdrawal_frees_what_was_not_released_and_keeps_what_was(site: Site) -> None:
    site.ask()
    charged = site.charged()
    withdraw(site.home, api(), site.study.digest, REASON)
    balance = site.ledger.balance()
    assert site.charged() == charged
    assert balance.committed("main", "training") == pytest.approx(charged[0])
    assert site.kinds() == ["birth", "reserve", "release", "settle"]
    assert site.replies() == []
    assert list((site.home.directory / "snapshots").iterdir()) == []


def test_the_coordinator_is_told_in_signed_words_and_gets_the_extract(site: Site) -> None:
    site.ask()
    told = api()
    withdraw(site.home, told, site.study.digest, REASON)
    calls = dict(told.calls)
    document = calls["approvals"]["document"].encode()
    verify(site.home.open_identity().public, "approval", document, calls["approvals"]["signature"])
    said = json.loads(document)
    assert (said["decision"], said["study"], said["reason"]) == (
        "withdraw",
        site.study.digest,
        REASON,
    )
    facts = verify_report(build([calls["reports"]["extract"].encode()]))
    assert facts["hospitals"][0]["releases_training"] == 1
    assert facts["hospitals"][0]["settled"]


def test_a_withdrawal_holds_here_when_the_coordinator_cannot_be_reached(site: Site) -> None:
    assert not withdraw(site.home, cast(CoordinatorApi, Unreachable()), site.study.digest, REASON)
    site.refuses("not-approved", keys={}, heads={}, vouchers={})
    assert site.kinds()[-1] == "settle"


def test_a_study_is_withdrawn_once_and_never_approved_again(site: Site) -> None:
    withdraw(site.home, api(), site.study.digest, REASON)
    kept, kinds = withdrawal_path(site.home, site.study.digest).read_bytes(), site.kinds()
    withdraw(site.home, api(), site.study.digest, "Another reason.")  # tells them once more
    assert site.kinds() == kinds
    with closing(site.home.open_audit_log()) as log:
        assert [entry.kind for entry in log.entries()].count("withdrawn") == 1
    offer = offered(site.study, [site.home], COORDINATOR)
    with pytest.raises(RefusedError, match="withdrawn here"):
        approve(site.home, api(), offer, site.home.read_config().population(None))
    assert withdrawal_path(site.home, site.study.digest).read_bytes() == kept


def test_a_withdrawal_that_was_cut_off_is_carried_through_by_asking_again(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise SystemExit

    with monkeypatch.context() as cut:
        cut.setattr("flo.clients.approvals.decline.settle", killed)
        with pytest.raises(SystemExit):
            withdraw(site.home, api(), site.study.digest, REASON)
    site.refuses("not-approved", keys={}, heads={}, vouchers={})
    assert withdraw(site.home, api(), site.study.digest, REASON)
    assert site.kinds()[-1] == "settle"


def test_a_study_that_has_ended_cannot_be_withdrawn(site: Site) -> None:
    site.ask(kind="finish", round=0)
    with pytest.raises(RefusedError, match="has already ended here"):
        withdraw(site.home, api(), site.study.digest, REASON)
    assert not withdrawal_path(site.home, site.study.digest).exists()


def test_an_approved_study_is_withdrawn_not_refused(site: Site) -> None:
    with pytest.raises(RefusedError, match="approved here") as refused:
        refuse(site.home, api(), site.study.digest, REASON)
    assert "withdraw" in (refused.value.hint or "")


def test_a_study_that_was_never_approved_cannot_be_withdrawn(tmp_path: Path) -> None:
    home = make_site(tmp_path)
    pretend_enrolled(home, Identity.new())
    with pytest.raises(RefusedError, match="not approved here"):
        withdraw(home, api(), "a" * 64, REASON)
    assert not withdrawal_path(home, "a" * 64).exists()


def test_a_refusal_spends_nothing_and_may_be_followed_by_an_approval(tmp_path: Path) -> None:
    coordinator, home, told = Identity.new(), make_site(tmp_path), api()
    pretend_enrolled(home, coordinator)
    offer = offered(small_study(), [home], coordinator)
    refuse(home, told, offer.study.digest, REASON)
    said = json.loads(told.calls[0][1]["document"])
    assert (said["decision"], said["reason"]) == ("refuse", REASON)
    approve(home, told, offer, home.read_config().population(None))
    assert [name for name, _ in told.calls].count("approvals") == 2


@pytest.mark.parametrize("step", range(1, 24))
def test_a_withdrawal_that_was_cut_off_anywhere_is_carried_through_by_asking_again(
    site: Site, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as power:
        cut_off_at(step, power)
        with suppress(PowerCutError):
            withdraw(site.home, api(), site.study.digest, REASON)
    last_seen = api()
    assert withdraw(site.home, last_seen, site.study.digest, REASON)
    assert [name for name, _ in cast(Any, last_seen).calls] == ["approvals", "reports"]
    assert list((site.home.directory / "snapshots").iterdir()) == []
    assert site.kinds()[-1] == "settle"
    assert extract_path(site.home, site.study.digest).exists()


def test_a_site_that_follows_another_coordinator_can_still_clean_up_after_the_first(
    site: Site,
) -> None:
    """Its old approvals answer nobody, and neither lock the steward out nor keep patients."""
    pretend_enrolled(site.home, Identity.new())
    site.refuses("not-approved", keys={}, heads={}, vouchers={})
    assert opt_out(site.home, "north0001") == [site.study.digest]
    erase(site.home, "north0001")
    with site.home.snapshot_lock(), closing(site.home.open_ledger()) as ledger:
        sweep(site.home, ledger)
    assert not withdraw(site.home, api(), site.study.digest, REASON)  # the first is not to be told
    assert site.kinds()[-1] == "settle"
    assert list((site.home.directory / "snapshots").iterdir()) == []

"""One way to a yes for command line and desk: persons first, and a lost announcement is told."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, cast

import pytest

from flo.clients.approvals.decide import ApprovalOutcome, decide
from flo.clients.connection.coordinator_api import CoordinatorApi
from flo.clients.records.approval import approved_digests
from flo.errors import FloError, MessageError, NetworkError, RefusedError, TrustError
from flo.keys.identity import Identity
from tests.builders import SilentApi
from tests.clients.approving_site import Site, enrolled_site

AWAY = NetworkError("the coordinator does not answer")


class Deaf(SilentApi):
    """Answers all calls but ``lost``, which ends in ``why``."""

    def __init__(self, lost: str, why: FloError = AWAY) -> None:
        super().__init__()
        self._lost, self._why = lost, why

    def call(self, name: str, body: Any) -> Any:
        if name == self._lost:
            raise self._why
        return super().call(name, body)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return enrolled_site(tmp_path)


def decided(site: Site, api: SilentApi, person: Identity | None = None) -> ApprovalOutcome:
    def connect() -> AbstractContextManager[CoordinatorApi]:
        return nullcontext(cast(CoordinatorApi, api))

    patients = site.home.read_config().population(None)
    return decide(site.home, connect, site.offer(), patients, person=person)


def test_a_yes_is_approved_and_announced(site: Site) -> None:
    assert decided(site, site.api) == ApprovalOutcome((), 1, approved=True)
    assert [name for name, _ in site.api.calls][-1] == "approvals"


def test_an_approval_that_cannot_be_announced_is_said_and_repeated_at_no_charge(
    site: Site,
) -> None:
    for why in (AWAY, RefusedError("another rule"), TrustError("revoked"), MessageError("what?")):
        done = decided(site, Deaf("approvals", why))
        assert done.approved
        assert "the budget is reserved, but the coordinator was not notified" in str(
            done.unnotified
        )
        assert str(why) in str(done.unnotified)
    before = site.kinds()
    assert decided(site, site.api) == ApprovalOutcome((), 1, approved=True)
    assert site.kinds() == before


def test_a_connection_that_is_lost_before_the_signature_is_no_approval(site: Site) -> None:
    with pytest.raises(NetworkError):
        decided(site, Deaf("heads"))
    assert (site.kinds(), site.approved()) == (["birth"], [])


def test_a_lost_connection_does_not_pass_an_approval_of_other_code_for_a_new_one(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    decided(site, site.api)
    monkeypatch.setattr("flo.clients.approvals.approve.code_digest", lambda: "b" * 64)

    def away() -> AbstractContextManager[CoordinatorApi]:
        raise AWAY

    patients = site.home.read_config().population(None)
    with pytest.raises(NetworkError):
        decide(site.home, away, site.offer(), patients)


def test_the_coordinator_is_not_connected_to_before_enough_persons_said_yes(site: Site) -> None:
    ada, ben = Identity.new(), Identity.new()
    people = [
        {"name": name, "role": "steward", "public": key.public.hex()}
        for name, key in (("Ada", ada), ("Ben", ben))
    ]
    site.allow(approvers=2, people=people)
    assert decided(site, Deaf("heads"), ada) == ApprovalOutcome(("Ada",), 2, approved=False)
    assert approved_digests(site.home) == []
    assert decided(site, site.api, ben) == ApprovalOutcome(("Ada", "Ben"), 2, approved=True)

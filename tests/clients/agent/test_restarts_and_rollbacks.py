"""After a start: keys grow older only, and a ledger that was rolled back releases nothing."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import pytest

from flo.clients.agent.handler import Handler
from flo.clients.agent.run_keys import RunKeys
from flo.clients.connection.coordinator_api import CoordinatorApi
from flo.clients.connection.cosigning import confirm_head
from flo.errors import MessageError, TrustError
from flo.keys.claims import HeadAttestation, LedgerHead, RunKey
from flo.keys.identity import Identity
from flo.protocol.messages import decode_request
from tests.builders import SilentApi
from tests.clients.approved_site import FOUR, Site, approved_site
from tests.partners import join, partner, run_key, signed

NOBODYS = dict.fromkeys(FOUR)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    yield from approved_site(tmp_path, partners=FOUR, noise="distributed", masking="on")


def souths(site: Site, epoch: int, *, other: bool = False) -> dict[str, RunKey]:
    """South's run key of an epoch; ``other``: made a second time."""
    _, key = run_key(partner("south"), site.study.digest, epoch=epoch)
    if other:
        again = Identity.new().fingerprint  # any 64 digits are an X25519 key
        key = RunKey.signed(partner("south"), site.study.digest, "run-1", epoch, again)
    return {"south": key}


def after_a_real_restart(site: Site) -> None:
    """Everything in memory is gone; the ledger is read from its file again."""
    site.ledger.close()
    site.ledger = site.home.open_ledger()
    site.restart()


# -- partners' epochs ------------------------------------------------------------------------------


def nothing_happens(site: Site) -> None:
    pass


@pytest.mark.parametrize("between", [nothing_happens, after_a_real_restart])
@pytest.mark.parametrize("seen_in", ["a release", "a call to join"])
@pytest.mark.parametrize(("epoch", "other"), [(1, False), (6, True), (7, True)])
def test_a_partners_key_of_an_epoch_that_was_passed_is_refused_for_good(
    site: Site, between: Callable[[Site], None], seen_in: str, epoch: int, other: bool
) -> None:
    if seen_in == "a release":
        assert site.ask(round=3, keys=souths(site, 7)).header.kind == "release"
    else:
        assert join(site.handler, site.study, keys=souths(site, 7)) is not None
    between(site)
    site.refuses("malformed", keys=souths(site, epoch, other=other))
    assert site.ask(keys=souths(site, 7)).header.kind == "release"
    assert site.ask(round=2, keys=souths(site, 8)).header.kind == "release"


def test_each_run_has_epochs_of_its_own(site: Site) -> None:
    assert join(site.handler, site.study, keys=souths(site, 7)) is not None
    assert site.ask(run="run-2").header.kind == "release"


def test_a_call_to_join_with_a_partners_passed_key_is_refused(site: Site) -> None:
    join(site.handler, site.study, keys=souths(site, 7))
    assert join(site.handler, site.study, keys=souths(site, 6)) is None
    assert site.ledger.witnessed() == {}


# -- our own epochs --------------------------------------------------------------------------------


def started_at(site: Site, seconds: float) -> Handler:
    """The agent starts, and its clock says this."""
    keys = RunKeys(site.home.open_identity(), lambda: seconds)
    return Handler(site.home, site.ledger, site.releaser, keys, lambda _: None)


@pytest.mark.parametrize("later", [0.0, 1000.0, 999.9999, 1000.001, 5e9])
def test_a_new_key_of_ours_is_above_every_one_that_is_relayed_whatever_the_clock(
    site: Site, later: float
) -> None:
    old = join(started_at(site, 1000.0), site.study)
    assert old is not None
    assert old.epoch == 1_000_000
    new = join(started_at(site, later), site.study, keys={"north": old})
    assert new is not None
    assert new.epoch > old.epoch
    assert new.key != old.key


def test_a_coordinator_that_hides_our_old_key_makes_a_key_that_partners_refuse(site: Site) -> None:
    old = join(started_at(site, 1000.0), site.study)
    hidden = join(started_at(site, 1.0), site.study)
    assert old is not None
    assert hidden is not None
    with closing(site.home.open_ledger()) as anyone:
        anyone.see_run_key(site.study.digest, "run-1", "somebody", old)
        with pytest.raises(TrustError, match="was seen before"):
            anyone.see_run_key(site.study.digest, "run-1", "somebody", hidden)


def test_a_process_that_went_back_in_time_makes_a_later_key(site: Site) -> None:
    earlier, later = started_at(site, 1000.0), started_at(site, 2000.0)
    first, second = join(earlier, site.study), join(later, site.study)
    assert first is not None
    assert second is not None
    third = join(earlier, site.study, keys={"north": second})
    assert third is not None
    assert third.epoch == second.epoch + 1
    assert join(earlier, site.study, keys={"north": second}) == third
    assert join(earlier, site.study) == third


def test_a_key_of_ours_that_others_know_under_another_epoch_is_no_reason_for_a_new_one(
    site: Site,
) -> None:
    handler = started_at(site, 1000.0)
    key = join(handler, site.study)
    assert key is not None
    assert join(handler, site.study, keys={"north": key}) == key


# -- what we vouch for -----------------------------------------------------------------------------


def test_a_site_vouches_for_the_newest_head_that_it_saw_of_each_partner_and_no_other(
    site: Site,
) -> None:
    site.ask(heads={"south": signed(partner("south"), 7), "west": signed(partner("west"), 9)})
    site.ask(round=2, heads={"south": signed(partner("south"), 8, "d" * 64)})
    site.ask(round=3, heads={"south": signed(partner("south"), 5)})
    keys = {name: run_key(partner(name), site.study.digest)[1] for name in ("south", "west")}
    vouchers = site.ask(kind="join", keys={**keys, "east": None}).header.vouchers
    assert set(vouchers) == {"south", "west"}
    for name, (sequence, row) in {"south": (8, "d" * 64), "west": (9, "c" * 64)}.items():
        given = vouchers[name]
        given.check(site.study.digest, "run-1", site.home.open_identity().fingerprint)
        assert given.head is not None
        assert (given.hospital, given.key) == (partner(name).fingerprint, keys[name].key)
        assert (given.head.sequence, given.head.hash) == (sequence, row)


def test_a_site_that_saw_nothing_of_a_partner_says_so(site: Site) -> None:
    keys = souths(site, 1)
    reply = site.ask(kind="join", keys={**keys, "east": None, "west": None}, heads=NOBODYS)
    given = reply.header.vouchers["south"]
    assert given.head is None
    given.check(site.study.digest, "run-1", site.home.open_identity().fingerprint)


# -- rollback --------------------------------------------------------------------------------------


def rolled_back(site: Site, copy: Path) -> None:
    """Somebody copies an old ledger over the new one and starts the agent."""
    site.ledger.close()
    site.answered.clear()
    path = site.home.directory / "ledger.sqlite"
    for rest in ("-wal", "-shm"):
        path.with_name(path.name + rest).unlink(missing_ok=True)
    shutil.copy(copy, path)
    site.ledger = site.home.open_ledger()
    site.restart()


def copied(site: Site, copy: Path) -> None:
    site.ledger.close()
    shutil.copy(site.home.directory / "ledger.sqlite", copy)
    site.ledger = site.home.open_ledger()
    site.restart()


def test_a_partner_stops_a_ledger_that_was_rolled_back_though_the_coordinator_shows_old_heads(
    site: Site, tmp_path: Path
) -> None:
    site.ask()
    copied(site, tmp_path / "old.sqlite")
    newest = site.ask(round=2).header.head  # which partners saw
    rolled_back(site, tmp_path / "old.sqlite")
    assert site.kinds() == ["birth", "reserve", "release"]
    request = decode_request(site.request(round=2)).header
    assert request.heads["north"] == site.ledger.head()  # the coordinator shows an old one
    honest = HeadAttestation.given(
        partner("west"), site.study.digest, "run-1", request.keys["north"], newest
    )
    for round_ in (2, 3):
        site.refuses("unconfirmed", round=round_, vouchers={"north": None})
        site.refuses("rolled-back", round=round_, vouchers={"north": honest})
    site.refuses("rolled-back", round=2, heads={"north": newest})


def test_a_ledger_that_was_restored_to_its_newest_row_goes_on(site: Site, tmp_path: Path) -> None:
    newest = site.ask().header.head
    copied(site, tmp_path / "newest.sqlite")
    rolled_back(site, tmp_path / "newest.sqlite")
    key = join(site.handler, site.study)
    assert key is not None
    voucher = HeadAttestation.given(partner("west"), site.study.digest, "run-1", key, newest)
    assert site.ask(round=2, vouchers={"north": voucher}).header.kind == "release"


def test_a_voucher_from_before_the_rollback_does_not_count(site: Site, tmp_path: Path) -> None:
    copied(site, tmp_path / "old.sqlite")
    old = decode_request(site.request()).header.vouchers["north"]
    site.ask()
    rolled_back(site, tmp_path / "old.sqlite")
    site.refuses("unconfirmed", vouchers={"north": old})


class Shows(SilentApi):
    """A coordinator that says this was our ledger's head."""

    def __init__(self, head: LedgerHead) -> None:
        super().__init__()
        self.head = head

    def call(self, name: str, body: Any) -> Any:
        super().call(name, body)
        return {"head": self.head.model_dump(mode="json")}


def test_a_head_that_we_did_not_sign_says_nothing_about_this_ledger(site: Site) -> None:
    """Or a lying coordinator could make a steward "restore" an old ledger."""
    ours = site.ledger.head()
    for head, error in (
        (signed(Identity.new(), 99), MessageError),
        (ours.model_copy(update={"sequence": 99}), MessageError),
        (signed(site.home.open_identity(), 99), TrustError),
    ):
        with pytest.raises(error):
            confirm_head(cast(CoordinatorApi, Shows(head)), site.ledger)
    confirm_head(cast(CoordinatorApi, Shows(ours)), site.ledger)

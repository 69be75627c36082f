"""An honest round: one charge, one signed head, and the same bits however often it is asked.

``RELEASES`` of the small study: 3 steps + 1 retry for training, 1 for evaluation.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from flo.errors import BudgetError
from flo.protocol.messages import decode_reply, decode_request
from tests.clients.approved_site import PARTNERS, Site, approved_site
from tests.partners import signed


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    yield from approved_site(tmp_path)


def power_fails(*_: object) -> None:
    raise OSError("power cut")


def test_a_release_is_charged_once_and_carries_the_signed_head(site: Site) -> None:
    reply = site.ask()
    assert reply.header.kind == "release"
    assert reply.header.code is None
    assert reply.values.tolist() == [1] * 6
    assert site.kinds() == ["birth", "reserve", "release"]
    assert reply.header.head == site.ledger.head()
    assert site.charged()[0] > 0
    assert site.charged()[1] == 0


def test_training_and_evaluation_are_charged_apart(site: Site) -> None:
    site.ask(purpose="evaluation")
    assert site.charged()[0] == 0
    assert site.charged()[1] > 0


def test_what_is_charged_never_exceeds_what_was_reserved(site: Site) -> None:
    reserved = site.ledger.balance().committed("main", "training")
    for number in (1, 2, 3, 3, 2):
        site.ask(round=number)
    assert site.charged()[0] == pytest.approx(reserved * 3 / 4, rel=1e-12)  # 3 + 1 were reserved
    assert site.ledger.balance().committed("main", "training") == reserved


def test_a_replay_gives_identical_bits_and_adds_nothing(site: Site) -> None:
    first = site.ask()
    before = site.charged(), site.kinds()
    again = site.ask()
    np.testing.assert_array_equal(again.values, first.values)
    assert (site.charged(), site.kinds()) == before
    assert site.releaser.calls == 1


def test_a_replay_after_a_restart_gives_identical_bits(site: Site) -> None:
    request = site.request()
    first = site.say(request)
    site.restart()
    np.testing.assert_array_equal(site.say(request).values, first.values)
    assert site.releaser.calls == 1


def test_a_restarted_site_says_its_new_key_where_a_request_names_the_old_one(site: Site) -> None:
    site.ask()
    request = site.request(round=2)
    site.restart()
    reply = site.say(request)
    assert (reply.header.kind, reply.header.code, reply.values.size) == ("refused", "stale-key", 0)
    assert reply.header.key is not None
    assert reply.header.key.epoch > decode_request(request).header.keys["north"].epoch
    assert site.releaser.calls == 1
    assert site.ask(round=2).header.kind == "release"


def test_a_new_attempt_of_the_same_round_repeats_the_bits_at_charge_zero(site: Site) -> None:
    first = site.ask()
    before = site.charged()
    for attempt, cohort in ((2, ("north", "south")), (9, ("north", "west"))):
        again = site.ask(attempt=attempt, cohort=cohort)
        assert again.header.kind == "release"
        np.testing.assert_array_equal(again.values, first.values)
    assert site.charged() == before
    assert site.kinds() == ["birth", "reserve", "release", "repeat", "repeat"]
    assert site.releaser.calls == 1


def test_the_reply_is_encrypted_on_the_disk(site: Site) -> None:
    values = site.ask().values
    (kept,) = site.replies()
    assert values.astype("<i8").tobytes() not in kept.read_bytes()
    assert values[:1].astype("<i8").tobytes() not in kept.read_bytes()
    assert kept.stat().st_mode & 0o777 == 0o600


def test_the_reply_is_on_the_disk_before_the_ledger_row_and_nothing_leaves_without_the_row(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[Path] = []

    def power_cut(*_: object) -> None:
        kept.extend(site.replies())
        power_fails()

    monkeypatch.setattr(site.ledger, "charge", power_cut)
    reply = site.ask()
    assert (reply.header.kind, reply.header.code) == ("refused", "not-ready")
    assert reply.values.size == 0
    assert len(kept) == 1
    assert site.kinds() == ["birth", "reserve"]
    assert site.charged() == (0, 0)


def test_a_reply_without_a_row_is_burnt_and_the_next_one_is_new(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(site.ledger, "charge", power_fails)
        reply = site.ask()
        assert (reply.header.code, reply.values.size) == ("not-ready", 0)
    assert site.ask().values.tolist() == [2] * 6
    assert site.kinds() == ["birth", "reserve", "release"]


def test_a_reply_that_cannot_be_kept_never_leaves_and_costs_nothing(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr("flo.clients.records.reply_store.ReplyStore.store", power_fails)
        reply = site.ask()
        assert (reply.header.code, reply.values.size) == ("not-ready", 0)
    assert site.kinds() == ["birth", "reserve"]
    assert site.ask().values.tolist() == [2] * 6


def test_a_budget_that_another_process_took_meanwhile_is_over(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def taken(*_: object) -> None:
        raise BudgetError("used up")

    monkeypatch.setattr(site.ledger, "charge", taken)
    reply = site.ask()
    assert (reply.header.code, reply.values.size) == ("over-budget", 0)


def test_a_child_that_is_not_ready_does_not_join_so_that_no_attempt_waits_for_it(
    site: Site,
) -> None:
    asked = site.request(kind="join")
    site.releaser.loads = False
    answer = site.handler.answer(asked)
    assert answer is not None
    reply = decode_reply(answer)
    assert (reply.header.kind, reply.header.code, reply.header.key) == (
        "refused",
        "not-ready",
        None,
    )
    site.releaser.loads = True
    assert site.say(asked).header.kind == "joined"


def test_a_child_that_is_not_ready_costs_nothing_and_may_be_asked_again(site: Site) -> None:
    site.releaser.ready = False
    site.refuses("not-ready")
    site.releaser.ready = True
    assert site.ask().header.kind == "release"


def test_the_end_of_a_run_settles_forgets_and_tells(site: Site) -> None:
    site.ask()
    reply = site.ask(kind="finish", round=0)
    assert (reply.header.kind, reply.values.size) == ("settled", 0)
    assert site.settled == [site.study.digest]
    assert site.replies() == []
    assert site.kinds()[-1] == "settle"
    charged = site.charged()
    assert site.ledger.balance().committed("main", "training") == pytest.approx(charged[0])


def test_the_end_of_a_run_deletes_the_frozen_patients(site: Site) -> None:
    (snapshot,) = (site.home.directory / "snapshots").iterdir()
    assert snapshot.is_file()
    site.ask(kind="finish", round=0)
    assert list(snapshot.parent.iterdir()) == []


def test_ending_a_run_twice_settles_once(site: Site) -> None:
    site.ask(kind="finish", round=0)
    assert site.ask(kind="finish", round=0).header.kind == "settled"
    assert site.kinds() == ["birth", "reserve", "settle"]


def test_partners_heads_are_witnessed_and_the_highest_is_kept(site: Site) -> None:
    heads = {"south": signed(PARTNERS["south"], 7)}
    assert site.ask(heads=heads).header.kind == "release"
    assert site.ledger.witnessed()[PARTNERS["south"].fingerprint] == heads["south"]
    lower = {"south": signed(PARTNERS["south"], 6, "d" * 64)}
    site.refuses("stale-key", round=2, heads=lower)
    assert site.ledger.witnessed()[PARTNERS["south"].fingerprint] == heads["south"]


def test_our_own_head_relayed_back_is_confirmed(site: Site) -> None:
    old = site.ask().header.head
    new = site.ask(round=2).header.head
    site.refuses("stale-key", round=3, heads={"north": old})
    assert site.ask(round=3, heads={"north": new}).header.kind == "release"

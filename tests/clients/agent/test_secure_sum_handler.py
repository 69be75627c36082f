"""A site in a secure sum: noise shares serve once, masked bits are kept, the row comes first.

``RELEASES`` of the small study: 3 steps + 1 retry for training, 1 for evaluation, 1 for statistics.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flo.arrays import Integers
from flo.clients.records.reply_store import ReplyStore
from flo.documents import canonical
from flo.privacy.accounting.plan import Plan, ring_of
from flo.protocol.messages import Reply, Values, decode_request, values_bytes
from tests.clients.approved_site import FOUR, Site, approved_site
from tests.partners import unmasked

RELEASES = {"training": 4, "evaluation": 1, "statistics": 1}


@pytest.fixture
def shares(tmp_path: Path) -> Iterator[Site]:
    """A site whose study divides the noise among four hospitals, of which one may be missing."""
    yield from approved_site(tmp_path, partners=FOUR, noise="distributed", masking="on")


@pytest.fixture
def local(tmp_path: Path) -> Iterator[Site]:
    """A site that adds all of the noise itself, and masks."""
    yield from approved_site(tmp_path, noise="local", masking="on")


@pytest.fixture(params=["shares", "local"])
def site(request: pytest.FixtureRequest) -> Site:
    found: Site = request.getfixturevalue(request.param)
    return found


def asked(site: Site, **changes: Any) -> tuple[Reply, Integers]:
    """The answer to a good request, and what is under its masks."""
    request = site.request(**changes)
    reply = site.say(request)
    assert reply.header.kind == "release"
    return reply, unmasked(decode_request(request).header, reply.values)


def rows(site: Site) -> list[tuple[str, str, str]]:
    """Kind, digest of what was charged and of what left, of each release and repeat."""
    return [
        (row.public["kind"], row.public["reply"], row.private["sent"])
        for row in site.ledger.rows()
        if row.private and "reply" in row.public
    ]


def bytes_of(values: Values) -> bytes:
    return bytes(values_bytes(values))


def kept(site: Site) -> list[bytes]:
    """Everything in the folder of replies, decrypted."""
    replies = ReplyStore(site.home.directory / "replies", site.home.open_keystore())
    named = {digest for _, *both in rows(site) for digest in both}
    assert len(site.replies()) == len(named), "a kept file that no row names"
    found = [replies.load(site.study.digest, digest, 32, 6) for digest in named]
    return [bytes_of(values) for values in found if values is not None]


# -- noise shares ----------------------------------------------------------------------------------


def test_each_attempt_draws_its_share_anew_and_each_is_charged(shares: Site) -> None:
    (_, first), one = asked(shares), shares.charged()[0]
    (_, second) = asked(shares, attempt=2)
    (_, third) = asked(shares, attempt=3, cohort=("east", "north", "west"))
    assert [share.tolist() for share in (first, second, third)] == [[1] * 6, [2] * 6, [3] * 6]
    assert shares.charged()[0] == pytest.approx(3 * one)
    assert shares.kinds() == ["birth", "reserve", "release", "release", "release"]


def test_a_share_is_never_kept_unmasked(shares: Site) -> None:
    found = [asked(shares), asked(shares, attempt=2), asked(shares, purpose="evaluation")]
    files = kept(shares)
    assert sorted(files) == sorted(bytes_of(reply.values) for reply, _ in found)
    for _, share in found:
        for width in ("<i8", "<u4"):
            assert not any(share.astype(width).tobytes() in data for data in files)
        digest = canonical.digest(bytes_of(share))
        assert all(digest not in row for row in rows(shares))
    assert all(charged == sent for _, charged, sent in rows(shares))


def test_with_the_whole_noise_of_its_own_a_site_keeps_the_noisy_numbers_for_a_retry(
    local: Site,
) -> None:
    reply, noisy = asked(local)
    assert sorted(kept(local)) == sorted([bytes_of(reply.values), bytes_of(noisy)])


# -- the same request ------------------------------------------------------------------------------


@pytest.mark.parametrize("restarts", [0, 1, 3])
def test_the_same_request_gets_identical_bits_even_under_new_run_keys(
    site: Site, restarts: int
) -> None:
    request = site.request()
    first = site.say(request)
    before = site.charged(), site.kinds(), site.replies()
    for _ in range(restarts):
        site.restart()
    again = site.say(request)
    assert again.values.tobytes() == first.values.tobytes()
    assert again.header == first.header
    assert (site.charged(), site.kinds(), site.replies()) == before
    assert site.releaser.calls == 1


def test_an_attempt_under_the_old_run_key_that_was_not_answered_never_is(site: Site) -> None:
    site.ask()
    request = site.request(attempt=2)
    site.restart()
    before = site.charged(), site.kinds(), site.replies()
    reply = site.say(request)
    assert (reply.header.code, reply.values.size) == ("stale-key", 0)
    assert (site.charged(), site.kinds(), site.replies()) == before
    assert site.releaser.calls == 1


# -- local noise under masks -----------------------------------------------------------------------


def test_a_retry_masks_the_same_noisy_numbers_anew_at_charge_zero(local: Site) -> None:
    first, noisy = asked(local)
    charged = local.charged()
    sent = [first.values.tobytes()]
    for attempt, cohort in ((2, ("north", "south")), (3, ("north", "west")), (4, None)):
        again, same = asked(local, attempt=attempt, **({"cohort": cohort} if cohort else {}))
        np.testing.assert_array_equal(same, noisy)
        sent.append(again.values.tobytes())
    assert len(set(sent)) == 4
    assert local.charged() == charged
    assert local.releaser.calls == 1
    assert local.kinds() == ["birth", "reserve", "release", "repeat", "repeat", "repeat"]
    assert len({charged for _, charged, _ in rows(local)}) == 1
    assert [row[2] for row in rows(local)] == [canonical.digest(data) for data in sent]


def test_a_retry_after_a_restart_masks_the_same_noisy_numbers_under_the_new_key(
    local: Site,
) -> None:
    first, noisy = asked(local)
    local.restart()
    again, same = asked(local, attempt=2)
    np.testing.assert_array_equal(same, noisy)
    assert again.values.tobytes() != first.values.tobytes()
    assert local.kinds()[-1] == "repeat"


# -- write ahead -----------------------------------------------------------------------------------


def test_the_masked_reply_is_flushed_before_its_row_and_the_row_before_the_answer(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []

    def noted(place: Any, name: str, what: str) -> None:
        inner = getattr(place, name)

        def note(*words: Any, **named: Any) -> Any:
            told.append(what)
            return inner(*words, **named)

        monkeypatch.setattr(place, name, note)

    noted(site.ledger, "charge", "row")
    noted(site.ledger, "repeat", "row")
    noted(site.handler, "_reply", "answer")
    monkeypatch.setattr("os.fsync", lambda *_: told.append("flushed"))
    for attempt in (1, 2):
        request = site.request(attempt=attempt)
        told.clear()
        before = len(site.replies())
        assert site.say(request).header.kind == "release"
        assert "flushed" in told[: told.index("row")]
        assert [what for what in told if what != "flushed"] == ["row", "answer"]
        assert len(site.replies()) > before


@pytest.mark.parametrize("attempt", [1, 2])
def test_nothing_leaves_without_its_row(
    site: Site, attempt: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if attempt == 2:
        site.ask()
    before = site.charged(), site.kinds(), len(site.replies())

    def power_fails(*_: object) -> None:
        assert len(site.replies()) > before[2]
        raise OSError("power cut")

    with monkeypatch.context() as broken:
        broken.setattr(site.ledger, "charge", power_fails)
        broken.setattr(site.ledger, "repeat", power_fails)
        reply = site.ask(attempt=attempt)
    assert (reply.header.code, reply.values.size) == ("not-ready", 0)
    assert (site.charged(), site.kinds()) == before[:2]
    assert site.ask(attempt=attempt).header.kind == "release"


# -- limits ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("purpose", ["training", "evaluation", "statistics"])
def test_an_attempt_beyond_steps_and_allowance_is_over_budget(tmp_path: Path, purpose: str) -> None:
    survey = purpose == "statistics"
    for site in approved_site(tmp_path, survey=survey, noise="distributed", masking="on"):
        most = RELEASES[purpose]
        assert Plan.of(site.study).purpose(purpose).releases == most
        for attempt in range(1, most + 1):
            assert site.ask(purpose=purpose, attempt=attempt).header.kind == "release"
        site.refuses("over-budget", purpose=purpose, attempt=most + 1)
        site.refuses("conflict", purpose=purpose, run="run-2")
        assert site.ask(purpose=purpose, attempt=most).header.kind == "release"  # as it was


@pytest.mark.parametrize(
    ("name", "members", "floor"),
    [
        ("shares", 2, 3),
        ("shares", 1, 3),
        ("local", 1, 2),
    ],
)
def test_a_cohort_below_the_studys_floor_is_refused(
    name: str, members: int, floor: int, request: pytest.FixtureRequest
) -> None:
    site: Site = request.getfixturevalue(name)
    others = sorted(hospital.id for hospital in site.study.hospitals if hospital.id != "north")
    assert site.study.cohort_floor == floor
    site.refuses("malformed", cohort=tuple(sorted(["north", *others[: members - 1]])))
    enough = tuple(sorted(["north", *others[: floor - 1]]))
    assert site.ask(cohort=enough).header.kind == "release"


def test_masked_numbers_travel_in_the_ring_that_the_plan_names(site: Site) -> None:
    for purpose in ("training", "evaluation"):
        reply = site.ask(purpose=purpose)
        part = Plan.of(site.study).purpose(purpose)
        assert reply.header.ring == ring_of(site.study, part, len(site.study.hospitals))
        assert reply.values.dtype == np.dtype(f"u{reply.header.ring // 8}")


def test_without_masking_the_grid_itself_travels(tmp_path: Path) -> None:
    for site in approved_site(tmp_path, masking="off"):
        reply = site.ask()
        assert reply.header.ring == 0
        assert reply.values.dtype == np.int64
        assert reply.values.tolist() == [1] * 6
        assert rows(site)[0][1] == rows(site)[0][2]

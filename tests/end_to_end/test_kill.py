"""kill -9 at random instants of a site's work: what was sent is in the ledger, to the last reply.

``FLO_KILL_POINTS=500 pytest tests/end_to_end/test_kill.py`` kills more often.
"""

from __future__ import annotations

import os
import random
import time
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pytest

from flo.clients.agent.handler import Handler
from flo.clients.agent.request_facts import request_key
from flo.clients.approvals.approve import approve
from flo.clients.approvals.fingerprints import AddressBook
from flo.clients.connection.coordinator_api import CoordinatorApi
from flo.clients.home.site_home import SiteHome
from flo.clients.records.approval import load
from flo.clients.records.reply_store import ReplyStore
from flo.clients.records.settlement import settle
from flo.keys.identity import Identity
from flo.protocol.messages import Reply, ReplyHeader, Values, decode_reply, decode_request
from flo.storage.files import write_private
from tests.builders import SilentApi, make_site, offered, pretend_enrolled, small_study
from tests.builders import study_document as document_of
from tests.end_to_end.dealing_partners import surviving_request
from tests.end_to_end.killed_site import COHORT, OPENING, REQUEST, FreshReleaser, request
from tests.forked import Forked
from tests.partners import claims, handler_of, partner


class NoReleaser:
    """After a kill nothing may be computed anew for a request that has a row."""

    def warm_up(self, *_: Any) -> None:
        """Ready."""

    def unload(self, study: str) -> None:
        """Nothing is kept."""

    def release(self, *_: Any) -> npt.NDArray[np.int64]:
        raise AssertionError("computed twice")


@dataclass
class Tally:
    kills: int = 0
    sent: int = 0
    under_counted: int = 0
    burnt: int = 0  # a row whose reply was never sent
    orphans: int = 0  # a reply that was kept, and no row: never sent, never charged
    torn: int = 0  # killed in the middle of sending


@dataclass
class Site:
    home: SiteHome
    study: str
    files: tuple[Path, Path]  # the study, and the folder with the partners' keys
    sent_path: Path
    files_a_release: int  # kept: with local noise the noisy vector too, to be masked anew
    checked: int = 0
    asked: dict[int, bytes] = field(default_factory=dict)
    dealt: dict[str, int] = field(default_factory=dict)  # the site's own dealt keys -> round
    opened: dict[int, list[ReplyHeader]] = field(default_factory=dict)
    expected: dict[int, Values] = field(default_factory=dict)
    tally: Tally = field(default_factory=Tally)

    def run_and_kill(self, chosen: random.Random) -> None:
        """Let the site start, make a release or two, and kill it within the next one."""
        first = str(len(self.expected) + 1)
        files = map(str, (self.home.directory, *self.files, self.sent_path))
        with Forked("tests.end_to_end.killed_site", *files, first) as child:
            assert child.stdout is not None
            began = [_announced(child.stdout.fileno()) for _ in range(2)]
            until = time.perf_counter() + chosen.uniform(0, 1.1) * (began[1] - began[0])
            while time.perf_counter() < until:
                pass
            child.kill()
        self.tally.kills += 1

    def check(self) -> None:
        """Open the ledger as after a restart, and compare it with everything that was sent."""
        sent = self._read_sent()
        with closing(self.home.open_ledger()) as ledger:  # checks the whole chain
            handler = handler_of(self.home, ledger, NoReleaser())
            for round_, reply in sent:
                asked = decode_request(self.asked[round_])
                found = ledger.find_release(request_key(asked.header))
                self.tally.sent += 1
                self.tally.torn += reply is None
                if found is None:
                    self.tally.under_counted += 1
                    continue
                self.expected[round_] = self._again(handler, round_)
                if reply is not None:
                    assert reply.header.kind == "release"
                    np.testing.assert_array_equal(self.expected[round_], reply.values)
            released = ledger.balance().reservations[2].released["training"]
            burnt = range(len(self.expected) + 1, released + 1)
            assert len(burnt) <= 1, "more than one row without a reply"
            for round_ in burnt:
                self.expected[round_] = self._again(handler, round_)
                np.testing.assert_array_equal(self._again(handler, round_), self.expected[round_])
                self.tally.burnt += 1
            oldest = min(self.expected)
            np.testing.assert_array_equal(self._again(handler, oldest), self.expected[oldest])
            assert ledger.balance().reservations[2].released["training"] == len(self.expected)
        kept = len(list((self.home.directory / "replies").glob("*.sealed")))
        self.tally.orphans = kept - self.files_a_release * len(self.expected)

    def _again(self, handler: Handler, round_: int) -> Values:
        """The same request once more, after a restart: the run key that it names is gone."""
        answer = handler.answer(self.asked[round_])
        assert answer is not None
        reply = decode_reply(answer)
        assert (reply.header.kind, reply.header.round) == ("release", round_)
        return reply.values

    def _read_sent(self) -> list[tuple[int, Reply | None]]:
        """Replies sent since the last check; None where sending was cut off in the middle.

        The latest request of each round is kept to be asked again.
        """
        data, found = self.sent_path.read_bytes() if self.sent_path.exists() else b"", []
        while self.checked + 4 <= len(data):
            start = self.checked + 8
            end = start + int.from_bytes(data[start - 4 : start], "big")
            round_ = int.from_bytes(data[self.checked : self.checked + 4], "big")
            whole = start <= len(data) and end <= len(data)
            kind, round_ = divmod(round_, REQUEST)
            if kind == 0:
                found.append((round_, decode_reply(data[start:end]) if whole else None))
            elif whole and kind * REQUEST == OPENING:
                self.opened.setdefault(round_, []).append(decode_reply(data[start:end]).header)
            elif whole:
                self.asked[round_] = data[start:end]
                self._note_deal(round_)
            self.checked = end if whole else len(data)
        return found

    def _note_deal(self, round_: int) -> None:
        """A key that the site dealt for a round serves no other, in none of its lives."""
        dealt = decode_request(self.asked[round_]).header.deals.get("north")
        if dealt is not None:
            assert self.dealt.setdefault(dealt.key, round_) == round_, "a dealt key served twice"


def _announced(handle: int) -> float:
    """Wait for the site to say that it computes; when that was."""
    assert os.read(handle, 1) == b".", "the site ended by itself"
    return time.perf_counter()


@pytest.fixture(params=["local", "distributed", "survives dropouts"])
def site(tmp_path: Path, request: pytest.FixtureRequest) -> Site:
    noise = "local" if request.param == "local" else "distributed"
    survives = request.param == "survives dropouts"
    coordinator = Identity.new()
    home = make_site(tmp_path)
    pretend_enrolled(home, coordinator)
    document = document_of(**(SURVIVING if survives else {}))
    document["mechanism"]["steps"] = 10_000
    document["mechanism"] |= {"masking": "on", "noise": noise}
    offer = offered(small_study(**document), [home], coordinator)
    read_out = {h.id: h.fingerprint for h in offer.study.hospitals if h.id != "north"}
    AddressBook.confirm(home, read_out)
    approve(home, cast(CoordinatorApi, SilentApi()), offer, home.read_config().population(None))
    (tmp_path / "study").write_bytes(offer.study.canonical_bytes)
    (tmp_path / "partners").mkdir()
    for name in read_out:
        write_private(tmp_path / "partners" / f"{name}.key", partner(name).pem())
    files = (tmp_path / "study", tmp_path / "partners")
    return Site(home, offer.study.digest, files, tmp_path / "sent", 2 if noise == "local" else 1)


SURVIVING: dict[str, Any] = {
    "schema_version": 4,
    "hospitals": [{"id": name, "declared_size": 40} for name in ("east", "north", "south", "west")],
}


def kill_often(site: Site, points: int) -> Tally:
    chosen = random.Random()
    for _ in range(points):
        site.run_and_kill(chosen)
        site.check()
    print(site.tally)  # noqa: T201 - the measured result, shown with -s
    return site.tally


@pytest.mark.processes
def test_a_site_killed_at_random_instants_never_under_counts(site: Site) -> None:
    points = int(os.environ.get("FLO_KILL_POINTS", "8"))
    tally = kill_often(site, points)
    assert (tally.kills, tally.under_counted) == (points, 0)
    assert tally.sent >= points


@pytest.mark.slow
def test_a_site_killed_thirty_times_never_under_counts(site: Site) -> None:
    tally = kill_often(site, 30)
    assert (tally.kills, tally.under_counted) == (30, 0)
    assert tally.sent >= 30
    for replies in site.opened.values():
        assert [reply.kind for reply in replies] in (["signed"], ["signed", "revealed"])


def test_nothing_of_a_reply_whose_writing_was_cut_off_outlives_its_study(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(site.home.open_ledger()) as ledger:
        handler = handler_of(site.home, ledger, FreshReleaser())
        approved = load(site.home, site.study)
        study = approved.read_study()
        if study.tolerance is None:
            asked = request(site.study, 1, claims(handler, ledger, study, COHORT))
        else:
            identities = {h.id: partner(h.id) for h in study.hospitals if h.id != "north"}
            asked, *_ = surviving_request(handler, ledger, study, 1, identities=identities, epoch=1)
        with monkeypatch.context() as cut:
            cut.setattr(Path, "replace", _killed)
            with pytest.raises(SystemExit):
                handler.answer(asked)
        replies = ReplyStore(site.home.directory / "replies", site.home.open_keystore())
        settle(ledger, replies, site.home, approved, study)
    assert list((site.home.directory / "replies").iterdir()) == []


def _killed(*_: object) -> None:
    raise SystemExit

"""One request at a site, and a coordinator that lies.

``RELEASES`` of the small study: 3 steps + 1 retry for training, 1 for evaluation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, tzinfo
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pytest

from flo.clients.approval import approve, snapshot_path
from flo.clients.coordinator_api import CoordinatorApi
from flo.clients.handler import Handler
from flo.clients.home import SiteHome
from flo.errors import BudgetError
from flo.identity import Identity
from flo.messages import (
    Head,
    Reply,
    Request,
    RequestHeader,
    decode_reply,
    encode_request,
    model_digest,
    row_statement,
)
from flo.models import initial_weights, parameter_count
from flo.privacy.ledger import Ledger
from flo.study import Study
from tests.builders import (
    CountingReleaser,
    SilentApi,
    make_site,
    offered,
    pretend_enrolled,
    small_study,
)

COORDINATOR = Identity.new()
PARTNERS = {"south": Identity.new(), "west": Identity.new()}
Weights = npt.NDArray[np.float64]


@dataclass
class Site:
    """A site with one approved study, its handler, and a releaser that counts."""

    home: SiteHome
    study: Study
    ledger: Ledger
    releaser: CountingReleaser
    settled: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.handler = self.restarted()

    def restarted(self) -> Handler:
        """A handler as after a restart of the agent."""
        return Handler(
            self.home, self.ledger, self.releaser, lambda study: self.settled.append(study.digest)
        )

    def request(self, weights: Weights | None = None, **changes: Any) -> bytes:
        """A good request for round 1, with ``changes`` to its header."""
        weights = initial_weights(self.study) if weights is None else weights
        header: dict[str, Any] = {
            "study": self.study.digest,
            "run": "run-1",
            "purpose": "training",
            "round": 1,
            "attempt": 1,
            "cohort": ("north", "south", "west"),
            "model": model_digest(weights),
        }
        made = RequestHeader.model_validate({**header, **changes})
        return encode_request(Request(made, weights))

    def ask(self, weights: Weights | None = None, **changes: Any) -> Reply:
        reply = self.handler.answer(self.request(weights, **changes))
        assert reply is not None
        return decode_reply(reply)

    def charged(self) -> tuple[float, float]:
        balance = self.ledger.balance()
        return balance.charged("main", "training"), balance.charged("main", "evaluation")

    def kinds(self) -> list[str]:
        return [str(row.public["kind"]) for row in self.ledger.rows()]

    def replies(self) -> list[Path]:
        return sorted((self.home.directory / "replies").iterdir())

    def refuses(self, code: str, weights: Weights | None = None, **changes: Any) -> Reply:
        """The request is refused by ``code``, sends no number and changes nothing."""
        before = self.charged(), self.kinds(), self.replies(), self.releaser.calls
        reply = self.ask(weights, **changes)
        assert (reply.header.kind, reply.header.code) == ("refused", code)
        assert reply.values.size == 0
        assert before == (self.charged(), self.kinds(), self.replies(), self.releaser.calls)
        return reply


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    home = make_site(tmp_path)
    pretend_enrolled(home, COORDINATOR)
    hospitals = [{"id": "north", "declared_size": 40}] + [
        {"id": name, "declared_size": 40, "fingerprint": key.fingerprint}
        for name, key in PARTNERS.items()
    ]
    offer = offered(small_study(hospitals=hospitals), [home], COORDINATOR)
    approve(home, cast(CoordinatorApi, SilentApi()), offer, home.config.population(None))
    ledger = home.ledger()
    yield Site(home, offer.study, ledger, CountingReleaser(parameter_count(offer.study)))
    ledger.close()


OTHER_MODEL = np.full(6, 0.5)


def signed(identity: Identity, sequence: int, row: str = "c" * 64) -> Head:
    """A head that ``identity`` signed, whether such a row exists or not."""
    signature = identity.sign("ledger-row", row_statement(sequence, row))
    return Head(sequence=sequence, hash=row, signature=signature, public=identity.public.hex())


def power_fails(*_: object) -> None:
    raise OSError("power cut")


def years_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on the study has expired."""

    class Later(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Later:
            return cls(2100, 1, 1, tzinfo=tz)

    monkeypatch.setattr("flo.clients.approval.datetime", Later)


# -- an honest round -----------------------------------------------------------------------------


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
    for number in range(1, 5):
        site.ask(round=min(number, 3), run=f"run-{number // 4}")
    assert site.charged()[0] == pytest.approx(reserved, rel=1e-12)
    assert site.ledger.balance().committed("main", "training") == reserved


def test_a_replay_gives_identical_bits_and_adds_nothing(site: Site) -> None:
    first = site.ask()
    before = site.charged(), site.kinds()
    again = site.ask()
    np.testing.assert_array_equal(again.values, first.values)
    assert (site.charged(), site.kinds()) == before
    assert site.releaser.calls == 1


def test_a_replay_after_a_restart_gives_identical_bits(site: Site) -> None:
    first = site.ask()
    site.handler = site.restarted()
    np.testing.assert_array_equal(site.ask().values, first.values)
    assert site.releaser.calls == 1


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
        broken.setattr("flo.clients.replies.KeptReplies.keep", power_fails)
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
    snapshot = snapshot_path(site.home, site.study.digest)
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
    assert site.ledger.witnessed() == heads
    lower = {"south": signed(PARTNERS["south"], 6, "d" * 64)}
    assert site.ask(round=2, heads=lower).header.kind == "release"
    assert site.ledger.witnessed() == heads


def test_our_own_head_relayed_back_is_confirmed(site: Site) -> None:
    old = site.ask().header.head
    new = site.ask(round=2).header.head
    assert site.ask(round=3, heads={"north": new}).header.kind == "release"
    assert site.ask(round=3, heads={"north": old}).header.kind == "release"


# -- a lying coordinator -------------------------------------------------------------------------


def head_of_a_lost_row(site: Site) -> dict[str, Any]:
    return {"heads": {"north": signed(site.home.identity(), 99)}}


def head_of_a_fork(site: Site) -> dict[str, Any]:
    sequence = site.ledger.head().sequence
    return {"heads": {"north": signed(site.home.identity(), sequence)}}


def head_by_another(hospital: str) -> Callable[[Site], dict[str, Any]]:
    """A head of ``hospital`` under a valid signature of somebody else."""
    return lambda site: {"heads": {hospital: signed(Identity.new(), 7)}}


def head_with_a_later_row(site: Site) -> dict[str, Any]:
    """South's key and signature, moved to a row that south never signed."""
    return {"heads": {"south": signed(PARTNERS["south"], 7).model_copy(update={"sequence": 8})}}


@pytest.mark.parametrize("after", ["nothing", "a release", "a settlement"])
@pytest.mark.parametrize(
    ("lie", "code"),
    [
        pytest.param(lambda s: {"study": "a" * 64}, "not-approved", id="unapproved study"),
        pytest.param(lambda s: {"cohort": ("south", "west")}, "malformed", id="cohort without us"),
        pytest.param(
            lambda s: {"cohort": ("north", "stranger")}, "malformed", id="stranger in the cohort"
        ),
        pytest.param(lambda s: {"round": 0}, "malformed", id="round 0"),
        pytest.param(lambda s: {"round": 4}, "malformed", id="round steps + 1"),
        pytest.param(
            lambda s: {"round": 2, "purpose": "evaluation"}, "malformed", id="second evaluation"
        ),
        pytest.param(lambda s: {"weights": np.zeros(5)}, "malformed", id="a weight less"),
        pytest.param(lambda s: {"weights": np.zeros(0)}, "malformed", id="no model"),
        pytest.param(head_of_a_lost_row, "rolled-back", id="head we do not have"),
        pytest.param(head_of_a_fork, "rolled-back", id="head of a fork"),
        pytest.param(
            lambda s: {**head_of_a_fork(s), "kind": "finish"}, "rolled-back", id="fork, then finish"
        ),
        pytest.param(head_by_another("stranger"), "malformed", id="a stranger's head"),
        pytest.param(head_by_another("south"), "malformed", id="a partner's head by another"),
        pytest.param(head_by_another("north"), "malformed", id="our head by another"),
        pytest.param(head_with_a_later_row, "malformed", id="a partner's head, altered"),
        pytest.param(
            lambda s: {"kind": "finish", "cohort": ("south",)}, "malformed", id="finish of others"
        ),
        pytest.param(
            lambda s: {"kind": "finish", "study": "a" * 64}, "not-approved", id="finish of unknown"
        ),
    ],
)
def test_a_lie_is_refused_and_costs_nothing(
    site: Site, lie: Callable[[Site], dict[str, Any]], code: str, after: str
) -> None:
    if after != "nothing":
        site.ask(run="run-0")
    if after == "a settlement":
        site.ask(run="run-0", kind="finish")
    site.refuses(code, **lie(site))
    assert site.ledger.witnessed() == {}


def test_another_model_for_an_answered_round_is_a_conflict(site: Site) -> None:
    first = site.ask()
    site.refuses("conflict", OTHER_MODEL)
    site.refuses("conflict", OTHER_MODEL, attempt=2)
    np.testing.assert_array_equal(site.ask().values, first.values)


def test_a_flood_of_runs_ends_at_the_reservation(site: Site) -> None:
    kinds = [site.ask(run=f"run-{number}").header.kind for number in range(4)]
    assert kinds == ["release"] * 4
    for number in range(4, 7):
        site.refuses("over-budget", run=f"run-{number}")
    site.refuses("over-budget", round=3)


def test_a_second_run_takes_from_the_same_reservation(site: Site) -> None:
    for number in range(1, 4):
        site.ask(round=number)
    assert site.ask(run="run-2").header.kind == "release"
    site.refuses("over-budget", run="run-2", round=2)


def test_evaluation_is_answered_once_whatever_the_run(site: Site) -> None:
    site.ask(purpose="evaluation")
    site.refuses("over-budget", purpose="evaluation", run="run-2")
    site.refuses("conflict", OTHER_MODEL, purpose="evaluation")


@pytest.mark.parametrize(
    "changes", [{}, {"round": 2}, {"attempt": 2}, {"run": "run-2"}, {"purpose": "evaluation"}]
)
def test_a_settled_study_is_refused(site: Site, changes: dict[str, Any]) -> None:
    site.ask()
    site.ask(kind="finish", round=0)
    site.refuses("settled", **changes)


def test_a_study_that_expired_since_its_approval_is_refused(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.ask()
    years_later(monkeypatch)
    site.refuses("not-approved")
    site.refuses("not-approved", round=2)


def test_an_expired_study_is_still_settled(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.ask()
    years_later(monkeypatch)
    site.refuses("not-approved", round=2)
    assert site.ask(kind="finish", round=0).header.kind == "settled"
    assert site.kinds() == ["birth", "reserve", "release", "settle"]
    assert site.replies() == []


def test_a_withdrawn_approval_is_none(site: Site) -> None:
    (path,) = (site.home.directory / "approved").iterdir()
    path.unlink()
    site.refuses("not-approved")


def test_a_kept_reply_that_was_changed_on_the_disk_is_refused_and_never_recomputed(
    site: Site,
) -> None:
    site.ask()
    (kept,) = site.replies()
    kept.write_bytes(kept.read_bytes()[:-1] + b"\0")
    site.refuses("settled")


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda data: b"", id="nothing"),
        pytest.param(lambda data: data[:50], id="truncated"),
        pytest.param(lambda data: data[:-8], id="a weight less than named"),
        pytest.param(lambda data: data[:-1] + b"\x01", id="another model than named"),
        pytest.param(lambda data: data.replace(b"training", b"TRAINING"), id="unknown purpose"),
        pytest.param(lambda data: data.replace(b'"round":1', b'"round":x'), id="no JSON"),
    ],
)
def test_malformed_bytes_get_no_answer_at_all(site: Site, change: Callable[[bytes], bytes]) -> None:
    before = site.charged(), site.kinds()
    assert site.handler.answer(change(site.request())) is None
    assert (site.charged(), site.kinds()) == before


def test_a_model_that_is_not_finite_gets_no_answer(site: Site) -> None:
    assert site.handler.answer(site.request(np.full(6, np.nan))) is None
    assert site.kinds() == ["birth", "reserve"]


def test_the_highest_possible_head_does_not_stop_the_agent(site: Site) -> None:
    site.refuses("rolled-back", heads={"north": signed(site.home.identity(), 2**53)})
    heads = {"south": signed(PARTNERS["south"], 2**53)}
    assert site.ask(heads=heads).header.kind == "release"
    assert site.ledger.witnessed() == heads


@pytest.mark.parametrize("hospital", ["north", "south"])
def test_a_head_beyond_any_ledger_gets_no_answer(site: Site, hospital: str) -> None:
    identity = {**PARTNERS, "north": site.home.identity()}[hospital]
    data = site.request(heads={hospital: signed(identity, 2**53)})
    beyond = data.replace(str(2**53).encode(), str(2**63).encode())
    size = int.from_bytes(data[:4], "big") + len(beyond) - len(data)
    assert len(beyond) == len(data) + 3
    assert site.handler.answer(size.to_bytes(4, "big") + beyond[4:]) is None
    assert site.kinds() == ["birth", "reserve"]


def test_a_header_that_cannot_be_written_does_not_stop_the_agent(site: Site) -> None:
    data = site.request().replace(b"run-1", b"\\ud800")
    size = int.from_bytes(data[:4], "big") + 1
    assert site.handler.answer(size.to_bytes(4, "big") + data[4:]) is None


def test_a_refusal_shows_a_public_code_and_no_reason(site: Site) -> None:
    reply = site.handler.answer(site.request(study="a" * 64))
    assert reply is not None
    assert b"not approved here" not in reply
    assert b"not-approved" in reply

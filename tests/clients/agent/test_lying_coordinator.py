"""A coordinator that lies gets no number, and its lie costs no budget."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime, tzinfo
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flo.keys.identity import Identity
from tests.builders import WHITENED
from tests.clients.approved_site import PARTNERS, Site, approved_site
from tests.partners import signed


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    yield from approved_site(tmp_path)


OTHER_MODEL = np.full(6, 0.5)


def years_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on the study has expired."""

    class Later(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Later:
            return cls(2100, 1, 1, tzinfo=tz)

    monkeypatch.setattr("flo.clients.records.approval.datetime", Later)


def head_of_a_lost_row(site: Site) -> dict[str, Any]:
    return {"heads": {"north": signed(site.home.open_identity(), 99)}}


def head_of_a_fork(site: Site) -> dict[str, Any]:
    sequence = site.ledger.head().sequence
    return {"heads": {"north": signed(site.home.open_identity(), sequence)}}


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
        site.ask(round=3)
    if after == "a settlement":
        site.ask(round=3, kind="finish")
    site.refuses(code, **lie(site))
    own = site.home.open_identity().fingerprint  # one that we signed is remembered, for a recovery
    partners = [head for head in site.ledger.witnessed().values() if head.fingerprint != own]
    assert all(head.sequence == 1 for head in partners)


@pytest.mark.parametrize(
    ("purpose", "numbers", "round_"),
    [
        pytest.param("moments", 6, 1, id="a model where none is needed"),
        pytest.param("moments", 0, 2, id="second moments twice"),
        pytest.param("training", 6, 1, id="a step without W"),
        pytest.param("training", 6 + 35, 1, id="W with a number less"),
        pytest.param("evaluation", 6 + 36, 1, id="an evaluation with W"),
    ],
)
def test_a_whitened_study_is_asked_as_it_was_approved(
    tmp_path: Path, purpose: str, numbers: int, round_: int
) -> None:
    for site in approved_site(tmp_path, **WHITENED):
        site.refuses("malformed", np.zeros(numbers), purpose=purpose, round=round_)
        for asked in ("moments", "training"):
            assert site.ask(purpose=asked).header.kind == "release"


def test_another_model_for_an_answered_round_is_a_conflict(site: Site) -> None:
    first = site.ask()
    site.refuses("conflict", OTHER_MODEL)
    site.refuses("conflict", OTHER_MODEL, attempt=2)
    np.testing.assert_array_equal(site.ask().values, first.values)


def test_a_study_has_one_run_whatever_the_coordinator_calls_the_next(site: Site) -> None:
    site.ask(run="run-7")
    for number in range(7):
        site.refuses("conflict", run=f"run-{number}")
    site.refuses("conflict", round=3)
    assert site.ask(run="run-7", round=2).header.kind == "release"


def test_evaluation_is_answered_once_whatever_the_run(site: Site) -> None:
    site.ask(purpose="evaluation")
    site.refuses("conflict", purpose="evaluation", run="run-2")
    site.refuses("conflict", OTHER_MODEL, purpose="evaluation")


@pytest.mark.parametrize("changes", [{}, {"round": 2}, {"attempt": 2}, {"purpose": "evaluation"}])
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
    (path,) = (site.home.directory / "approved").glob("*.json")
    path.unlink()
    site.refuses("not-approved")


def test_a_kept_reply_that_was_changed_on_the_disk_is_refused_and_never_recomputed(
    site: Site,
) -> None:
    site.ask()
    (kept,) = site.replies()
    data = kept.read_bytes()
    kept.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    site.refuses("settled")


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda data: b"", id="nothing"),
        pytest.param(lambda data: data[:50], id="truncated"),
        pytest.param(lambda data: data[:-8], id="a weight less than named"),
        pytest.param(lambda data: data[:-1] + bytes([data[-1] ^ 1]), id="another model than named"),
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
    site.refuses("rolled-back", heads={"north": signed(site.home.open_identity(), 2**53)})
    heads = {"south": signed(PARTNERS["south"], 2**53)}
    assert site.ask(heads=heads).header.kind == "release"
    assert site.ledger.witnessed()[PARTNERS["south"].fingerprint] == heads["south"]


@pytest.mark.parametrize("hospital", ["north", "south"])
def test_a_head_beyond_any_ledger_gets_no_answer(site: Site, hospital: str) -> None:
    identity = {**PARTNERS, "north": site.home.open_identity()}[hospital]
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

"""What waits for the steward: what was decided here, and a word by their command, once."""

from __future__ import annotations

import json
import os
import shlex
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any, cast

import pytest

from flo.cli.site.steward import inbox
from flo.clients.approvals.approve import terms_of
from flo.clients.approvals.approvers import add_approver
from flo.clients.approvals.decline import refuse, withdraw
from flo.clients.connection.coordinator_api import CoordinatorApi
from flo.clients.connection.offers import Offered
from flo.clients.inbox.inbox import listed
from flo.errors import NetworkError, UsageError
from flo.keys.identity import Identity
from flo.keys.rotation import RotationStep
from tests.clients.approving_site import COORDINATOR
from tests.clients.steward_session import Steward
from tests.partners import partner
from tests.privacy.ledgers import study_of

FIRST, SECOND = study_of(0.2, "first"), study_of(0.2, "second")


@pytest.fixture
def steward(tmp_path: Path) -> Steward:
    return Steward(tmp_path)


# -- states ---------------------------------------------------------------------------------------


def test_a_study_waits_until_it_is_approved_and_is_approved_until_it_is_withdrawn(
    steward: Steward,
) -> None:
    offer, other = steward.offers(FIRST), steward.offers(SECOND)
    assert steward.decided(offer) == "waiting for you"
    steward.site.approve(offer)
    assert steward.decided(offer) == "approved"
    withdraw(steward.home, cast(CoordinatorApi, steward.api), offer.study.digest, "Enough.")
    assert steward.decided(offer) == "withdrawn"
    assert steward.decided(other) == "waiting for you"


def test_a_refused_study_is_refused_until_it_is_approved_after_all(steward: Steward) -> None:
    offer = steward.offers(FIRST)
    refuse(steward.home, cast(CoordinatorApi, steward.api), offer.study.digest, "Not now.")
    assert steward.decided(offer) == "refused"
    steward.site.approve(offer)
    assert steward.decided(offer) == "approved"


def test_with_one_yes_of_two_it_waits_for_another_person(steward: Steward) -> None:
    people = [
        {"name": name, "role": "steward", "public": partner(name).public.hex()}
        for name in ("Ada", "Ben")
    ]
    steward.site.allow(approvers=2, people=people)
    offer = steward.offers(FIRST)
    _says_yes(steward, offer, partner("Ada"))
    assert steward.decided(offer) == "waiting for another person"
    steward.listens()
    steward.looks()
    assert steward.told() == []


def _says_yes(steward: Steward, offer: Offered, key: Identity) -> None:
    population = steward.home.read_config().population(None)
    terms = terms_of(steward.home, offer.study, population, if_broken=False)
    add_approver(steward.home, offer.study, terms, key)


@pytest.mark.parametrize(
    ("status", "says"),
    [("offered", "waiting for you"), ("running", "waiting for you"), ("expired", "not approved")],
)
def test_the_list_shows_what_may_still_be_decided(
    steward: Steward,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    status: str,
    says: str,
) -> None:
    monkeypatch.setattr(
        "flo.clients.connection.enrolment.connect", lambda _: nullcontext(steward.api)
    )
    monkeypatch.setenv("COLUMNS", "200")
    offer = steward.offers(FIRST, status=status)
    done = steward.offers(SECOND, status="done")
    steward.site.approve(done)
    inbox(steward.home.directory)
    rows = [
        [cell.strip() for cell in line.split("│")] for line in capsys.readouterr().out.split("\n")
    ]
    assert ["first", "1", offer.study.digest[:12], "0.2", status, says] in [r[1:-1] for r in rows]
    assert ["second", "1", done.study.digest[:12], "0.2", "done", "approved"] in [
        r[1:-1] for r in rows
    ]


def shown(steward: Steward) -> list[tuple[str, str, str]]:
    found = listed(steward.home, cast(CoordinatorApi, steward.api))
    return [(one.name, one.status, one.here) for one in found]


def test_what_was_approved_here_is_listed_whatever_the_coordinator_lists(steward: Steward) -> None:
    steward.site.approve(steward.offers(FIRST))
    steward.offers(SECOND)
    del steward.api.listed[0]
    assert shown(steward) == [
        ("second", "offered", "waiting for you"),
        ("first", "not listed there", "approved"),
    ]


@pytest.mark.parametrize("what", ["of another schema", "signed by a stranger"])
def test_one_study_that_cannot_be_trusted_hides_no_other(steward: Steward, what: str) -> None:
    if what == "signed by a stranger":
        steward.offers(FIRST, signer=Identity.new())
    else:
        text = '{"schema_version":99}'
        signature = COORDINATOR.sign("study", text.encode())
        steward.api.listed.append({"study": text, "signature": signature, "status": "offered"})
    steward.offers(SECOND)
    bad, good = shown(steward)
    assert bad[0] == "a study that cannot be read"
    assert good == ("second", "offered", "waiting for you")


def test_a_status_is_a_word_and_no_message_to_the_steward(steward: Steward) -> None:
    steward.offers(FIRST, status="APPROVED by your hospital")
    with pytest.raises(UsageError, match="status"):
        shown(steward)


# -- the command ----------------------------------------------------------------------------------


@pytest.mark.processes
def test_the_steward_is_told_once_of_each_study(steward: Steward) -> None:
    steward.listens()
    first = steward.offers(FIRST)
    for _ in range(3):
        steward.looks()
    second = steward.offers(SECOND, status="running")
    steward.looks()
    assert [fact["digest"] for fact in steward.told()] == [
        first.study.digest,
        second.study.digest,
    ]
    assert steward.entries() == [
        {"study": first.study.digest, "worked": True},
        {"study": second.study.digest, "worked": True},
    ]


@pytest.mark.processes
def test_it_is_told_what_it_needs_and_nothing_else(steward: Steward) -> None:
    steward.listens()
    digest = steward.offers(FIRST).study.digest
    steward.looks()
    assert steward.told() == [
        {
            "hospital": "north",
            "study": "first",
            "version": 1,
            "digest": digest,
            "epsilon": 0.2,
            "expires": "2099-12-31",
            "read_it": f"flo site review {digest[:12]}",
        }
    ]


def test_of_what_was_decided_it_is_told_nothing(steward: Steward) -> None:
    steward.listens()
    api = cast(CoordinatorApi, steward.api)
    approved, refused = steward.offers(FIRST), steward.offers(SECOND)
    steward.offers(study_of(0.1, "over"), status="done")
    steward.site.approve(approved)
    refuse(steward.home, api, refused.study.digest, "Not now.")
    steward.looks()
    withdraw(steward.home, api, approved.study.digest, "Enough.")
    steward.looks()
    assert steward.told() == steward.entries() == []


def test_without_a_command_nothing_is_asked_and_nobody_told(steward: Steward) -> None:
    steward.offers(FIRST)
    steward.looks()
    assert steward.api.calls == []
    assert not (steward.home.directory / "told.json").exists()


@pytest.mark.processes
@pytest.mark.parametrize(
    ("command", "says"),
    [
        (["/nonexistent/program"], "failed (FileNotFoundError)"),
        (["/etc/passwd"], "failed (PermissionError)"),
        (["/bin/sh", "-c", "exit 3"], "ended with exit code 3"),
        ([sys.executable, "-c", "import os; os.abort()"], "ended with exit code -6"),
        (["/bin/sh", "-c", "exec 0<&-; exit 1"], "ended with exit code 1"),
    ],
    ids=["missing", "no program", "exit code", "crash", "does not listen"],
)
def test_a_command_that_fails_is_logged_and_stops_nothing(
    steward: Steward, caplog: pytest.LogCaptureFixture, command: list[str], says: str
) -> None:
    steward.commands(*command)
    offers = [steward.offers(FIRST), steward.offers(SECOND)]
    steward.looks()
    steward.looks()
    assert [r.message for r in caplog.records].count(f"the notify command of site.toml {says}") == 2
    assert steward.entries() == [{"study": offer.study.digest, "worked": False} for offer in offers]


@pytest.mark.processes
def test_a_command_that_hangs_is_ended(
    steward: Steward, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flo.clients.inbox.inbox._SECONDS", 0.3)
    steward.commands(
        "/bin/sh", "-c", f"echo $$ > {shlex.quote(str(steward.heard))}; exec sleep 600"
    )
    steward.offers(FIRST)
    begin = time.monotonic()
    steward.looks()
    assert time.monotonic() - begin < 60
    assert "the notify command of site.toml failed (TimeoutExpired)" in caplog.text
    with pytest.raises(ProcessLookupError):
        os.kill(int(steward.heard.read_text()), 0)
    assert [entry["worked"] for entry in steward.entries()] == [False]


# -- what is no offer -----------------------------------------------------------------------------


@pytest.mark.processes
def test_an_offer_that_is_not_trusted_is_logged_and_not_told(
    steward: Steward, caplog: pytest.LogCaptureFixture
) -> None:
    steward.listens()
    steward.offers(FIRST, signer=Identity.new())
    steward.looks()
    assert "a study on offer is not trusted" in caplog.text
    assert "compare it by telephone" in caplog.text
    assert steward.told() == []
    steward.api.listed.clear()
    steward.offers(FIRST)
    steward.looks()
    assert [fact["study"] for fact in steward.told()] == ["first"]


@pytest.mark.processes
def test_the_steward_is_told_once_that_the_coordinator_has_a_new_key(steward: Steward) -> None:
    steward.listens()
    second, third = Identity.new(), Identity.new()
    steward.looks()
    assert steward.told() == []
    for old, new in ((COORDINATOR, second), (second, third)):
        step = RotationStep.signed(old, new, "2026-11-25T00:00:00+00:00")
        steward.api.steps.append(step.model_dump(mode="json"))
        for _ in range(2):
            steward.looks()
    first, again = steward.told()
    assert first == again  # of each key
    assert set(first) == {"hospital", "new_key", "compare_it"}
    assert first["compare_it"] == "flo site coordinator --accept FINGERPRINT"
    assert not {second.fingerprint, third.fingerprint} & set(json.dumps(first).split('"'))
    assert steward.entries() == [{"study": None, "worked": True}] * 2
    steward.offers(FIRST)
    steward.looks()
    assert len(steward.told()) == 3


@pytest.mark.processes
@pytest.mark.parametrize("spoil", [{"new_signature": "00"}, {"old": "zz"}, {"more": 1}], ids=str)
def test_of_a_key_that_does_not_follow_the_steward_is_told_nothing(
    steward: Steward, caplog: pytest.LogCaptureFixture, spoil: dict[str, Any]
) -> None:
    steward.listens()
    step = RotationStep.signed(COORDINATOR, Identity.new(), "2026-11-25T00:00:00+00:00")
    steward.api.steps.append({**step.model_dump(mode="json"), **spoil})
    steward.offers(FIRST)
    steward.looks()
    assert "the coordinator's new key is not trusted" in caplog.text
    assert [fact.get("study") for fact in steward.told()] == ["first"]


@pytest.mark.processes
def test_what_an_earlier_key_of_the_coordinator_signed_is_no_offer(steward: Steward) -> None:
    steward.listens()
    path, earlier = steward.home.directory / "coordinator.json", Identity.new()
    info = json.loads(path.read_text())
    path.write_text(json.dumps({**info, "earlier": [earlier.public.hex()]}))
    steward.offers(FIRST, signer=earlier)
    steward.offers(SECOND)
    steward.looks()
    assert [fact["study"] for fact in steward.told()] == ["second"]


@pytest.mark.processes
def test_a_coordinator_that_is_away_is_not_the_commands_business(
    steward: Steward, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: Any) -> Any:
        raise NetworkError("the coordinator cannot be reached")

    steward.listens()
    steward.offers(FIRST)
    with monkeypatch.context() as cut:
        cut.setattr(steward.api, "call", away)
        with pytest.raises(NetworkError):
            steward.looks()
    assert steward.told() == []
    steward.looks()
    assert len(steward.told()) == 1

"""An approval reserves once, is announced, and stays what was signed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flo.clients.approvals.approve import NotAnnounced
from flo.clients.connection.offers import choose
from flo.clients.records import approval
from flo.clients.records.approval import load
from flo.documents import canonical
from flo.errors import FloError, RefusedError, TrustError, UsageError
from flo.keys.identity import verify
from tests.builders import small_study
from tests.clients.approving_site import Site, enrolled_site


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return enrolled_site(tmp_path)


# -- yes -----------------------------------------------------------------------------------------


def test_a_good_study_reserves_once_and_is_announced(site: Site) -> None:
    offer = site.offer()
    heads = site.heads()
    made = site.approve(offer)
    assert site.kinds() == ["birth", "reserve"]
    assert [path.stem for path in site.approved()] == [offer.study.digest]
    *confirmed, (name, body) = site.api.calls
    assert confirmed == heads
    assert name == "approvals"
    verify(
        site.home.open_identity().public, "approval", body["document"].encode(), body["signature"]
    )
    decision = json.loads(body["document"])
    assert (decision["decision"], decision["study"]) == ("approve", offer.study.digest)
    assert load(site.home, offer.study.digest) == made


def test_the_coordinator_learns_the_decision_and_nothing_about_patients(site: Site) -> None:
    heads = site.heads()
    site.approve(site.offer())
    *confirmed, (_, told) = site.api.calls
    assert confirmed == heads
    assert set(told) == {"document", "signature"}
    decision = json.loads(told["document"])
    assert set(decision) == {
        *("schema_version", "decision", "study", "hospital", "role", "time", "head"),
        *("population", "unconfirmed", "charged", "code", "policy", "people"),
    }
    assert decision["unconfirmed"] == ["south", "west"]
    assert decision["charged"] == "as-designed"


def test_a_second_approval_reserves_nothing_and_announces_again(site: Site) -> None:
    offer = site.offer()
    assert site.approve(offer) == site.approve(offer)
    assert site.kinds() == ["birth", "reserve"]
    assert [name for name, _ in site.api.calls] == ["heads", "heads", "approvals", "approvals"]
    assert site.api.calls[-1] == site.api.calls[-2]


def test_an_announcement_that_was_lost_is_made_by_approving_again(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer = site.offer()
    answer = site.api.call

    def busy(name: str, body: Any) -> Any:
        if name == "approvals":
            raise RefusedError("busy")
        return answer(name, body)

    with monkeypatch.context() as broken:
        broken.setattr(site.api, "call", busy)
        with pytest.raises(NotAnnounced, match="not notified: busy"):
            site.approve(offer)
    assert site.kinds() == ["birth", "reserve"]
    site.approve(offer)
    assert site.api.calls[-1][0] == "approvals"
    assert site.kinds() == ["birth", "reserve"]


def test_an_approval_cut_off_by_a_crash_is_taken_up_again(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer = site.offer()
    with monkeypatch.context() as broken:
        broken.setattr(approval, "write_private", _raise(OSError("power cut")))
        with pytest.raises(OSError, match="power cut"):
            site.approve(offer)
    site.approve(offer)
    assert site.kinds() == ["birth", "reserve"]


def test_an_approval_is_for_its_owner_only(site: Site) -> None:
    site.approve(site.offer())
    files = [*site.approved(), *(site.home.directory / "snapshots").iterdir()]
    files += (site.home.directory / "approved").glob("*.members")
    assert [path.stat().st_mode & 0o777 for path in files] == [0o600, 0o600, 0o600]


def _raise(error: Exception) -> Callable[..., None]:
    def raising(*_: object) -> None:
        raise error

    return raising


# -- later ---------------------------------------------------------------------------------------


def edited(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    def apply(path: Path) -> None:
        document = json.loads(path.read_text())
        change(document)
        path.write_bytes(canonical.encode(document))

    return apply


def other_study(document: dict[str, Any]) -> None:
    document["study"] = small_study(name="other").canonical_bytes.decode()


def other_decision(document: dict[str, Any]) -> None:
    document["decision"] = document["decision"].replace("approve", "refuse")


@pytest.mark.parametrize(
    "tamper",
    [
        pytest.param(edited(other_study), id="another study"),
        pytest.param(edited(other_decision), id="another decision"),
        pytest.param(edited(lambda d: d.update(study_signature="ab")), id="study signature"),
        pytest.param(edited(lambda d: d.update(decision_signature="ab")), id="own signature"),
        pytest.param(edited(lambda d: d.update(surprise=1)), id="unknown key"),
        pytest.param(edited(lambda d: d.pop("decision")), id="missing key"),
        pytest.param(lambda path: path.write_bytes(path.read_bytes()[:-9]), id="cut off"),
        pytest.param(lambda path: path.write_bytes(b""), id="emptied"),
        pytest.param(lambda path: path.unlink(), id="removed"),
    ],
)
def test_a_tampered_approval_is_no_approval(site: Site, tamper: Callable[[Path], None]) -> None:
    offer = site.offer()
    site.approve(offer)
    tamper(site.approved()[0])
    with pytest.raises(FloError):
        load(site.home, offer.study.digest)


@pytest.mark.parametrize("field", ["reservation", "snapshot", "population"])
def test_what_the_approval_points_at_is_signed_too(site: Site, field: str) -> None:
    offer = site.offer()
    site.approve(offer)
    other = {"reservation": 99, "snapshot": "a" * 64, "population": "clinic"}[field]
    edited(lambda d: d.update({field: other}))(site.approved()[0])
    with pytest.raises(TrustError):
        load(site.home, offer.study.digest)


def test_another_studys_approval_under_this_ones_name_is_refused(site: Site) -> None:
    offer = site.offer()
    site.approve(offer)
    other = site.offer(small_study(name="other"))
    (path,) = site.approved()
    path.rename(path.with_name(f"{other.study.digest}.json"))
    with pytest.raises(TrustError, match="holds another study"):
        load(site.home, other.study.digest)


def test_an_unapproved_study_is_refused(site: Site) -> None:
    with pytest.raises(RefusedError, match="not approved here"):
        load(site.home, "a" * 64)


def test_a_study_is_chosen_by_name_by_digest_or_because_it_is_the_only_one(site: Site) -> None:
    one, two = site.offer(), site.offer(small_study(name="other"))
    assert choose([one], None) == one
    assert choose([one, two], "other") == two
    assert choose([one, two], one.study.digest[:12]) == one
    with pytest.raises(UsageError, match="several studies match"):
        choose([one, two], None)
    with pytest.raises(UsageError, match="no study on offer called 'third'"):
        choose([one, two], "third")
    with pytest.raises(UsageError, match="no study on offer"):
        choose([], None)

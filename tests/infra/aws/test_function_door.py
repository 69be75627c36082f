"""A model as a Lambda function of the hospital's own: nobody is answered by a version that was not
checked where it answers, and the version before is one call away."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from flo.clients.cloud import deployable, steps
from flo.clients.home.site_home import SiteHome
from flo.errors import RefusedError, TrustError, UsageError
from flo.infra.aws.clients import refuse_other_account
from flo.infra.aws.serving.function import FunctionDoor
from flo.infra.aws.serving.settings import HospitalAws
from tests.clients.prediction.told import V9, Told, api, ask, promote, withdrawn
from tests.infra.aws.doors import (
    ASKED,
    V10,
    WHY,
    a_site,
    account_of,
    audited,
    in_use,
    told_of_both,
)
from tests.infra.aws.emulated import REGION, Aws
from tests.infra.aws.functions import EmulatedLambda, emulated_lambda

pytestmark = pytest.mark.slow


@pytest.fixture
def site(tmp_path: Path) -> SiteHome:
    return a_site(tmp_path)


@pytest.fixture
def told() -> Told:
    return told_of_both()


@pytest.fixture
def settings(aws: Aws) -> HospitalAws:
    return account_of(aws)


@pytest.fixture
def cloud(aws: Aws) -> Iterator[EmulatedLambda]:
    with emulated_lambda(aws) as found:
        yield found


@pytest.fixture
def door(settings: HospitalAws, cloud: EmulatedLambda) -> Iterator[FunctionDoor]:
    found = FunctionDoor(settings, "tiny")
    yield found
    found.remove()


def answers(door: FunctionDoor, cloud: EmulatedLambda, count: int) -> Counter[int]:
    """Versions of the model that answered callers of the alias."""
    found = Counter[int]()
    for _ in range(count):
        said = cloud.client.invoke(
            FunctionName=door.name, Qualifier="live", Payload=json.dumps(ASKED).encode()
        )
        found[json.loads(said["Payload"].read())["version"]] += 1
    return found


def test_deployed_then_a_canary_then_back(
    site: SiteHome, told: Told, door: FunctionDoor, cloud: EmulatedLambda
) -> None:
    promote(site, told, "tiny:9")
    assert door.state() is None
    first = steps.deploy(site, door, in_use(site), WHY)
    assert answers(door, cloud, 5) == {9: 5}
    assert cloud.asked[first.number] >= 100, "golden cases were answered there first"
    ten = deployable.approved(site, api(told), "tiny:10")
    canary = steps.canary(site, door, ten, 30, WHY)
    found = door.state()
    assert found is not None
    assert (found.live, found.canary, found.share) == (first, canary, 30)
    shares = answers(door, cloud, 200)
    assert set(shares) == {9, 10}
    assert 30 <= shares[10] <= 90
    assert steps.roll_back(site, door, "tiny", WHY) == first
    assert answers(door, cloud, 20) == {9: 20}
    promote(site, told, "tiny:10")
    assert steps.deploy(site, door, in_use(site), WHY) == canary, "its code was published before"
    assert answers(door, cloud, 5) == {10: 5}
    assert steps.roll_back(site, door, "tiny", WHY) == first
    assert answers(door, cloud, 5) == {9: 5}
    with pytest.raises(UsageError, match="was live before"):
        steps.roll_back(site, door, "tiny", WHY)
    assert audited(site) == [
        ("live", 9, 100),
        ("canary", 10, 30),
        ("rolled back", 9, 100),
        ("live", 10, 100),
        ("rolled back", 9, 100),
    ]


def test_a_version_that_answers_otherwise_there_answers_nobody(
    site: SiteHome, told: Told, door: FunctionDoor, cloud: EmulatedLambda
) -> None:
    promote(site, told, "tiny:9")
    steps.deploy(site, door, in_use(site), WHY)
    before = door.state()
    cloud.spoilt.update(str(number) for number in range(2, 9))
    promote(site, told, "tiny:10")
    with pytest.raises(TrustError, match="otherwise than the model does here"):
        steps.deploy(site, door, in_use(site), WHY)
    assert door.state() == before
    assert answers(door, cloud, 3) == {9: 3}
    assert len(audited(site)) == 1


def test_what_is_withdrawn_is_neither_deployed_nor_rolled_back_to(
    site: SiteHome, told: Told, door: FunctionDoor, cloud: EmulatedLambda
) -> None:
    promote(site, told, "tiny:9")
    steps.deploy(site, door, in_use(site), WHY)
    promote(site, told, "tiny:10")
    ten = in_use(site)
    steps.deploy(site, door, ten, WHY)
    withdrawn(told, V9)
    ask(site, told)
    with pytest.raises(RefusedError, match="version 9 of tiny is withdrawn"):
        steps.roll_back(site, door, "tiny", WHY)
    assert answers(door, cloud, 3) == {10: 3}
    withdrawn(told, V10)
    ask(site, told)
    with pytest.raises(RefusedError, match="version 10 of tiny is withdrawn"):
        steps.deploy(site, door, ten, WHY)
    with pytest.raises(UsageError, match="no version of tiny is in use"):
        in_use(site)


def test_two_who_deploy_at_once_do_not_undo_each_other(
    site: SiteHome, told: Told, door: FunctionDoor
) -> None:
    promote(site, told, "tiny:9")
    one = in_use(site)
    steps.deploy(site, door, one, WHY)
    seen = door.state()
    assert seen is not None
    ten = deployable.approved(site, api(told), "tiny:10")
    canary = steps.canary(site, door, ten, 10, WHY)
    with pytest.raises(RefusedError, match="somebody else has changed"):
        door.put_live(canary, replace(seen, revision="0" * 36))  # moto's stays as it is
    now = door.state()
    assert now is not None
    assert (now.live, now.share) == (seen.live, 10)


def test_a_version_that_somebody_deleted_is_not_gone_back_to(
    aws: Aws, site: SiteHome, told: Told, door: FunctionDoor
) -> None:
    for wanted in ("tiny:9", "tiny:10"):
        promote(site, told, wanted)
        steps.deploy(site, door, in_use(site), WHY)
    state = door.state()
    assert state is not None
    assert state.before is not None
    aws.client("lambda").delete_function(FunctionName=door.name, Qualifier=state.before.number)
    with pytest.raises(UsageError, match="was live before"):
        steps.roll_back(site, door, "tiny", WHY)
    assert steps.deploy(site, door, in_use(site), WHY) == state.live


def test_other_settings_are_another_version(
    site: SiteHome, told: Told, door: FunctionDoor, settings: HospitalAws
) -> None:
    promote(site, told, "tiny:9")
    first = steps.deploy(site, door, in_use(site), WHY)
    assert steps.deploy(site, door, in_use(site), WHY) == first
    assert settings.function is not None
    more = settings.function.model_copy(update={"memory_mb": 2048})
    other = FunctionDoor(settings.model_copy(update={"function": more}), "tiny")
    assert steps.deploy(site, other, in_use(site), WHY).number != first.number


def test_a_canary_needs_a_version_to_be_compared_with(
    site: SiteHome, told: Told, door: FunctionDoor
) -> None:
    promote(site, told, "tiny:9")
    one = in_use(site)
    with pytest.raises(UsageError, match="nothing answers at flo-tiny"):
        steps.canary(site, door, one, 10, WHY)
    steps.deploy(site, door, one, WHY)
    with pytest.raises(UsageError, match="is live at flo-tiny"):
        steps.canary(site, door, one, 10, WHY)
    steps.remove(site, door, WHY)
    assert door.state() is None


def test_a_finished_model_is_not_deployed(site: SiteHome) -> None:
    with pytest.raises(UsageError, match="not private"):
        deployable.in_use(site, "tiny-run-1.finished")


def test_the_account_is_the_hospitals_own(settings: HospitalAws) -> None:
    refuse_other_account(settings.account, REGION)
    with pytest.raises(RefusedError, match=r"credentials are of account 123456789012.*999"):
        refuse_other_account("999999999999", REGION)


def test_a_large_network_goes_by_the_bucket(
    site: SiteHome,
    told: Told,
    door: FunctionDoor,
    settings: HospitalAws,
    aws: Aws,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("flo.infra.aws.serving.function.MOST_SENT", 1 << 10)
    promote(site, told, "tiny:9")
    steps.deploy(site, door, in_use(site), WHY)
    kept = aws.client("s3").list_objects_v2(Bucket=settings.bucket)["Contents"]
    assert [one["Key"].startswith("functions/tiny/") for one in kept] == [True]

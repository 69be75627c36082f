"""A site that comes out of a backup: closed until what may have happened since is charged."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest

from flo.clients.agent.agent import Agent
from flo.clients.approvals.approve import approve
from flo.clients.connection.coordinator_api import CoordinatorApi
from flo.clients.connection.offers import Offered
from flo.clients.home.policy_file import sign
from flo.clients.home.site_home import SiteHome
from flo.clients.maintenance.recover import back_up, recover, restore
from flo.documents import canonical
from flo.errors import FloError, RefusedError, TrustError
from flo.keys.identity import Identity
from flo.protocol.decisions import Approve, Signed, Terms
from flo.storage.files import write_private
from tests.builders import SilentApi, make_site, offered, pretend_enrolled
from tests.partners import signed
from tests.privacy.ledgers import facts, study_of

SECRET = b"a long passphrase"
FIRST, SECOND = study_of(0.3, "first"), study_of(0.3, "second")
Listing = list[dict[str, Any]]


@dataclass
class Remembering(SilentApi):
    """A coordinator that shows a head and the approvals it had."""

    head: Any = None
    given: Listing = field(default_factory=list)
    calls: list[tuple[str, Any]] = field(default_factory=list)

    def call(self, name: str, body: Any) -> Any:
        answer = super().call(name, body)
        if name == "approvals":
            self.given.append(dict(body))
        if name == "heads":
            return {"head": self.head}
        if name == "given":
            after = body["after"]
            listed = sorted(self.given, key=lambda one: str(_study_in(one)))
            return {"given": [one for one in listed if _study_in(one) > after][:1]}
        return answer


def _study_in(given: dict[str, Any]) -> str:
    return canonical.digest(given["study"].encode())


@dataclass
class Scene:
    """A site that approved a study, was backed up, and went on."""

    home: SiteHome
    api: Remembering
    coordinator: Identity
    file: Path

    def approves(self, offer: Offered) -> int:
        before = len(self.api.given)
        api = cast(CoordinatorApi, self.api)
        approved = approve(self.home, api, offer, self.home.read_config().population(None))
        for one in self.api.given[before:]:
            one["study"] = offer.study.canonical_bytes.decode()
        return approved.reservation

    def releases(self, offer: Offered, reservation: int, round_: int) -> None:
        study = offer.study
        with closing(self.home.open_ledger()) as ledger:
            request = f"{study.digest}/r/training/{round_}/1"
            ledger.charge(reservation, "training", request, facts(study, round_))
            self.api.head = ledger.head().model_dump(mode="json")

    def restored(self) -> SiteHome:
        directory = self.home.directory.parent / "again"
        restore(self.file, directory, SECRET)
        return SiteHome.open(directory)


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    home, coordinator = make_site(tmp_path), Identity.new()
    pretend_enrolled(home, coordinator)
    made = Scene(home, Remembering(), coordinator, tmp_path / "north.backup")
    first = offered(FIRST, [home], coordinator)
    reservation = made.approves(first)
    made.releases(first, reservation, 1)
    home.encoders_path.mkdir()
    (home.encoders_path / "large.onnx").write_bytes(b"of somebody else")
    back_up(home, made.file, SECRET)
    made.releases(first, reservation, 2)
    second = offered(SECOND, [home], coordinator)
    made.releases(second, made.approves(second), 1)
    return made


def kinds(home: SiteHome) -> list[str]:
    with closing(home.open_audit_log()) as log:
        return [entry.kind for entry in log.entries()]


def test_nothing_opens_a_restored_ledger_before_it_is_recovered(scene: Scene) -> None:
    home = scene.restored()
    third = offered(study_of(0.1, "third"), [home], scene.coordinator)
    ways: list[Callable[[], object]] = [
        home.open_ledger,
        home.register_populations,
        lambda: Agent(home, "cpu").run(),
        lambda: approve(
            home, cast(CoordinatorApi, scene.api), third, home.read_config().population(None)
        ),
    ]
    for way in ways:
        with pytest.raises(FloError, match="backup"):
            way()
    with pytest.raises(RefusedError, match="restored from a backup") as raised:
        home.open_ledger()
    assert raised.value.hint.startswith("flo site recover")
    assert kinds(home)[-1] == "restored"


def test_nothing_is_approved_before_the_steward_has_signed_the_old_policy_again(
    scene: Scene,
) -> None:
    """It is the policy of the backup, and whoever opted out since is in again."""
    home, api = scene.restored(), cast(CoordinatorApi, scene.api)
    recover(home, api)
    third = offered(study_of(0.1, "third"), [home], scene.coordinator)
    with pytest.raises(TrustError, match="those of a backup") as raised:
        approve(home, api, third, home.read_config().population(None))
    assert "flo site opt-out" in raised.value.hint
    sign(home.directory, home.open_identity())
    approve(home, api, third, home.read_config().population(None))


def test_what_was_open_and_what_was_approved_since_is_charged_in_full(scene: Scene) -> None:
    home = scene.restored()
    found = recover(home, cast(CoordinatorApi, scene.api))
    assert (found.lost, len(found.studies), found.exhausted) == (3, 1, ())
    with closing(home.open_ledger()) as ledger, closing(scene.home.open_ledger()) as true:
        for held in ledger.balance().reservations.values():
            assert held.settled
            assert held.released["training"] == held.parts["training"].releases
        assert ledger.head().sequence > true.head().sequence
        ledger.confirm(true.head())
        for sub_ledger in ("training", "evaluation"):
            charged = ledger.balance().charged("main", sub_ledger)
            assert charged >= true.balance().charged("main", sub_ledger)
    assert kinds(home)[-1] == "ledger-recovered"
    assert list((home.directory / "snapshots").iterdir()) == []


def test_no_frozen_patient_no_kept_reply_and_no_encoder_is_in_a_backup(scene: Scene) -> None:
    from flo.keys import backup

    found = backup.read(scene.file, "site", SECRET)
    assert not any(name.startswith(("snapshots", "replies", "encoders")) for name in found.files)
    assert {"identity.key", "ledger.sqlite", "policy.toml", "keystore.key"} <= set(found.files)


def test_a_coordinator_that_hides_a_large_study_leaves_nothing(scene: Scene) -> None:
    home = scene.restored()
    scene.api.given = [one for one in scene.api.given if "first" in one["study"]]
    scene.api.head = signed(home.open_identity(), 500).model_dump(mode="json")
    assert recover(home, cast(CoordinatorApi, scene.api)).exhausted == ("main",)


def _of_another_key(scene: Scene) -> None:
    study = offered(SECOND, [scene.home], scene.coordinator).study
    terms = Terms(population="main").model_dump()
    head = signed(Identity.new(), 3)
    forged = Approve(study=study.digest, hospital="north", time="now", head=head, **terms)
    one = Signed.by(Identity.new(), forged).model_dump()
    scene.api.given = [{**one, "study": study.canonical_bytes.decode()}]


def _of_another_study(scene: Scene) -> None:
    scene.api.given[0]["study"], scene.api.given[1]["study"] = (
        scene.api.given[1]["study"],
        scene.api.given[0]["study"],
    )


def _head_of_another_key(scene: Scene) -> None:
    scene.api.head = signed(Identity.new(), 50).model_dump(mode="json")


def _no_head(scene: Scene) -> None:
    scene.api.head = {"sequence": "many"}


@pytest.mark.parametrize(
    "lie", [_of_another_key, _of_another_study, _head_of_another_key, _no_head]
)
def test_what_a_lying_coordinator_shows_changes_nothing(
    scene: Scene, lie: Callable[[Scene], None]
) -> None:
    home = scene.restored()
    lie(scene)
    with pytest.raises(FloError):
        recover(home, cast(CoordinatorApi, scene.api))
    with pytest.raises(RefusedError, match="restored from a backup"):
        home.open_ledger()
    with closing(home.open_ledger(recovering=True)) as ledger:
        assert "restored" not in [row.public["kind"] for row in ledger.rows()]


def test_approvals_without_end_are_refused(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    home = scene.restored()
    again = scene.api.given[:1]
    monkeypatch.setattr(
        scene.api,
        "call",
        lambda name, _: {"given": again} if name == "given" else {"head": scene.api.head},
    )
    with pytest.raises(TrustError, match="out of order"):
        recover(home, cast(CoordinatorApi, scene.api))


def test_a_site_that_lost_nothing_is_not_charged_by_mistake(scene: Scene) -> None:
    with closing(scene.home.open_ledger()) as ledger:
        before = list(ledger.rows())
    with pytest.raises(RefusedError, match="nothing to recover"):
        recover(scene.home, cast(CoordinatorApi, scene.api))
    with closing(scene.home.open_ledger()) as ledger:
        assert list(ledger.rows()) == before


def test_a_ledger_that_others_saw_more_of_is_recovered_in_its_place(scene: Scene) -> None:
    """Somebody put an old copy of the ledger back by hand; its agent said so and stopped."""
    with closing(scene.home.open_ledger()) as ledger:
        newer = signed(scene.home.open_identity(), ledger.head().sequence + 4)
        with pytest.raises(TrustError, match="rolled back") as raised:
            ledger.confirm(newer)
        assert "flo site recover" in raised.value.hint
    found = recover(scene.home, cast(CoordinatorApi, scene.api))
    assert found.lost == 4
    with closing(scene.home.open_ledger()) as ledger:
        ledger.confirm(newer)


def test_a_restore_that_is_cut_off_leaves_no_open_ledger(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Power fails after any of the files: what is there by then is closed."""
    from flo.keys import backup

    write, files = write_private, len(backup.read(scene.file, "site", SECRET).files)
    for written in range(1, files + 2):
        directory, left = scene.home.directory.parent / f"cut-{written}", [written]

        def cutting(path: Path, data: bytes, left: list[int] = left) -> None:
            if not left[0]:
                raise OSError("power cut")
            left[0] -= 1
            write(path, data)

        monkeypatch.setattr(backup, "write_private", cutting)
        try:
            restore(scene.file, directory, SECRET)
        except OSError:
            assert written <= files
        assert (directory / "restored.json").exists()


def test_a_recovery_that_is_cut_off_is_done_again(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Power fails behind the ledger's rows, before the mark is gone."""
    home = scene.restored()
    with monkeypatch.context() as cut:
        cut.setattr(Path, "unlink", _power_cut)
        with pytest.raises(OSError, match="power cut"):
            recover(home, cast(CoordinatorApi, scene.api))
    with pytest.raises(RefusedError, match="restored from a backup"):
        home.open_ledger()
    assert recover(home, cast(CoordinatorApi, scene.api)).lost == 0
    with closing(home.open_ledger()) as ledger, closing(scene.home.open_ledger()) as true:
        for sub_ledger in ("training", "evaluation"):
            charged = ledger.balance().charged("main", sub_ledger)
            assert charged >= true.balance().charged("main", sub_ledger)


def _power_cut(*_: object, **__: object) -> None:
    raise OSError("power cut")

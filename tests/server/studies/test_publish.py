"""Publishing: a card that names a report of the hospitals' own extracts, and who may have it."""

from __future__ import annotations

import base64
import html
import json
import os
import re
import secrets
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from safetensors import safe_open

from flo.clients.approvals.approve import approve
from flo.clients.connection.coordinator_api import CoordinatorApi
from flo.clients.connection.enrolment import connect
from flo.clients.home.site_home import SiteHome
from flo.clients.prediction.fetched_models import fetch
from flo.documents import canonical
from flo.errors import EXIT_OK, EXIT_TRUST, MessageError, TrustError
from flo.keys.claims import LedgerHead
from flo.privacy.accounting.plan import Plan
from flo.privacy.releases.calibration import Calibration
from flo.privacy.report.report import build, verify
from flo.privacy.report.wording import trust
from flo.published.model_card import ModelCard, PublishedModel
from flo.server.api.site_api import MAX_MODEL_REPLY
from flo.server.coordinator import Coordinator
from flo.server.home.coordinator_home import CoordinatorConfig, CoordinatorHome
from flo.server.rounds.state import RunState
from flo.server.store.store import Offer, Store
from flo.server.studies.publish import WAIT_SECONDS, is_due, published, write_card, write_tensors
from flo.study.document import Study
from flo.study.features import input_names
from flo.study.lineage import Life
from flo.study.models import initial_weights
from tests.builders import SilentApi, make_site, offered, pretend_enrolled, small_study
from tests.commands import flo
from tests.flo.published_models import made
from tests.privacy.hospitals import World, head_of, run
from tests.server.real_coordinator import Answer, RealCoordinator, served, serving

NAMES = ("north", "south")
ESTIMATE = {"auc": 0.75, "low": 0.5, "high": 0.875, "level": 0.95, "cases": 12, "noise": 3.5}
QUALITY = {name: ESTIMATE[name] for name in ("auc", "low", "high", "level")}
Change = Callable[[dict[str, Any]], None]


def study(name: str, hospitals: tuple[str, ...] = NAMES, **changes: Any) -> Study:
    """A study of the builders that leaves room for another one in a life of 0.9."""
    partners = [{"id": hospital, "declared_size": 40} for hospital in hospitals]
    return small_study(name=name, hospitals=partners, **changes).with_epsilon(0.3)


@dataclass(frozen=True)
class Scene:
    """A coordinator's folder, and hospitals that ran its two studies."""

    home: CoordinatorHome
    world: World
    offers: list[Offer]
    early: bytes  # what the first hospital signed before it released anything

    def extracts(self, **changes: bytes) -> dict[str, bytes]:
        return {name: self.world.extract(site) for site, name in enumerate(NAMES)} | changes


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    folder = tmp_path_factory.mktemp("publish")
    home = CoordinatorHome.create(folder / "home", CoordinatorConfig())
    sites = [make_site(folder / name, name) for name in NAMES]
    studies = study("first", schema_version=4), study("second")
    offers = [offered(one, sites, home.open_tls_identity()) for one in studies]
    early = b""
    world = World(sites, [offer.study for offer in offers])
    for site in sites:
        pretend_enrolled(site, home.open_tls_identity())
        for offer in offers:
            api = cast(CoordinatorApi, SilentApi())
            approve(site, api, offer, site.read_config().population(None))
            early = early or world.extract()
            run(site, offer.study, 2, sites)
    return Scene(home, world, [Offer(o.study, o.signature, "done") for o in offers], early)


def result_of(home: CoordinatorHome, offer: Offer, run: str, **changes: Any) -> dict[str, Any]:
    """What a ServerApp writes at the end, with its tensors on the disk."""
    path = write_tensors(home, offer.study, run, RunState.start(offer.study))
    return {
        "model": str(path),
        "rounds": 2,
        "epsilon": Plan.of(offer.study).epsilon,
        "delta": offer.study.mechanism.delta,
        "estimate": ESTIMATE,
        "subgroups": {"ward=a": ESTIMATE, "ward=b": None},
        **changes,
    }


@dataclass(frozen=True)
class Carded:
    model: PublishedModel
    report: bytes | None

    @property
    def reporting(self) -> list[str]:
        """Hospitals whose extracts are in the report that the card names."""
        assert self.report is not None
        assert self.model.card.report == canonical.digest(self.report)
        facts = verify(self.report)
        assert facts["study"]["digest"] == self.model.study.digest
        return [site["hospital"] for site in facts["hospitals"]]


def carded(
    scene: Scene,
    extracts: dict[str, bytes],
    heads: dict[str, LedgerHead] | None = None,
    **changes: Any,
) -> Carded:
    run = f"run-{secrets.token_hex(4)}"
    offer = scene.offers[0]
    changes.setdefault("subgroups", {"ward=a": ESTIMATE})
    result = result_of(scene.home, offer, run, **changes)
    path = write_card(scene.home, offer, run, result, extracts, heads or {})
    report = path.with_name(path.name.replace(".card.json", ".report.json"))
    return Carded(
        PublishedModel.open(path, scene.home.open_identity().fingerprint),
        report.read_bytes() if report.exists() else None,
    )


# -- the tensors -----------------------------------------------------------------------------------


def test_the_tensors_say_which_study_and_inputs_they_are_of(scene: Scene) -> None:
    offer = scene.offers[0]
    path = write_tensors(scene.home, offer.study, "run-7", RunState.start(offer.study))
    assert path == scene.home.directory / "models" / "first-run-7.safetensors"
    with safe_open(path, "numpy") as file:
        facts = file.metadata()
    assert (facts["study"], facts["run"]) == (offer.study.digest, "run-7")
    assert facts["inputs"].splitlines() == input_names(offer.study.data)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


# -- the card and its report -----------------------------------------------------------------------


def test_a_card_names_the_report_of_all_hospitals(scene: Scene) -> None:
    made = carded(scene, scene.extracts())
    assert made.reporting == list(NAMES)
    assert made.model.card.without_extract == ()
    assert made.model.card.life == Life(epsilon=0.9, delta=1e-6)


def test_a_card_states_no_life_that_its_report_does_not_prove(scene: Scene) -> None:
    for extracts in ({}, {"north": scene.extracts()["north"]}):
        card = carded(scene, extracts).model.card
        assert card.without_extract
        assert card.life is None


def test_a_card_says_what_the_run_found(scene: Scene) -> None:
    card = carded(scene, {}).model.card
    assert (card.rounds, card.delta) == (2, 1e-6)
    assert card.epsilon == pytest.approx(0.3, abs=1e-4)
    assert card.evaluation is not None
    assert card.evaluation.model_dump() == QUALITY
    assert {name: found.model_dump() for name, found in card.subgroups.items()} == {
        "ward=a": QUALITY
    }
    assert card.trust_model == trust(scene.offers[0].study)
    assert card.study_signature == scene.offers[0].signature
    np.testing.assert_array_equal(
        carded(scene, {}).model.weights, initial_weights(scene.offers[0].study)
    )


def test_a_run_without_evaluation_gets_a_card_too(scene: Scene) -> None:
    card = carded(scene, scene.extracts(), estimate=None, subgroups={}).model.card
    assert card.calibration is None
    assert card.evaluation is None
    assert card.subgroups == {}


def test_a_card_says_the_risks_of_its_run_and_the_report_page_shows_them(
    scene: Scene, tmp_path: Path
) -> None:
    calibration = made().document["calibration"]
    found = carded(scene, scene.extracts(), calibration=calibration)
    assert found.model.card.calibration == Calibration.model_validate(calibration)
    card, extracts = tmp_path / "first.card.json", []
    card.write_bytes(found.model.card.to_bytes())
    for name, document in scene.extracts().items():
        extracts.append(tmp_path / f"{name}.json")
        extracts[-1].write_bytes(document)
    shown = ("--out", tmp_path / "report", "--card", card, "--prv")
    done = flo("audit", "report", *extracts, *shown)
    assert done.returncode == EXIT_OK, done.stderr
    page = (tmp_path / "report" / "report.html").read_text()
    assert "What the model's scores mean" in page
    assert "<td>6 to 25 %</td>" in page
    (prv,) = re.findall(r"Opacus' PRV accountant: at most ε = (\d\.\d{4})", html.unescape(page))
    facts = json.loads((tmp_path / "report" / "report.json").read_bytes())["facts"]["guarantee"]
    assert facts["epsilon_pld"] <= float(prv) <= facts["epsilon"]
    smaller = found.model.card.model_copy(update={"life": Life(epsilon=0.1, delta=1e-6)})
    card.write_bytes(smaller.signed(scene.home.open_identity()).to_bytes())
    refused = flo("audit", "report", *extracts, "--out", tmp_path / "none", "--card", card)
    assert refused.returncode == EXIT_TRUST
    assert "life budget of ε = 0.1, δ = 1e-06, and the extracts ε = 0.9" in refused.stderr
    foreign = made().write(tmp_path / "foreign")
    refused = flo("audit", "report", *extracts, "--out", tmp_path / "none", "--card", foreign)
    assert refused.returncode == EXIT_TRUST
    assert "another coordinator" in refused.stderr
    assert not (tmp_path / "none").exists()


def drop_a_row(body: dict[str, Any]) -> None:
    del body["rows"][1]


def cheapen(body: dict[str, Any]) -> None:
    row = next(row for row in body["rows"] if row["public"]["kind"] == "release")
    row["public"]["mechanism"]["noise_multiplier"] = 1e6


def rename(body: dict[str, Any]) -> None:
    body["hospital"] = "south"


@pytest.mark.parametrize("change", [drop_a_row, cheapen, rename])
def test_a_forged_extract_is_left_out_and_its_hospital_named(scene: Scene, change: Change) -> None:
    made = carded(scene, scene.extracts(north=scene.world.forged(change)))
    assert made.reporting == ["south"]
    assert made.model.card.without_extract == ("north",)


@pytest.mark.parametrize("garbage", [b"", b"{}", b"\xff", b'{"body":{},"signature":"00"}'])
def test_an_extract_that_is_none_is_left_out(scene: Scene, garbage: bytes) -> None:
    made = carded(scene, scene.extracts(south=garbage))
    assert made.reporting == ["north"]
    assert made.model.card.without_extract == ("south",)


def test_an_extract_of_anothers_is_left_out(scene: Scene) -> None:
    data = bytearray(scene.world.extract())
    data[len(data) // 2] ^= 1
    made = carded(scene, scene.extracts(north=bytes(data)))
    assert made.reporting == ["south"]


def test_a_hospital_that_sent_nothing_is_named(scene: Scene) -> None:
    made = carded(scene, {"south": scene.world.extract(1)})
    assert made.reporting == ["south"]
    assert made.model.card.without_extract == ("north",)


@pytest.mark.parametrize("bad", [{}, {"north": b"{}"}, {"north": b"{}", "south": b"[]"}], ids=str)
def test_without_any_good_extract_there_is_no_report(scene: Scene, bad: dict[str, bytes]) -> None:
    made = carded(scene, bad)
    assert (made.report, made.model.card.report) == (None, None)
    assert made.model.card.without_extract == NAMES


def test_extracts_that_contradict_each_other_make_no_report(scene: Scene) -> None:
    """The south saw rows of the north that the north does not show; each extract alone holds."""
    build([scene.early])
    with pytest.raises(TrustError, match="recorded ledger row"):
        build([scene.early, scene.world.extract(1)])
    made = carded(scene, scene.extracts(north=scene.early))
    assert (made.report, made.model.card.report) == (None, None)
    assert made.model.card.without_extract == NAMES


def test_with_the_kept_heads_it_is_clear_whose_extract_was_cut_off(scene: Scene) -> None:
    heads = {home.read_config().hospital: head_of(home) for home in scene.world.homes}
    made = carded(scene, scene.extracts(), heads)
    assert made.reporting == ["north", "south"]
    assert made.report is not None
    assert all(site["kept_by_coordinator"] for site in verify(made.report)["hospitals"])
    made = carded(scene, scene.extracts(north=scene.early), heads)
    assert made.reporting == ["south"]
    assert made.model.card.without_extract == ("north",)


def test_an_extract_of_another_study_keeps_no_others_out(scene: Scene) -> None:
    made = carded(scene, scene.extracts(north=scene.world.extract(0, study=1)))
    assert made.model.card.without_extract == ("north",)


def test_a_card_never_names_a_report_of_another_study(scene: Scene) -> None:
    other = {name: scene.world.extract(site, study=1) for site, name in enumerate(NAMES)}
    made = carded(scene, other)
    assert made.model.card.report is None
    assert made.model.card.without_extract == NAMES


def test_a_card_that_would_not_check_is_not_written(scene: Scene) -> None:
    result = result_of(scene.home, scene.offers[0], "run-bad")
    Path(result["model"]).write_bytes(b"not a model")
    with pytest.raises(TrustError, match="header has"):
        write_card(scene.home, scene.offers[0], "run-bad", {**result, "subgroups": {}}, {}, {})
    assert not (scene.home.directory / "models" / "first-run-bad.card.json").exists()


# -- when ------------------------------------------------------------------------------------------


def aged(path: Path, seconds: float) -> Path:
    then = time.time() - seconds
    os.utime(path, (then, then))
    return path


def test_a_card_is_due_when_all_extracts_are_there_or_were_waited_for(tmp_path: Path) -> None:
    tensors, of_two = tmp_path / "x.safetensors", study("due")
    tensors.touch()
    assert WAIT_SECONDS == 5
    everyone, one = dict.fromkeys(NAMES, b""), {"north": b""}
    assert is_due(of_two, everyone, aged(tensors, 0))
    for some in (one, dict[str, bytes]()):
        assert not is_due(of_two, some, aged(tensors, 0))
        assert not is_due(of_two, some, aged(tensors, WAIT_SECONDS - 3))
        assert is_due(of_two, some, aged(tensors, WAIT_SECONDS + 0.5))


def test_a_study_is_published_once_its_card_is_there(scene: Scene, tmp_path: Path) -> None:
    offer, run = scene.offers[0], "run-published"
    with closing(Store(tmp_path / "coordinator.sqlite")) as store:
        digest = offer.study.digest
        assert published(store, digest) is None
        store.add_study(offer.study, offer.signature)
        assert published(store, digest) is None
        assert store.start_run(run, digest)
        assert published(store, digest) is None
        result = result_of(scene.home, offer, run, subgroups={})
        store.end_run(run, store.take_run(run), "done", result)
        assert published(store, digest) is None
        card = write_card(scene.home, offer, run, result, {}, {})
        assert published(store, digest) == (card, Path(result["model"]))
        assert published(store, scene.offers[1].study.digest) is None


def test_a_survey_is_never_published(scene: Scene, tmp_path: Path) -> None:
    offer = scene.offers[0]
    with closing(Store(tmp_path / "coordinator.sqlite")) as store:
        store.add_study(offer.study, offer.signature)
        store.start_run("run-1", offer.study.digest)
        store.end_run("run-1", store.take_run("run-1"), "done", {"rounds": 1, "survey": {}})
        assert published(store, offer.study.digest) is None


# -- a coordinator that starts again ---------------------------------------------------------------


def restarted(
    folder: Path, result: Callable[[CoordinatorHome, Offer], dict[str, Any]]
) -> list[tuple[str, Any]]:
    """What a coordinator does at its start about a run that ended before, without a card.

    The events of that, each with its reason where it has one.
    """
    home = CoordinatorHome.create(folder / "home", CoordinatorConfig())
    offer = offered(study("old"), [], home.open_tls_identity())
    with closing(home.open_store()) as store:
        store.add_study(offer.study, offer.signature)
        store.start_run("run-1", offer.study.digest)
        store.end_run(
            "run-1",
            store.take_run("run-1"),
            "done",
            result(home, Offer(offer.study, offer.signature, "done")),
        )
        store.set_status(offer.study.digest, "done")
    coordinator = Coordinator(home)
    try:
        coordinator._recover()
        coordinator._runs.sign_cards()
        assert not coordinator._runs.uncarded
        events = coordinator._store.events(offer.study.digest)
        return [(event["kind"], event["facts"].get("why")) for event in events]
    finally:
        coordinator._store.close()
        coordinator._admission.close()


def card_of_the_restarted(folder: Path) -> ModelCard:
    home = CoordinatorHome.open(folder / "home")
    model = home.directory / "models" / "old-run-1.card.json"
    return PublishedModel.open(model, home.open_identity().fingerprint).card


def test_a_card_that_was_not_signed_before_a_restart_is_signed_after_it(tmp_path: Path) -> None:
    def result(home: CoordinatorHome, offer: Offer) -> dict[str, Any]:
        found = result_of(home, offer, "run-1", subgroups={})
        aged(Path(found["model"]), 60)
        return found

    assert restarted(tmp_path, result) == [("published", None)]
    assert card_of_the_restarted(tmp_path).run == "run-1"


def test_a_model_that_was_moved_away_does_not_stop_the_coordinator(tmp_path: Path) -> None:
    def result(home: CoordinatorHome, offer: Offer) -> dict[str, Any]:
        found = result_of(home, offer, "run-1", subgroups={})
        Path(found["model"]).unlink()
        return found

    assert restarted(tmp_path, result) == [("no-card", "FileNotFoundError")]


def test_a_run_that_ended_under_flo_0_1_does_not_stop_the_coordinator(tmp_path: Path) -> None:
    def result(home: CoordinatorHome, offer: Offer) -> dict[str, Any]:
        found = result_of(home, offer, "run-1")
        aged(Path(found["model"]), 60)
        del found["subgroups"]
        return found

    assert restarted(tmp_path, result) == [("published", None)]
    assert card_of_the_restarted(tmp_path).subgroups == {}


def nested(depth: int) -> list[Any]:
    found: list[Any] = []
    for _ in range(depth):
        found = [found]
    return found


@pytest.mark.processes
@pytest.mark.parametrize(
    "rows", [nested(40), [{"public": {"kind": "release"}}], "rows", 7], ids=str
)
def test_an_extract_that_is_signed_and_makes_no_sense_does_not_stop_the_coordinator(
    tmp_path: Path, rows: Any
) -> None:
    waiting: list[tuple[str, bytes]] = []
    with serving(tmp_path / "home") as coordinator:
        home = coordinator.home
        sites = [coordinator.enrol(tmp_path / name, name) for name in NAMES]
        offer = offered(study("odd"), sites, home.open_tls_identity())
        with closing(home.open_store()) as store:
            store.add_study(offer.study, offer.signature)
            store.start_run("run-1", offer.study.digest)
            done = Offer(offer.study, offer.signature, "done")
            store.end_run(
                "run-1",
                store.take_run("run-1"),
                "done",
                result_of(home, done, "run-1", subgroups={}),
            )
            store.set_status(offer.study.digest, "done")
        for site in sites:
            body = {
                "hospital": site.read_config().hospital,
                "study": offer.study.canonical_bytes.decode(),
                "rows": rows,
            }
            signature = site.open_identity().sign("extract", canonical.encode(body))
            extract = canonical.encode({"body": body, "signature": signature})
            with connect(site) as api, pytest.raises(MessageError, match="extract is invalid"):
                api.call("reports", {"study": offer.study.digest, "extract": extract.decode()})
            with closing(home.open_store()) as store:
                assert store.extracts(offer.study.digest) == {}
                waiting.append((site.read_config().hospital, extract))
    with closing(home.open_store()) as store:  # an earlier FLO kept them as they came
        for hospital, extract in waiting:
            store.add_extract(offer.study.digest, hospital, extract)
    with served(RealCoordinator(home)) as coordinator, closing(home.open_store()) as store:
        end = time.monotonic() + 20
        while (found := published(store, offer.study.digest)) is None:
            assert time.monotonic() < end, (home.directory / "serve.log").read_text()
            time.sleep(0.05)
        assert coordinator.private("GET", "/health").status == 204
    card = PublishedModel.open(found[0], home.open_identity().fingerprint).card
    assert (card.report, card.without_extract) == (None, NAMES)


# -- who may have it: a real coordinator -----------------------------------------------------------


@dataclass(frozen=True)
class Clinics:
    """Two clinics of one study and one of none, enrolled with a real coordinator."""

    coordinator: RealCoordinator
    sites: list[SiteHome]
    offer: Offer
    store: Store

    def ask(self, site: int, body: dict[str, Any] | None = None) -> Answer:
        wish = canonical.encode({"study": self.offer.study.digest} if body is None else body)
        context = self.coordinator.site(self.sites[site])
        return self.coordinator.outside("POST", "/v1/site/models", context, body=wish)

    def publish(self) -> Path:
        """As the ServerApp and the coordinator do at the end of a run."""
        digest, run = self.offer.study.digest, f"run-{secrets.token_hex(4)}"
        self.store.start_run(run, digest)
        result = result_of(self.coordinator.home, self.offer, run, subgroups={})
        self.store.end_run(run, self.store.take_run(run), "done", result)
        self.store.set_status(digest, "done")
        return write_card(self.coordinator.home, self.offer, run, result, {}, {})


@pytest.fixture
def clinics(coordinator: RealCoordinator, tmp_path: Path) -> Iterator[Clinics]:
    names = [f"{name}-{secrets.token_hex(4)}" for name in ("alder", "birch", "cedar")]
    sites = [coordinator.enrol(tmp_path / name, name) for name in names]
    made = study(f"trees-{secrets.token_hex(4)}", tuple(names[:2]))
    offer = offered(made, sites[:2], coordinator.home.open_tls_identity())
    with closing(coordinator.home.open_store()) as store:
        store.add_study(offer.study, offer.signature)
        yield Clinics(coordinator, sites, Offer(offer.study, offer.signature, "offered"), store)
        # Other tests of this coordinator expect no study there.
        store._write("DELETE FROM runs WHERE study = ?", offer.study.digest)
        store._write("DELETE FROM studies WHERE digest = ?", offer.study.digest)


@pytest.mark.processes
def test_a_model_is_for_the_hospitals_of_its_study_and_once_it_is_published(
    clinics: Clinics, tmp_path: Path
) -> None:
    early = clinics.ask(0)
    assert (early.status, early.document["error"].split(" has ")[1]) == (
        400,
        "no published model yet",
    )
    card = clinics.publish()
    tensors = card.with_name(card.name.replace(".card.json", ".safetensors"))
    for site in (0, 1):
        answer = clinics.ask(site)
        assert answer.status == 200
        assert answer.document["card"].encode() == card.read_bytes()
        assert base64.b64decode(answer.document["tensors"]) == tensors.read_bytes()
    refused = clinics.ask(2)
    assert refused.status == 400
    assert "does not name hospital" in refused.document["error"]
    assert b"tensors" not in refused.body
    assert clinics.ask(0, {"study": "0" * 64}).status == 400
    assert clinics.ask(0, {"study": "../x"}).status == 400
    assert clinics.ask(0, {}).status == 400


@pytest.mark.processes
def test_the_sites_own_command_fetches_it(clinics: Clinics, tmp_path: Path) -> None:
    site, name = clinics.sites[0], clinics.offer.study.name
    with connect(site) as api, pytest.raises(MessageError, match="no published model yet"):
        fetch(site, api, name, tmp_path / "models")
    card = clinics.publish()
    done = flo("model", "fetch", name, "--home", site.directory, "--out", tmp_path / "models")
    assert done.returncode == EXIT_OK, done.stderr
    assert (tmp_path / "models" / card.name).read_bytes() == card.read_bytes()
    trusted = clinics.coordinator.home.open_identity().fingerprint
    assert (
        PublishedModel.open(tmp_path / "models" / card.name, trusted).study == clinics.offer.study
    )
    done = flo(
        "model", "fetch", name, "--home", clinics.sites[2].directory, "--out", tmp_path / "m"
    )
    assert done.returncode == 2
    assert "no study of this hospital called" in done.stderr
    assert not (tmp_path / "m").exists()


@pytest.mark.processes
def test_a_model_too_large_for_a_sites_reply_is_refused(clinics: Clinics) -> None:
    card = clinics.publish()
    tensors = card.with_name(card.name.replace(".card.json", ".safetensors"))
    os.truncate(tensors, MAX_MODEL_REPLY + 1)
    answer = clinics.ask(0)
    assert answer.status == 400
    limits = f"the model has {MAX_MODEL_REPLY + 1} bytes; at most {MAX_MODEL_REPLY} can be fetched"
    assert limits in answer.document["error"]


@pytest.mark.processes
def test_a_model_whose_tensors_were_moved_is_not_published(clinics: Clinics) -> None:
    card = clinics.publish()
    card.with_name(card.name.replace(".card.json", ".safetensors")).unlink()
    assert clinics.ask(0).status == 400

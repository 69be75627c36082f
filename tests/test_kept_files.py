"""What earlier versions wrote is read by this one, and what a later one writes is refused clearly.

Each folder of ``tests/kept`` is one site of a real four-hospital run of the heart study: ledger,
key (plain PEM), coordinator, study, approval, report and model. ``v1`` is of FLO 0.1, ``v2`` of
what followed: studies and reports of schema 2, signed model cards. Tests work on copies.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w
from safetensors import safe_open

from flo.audit.log import AuditLog
from flo.clients.home.site_config import make_config
from flo.clients.home.site_home import SiteHome
from flo.clients.records import approval
from flo.clients.records.approval import approval_path
from flo.clients.records.extract import make_extract
from flo.documents import canonical
from flo.errors import BudgetError, FloError, MessageError, StudyError, TrustError, UsageError
from flo.keys.identity import Identity
from flo.keys.keystore import is_sealed
from flo.privacy.accounting.life_budget import SUB_LEDGERS
from flo.privacy.accounting.plan import Plan
from flo.privacy.ledger.ledger import Ledger
from flo.privacy.report.report import build, verify
from flo.published.model_card import PublishedModel
from flo.storage.files import write_private
from flo.study import models
from flo.study.document import Study, from_document
from flo.study.features import input_names
from flo.study.loading import from_canonical
from tests.builders import surveyed
from tests.commands import flo

KEPT = Path(__file__).parent / "kept"
of_v1 = pytest.mark.parametrize("version", [1])
of_v2 = pytest.mark.parametrize("version", [2])


@pytest.fixture(params=[1, 2], ids="v{}".format)
def version(request: pytest.FixtureRequest) -> int:
    number: int = request.param
    return number


@pytest.fixture
def kept(version: int, tmp_path: Path) -> Path:
    return Path(shutil.copytree(KEPT / f"v{version}", tmp_path / "kept"))


@pytest.fixture
def study(kept: Path) -> Study:
    return from_canonical((kept / "study.json").read_bytes())


@pytest.fixture
def home(kept: Path, study: Study) -> SiteHome:
    """The site's folder as that version left it, as far as these files go."""
    config = make_config(
        "cleveland",
        file=kept / "patients.csv",
        id_column="patient_id",
        epsilon=0.9,
        declared_size=300,
        hold_out=0.3,
    )
    made = SiteHome(kept)
    document = config.model_dump(mode="json", exclude_none=True)
    write_private(made.config_path, tomli_w.dumps(document).encode())
    (kept / "approved").mkdir()
    AuditLog(kept / "audit.sqlite", made.open_identity()).close()  # 0.1 had none
    shutil.move(kept / "approval.json", approval_path(made, study.digest))
    return made


def changed_json(path: Path, **changes: Any) -> bytes:
    document = json.loads(path.read_bytes())
    path.write_bytes(canonical.encode({**document, **changes}))
    return path.read_bytes()


# -- the study ------------------------------------------------------------------------------------


def test_the_study_has_the_digest_that_was_approved(kept: Path, study: Study, version: int) -> None:
    approved = json.loads((kept / "approval.json").read_bytes())
    decision = json.loads(approved["decision"])
    assert study.digest == decision["study"]
    assert study.canonical_bytes == (kept / "study.json").read_bytes()
    assert (study.schema_version, study.mechanism.sampling, study.survey) == (version, 1.0, None)


@of_v1
def test_a_study_of_the_old_schema_cannot_ask_for_what_it_did_not_know(study: Study) -> None:
    document = study.model_dump(mode="json")
    for path, value in (
        (("mechanism", "sampling"), 0.5),
        (("evaluation", "subgroups"), ["sex"]),
        (("survey",), {"epsilon": 0.3, "columns": ["sex"]}),
        (("model",), {"kind": "mlp", "hidden": [4]}),
    ):
        changed: dict[str, Any] = json.loads(json.dumps(document))
        place = changed
        for name in path[:-1]:
            place = place[name]
        place[path[-1]] = value
        with pytest.raises(StudyError, match="schema_version 1"):
            from_document(changed)


@of_v1
def test_a_survey_of_an_old_study_is_a_new_document(study: Study) -> None:
    asked = surveyed(study, epsilon=0.3, columns=["sex"])
    assert asked.schema_version == 2
    assert from_canonical(asked.canonical_bytes) == asked


# -- who the site is, and its coordinator ----------------------------------------------------------


def test_the_key_is_read_in_the_clear_and_sealed_when_it_is_saved(
    home: SiteHome, study: Study
) -> None:
    path = home.directory / "identity.key"
    assert path.read_bytes().startswith(b"-----BEGIN PRIVATE KEY-----")
    identity = home.open_identity()
    assert identity.fingerprint == study.hospital("cleveland").fingerprint
    identity.save(path, home.open_keystore())
    assert is_sealed(path.read_bytes())
    assert home.open_identity().fingerprint == identity.fingerprint


def test_the_coordinator_is_the_one_that_signed_the_study(home: SiteHome, study: Study) -> None:
    info = home.read_coordinator()
    kept = json.loads(approval_path(home, study.digest).read_bytes())
    assert info.signer_of(study.canonical_bytes, kept["study_signature"]) == info.public
    assert (info.earlier, len(info.fingerprints)) == ((), 1)
    with pytest.raises(TrustError, match="signature of this study"):
        info.signer_of(study.canonical_bytes + b" ", kept["study_signature"])


# -- the ledger -----------------------------------------------------------------------------------


def test_the_ledger_opens_with_its_key_and_adds_up(home: SiteHome, study: Study) -> None:
    with closing(home.open_ledger()) as ledger:
        balance = ledger.balance()
        life = balance.lives["main"]
        assert (life.epsilon, life.delta, life.order) == (0.9, 1e-6, 24)
        held = balance.reservations[2]
        assert held.settled
        assert held.released == {"training": 30, "evaluation": 1}
        shares = Plan.of(study).shares(life)
        for sub_ledger in SUB_LEDGERS:
            used = held.released[sub_ledger] / held.parts[sub_ledger].releases
            spent = life.share(balance.charged("main", sub_ledger))
            assert spent == pytest.approx(used * shares[sub_ledger], rel=1e-9)
            assert 0.999 < spent / used <= 1
            assert balance.committed("main", sub_ledger) == balance.charged("main", sub_ledger)
        partners = {h.fingerprint for h in study.hospitals if h.id != "cleveland"}
        assert set(ledger.witnessed()) == partners
        report = json.loads((home.directory / "report.json").read_bytes())
        heads = {site["hospital"]: site["ledger_head"] for site in report["facts"]["hospitals"]}
        assert ledger.head().hash == heads["cleveland"]


@of_v1
@pytest.mark.parametrize(
    "ask",
    [
        lambda study: study.with_epsilon(0.05),
        lambda study: surveyed(study, epsilon=0.1, columns=["sex"]),
        lambda study: from_document(study.model_dump(mode="json") | {"schema_version": 2}),
    ],
    ids=["a small study", "a survey", "the same study in the new schema"],
)
def test_a_ledger_that_is_spent_refuses_whatever_is_new(
    home: SiteHome, study: Study, ask: Callable[[Study], Study]
) -> None:
    with closing(home.open_ledger()) as ledger:
        before = ledger.head()
        with pytest.raises(BudgetError, match=r"0\.0% remains"):
            ledger.reserve(ask(study), "main")
        assert ledger.head() == before


@of_v2
def test_a_ledger_with_something_left_takes_what_fits_and_refuses_the_rest(
    home: SiteHome, study: Study
) -> None:
    with closing(home.open_ledger()) as ledger:
        ledger.reserve(study.with_epsilon(0.1), "main")
        with pytest.raises(BudgetError, match=r"remains"):
            ledger.reserve(study.with_epsilon(0.5), "main")


def test_another_key_does_not_open_the_ledger(kept: Path) -> None:
    with pytest.raises(TrustError):
        Ledger(kept / "ledger.sqlite", Identity.new())


def test_a_study_that_was_approved_under_the_old_version_is_finished_under_this_one(
    home: SiteHome, study: Study, version: int
) -> None:
    left = {1: (12, 1), 2: (14, 2)}[version]
    with closing(sqlite3.connect(home.directory / "ledger.sqlite")) as database, database:
        database.execute("DELETE FROM rows WHERE sequence > 20")  # in the middle of its training
    facts = dict.fromkeys(("run", "round", "attempt", "model", "cohort"), "x")
    facts |= {"study": study.digest, "reply": "0" * 64}
    with closing(home.open_ledger()) as ledger:
        held = ledger.balance().reservations[2]
        assert (held.remaining("training"), held.remaining("evaluation")) == left
        for purpose, count in zip(("training", "evaluation"), left, strict=True):
            for n in range(count):
                ledger.charge(2, purpose, f"{purpose} {n}", facts)
        for purpose in ("training", "evaluation", "survey"):
            with pytest.raises(BudgetError, match=f"no {purpose} release left"):
                ledger.charge(2, purpose, "one more", facts)
        ledger.settle(2, "ended")
    with closing(home.open_ledger()) as ledger:
        life = ledger.balance().lives["main"]
        for sub_ledger, share in Plan.of(study).shares(life).items():
            spent = life.share(ledger.balance().charged("main", sub_ledger))
            assert spent == pytest.approx(share, rel=1e-9)


# -- the approval, and an extract made today ------------------------------------------------------


def test_the_approval_loads(home: SiteHome, study: Study) -> None:
    approved = approval.load(home, study.digest)
    assert approved.read_study() == study
    assert (approved.population, approved.reservation) == ("main", 2)
    decision = approved.read_decision()
    assert (decision.hospital, decision.study) == ("cleveland", study.digest)
    assert decision.charged == "as-designed"
    assert approval.approved_digests(home) == [study.digest]


def test_an_approval_that_names_no_code_is_asked_for_again(home: SiteHome, study: Study) -> None:
    with pytest.raises(TrustError, match=r"for code of FLO 0\.1, and cccccccccccc"):
        approval.refuse_other_code(approval.load(home, study.digest), "c" * 64)


def test_an_edited_approval_is_refused(home: SiteHome, study: Study) -> None:
    changed_json(approval_path(home, study.digest), reservation=1)
    with pytest.raises(TrustError):
        approval.load(home, study.digest)


def test_an_extract_made_today_says_what_the_old_report_said(
    home: SiteHome, study: Study, version: int
) -> None:
    with closing(home.open_ledger()) as ledger:
        (now,) = verify(build([make_extract(home, ledger, study.digest)]))["hospitals"]
    old = next(
        site
        for site in verify((home.directory / "report.json").read_bytes())["hospitals"]
        if site["hospital"] == "cleveland"
    )
    new = {"made", "software", "releases_survey", "witnessed_by"}
    since = {"approved_by", "confinement", "restored", "releases_unseen", "mapping"}
    since |= {
        "witnessed_up_to",
        "rows_after_that",
        "approved_code",
        "kept_by_coordinator",
        "generations",
        "lost_approvals",
    }
    if version == 1:
        since |= {"software", "releases_survey", "charged", "epsilon_charged", "unconfirmed"}
    assert set(now) == set(old) | since
    assert not since & set(old)
    assert {name: now[name] for name in old if name not in new} == {
        name: old[name] for name in old if name not in new
    }


# -- the report -----------------------------------------------------------------------------------


def test_the_report_verifies(kept: Path, study: Study, version: int) -> None:
    facts = verify((kept / "report.json").read_bytes())
    assert facts["study"]["digest"] == study.digest
    assert len(facts["hospitals"]) == 4
    spent = {1: 0.9, 2: 0.869514}[version]  # under v2 the retries that were set aside came back
    assert all(site["epsilon_released"] == spent for site in facts["hospitals"])


def test_a_changed_byte_of_the_report_is_found(kept: Path) -> None:
    report = (kept / "report.json").read_bytes()
    for position in range(97, len(report), len(report) // 23):
        changed = bytearray(report)
        changed[position] ^= 1
        with pytest.raises(FloError):
            verify(bytes(changed))


def test_a_report_cannot_be_passed_off_as_one_of_another_version(kept: Path, version: int) -> None:
    document = json.loads((kept / "report.json").read_bytes())
    assert document["schema_version"] == version
    for claimed in {1, 2, 3} - {version}:
        with pytest.raises(TrustError, match=r"do not follow|cannot state all facts"):
            verify(canonical.encode(document | {"schema_version": claimed}))


# -- the model ------------------------------------------------------------------------------------


@of_v1
def test_the_model_opens_with_safetensors_and_fits_its_study(kept: Path, study: Study) -> None:
    with safe_open(kept / "model.safetensors", "numpy") as file:
        facts, weights = file.metadata(), file.get_tensor("parameters")
    assert facts["study"] == study.digest
    assert facts["inputs"].splitlines() == [*input_names(study.data), "bias"]
    assert weights.shape == (models.parameter_count(study),)
    zeros = np.zeros((1, len(input_names(study.data))))
    assert models.log_odds(study, weights, zeros) == pytest.approx(weights[-1])


@of_v2
def test_the_model_opens_with_its_card_which_names_study_and_report(
    home: SiteHome, study: Study
) -> None:
    coordinators = home.read_coordinator().fingerprints
    found = PublishedModel.open(home.directory / "model.safetensors", *coordinators)
    assert (found.study, found.card.rounds) == (study, 30)
    assert found.card.report == canonical.digest((home.directory / "report.json").read_bytes())
    assert found.weights.shape == (models.parameter_count(study),)
    zeros = np.zeros((1, len(input_names(study.data))))
    assert np.isfinite(models.log_odds(study, found.weights, zeros)).all()
    with pytest.raises(TrustError, match="another coordinator"):
        PublishedModel.open(home.directory / "model.card.json", "0" * 64)


@of_v2
def test_the_card_of_a_study_counted_in_bins_says_what_bins_hide(home: SiteHome) -> None:
    shown = flo("model", "show", home.directory / "model.safetensors", "--home", home.directory)
    assert shown.returncode == 0, shown.stderr
    assert "caution" in shown.stdout
    assert "counted in bins" in shown.stdout


@of_v2
@pytest.mark.parametrize("name", ["model.safetensors", "model.card.json"])
def test_a_changed_byte_of_a_model_or_its_card_is_found(home: SiteHome, name: str) -> None:
    path, coordinators = home.directory / name, home.read_coordinator().fingerprints
    before = path.read_bytes()
    for position in range(11, len(before), len(before) // 23):
        changed = bytearray(before)
        changed[position] ^= 1
        path.write_bytes(changed)
        with pytest.raises(FloError):
            PublishedModel.open(path, *coordinators)


# -- from the future ------------------------------------------------------------------------------


def test_a_study_of_a_later_schema_is_refused(kept: Path) -> None:
    with pytest.raises(StudyError, match=r"schema_version 5 is not supported.*reads 1 to 4"):
        from_canonical(changed_json(kept / "study.json", schema_version=5))


def test_a_ledger_of_a_later_schema_is_refused_and_left_alone(home: SiteHome) -> None:
    path = home.directory / "ledger.sqlite"
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("UPDATE meta SET value = '3' WHERE name = 'schema'")
    with pytest.raises(UsageError, match="ledger schema 3; this version reads 1 to 2"):
        home.open_ledger()
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("SELECT value FROM meta").fetchall() == [("3",)]
        assert database.execute("SELECT count(*) FROM rows").fetchone() == (34,)


def test_an_approval_of_a_later_schema_is_refused(home: SiteHome, study: Study) -> None:
    changed_json(approval_path(home, study.digest), schema_version=2)
    with pytest.raises(UsageError, match="schema_version"):
        approval.load(home, study.digest)


def test_a_coordinators_file_of_a_later_schema_is_refused(home: SiteHome) -> None:
    changed_json(home.directory / "coordinator.json", schema_version=2)
    with pytest.raises(UsageError, match="schema_version"):
        _ = home.read_coordinator()


@pytest.mark.parametrize("claimed", [0, 9, "1", None, True], ids=repr)
def test_a_report_of_a_later_schema_is_refused(kept: Path, claimed: object) -> None:
    with pytest.raises(MessageError, match="schema version 1 to 8"):
        verify(changed_json(kept / "report.json", schema_version=claimed))


@of_v2
def test_a_model_card_of_a_later_schema_is_refused(home: SiteHome) -> None:
    path = home.directory / "model.card.json"
    changed_json(path, schema_version=9)
    with pytest.raises(UsageError, match="schema_version"):
        PublishedModel.open(path, *home.read_coordinator().fingerprints)


def test_an_extract_of_a_later_schema_is_refused(kept: Path) -> None:
    extract = json.loads((kept / "report.json").read_bytes())["evidence"][0]
    extract["body"]["schema_version"] = 4
    with pytest.raises(MessageError, match="extract schema version 4 is unknown"):
        build([canonical.encode(extract)])


# -- generations of patients (v10): a ledger that was restored, and the demo's report --------------


def test_a_ledger_with_generations_is_read(tmp_path: Path) -> None:
    shutil.copytree(KEPT / "v10", tmp_path / "kept")
    key = Identity.read((tmp_path / "kept" / "identity.key").read_bytes(), "key")
    with closing(Ledger(tmp_path / "kept" / "ledger.sqlite", key)) as ledger:
        balance, last = ledger.balance(), ledger.participants(15)
    assert balance.generations("main") == (0, 3, 7, 15)
    assert last.generations == {"p0": 0, "p1": 3, "p5": 3, "p11": 7, "p21": 0}
    assert last.charged == {side: {0, 3, 7, 15} for side in SUB_LEDGERS}
    share = {n: balance.lives["main"].share(balance.charged("main", "training", n)) for n in (0, 7)}
    assert share == {0: pytest.approx(0.436, abs=0.001), 7: pytest.approx(0.27, abs=0.001)}


def test_a_report_with_generations_verifies() -> None:
    report = (KEPT / "v10" / "report.json").read_bytes()
    assert json.loads(report)["schema_version"] == 7
    for site in verify(report)["hospitals"]:
        (only,) = site["generations"]
        assert only["this_study"] == ["training", "evaluation"]
        assert only["shares"]["training"]["all"] == site["shares"]["training"]["all"] < 1
        assert site["lost_approvals"]["number"] == 0


def test_a_report_with_exact_losses_verifies() -> None:
    """v23: the demo's report, schema 8."""
    report = (KEPT / "v23" / "report.json").read_bytes()
    assert json.loads(report)["schema_version"] == 8
    with pytest.raises(TrustError, match="the report was changed"):
        verify(report.replace(b'"schema_version":8}', b'"schema_version":7}'))
    for site in verify(report)["hospitals"]:
        assert 0.8 < site["epsilon_released_pld"] < site["epsilon_released"] <= 0.9

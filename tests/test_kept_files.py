"""What FLO 0.1 wrote is read by this version, and what a later one writes is refused clearly.

``tests/kept/v1`` is one site of a real four-hospital run of the heart study under FLO 0.1: ledger,
key, coordinator, study, approval, report and model. Tests work on copies.
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

from flo import canonical, models
from flo.clients import approval
from flo.clients.approval import approval_path
from flo.clients.extract import make_extract
from flo.clients.home import SiteHome, make_config
from flo.errors import BudgetError, FloError, MessageError, StudyError, TrustError, UsageError
from flo.features import input_names
from flo.files import write_private
from flo.identity import Identity
from flo.privacy.ledger import Ledger
from flo.privacy.life import SUB_LEDGERS
from flo.privacy.plan import Plan
from flo.privacy.report import build, verify
from flo.study import Study, from_canonical, from_document

KEPT = Path(__file__).parent / "kept" / "v1"


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    return Path(shutil.copytree(KEPT, tmp_path / "kept"))


@pytest.fixture
def study() -> Study:
    return from_canonical((KEPT / "study.json").read_bytes())


@pytest.fixture
def home(kept: Path, study: Study) -> SiteHome:
    """The site's folder as 0.1 left it, as far as these files go."""
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
    shutil.move(kept / "approval.json", approval_path(made, study.digest))
    return made


def changed_json(path: Path, **changes: Any) -> bytes:
    document = json.loads(path.read_bytes())
    path.write_bytes(canonical.encode({**document, **changes}))
    return path.read_bytes()


# -- the study ------------------------------------------------------------------------------------


def test_the_study_has_the_digest_that_was_approved(study: Study) -> None:
    approved = json.loads((KEPT / "approval.json").read_bytes())
    decision = json.loads(approved["decision"])
    assert study.digest == decision["study"]
    assert study.canonical_bytes == (KEPT / "study.json").read_bytes()
    assert (study.schema_version, study.mechanism.sampling, study.survey) == (1, 1.0, None)


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


def test_a_survey_of_an_old_study_is_a_new_document(study: Study) -> None:
    asked = study.with_survey(epsilon=0.3, columns=["sex"])
    assert asked.schema_version == 2
    assert from_canonical(asked.canonical_bytes) == asked


# -- the ledger -----------------------------------------------------------------------------------


def test_the_ledger_opens_with_its_key_and_adds_up(home: SiteHome, study: Study) -> None:
    with closing(home.ledger()) as ledger:
        balance = ledger.balance()
        life = balance.lives["main"]
        assert (life.epsilon, life.delta, life.order) == (0.9, 1e-6, 24)
        held = balance.reservations[2]
        assert held.settled
        assert held.released == {"training": 30, "evaluation": 1}
        shares = Plan.of(study).shares(life)
        for sub_ledger in SUB_LEDGERS:
            spent = life.share(balance.charged("main", sub_ledger))
            assert spent == pytest.approx(shares[sub_ledger], rel=1e-9)
            assert 0.999 < spent <= 1
            assert balance.committed("main", sub_ledger) == balance.charged("main", sub_ledger)
        partners = {h.fingerprint for h in study.hospitals if h.id != "cleveland"}
        assert set(ledger.witnessed()) == partners
        report = json.loads((KEPT / "report.json").read_bytes())
        heads = {site["hospital"]: site["ledger_head"] for site in report["facts"]["hospitals"]}
        assert ledger.head().hash == heads["cleveland"]


@pytest.mark.parametrize(
    "ask",
    [
        lambda study: study.with_epsilon(0.05),
        lambda study: study.with_survey(epsilon=0.1, columns=["sex"]),
        lambda study: from_document(study.model_dump(mode="json") | {"schema_version": 2}),
    ],
    ids=["a small study", "a survey", "the same study in the new schema"],
)
def test_a_ledger_that_is_spent_refuses_whatever_is_new(
    home: SiteHome, study: Study, ask: Callable[[Study], Study]
) -> None:
    with closing(home.ledger()) as ledger:
        before = ledger.head()
        with pytest.raises(BudgetError, match=r"0\.0% remains"):
            ledger.reserve(ask(study), "main")
        assert ledger.head() == before


def test_another_key_does_not_open_the_ledger(kept: Path) -> None:
    with pytest.raises(TrustError):
        Ledger(kept / "ledger.sqlite", Identity.new())


def test_a_study_that_was_approved_under_the_old_version_is_finished_under_this_one(
    home: SiteHome, study: Study
) -> None:
    with closing(sqlite3.connect(home.directory / "ledger.sqlite")) as database, database:
        database.execute("DELETE FROM rows WHERE sequence > 20")  # in the middle of its training
    facts = dict.fromkeys(("run", "round", "attempt", "model", "cohort"), "x")
    facts |= {"study": study.digest, "reply": "0" * 64}
    with closing(home.ledger()) as ledger:
        assert ledger.balance().reservations[2].remaining("training") == 12
        for n in range(12):
            ledger.charge(2, "training", f"request {n}", facts)
        ledger.charge(2, "evaluation", "tested", facts)
        for purpose in ("training", "evaluation", "survey"):
            with pytest.raises(BudgetError, match=f"no {purpose} release left"):
                ledger.charge(2, purpose, "one more", facts)
        ledger.settle(2, "ended")
    with closing(home.ledger()) as ledger:
        life = ledger.balance().lives["main"]
        for sub_ledger, share in Plan.of(study).shares(life).items():
            spent = life.share(ledger.balance().charged("main", sub_ledger))
            assert spent == pytest.approx(share, rel=1e-9)


# -- the approval, and an extract made today ------------------------------------------------------


def test_the_approval_loads(home: SiteHome, study: Study) -> None:
    approved = approval.load(home, study.digest)
    assert approved.read_study() == study
    assert (approved.population, approved.reservation) == ("main", 2)


def test_an_edited_approval_is_refused(home: SiteHome, study: Study) -> None:
    changed_json(approval_path(home, study.digest), reservation=1)
    with pytest.raises(TrustError):
        approval.load(home, study.digest)


def test_an_extract_made_today_says_what_the_old_report_said(home: SiteHome, study: Study) -> None:
    with closing(home.ledger()) as ledger:
        (now,) = verify(build([make_extract(home, ledger, study.digest)]))["hospitals"]
    old = next(
        site
        for site in verify((KEPT / "report.json").read_bytes())["hospitals"]
        if site["hospital"] == "cleveland"
    )
    new = {"made", "software", "releases_survey", "witnessed_by"}
    assert set(now) == set(old) | {
        *("software", "releases_survey", "charged", "epsilon_charged", "unconfirmed"),
        *("approved_by", "confinement"),
    }
    assert {name: now[name] for name in old if name not in new} == {
        name: old[name] for name in old if name not in new
    }


# -- the report -----------------------------------------------------------------------------------


def test_the_report_verifies(study: Study) -> None:
    facts = verify((KEPT / "report.json").read_bytes())
    assert facts["study"]["digest"] == study.digest
    assert len(facts["hospitals"]) == 4
    assert all(site["epsilon_released"] == 0.9 for site in facts["hospitals"])


def test_a_changed_byte_of_the_report_is_found() -> None:
    report = (KEPT / "report.json").read_bytes()
    for position in range(97, len(report), len(report) // 23):
        changed = bytearray(report)
        changed[position] ^= 1
        with pytest.raises(FloError):
            verify(bytes(changed))


def test_an_old_report_cannot_be_passed_off_as_a_new_one() -> None:
    document = json.loads((KEPT / "report.json").read_bytes())
    with pytest.raises(TrustError, match="something else"):
        verify(canonical.encode(document | {"schema_version": 2}))


# -- the model ------------------------------------------------------------------------------------


def test_the_model_opens_with_safetensors_and_fits_its_study(study: Study) -> None:
    with safe_open(KEPT / "model.safetensors", "numpy") as file:
        facts, weights = file.metadata(), file.get_tensor("parameters")
    assert facts["study"] == study.digest
    assert facts["inputs"].splitlines() == [*input_names(study.data), "bias"]
    assert weights.shape == (models.parameter_count(study),)
    zeros = np.zeros((1, len(input_names(study.data))))
    assert models.log_odds(study, weights, zeros) == pytest.approx(weights[-1])


# -- from the future ------------------------------------------------------------------------------


def test_a_study_of_a_later_schema_is_refused(kept: Path) -> None:
    with pytest.raises(StudyError, match=r"schema_version 3 is not known.*reads 1 and 2"):
        from_canonical(changed_json(kept / "study.json", schema_version=3))


def test_a_ledger_of_a_later_schema_is_refused_and_left_alone(home: SiteHome) -> None:
    path = home.directory / "ledger.sqlite"
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("UPDATE meta SET value = '2' WHERE name = 'schema'")
    with pytest.raises(UsageError, match="ledger schema 2; this version reads 1"):
        home.ledger()
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("SELECT value FROM meta").fetchall() == [("2",)]
        assert database.execute("SELECT count(*) FROM rows").fetchone() == (34,)


def test_an_approval_of_a_later_schema_is_refused(home: SiteHome, study: Study) -> None:
    changed_json(approval_path(home, study.digest), schema_version=2)
    with pytest.raises(UsageError, match="schema_version"):
        approval.load(home, study.digest)


def test_a_coordinators_file_of_a_later_schema_is_refused(home: SiteHome) -> None:
    changed_json(home.directory / "coordinator.json", schema_version=2)
    with pytest.raises(UsageError, match="schema_version"):
        _ = home.coordinator


@pytest.mark.parametrize("version", [0, 4, "1", None, True], ids=repr)
def test_a_report_of_a_later_schema_is_refused(kept: Path, version: object) -> None:
    with pytest.raises(MessageError, match="schema version 1, 2 or 3"):
        verify(changed_json(kept / "report.json", schema_version=version))


def test_an_extract_of_a_later_schema_is_refused() -> None:
    extract = json.loads((KEPT / "report.json").read_bytes())["evidence"][0]
    extract["body"]["schema_version"] = 4
    with pytest.raises(MessageError, match="extract schema 4 is not known"):
        build([canonical.encode(extract)])

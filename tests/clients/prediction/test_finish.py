"""A model that is finished at home: better here, and in this hospital only."""

from __future__ import annotations

import json
import shutil
import socket
import stat
from contextlib import closing
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pandas as pd
import pytest

from flo.clients.home.site_home import SiteHome
from flo.clients.maintenance.recover import back_up, restore
from flo.clients.patients.erasure import erase
from flo.clients.patients.opt_outs import opt_out
from flo.clients.prediction.finish import finish, fit_at_home, open_finished
from flo.clients.records.finished_model import TOO_FEW, FinishedModel, finished_names
from flo.errors import DataError, RefusedError, TrustError, UsageError
from flo.keys.keystore import write_secret
from flo.privacy.patients.patients import Patients
from flo.privacy.patients.split import keyed_hash
from flo.study.models import last_features, last_layer, log_odds, parameter_count
from tests.builders import csv_text, data_file, make_site, pretend_enrolled, small_study
from tests.clients.prediction.finished_site import COUNT, FinishingSite, finishing_site
from tests.commands import flo
from tests.flo.published_models import COORDINATOR, MALLORY

NAME = "tiny-run-1"


@pytest.fixture
def site(tmp_path: Path) -> FinishingSite:
    return finishing_site(tmp_path)


# -- what it is made of ----------------------------------------------------------------------------


def test_it_fits_this_hospitals_patients_better_than_the_published_model(
    site: FinishingSite,
) -> None:
    made = site.finish()
    assert made.finished.auc is not None
    assert made.published.auc is not None
    assert made.finished.auc > made.published.auc
    (finished,), (published,) = made.finished.risks, made.published.risks
    assert finished.error is not None
    assert published.error is not None
    assert finished.error < published.error
    assert made.trained + made.tested == COUNT
    assert sum(records for *_, records in finished.curve) == made.tested


def test_only_the_training_side_shapes_it_and_only_the_other_side_tests_it(
    site: FinishingSite,
) -> None:
    first = site.finish()
    site.change(held_out=True)
    second = site.finish()
    assert second.weights == first.weights
    assert second.finished.auc == pytest.approx(1 - (first.finished.auc or 0))
    site.change(held_out=False)
    assert site.finish().weights != first.weights


@pytest.mark.parametrize("kind", ["logistic", "mlp"])
def test_the_last_layer_is_what_changes(tmp_path: Path, kind: str) -> None:
    site = finishing_site(tmp_path, kind)
    made, model = site.finish(), site.model
    inputs = np.random.default_rng(2).uniform(-1, 1, (9, 5))
    features = last_features(model.study, model.weights, inputs)
    last = np.array(made.weights)
    found = open_finished(site.home, NAME).log_odds(inputs)
    assert found == pytest.approx(features @ last[:-1] + last[-1])
    published = last_layer(model.study, model.weights)
    assert features @ published[:-1] + published[-1] == pytest.approx(
        log_odds(model.study, model.weights, inputs), abs=1e-5
    )


def test_too_few_patients_are_named_and_nothing_is_kept(site: FinishingSite) -> None:
    header, *rows = data_file(site.home).read_text().splitlines()
    tested = [row for row in rows if site.held_out(row.split(",")[0])][:2]
    trained = [row for row in rows if not site.held_out(row.split(",")[0])][:8]
    data_file(site.home).write_text("\n".join([header, *tested, *trained]) + "\n")
    with pytest.raises(DataError, match=f"{TOO_FEW}.*5 of each are needed"):
        site.finish()
    assert finished_names(site.home) == []


def test_a_hospital_that_holds_nobody_out_is_told_so(site: FinishingSite) -> None:
    lines = data_file(site.home).read_text().splitlines()
    kept = [line for line in lines[1:] if not site.held_out(line.split(",")[0])]
    data_file(site.home).write_text("\n".join([lines[0], *kept]) + "\n")
    with pytest.raises(DataError, match=f"{TOO_FEW}: none of them is held out"):
        site.finish()


def test_a_network_that_overflows_here_is_refused_and_not_refitted() -> None:
    layers = [{"kind": "Linear", "sizes": sizes} for sizes in ([5, 4], [4, 1])]
    study = small_study(model={"kind": "pack", "name": "linear", "layers": layers})
    training = Patients(np.ones((20, 5)), (np.arange(20) % 2).astype(np.float64), np.arange(20), 20)
    with pytest.raises(TrustError, match="no finite numbers"):
        fit_at_home(study, np.full(parameter_count(study), 1e38), training)


def test_data_that_do_not_fit_the_study_are_refused_by_column_and_row(site: FinishingSite) -> None:
    data_file(site.home).write_text(csv_text().replace(",20,", ",777,"))
    with pytest.raises(DataError, match=r"age(.|\n)*no model was finished") as refused:
        site.finish()
    assert "777" not in str(refused.value)


def test_another_split_key_is_refused_since_the_published_model_saw_the_other_side(
    site: FinishingSite,
) -> None:
    write_secret(
        site.home.directory / "split.key", site.home.open_keystore(), "split.key", bytes(32)
    )
    with pytest.raises(TrustError, match=r"split\.key is not the key"):
        FinishingSite(SiteHome.open(site.home.directory), site.card).finish()


def test_ids_in_another_spelling_are_asked_about_since_opt_outs_would_not_be_found(
    site: FinishingSite,
) -> None:
    for number in range(4):
        opt_out(site.home, f"east{number:04d}")
    data = data_file(site.home)
    data.write_text(data.read_text().replace("east", "n-"))
    with pytest.raises(DataError, match="opted out"):
        site.finish()
    assert finished_names(site.home) == []


# -- it stays here ---------------------------------------------------------------------------------


def test_it_is_sealed_and_readable_by_its_owner_only(site: FinishingSite) -> None:
    made = site.finish()
    path = site.home.directory / "finished" / f"{NAME}.finished"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert b"weights" not in path.read_bytes()
    assert made == FinishedModel.load(site.home, NAME)


def test_nothing_is_sent_charged_or_entered_in_the_audit_log(
    site: FinishingSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> NoReturn:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    with closing(site.home.open_ledger()) as ledger:
        before = ledger.head()
    with closing(site.home.open_audit_log()) as log:
        entries = [entry.kind for entry in log.entries()]
    made = site.finish()
    with closing(site.home.open_ledger()) as ledger:
        assert ledger.head() == before
    with closing(site.home.open_audit_log()) as log:
        assert [entry.kind for entry in log.entries()] == entries
    assert made.model not in str(entries)


@pytest.mark.parametrize(
    "door",
    [
        ("model", "show", "{path}"),
        ("model", "export", "{path}", "--out", "{out}"),
        ("model", "finish", "{path}"),
        ("model", "predict", "{path}", "--data", "{data}", "--out", "{out}"),
        ("model", "export", "{name}", "--out", "{out}"),
        ("model", "register", "{path}"),
        ("model", "register", "{name}"),
    ],
    ids=lambda door: " ".join(door[:3]),
)
def test_no_command_takes_it_for_a_published_model(
    site: FinishingSite, tmp_path: Path, door: tuple[str, ...]
) -> None:
    site.finish()
    names = {
        "path": site.home.directory / "finished" / f"{NAME}.finished",
        "name": NAME,
        "out": tmp_path / "out",
        "data": data_file(site.home),
    }
    ended = flo(*(word.format(**names) for word in door), "--home", site.home.directory)
    assert ended.returncode != 0
    if "{path}" in door and "register" not in door:  # a site has no registry
        assert "not private" in ended.stderr
    assert not (tmp_path / "out").exists()


def test_what_is_beside_it_is_the_published_model_to_the_byte(
    site: FinishingSite, tmp_path: Path
) -> None:
    """So that whoever copies the folder's public files copies only what was public before."""
    site.finish()
    folder = site.home.directory / "finished"
    copied = {path.name: path.read_bytes() for path in folder.iterdir()}
    del copied[f"{NAME}.finished"]
    assert copied == {path.name: path.read_bytes() for path in site.card.parent.iterdir()}


# -- patients who opt out --------------------------------------------------------------------------


@pytest.mark.parametrize("held_out", [False, True])
@pytest.mark.parametrize("leave", [opt_out, erase])
def test_an_opt_out_or_erasure_of_a_member_withdraws_it(
    site: FinishingSite, held_out: bool, leave: Any
) -> None:
    site.finish()
    names = [f"east{number:04d}" for number in range(COUNT)]
    patient = next(name for name in names if site.held_out(name) == held_out)
    leave(site.home, patient)
    assert finished_names(site.home) == []
    again = site.finish()
    assert keyed_hash(site.home.open_patients_key(), patient) not in again.patients
    assert again.trained + again.tested == COUNT - 1


def test_the_command_says_which_finished_models_an_opt_out_deleted(site: FinishingSite) -> None:
    site.finish()
    typed = ("site", "opt-out", "--home", site.home.directory)
    assert NAME not in flo(*typed, typed="east9999\n").stdout
    done = flo(*typed, typed="east0007\n")
    assert done.returncode == 0, done.stderr
    shown = " ".join(done.stdout.split())
    assert f"finished models that held the patient's records were deleted: {NAME}" in shown
    assert finished_names(site.home) == []


def test_a_published_model_given_without_its_ending_is_no_finished_models_name(
    site: FinishingSite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even where a finished model has that name: a path names what lies there."""
    site.finish()
    monkeypatch.chdir(site.card.parent)
    out, name = tmp_path / "scores.csv", site.card.name.removesuffix(".card.json")
    asked = ("--data", data_file(site.home), "--out", out, "--home", site.home.directory)
    assert name == NAME
    assert "risks" not in flo("model", "predict", name, *asked).stdout
    out.unlink(missing_ok=True)
    monkeypatch.chdir(tmp_path)
    assert "risks" in flo("model", "predict", name, *asked).stdout


def test_an_opt_out_of_someone_else_leaves_it(site: FinishingSite) -> None:
    site.finish()
    opt_out(site.home, "east9999")
    assert finished_names(site.home) == [NAME]


def test_a_backup_holds_none(site: FinishingSite, tmp_path: Path) -> None:
    site.finish()
    back_up(site.home, tmp_path / "backup", b"a passphrase for tests")
    restore(tmp_path / "backup", tmp_path / "again", b"a passphrase for tests")
    assert finished_names(SiteHome(tmp_path / "again")) == []
    assert list((tmp_path / "again" / "finished").iterdir()) == []


def test_who_opts_out_while_a_model_is_finished_is_not_in_it(
    site: FinishingSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    def meanwhile(*given: Any) -> Any:
        opt_out(site.home, "east0007")
        return fit_at_home(*given)

    monkeypatch.setattr("flo.clients.prediction.finish.fit_at_home", meanwhile)
    with pytest.raises(RefusedError, match="opted out while"):
        site.finish()
    assert finished_names(site.home) == []


def test_an_opt_out_that_was_cut_off_is_made_up_for_by_the_next(site: FinishingSite) -> None:
    site.finish()
    folder = site.home.directory / "finished"
    kept = {path.name: path.read_bytes() for path in folder.iterdir()}
    opt_out(site.home, "east0007")
    for name, data in kept.items():  # as if it had been killed before it deleted the model
        (folder / name).write_bytes(data)
    (folder / f".{NAME}.finished.1.new").write_bytes(b"of a crash")
    opt_out(site.home, "east9999")
    assert finished_names(site.home) == []
    assert not list(folder.glob(".*"))


def test_an_erasure_says_that_a_model_was_deleted(site: FinishingSite) -> None:
    site.finish()
    made, _ = erase(site.home, "east0007")
    assert "patient's records, were deleted: 1." in made.said


def test_a_copy_that_someone_put_back_is_refused(site: FinishingSite, tmp_path: Path) -> None:
    site.finish()
    folder = site.home.directory / "finished"
    shutil.copytree(folder, tmp_path / "backup")
    opt_out(site.home, "east0007")
    shutil.copytree(tmp_path / "backup", folder, dirs_exist_ok=True)
    with pytest.raises(RefusedError, match="has opted out"):
        open_finished(site.home, NAME)


def test_a_damaged_one_is_deleted_by_an_opt_out_since_its_patients_cannot_be_read(
    site: FinishingSite,
) -> None:
    site.finish()
    path = site.home.directory / "finished" / f"{NAME}.finished"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(TrustError):
        open_finished(site.home, NAME)
    opt_out(site.home, "east9999")
    assert finished_names(site.home) == []


# -- use -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("named", [NAME, "tiny"])
def test_predict_takes_it_by_name(site: FinishingSite, tmp_path: Path, named: str) -> None:
    shown = flo("model", "finish", site.card, "--home", site.home.directory, "--json", "-")
    assert json.loads(shown.stdout)["model"] == NAME
    assert "NOT PRIVATE" in shown.stderr
    out = tmp_path / "scores.csv"
    asked = ("--data", data_file(site.home), "--out", out, "--home", site.home.directory)
    ended = flo("model", "predict", named, *asked)
    assert ended.returncode == 0, ended.stderr
    assert "not private" in ended.stdout
    risks, table = pd.read_csv(out)["risk"], pd.read_csv(data_file(site.home))
    trained = [not site.held_out(patient) for patient in table["patient_id"]]
    ill = table["ill"][trained].mean()
    assert risks[trained].mean() == pytest.approx(ill, abs=1e-5), "risks, not only ranks"


def test_a_name_that_no_finished_model_has_lists_those_that_there_are(site: FinishingSite) -> None:
    with pytest.raises(UsageError, match="no models that are finished") as refused:
        open_finished(site.home, "heart")
    assert "flo model finish" in refused.value.hint
    site.finish()
    with pytest.raises(UsageError) as refused:
        open_finished(site.home, "heart")
    assert NAME in refused.value.hint


def test_a_published_model_that_was_exchanged_under_it_is_refused(
    site: FinishingSite, tmp_path: Path
) -> None:
    site.finish()
    tensors = site.home.directory / "finished" / f"{NAME}.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-1] + b"\0")
    with pytest.raises(TrustError):
        open_finished(site.home, NAME)


def test_a_model_of_another_coordinator_is_not_finished(site: FinishingSite) -> None:
    pretend_enrolled(site.home, MALLORY)
    ended = flo("model", "finish", site.card, "--home", site.home.directory)
    assert ended.returncode != 0
    assert "signed by another coordinator" in ended.stderr


def test_a_partners_folder_that_did_not_approve_the_study_does_not_finish_it(
    tmp_path: Path,
) -> None:
    """A new folder has another split key: it would test on patients who were trained on."""
    site = finishing_site(tmp_path)
    partner = make_site(tmp_path / "north", "north")
    pretend_enrolled(partner, COORDINATOR)
    with pytest.raises(UsageError, match="was not approved with this site's folder"):
        finish(partner, site.card, site.model)
